//! A JSON Schema of an object to columns: `properties`, with `required` as NOT NULL, and `enum`, `minimum`, `maximum`
//! (also exclusive) as CHECKs.
//!
//! `$ref` is followed inside the file; `anyOf` and `oneOf` may add null to one type. Other keywords say nothing about a
//! column and are not enforced.
//!
//! Neighbours: `schema_file` reads the file; `source` parses the checks.

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::schema_file::{SchemaColumn, SchemaFile, Unusable};
use super::timestamp;
use super::types::list;

/// How far `$ref` and `anyOf` are followed: a schema that is deeper refers to itself.
const DEPTH: usize = 16;

/// The columns of an object; `shown` names the file in messages.
pub(super) fn read(text: &str, shown: &str) -> Result<SchemaFile, Unusable> {
    let root: Value = serde_json::from_str(text)
        .map_err(|e| Unusable::new(format!("{shown} is not JSON: {e}"), "correct the file"))?;
    let object = resolve(&root, &root, DEPTH).ok().and_then(Value::as_object);
    let Some((object, properties)) = object.and_then(|o| Some((o, o.get("properties")?.as_object()?))) else {
        return Err(Unusable::new(
            format!("{shown} does not describe an object with properties"),
            "write {\"type\": \"object\", \"properties\": {…}}",
        ));
    };
    let required: Vec<&str> =
        object.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let columns = properties.iter().map(|(name, schema)| {
        let field = field(schema, &root, DEPTH);
        let nullable = !required.contains(&name.as_str()) || field.as_ref().is_ok_and(|f| f.nullable);
        let checks = field.as_ref().map(|f| f.checks(name)).unwrap_or_default();
        SchemaColumn { name: name.clone(), data_type: field.map(|f| f.data_type), nullable, checks }
    });
    Ok(SchemaFile { columns: columns.collect(), avro: None })
}

/// What a property's schema says.
struct Described<'a> {
    data_type: DataType,
    nullable: bool,
    schema: &'a Map<String, Value>,
}

fn resolve<'a>(schema: &'a Value, root: &'a Value, depth: usize) -> Result<&'a Value, String> {
    let Some(target) = schema.get("$ref").and_then(Value::as_str) else { return Ok(schema) };
    let deeper = depth.checked_sub(1).ok_or("it refers to itself")?;
    let pointer = target.strip_prefix('#').ok_or_else(|| format!("`{target}` is in another file"))?;
    let found = root.pointer(pointer).ok_or_else(|| format!("`{target}` is not in the file"))?;
    resolve(found, root, deeper)
}

fn field<'a>(schema: &'a Value, root: &'a Value, depth: usize) -> Result<Described<'a>, String> {
    let deeper = depth.checked_sub(1).ok_or("it refers to itself")?;
    let Some(schema) = resolve(schema, root, depth)?.as_object() else { return Err("it has no type".into()) };
    if let Some(choices) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        let null = |s: &&Value| s.get("type").and_then(Value::as_str) == Some("null");
        let others: Vec<&Value> = choices.iter().filter(|s| !null(s)).collect();
        let [one] = others.as_slice() else { return Err("a choice of several types cannot be a column".into()) };
        let described = field(one, root, deeper)?;
        let nullable = described.nullable || others.len() < choices.len();
        return Ok(Described { nullable, ..described });
    }
    let (name, nullable) = type_name(schema)?;
    let data_type = match (name, schema.get("format").and_then(Value::as_str)) {
        ("string", Some("date-time")) => timestamp(),
        ("string", Some("date")) => DataType::Date32,
        ("string", _) => DataType::Utf8,
        ("integer", _) => DataType::Int64,
        ("number", _) => DataType::Float64,
        ("boolean", _) => DataType::Boolean,
        ("array", _) => {
            let items = schema.get("items").ok_or("an array without `items` cannot be a column")?;
            match field(items, root, deeper)?.data_type {
                DataType::List(_) => return Err("an array of arrays cannot be a column".into()),
                item => list(item),
            }
        }
        ("object", _) => return Err("an object inside an object cannot be a column".into()),
        (other, _) => return Err(format!("`{other}` is no type of JSON Schema")),
    };
    Ok(Described { data_type, nullable, schema })
}

/// The one type that is not null, and whether null is one too.
fn type_name(schema: &Map<String, Value>) -> Result<(&str, bool), String> {
    let listed = |values: &Value| schema.get("enum").and_then(Value::as_array).is_some_and(|e| e.contains(values));
    let mut names: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => kinds(schema)?,
    };
    let nullable = names.contains(&"null") && (schema.get("enum").is_none() || listed(&Value::Null));
    names.retain(|n| *n != "null");
    match names.as_slice() {
        [name] => Ok((name, nullable)),
        ["integer", "number"] | ["number", "integer"] => Ok(("number", nullable)),
        [] => Err("null alone is no type for a column".into()),
        _ => Err("a choice of several types cannot be a column".into()),
    }
}

/// The types of an `enum` that stands without `type`.
fn kinds(schema: &Map<String, Value>) -> Result<Vec<&str>, String> {
    let values = schema.get("enum").and_then(Value::as_array).ok_or("it has no type")?;
    let mut kinds: Vec<&str> = values
        .iter()
        .map(|v| match v {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_i64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        })
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}

impl Described<'_> {
    /// What the values must fulfil, as SQL over the column.
    fn checks(&self, name: &str) -> Vec<String> {
        let column = format!("\"{}\"", name.replace('"', "\"\""));
        let number = matches!(self.data_type, DataType::Int64 | DataType::Float64);
        let mut checks = vec![];
        if let Some(values) = self.schema.get("enum").and_then(Value::as_array) {
            let values: Option<Vec<String>> = values.iter().filter(|v| !v.is_null()).map(|v| self.literal(v)).collect();
            if let Some(values) = values.filter(|v| !v.is_empty()) {
                checks.push(format!("{column} IN ({})", values.join(", ")));
            }
        }
        for (keyword, operator) in
            [("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")]
        {
            if let Some(Value::Number(bound)) = self.schema.get(keyword)
                && number
            {
                checks.push(format!("{column} {operator} {bound}"));
            }
        }
        checks
    }

    /// A value of `enum` as SQL; none if it is not one of the column's type.
    fn literal(&self, value: &Value) -> Option<String> {
        match (value, &self.data_type) {
            (Value::String(s), DataType::Utf8) => Some(format!("'{}'", s.replace('\'', "''"))),
            (Value::Number(n), DataType::Int64 | DataType::Float64) => Some(n.to_string()),
            (Value::Bool(b), DataType::Boolean) => Some(b.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(property: &str, required: &str) -> SchemaColumn {
        let text = format!(
            r##"{{"type":"object","properties":{{"p":{property}}},"required":[{required}],
                "$defs":{{"kind":{{"enum":["view","cart"]}},"loop":{{"$ref":"#/$defs/loop"}}}}}}"##
        );
        read(&text, "schemas/p.json").expect(property).columns.pop().expect("one property")
    }

    #[test]
    fn maps_types() {
        let check = |property: &str, want: DataType, nullable: bool, checks: &[&str]| {
            let got = one(property, "\"p\"");
            assert_eq!((got.data_type, got.nullable), (Ok(want), nullable), "{property}");
            assert_eq!(got.checks, checks, "{property}");
        };
        check(r#"{"type":"integer"}"#, DataType::Int64, false, &[]);
        check(r#"{"type":["string","null"]}"#, DataType::Utf8, true, &[]);
        check(r#"{"type":"string","format":"date-time"}"#, timestamp(), false, &[]);
        check(r#"{"type":"string","format":"date"}"#, DataType::Date32, false, &[]);
        check(r#"{"type":"string","format":"uuid","minLength":3}"#, DataType::Utf8, false, &[]);
        check(r#"{"type":"boolean"}"#, DataType::Boolean, false, &[]);
        check(r#"{"type":"array","items":{"type":"number"}}"#, list(DataType::Float64), false, &[]);
        check(
            r#"{"type":"number","minimum":0,"exclusiveMaximum":1.5}"#,
            DataType::Float64,
            false,
            &["\"p\" >= 0", "\"p\" < 1.5"],
        );
        check(r#"{"type":"string","enum":["a","it's"]}"#, DataType::Utf8, false, &["\"p\" IN ('a', 'it''s')"]);
        check(r##"{"$ref":"#/$defs/kind"}"##, DataType::Utf8, false, &["\"p\" IN ('view', 'cart')"]);
        check(
            r##"{"anyOf":[{"$ref":"#/$defs/kind"},{"type":"null"}]}"##,
            DataType::Utf8,
            true,
            &["\"p\" IN ('view', 'cart')"],
        );
        check(r#"{"enum":[1,2,null]}"#, DataType::Int64, true, &["\"p\" IN (1, 2)"]);
        assert!(one(r#"{"type":"integer"}"#, "").nullable, "what is not required may be missing");
    }

    #[test]
    fn says_why_a_property_is_no_column() {
        let check = |property: &str, want: &str| {
            let got = one(property, "").data_type.expect_err(property);
            assert!(got.contains(want), "{property}: {got}");
        };
        check(r#"{"type":"object"}"#, "object inside");
        check(r#"{"type":["string","integer"]}"#, "several types");
        check(r#"{"type":"array"}"#, "`items`");
        check("{}", "no type");
        check("true", "no type");
        check(r##"{"$ref":"#/$defs/loop"}"##, "refers to itself");
        check(r##"{"$ref":"other.json"}"##, "another file");
        check(r##"{"$ref":"#/$defs/none"}"##, "not in the file");
    }

    #[test]
    fn refuses_what_is_no_object() {
        let check = |text: &str, want: &str| {
            let got = read(text, "schemas/p.json").expect_err(text).message;
            assert!(got.starts_with(want), "{text}: {got}");
        };
        check("{", "schemas/p.json is not JSON: ");
        check(r#"{"type":"string"}"#, "schemas/p.json does not describe an object");
    }
}
