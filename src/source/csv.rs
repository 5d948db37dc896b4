//! CSV records (RFC 4180), split so that an empty field (null) and a quoted empty one (empty text) stay apart.
//!
//! A quoted field may hold separators, doubled quotes and line ends; a quote inside an unquoted field is a plain
//! character. Neighbours: `file` asks where a record ends; `decode` takes the fields.

use super::column::Misfit;
use super::decode::Names;

/// Takes a record line by line and splits it into fields.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The fields' content, one after the other, without quotes.
    content: Vec<u8>,
    /// For each field, the end of its content and whether it was quoted.
    fields: Vec<(usize, bool)>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    Bare,
    Quoted,
    /// After a quote inside a quoted field: it ends the field, or is the first of a doubled one.
    Quote,
}

impl Splitter {
    /// Forgets the record before.
    pub(super) fn clear(&mut self) {
        self.content.clear();
        self.fields.clear();
        self.state = State::Start;
    }

    /// Takes the next line with its line end. True if the record ends with it; false inside a quoted field.
    pub(super) fn line(&mut self, line: &[u8]) -> bool {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        for &b in bare {
            self.byte(b);
        }
        if self.state == State::Quoted {
            self.content.extend_from_slice(&line[bare.len()..]);
            return false;
        }
        self.end_field();
        true
    }

    /// Passes over a part of a record that is too long to be kept: the number of bytes up to and with the line end that
    /// ends it, if that is in it.
    pub(super) fn skip(&mut self, part: &[u8]) -> Option<usize> {
        for (at, &b) in part.iter().enumerate() {
            if b == b'\n' && self.state != State::Quoted {
                return Some(at + 1);
            }
            self.byte(b);
            self.content.clear();
            self.fields.clear();
        }
        None
    }

    /// Takes a whole record, which may hold line ends.
    fn record(&mut self, record: &[u8]) -> Result<(), Misfit> {
        self.clear();
        let mut lines = record.split_inclusive(|b| *b == b'\n');
        let ended = match record {
            [] => self.line(b""),
            _ => lines.by_ref().any(|line| self.line(line)),
        };
        match (ended, lines.next()) {
            (true, None) => Ok(()),
            (true, Some(_)) => Err("more than one line".into()),
            (false, _) => Err("a quoted field is not closed".into()),
        }
    }

    fn byte(&mut self, b: u8) {
        match (self.state, b) {
            (State::Start, b'"') => self.state = State::Quoted,
            (State::Quoted, b'"') => self.state = State::Quote,
            (State::Quoted, _) => self.content.push(b),
            (State::Quote, b'"') => {
                self.content.push(b);
                self.state = State::Quoted;
            }
            (State::Start | State::Bare | State::Quote, b',') => self.end_field(),
            (State::Start | State::Bare, _) => {
                self.content.push(b);
                self.state = State::Bare;
            }
            // Text after a closing quote belongs to the field, as everybody reads it.
            (State::Quote, _) => self.content.push(b),
        }
    }

    fn end_field(&mut self) {
        self.fields.push((self.content.len(), self.state == State::Quote));
        self.state = State::Start;
    }

    /// The fields: content, and whether it was quoted.
    fn fields(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let mut start = 0;
        self.fields.iter().map(move |&(end, quoted)| {
            let field = &self.content[start..end];
            start = end;
            (field, quoted)
        })
    }
}

/// What a header line says: which column each field is.
#[derive(Debug, Default)]
pub(super) struct Header {
    columns: Vec<Option<usize>>,
    splitter: Splitter,
}

impl Header {
    /// Reads a header line.
    pub(super) fn new(line: &[u8], names: &Names) -> Result<Header, Misfit> {
        let mut splitter = Splitter::default();
        splitter.record(line)?;
        let mut columns: Vec<Option<usize>> = splitter.fields().map(|(name, _)| names.find(name)).collect();
        for i in 0..columns.len() {
            if columns[i + 1..].contains(&columns[i]) {
                columns[i] = None; // of a repeated name the last counts, as in JSON
            }
        }
        Ok(Header { columns, splitter })
    }

    /// Splits a record and calls `field` with each declared column's content; `None` for an empty field.
    pub(super) fn record(
        &mut self,
        record: &[u8],
        mut field: impl FnMut(usize, Option<&str>) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        self.splitter.record(record)?;
        if self.splitter.fields.len() != self.columns.len() {
            let (found, want) = (self.splitter.fields.len(), self.columns.len());
            return Err(format!("{found} fields where the header has {want}"));
        }
        for ((content, quoted), column) in self.splitter.fields().zip(&self.columns) {
            let Some(column) = *column else { continue };
            let content = std::str::from_utf8(content).map_err(|e| format!("not UTF-8: {e}"))?;
            field(column, (quoted || !content.is_empty()).then_some(content))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let check = |record: &str, want: Result<&[(&str, bool)], &str>| {
            let mut splitter = Splitter::default();
            let got = splitter.record(record.as_bytes());
            let fields: Vec<_> =
                splitter.fields().map(|(f, q)| (String::from_utf8(f.to_vec()).expect("text"), q)).collect();
            let got = got.map(|()| fields.iter().map(|(f, q)| (f.as_str(), *q)).collect::<Vec<_>>());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{record:?}");
        };
        check("a,b\n", Ok(&[("a", false), ("b", false)]));
        check("a,\"\",\r\n", Ok(&[("a", false), ("", true), ("", false)]));
        check("", Ok(&[("", false)]));
        check("\"a,b\",\"c\"\"d\"", Ok(&[("a,b", true), ("c\"d", true)]));
        check("\"a\r\nb\",c", Ok(&[("a\r\nb", true), ("c", false)]));
        check("5\" pipe,x", Ok(&[("5\" pipe", false), ("x", false)]));
        check("\"a\"b,c", Ok(&[("ab", true), ("c", false)]));
        check("\"a", Err("a quoted field is not closed"));
        check("a\nb", Err("more than one line"));
    }

    #[test]
    fn a_record_ends_at_the_same_byte_however_it_is_passed_over() {
        let check = |record: &str, want: Option<usize>| {
            for cut in 0..=record.len() {
                let (first, second) = record.as_bytes().split_at(cut);
                let mut splitter = Splitter::default();
                let end = splitter.skip(first).or_else(|| Some(cut + splitter.skip(second)?));
                assert_eq!(end, want, "{record:?}, cut at {cut}");
                assert!(splitter.content.is_empty() && splitter.fields.is_empty(), "nothing is kept");
            }
        };
        check("a,b\n1", Some(4));
        check("a,\"b\n\"\"c\"\r\n1", Some(11));
        check("5\" pipe,x\n\"", Some(10));
        check("\"a\"b\n", Some(5));
        check("a,b", None);
        check("a,\"b\n", None);
    }
}
