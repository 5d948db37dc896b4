//! Schema files under `schemas/`: `*.avsc` (Avro) and `*.json` (JSON Schema) to columns.
//!
//! A field that cannot be a column is no error of the file: it matters only if somebody asks for it.
//!
//! Neighbours: `avro` and `json_schema` know the formats; `source` merges the columns with a column list.

use std::path::{Component, Path};
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::near::nearest;
use super::{avro, json_schema};

/// What a schema file says.
#[derive(Debug)]
pub(super) struct SchemaFile {
    /// In the file's order.
    pub(super) columns: Vec<SchemaColumn>,
    /// The schema itself, if it is Avro: what payloads were written by.
    pub(super) avro: Option<Arc<apache_avro::Schema>>,
}

/// One field of a schema file.
#[derive(Debug, PartialEq)]
pub(super) struct SchemaColumn {
    pub(super) name: String,
    /// Its type, or why it cannot be a column.
    pub(super) data_type: Result<DataType, String>,
    pub(super) nullable: bool,
    /// Conditions on the values, as SQL.
    pub(super) checks: Vec<String>,
}

/// A schema file that cannot be used.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) message: String,
    pub(super) help: String,
}

impl Unusable {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Unusable {
        Unusable { message: message.into(), help: help.into() }
    }
}

/// Reads `schemas/<name>` of a deployment directory.
pub(super) fn read(dir: &Path, name: &str) -> Result<SchemaFile, Unusable> {
    let shown = format!("schemas/{name}");
    if name.is_empty() || !Path::new(name).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(Unusable::new(
            format!("`{name}` is not a file under schemas/"),
            "write the file's name relative to schemas/, as in schema = 'items.avsc'",
        ));
    }
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
    let parse: fn(&str, &str) -> Result<SchemaFile, Unusable> = match extension.as_str() {
        "avsc" => avro::read,
        "json" => json_schema::read,
        "proto" => {
            return Err(Unusable::new(
                "Protobuf schemas are not supported yet",
                "list the columns in the definition, or use an Avro (*.avsc) or JSON Schema (*.json) file",
            ));
        }
        _ => {
            return Err(Unusable::new(
                format!("{shown} is of no kind that is known"),
                "a schema is an Avro schema (*.avsc) or a JSON Schema (*.json)",
            ));
        }
    };
    match std::fs::read_to_string(dir.join("schemas").join(name)) {
        Ok(text) => parse(&text, &shown),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Unusable::new(format!("there is no file {shown}"), others(dir, name)))
        }
        Err(e) => Err(Unusable::new(format!("{shown} cannot be read: {e}"), "make it a readable text file")),
    }
}

fn others(dir: &Path, name: &str) -> String {
    let entries = std::fs::read_dir(dir.join("schemas")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None if names.is_empty() => format!("create it: a schema is read from schemas/{name}"),
        None => format!("schemas/ holds {}", names.join(", ")),
    }
}
