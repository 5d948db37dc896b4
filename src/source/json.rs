//! Strict JSON, read in place: one pass over a record finds where its fields stand; only declared ones are looked at.
//!
//! Not serde's deserialiser, because digits have to stay digits and a field that nobody declared should cost nothing;
//! a test holds its grammar against serde's. Neighbours: `column` takes the values; `decode` calls this per record.

use super::column::{ColumnBuffer, Misfit, excerpt};

/// What kind of value stands somewhere, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    kind: Kind,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    True,
    False,
    Number,
    /// A string without escapes; its place is that of its content.
    Text,
    /// A string with escapes; its place includes the quotes.
    Escaped,
    Array,
    Object,
}

impl Value {
    /// Is it a string?
    pub(super) fn is_string(self) -> bool {
        matches!(self.kind, Kind::Text | Kind::Escaped)
    }
}

/// How deep arrays and objects may be nested.
const DEPTH_MAX: u32 = 127;

/// Reads exactly one object and calls `field` with each name and value in order (a repeated name comes repeatedly).
pub(super) fn object(text: &str, mut field: impl FnMut(&[u8], Value)) -> Result<(), Misfit> {
    let mut scan = Scanner { text: text.as_bytes(), at: 0 };
    scan.space();
    if scan.peek() != Some(b'{') {
        return Err("not a JSON object".into());
    }
    scan.at += 1;
    scan.members(0, |scan, name, value| {
        if name.kind == Kind::Text {
            field(&scan.text[name.start..name.end], value);
            return Ok(());
        }
        let plain: String = serde_json::from_str(&text[name.start..name.end]).map_err(|e| format!("a name: {e}"))?;
        field(plain.as_bytes(), value);
        Ok(())
    })?;
    scan.finish()
}

/// Reads exactly one value.
pub(super) fn value(text: &str) -> Result<Value, Misfit> {
    let mut scan = Scanner { text: text.as_bytes(), at: 0 };
    scan.space();
    let found = scan.value(0)?;
    scan.finish()?;
    Ok(found)
}

/// Appends a value that stands in `text`.
pub(super) fn append(column: &mut ColumnBuffer, text: &str, value: Value) -> Result<(), Misfit> {
    let raw = &text[value.start..value.end];
    match value.kind {
        Kind::Null => {
            column.null();
            Ok(())
        }
        Kind::True => column.boolean(true),
        Kind::False => column.boolean(false),
        Kind::Number => column.number(raw),
        Kind::Text => column.text(raw),
        Kind::Escaped => {
            let plain: String = serde_json::from_str(raw).map_err(|_| format!("{} is not Unicode", excerpt(raw)))?;
            column.text(&plain)
        }
        Kind::Array => column.list(|items| {
            let mut scan = Scanner { text: text.as_bytes(), at: value.start + 1 };
            scan.items(0, |item| append(items, text, item))
        }),
        Kind::Object => Err(format!("expected {}, found an object", column.type_name())),
    }
}

/// Appends the one value that `text` is.
pub(super) fn append_text(column: &mut ColumnBuffer, text: &str) -> Result<(), Misfit> {
    let found = value(text)?;
    append(column, text, found)
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn error(&self, expected: &str) -> Misfit {
        if self.at >= self.text.len() {
            return format!("not JSON: it ends where {expected} should be");
        }
        format!("not JSON: expected {expected} at byte {}", self.at)
    }

    /// Nothing but space may follow.
    fn finish(&mut self) -> Result<(), Misfit> {
        self.space();
        if self.at < self.text.len() { Err(self.error("the end")) } else { Ok(()) }
    }

    fn value(&mut self, depth: u32) -> Result<Value, Misfit> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            Some(b't') => self.word(b"true", Kind::True)?,
            Some(b'f') => self.word(b"false", Kind::False)?,
            Some(b'n') => self.word(b"null", Kind::Null)?,
            Some(b'[' | b'{') if depth >= DEPTH_MAX => return Err("nested too deeply".into()),
            Some(b'[') => {
                self.at += 1;
                self.items(depth + 1, |_| Ok(()))?;
                Kind::Array
            }
            Some(b'{') => {
                self.at += 1;
                self.members(depth + 1, |_, _, _| Ok(()))?;
                Kind::Object
            }
            _ => return Err(self.error("a value")),
        };
        Ok(Value { kind, start, end: self.at })
    }

    /// The rest of an array, after its bracket.
    fn items(&mut self, depth: u32, mut item: impl FnMut(Value) -> Result<(), Misfit>) -> Result<(), Misfit> {
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let found = self.value(depth)?;
            item(found)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.error("`,` or `]`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// The rest of an object, after its brace.
    fn members(
        &mut self,
        depth: u32,
        mut member: impl FnMut(&Self, Value, Value) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.error("a name in quotes"));
            }
            let name = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.error("`:`"));
            }
            self.at += 1;
            self.space();
            let found = self.value(depth)?;
            member(self, name, found)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.error("`,` or `}`")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<Value, Misfit> {
        let open = self.at;
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                Some(_) => return Err(self.error("no control character in a string")),
                None => return Err(self.error("a closing quote")),
            }
        }
        self.at += 1;
        if escaped {
            Ok(Value { kind: Kind::Escaped, start: open, end: self.at })
        } else {
            Ok(Value { kind: Kind::Text, start: open + 1, end: self.at - 1 })
        }
    }

    fn escape(&mut self) -> Result<(), Misfit> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.error("four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.error("an escape")),
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Misfit> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Misfit> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1; // no other digit may follow
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Misfit> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("a value"));
        }
        self.at += word.len();
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// serde_json without numbers being read, which may be out of the range of a double.
    fn reference(text: &str) -> bool {
        serde_json::from_str::<HashMap<String, Box<serde_json::value::RawValue>>>(text).is_ok()
    }

    #[test]
    fn the_grammar_is_strict() {
        let check = |text: &str, want: bool| {
            assert_eq!(object(text, |_, _| ()).is_ok(), want, "{text}");
            assert_eq!(reference(text), want, "{text}: the reference");
        };
        for good in [
            "{}",
            " { } ",
            r#"{"a":1}"#,
            r#"{"a":1,"a":[1,{"b":null}]}"#,
            "{\"a\":\"\\u00e9\\n\"}\r",
            r#"{"a":-0.5e+3}"#,
            r#"{"a":1e999}"#,
            r#"{"\u0061":true}"#,
        ] {
            check(good, true);
        }
        for bad in [
            "",
            " ",
            "null",
            "[]",
            "1",
            "\"a\"",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{a:1}"#,
            r#"{'a':1}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":+1}"#,
            r#"{"a":1e}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1}{"a":2}"#,
            r#"{"a":1} x"#,
            r#"{"a":tru}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1 2]}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12"}"#,
            r#"{"a":"b}"#,
            "{\"a\":1}\u{a0}",
            r#"{"a":-}"#,
            r#"{"a" 1}"#,
        ] {
            check(bad, false);
        }
        assert!(object(&format!("{{\"a\":{}{}}}", "[".repeat(120), "]".repeat(120)), |_, _| ()).is_ok());
        assert!(object(&format!("{{\"a\":{}", "[".repeat(1_000_000)), |_, _| ()).is_err());
    }

    const TOKENS: &[&str] = &[
        "1",
        "0",
        "-",
        ".5",
        "e3",
        "true",
        "null",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        " ",
        "\t",
        "\"b\"",
        "\"b\":",
        "[]",
        "{}",
        "\"\\u00e9\"",
        "\"\\x\"",
        "\"",
        "\u{7f}",
    ];

    proptest! {
        /// Short sequences of tokens: about one in ten is JSON.
        #[test]
        fn it_accepts_what_serde_accepts(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..7)) {
            let text = format!("{{\"a\":{}}}", tokens.concat());
            prop_assert_eq!(object(&text, |_, _| ()).is_ok(), reference(&text), "{}", text);
        }
    }
}
