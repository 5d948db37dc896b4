//! The bytes of a group's state: a page row, and a row for each full chunk of a large group.
//!
//! A page row starts with a format number. Small groups are whole in their page row; a group of more than two chunks
//! lists its full chunks by id and keeps only the last in the row, and a tally of more than one run lists its runs, so that
//! writing a large group back costs its changes.
//!
//! Invariants: equal groups give equal bytes: what has left a group leaves no trace, and while a group has no more than
//! two chunks and they begin with the same entries, neither does the order in which things came. Partials are not
//! stored, they follow from the entries. A row of another format is an error, never a guess. Neighbours: `state::page`
//! writes these rows, `state::mod` names the keys.

use super::aggregate::{Acc, Edge, Held};
use super::chunk::Chunk;
use super::entry::Origin;
use super::group::{Fold, Group, Header, Waiting, settle};
use super::sketch::Sketch;
use super::tally::{Run, Tally};
use super::total::Total;
use crate::exact_sum::{ExactMoments, ExactSum, IntegerMoments, IntegerSum, PowerSums};

/// Format of page and chunk rows.
pub const FORMAT: u8 = 3;

/// Set in the ids of rows that hold a run of a tally: then the total's index follows, and the run's name.
const TALLY: u64 = 1 << 63;
/// In place of a number of values: the values are in rows of their own, or a sketch is all that is left of them.
const OWN_ROWS: u32 = u32::MAX;

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a page row is damaged or of another format: {0}")]
pub struct LayoutError(&'static str);

/// A page row, and the chunk rows (id, bytes) to write beside it.
pub struct Encoded {
    /// The page row.
    pub page: Vec<u8>,
    /// Chunks that changed since they were last written.
    pub chunks: Vec<(u64, Vec<u8>)>,
    /// Ids of all chunks that have rows of their own now.
    pub listed: Vec<u64>,
}

/// Encodes a group. `all`: every chunk is written, changed or not.
pub fn encode(group: &Group, fold: &Fold, all: bool) -> Encoded {
    let mut out = vec![FORMAT];
    let header = &group.header;
    for v in [header.rows, header.ever, header.newest, header.absorbed, header.retired] {
        out.extend(v.to_le_bytes());
    }
    // Chunks without rows of their own need no names that last: they are counted.
    let inline_from = if group.chunks.len() > 2 { group.chunks.len() - 1 } else { 0 };
    let next_chunk = if inline_from == 0 { group.chunks.len() as u64 } else { header.next_chunk };
    out.extend(next_chunk.to_le_bytes());
    count(&mut out, group.totals.len());
    let mut rows = Rows { all, chunks: vec![], listed: vec![] };
    for (n, total) in group.totals.iter().enumerate() {
        put_total(&mut out, total, TALLY | (n as u64) << 32, &mut rows);
    }
    let mut waiting = group.waiting.clone();
    settle(&mut waiting, fold);
    count(&mut out, waiting.len());
    for w in &waiting {
        out.extend(w.due.to_le_bytes());
        out.push(u8::from(w.closing));
        put_words(&mut out, &w.words);
        put_bytes(&mut out, &w.heap);
    }
    count(&mut out, group.announced.len());
    for (due, event_time) in &group.announced {
        out.extend(due.to_le_bytes());
        out.extend(event_time.to_le_bytes());
    }
    count(&mut out, inline_from);
    for chunk in &group.chunks[..inline_from] {
        out.extend(chunk.id.to_le_bytes());
        rows.add(chunk.id, chunk.dirty, |row| put_chunk(row, chunk, chunk.id, fold));
    }
    count(&mut out, group.chunks.len() - inline_from);
    for (n, chunk) in group.chunks[inline_from..].iter().enumerate() {
        put_chunk(&mut out, chunk, if inline_from == 0 { n as u64 } else { chunk.id }, fold);
    }
    Encoded { page: out, chunks: rows.chunks, listed: rows.listed }
}

/// Rows beside the page row.
struct Rows {
    all: bool,
    chunks: Vec<(u64, Vec<u8>)>,
    listed: Vec<u64>,
}

impl Rows {
    fn add(&mut self, id: u64, dirty: bool, put: impl FnOnce(&mut Vec<u8>)) {
        self.listed.push(id);
        if dirty || self.all {
            let mut row = vec![FORMAT];
            put(&mut row);
            self.chunks.push((id, row));
        }
    }
}

/// Says that what [`encode`] gave has been written.
pub fn mark_clean(group: &mut Group) {
    // The last chunk goes with the page row, and becomes a row of its own when another follows it.
    let last = group.chunks.len().saturating_sub(1);
    let own_rows = if group.chunks.len() > 2 { last } else { 0 };
    group.chunks[..own_rows].iter_mut().for_each(|c| c.dirty = false);
    for total in &mut group.totals {
        match total {
            Total::Acc(_) => {}
            Total::Distinct(values) | Total::Values(values) => values.mark_clean(),
            Total::Edges(edges) => edges.mark_clean(),
        }
    }
}

/// Decodes a page row; `chunk` reads a chunk row by id.
///
/// # Errors
/// A row of another format, cut short, or missing.
pub fn decode(page: &[u8], fold: &Fold, mut chunk: impl FnMut(u64) -> Option<Vec<u8>>) -> Result<Group, LayoutError> {
    let mut r = Reader(page);
    if r.byte()? != FORMAT {
        return Err(LayoutError("unknown format number"));
    }
    let header = Header {
        rows: r.int()?,
        ever: r.int()?,
        newest: r.int()?,
        absorbed: r.int()?,
        retired: r.int()?,
        next_chunk: r.int()?.cast_unsigned(),
    };
    if r.count()? != fold.unbounded.len() {
        return Err(LayoutError("another number of totals"));
    }
    let mut totals = vec![];
    for (n, &a) in fold.unbounded.iter().enumerate() {
        totals.push(get_total(&mut r, fold, a, TALLY | (n as u64) << 32, &mut chunk)?);
    }
    let mut waiting = vec![];
    for _ in 0..r.count()? {
        let (due, closing) = (r.int()?, r.byte()? != 0);
        let (words, heap) = (r.words()?.into(), r.bytes()?.into());
        waiting.push(Waiting { due, closing, words, heap });
    }
    let mut announced = vec![];
    for _ in 0..r.count()? {
        announced.push((r.int()?, r.int()?));
    }
    let mut chunks = vec![];
    for _ in 0..r.count()? {
        let id = r.int()?.cast_unsigned();
        chunks.push(own_row(id, &mut chunk, |row| get_chunk(row, fold))?);
    }
    for _ in 0..r.count()? {
        chunks.push(Chunk { dirty: true, ..get_chunk(&mut r, fold)? });
    }
    if !r.0.is_empty() {
        return Err(LayoutError("bytes after the end"));
    }
    Ok(Group::from_parts(chunks, totals.into(), waiting, announced, header))
}

/// Reads a row beside the page row.
fn own_row<T>(
    id: u64,
    chunk: &mut impl FnMut(u64) -> Option<Vec<u8>>,
    get: impl FnOnce(&mut Reader<'_>) -> Result<T, LayoutError>,
) -> Result<T, LayoutError> {
    let row = chunk(id).ok_or(LayoutError("a chunk row is missing"))?;
    let mut row = Reader(&row);
    if row.byte()? != FORMAT {
        return Err(LayoutError("unknown format number"));
    }
    get(&mut row)
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend(u32::try_from(n).expect("chunks and long values are bounded").to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend(bytes);
}

fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    count(out, words.len());
    words.iter().for_each(|w| out.extend(w.to_le_bytes()));
}

fn put_chunk(out: &mut Vec<u8>, chunk: &Chunk, id: u64, fold: &Fold) {
    out.extend(id.to_le_bytes());
    if chunk.heap.is_empty() {
        put_words(out, &chunk.words);
        return put_bytes(out, &chunk.heap);
    }
    // In the order of the entries, whatever the order in which they came, and without what has left.
    let (mut words, mut heap) = (Vec::with_capacity(chunk.words.len()), Vec::with_capacity(chunk.heap.len()));
    for n in 0..chunk.len(&fold.shape) {
        chunk.entry(n, &fold.shape).append_to(&fold.shape, &mut words, &mut heap);
    }
    put_words(out, &words);
    put_bytes(out, &heap);
}

fn get_chunk(r: &mut Reader<'_>, fold: &Fold) -> Result<Chunk, LayoutError> {
    let id = r.int()?.cast_unsigned();
    let (words, heap) = (r.words()?, r.bytes()?.to_vec());
    if words.len() % fold.shape.stride != 0 {
        return Err(LayoutError("a chunk of another shape"));
    }
    Ok(Chunk { id, dirty: false, words, heap, dead: 0, partial: None })
}

fn put_held(out: &mut Vec<u8>, held: &Held) {
    match held {
        Held::Null => out.push(0),
        Held::Int(v) => {
            out.push(1);
            out.extend(v.to_le_bytes());
        }
        Held::Float(v) => {
            out.push(2);
            out.extend(v.to_le_bytes());
        }
        Held::Decimal(v) => {
            out.push(3);
            out.extend(v.to_le_bytes());
        }
        Held::Bytes(b) => {
            out.push(4);
            put_bytes(out, b);
        }
    }
}

fn put_edge(out: &mut Vec<u8>, edge: &Edge) {
    put_bytes(out, &edge.order);
    out.extend(edge.event_time.to_le_bytes());
    out.extend(edge.origin.bits().to_le_bytes());
    out.extend(edge.offset.to_le_bytes());
    put_held(out, &edge.value);
}

fn put_total(out: &mut Vec<u8>, total: &Total, id: u64, rows: &mut Rows) {
    match total {
        Total::Acc(acc) => put_acc(out, acc),
        Total::Distinct(values) | Total::Values(values) => put_tally(out, values, put_held, id, rows),
        Total::Edges(edges) => put_tally(out, edges, put_edge, id, rows),
    }
}

fn put_tally<K: Ord>(out: &mut Vec<u8>, tally: &Tally<K>, put: fn(&mut Vec<u8>, &K), id: u64, rows: &mut Rows) {
    let counts = |out: &mut Vec<u8>, counts: &[(K, i64)]| {
        count(out, counts.len());
        for (key, n) in counts {
            put(out, key);
            out.extend(n.to_le_bytes());
        }
    };
    if !tally.has_own_rows() {
        counts(out, tally.runs().first().map_or(&[], |r| &r.counts));
        return;
    }
    out.extend(OWN_ROWS.to_le_bytes());
    out.extend(tally.next_run().to_le_bytes());
    count(out, tally.runs().len());
    for run in tally.runs() {
        out.extend(run.id.to_le_bytes());
        rows.add(id | u64::from(run.id), run.dirty, |row| counts(row, &run.counts));
    }
}

fn put_acc(out: &mut Vec<u8>, acc: &Acc) {
    match acc {
        Acc::Count(n) => out.extend(n.to_le_bytes()),
        // Totals keep distinct values as counts; a partial is never stored.
        Acc::Distinct(_) => {}
        Acc::Integer { sum, n } => {
            out.extend(n.to_le_bytes());
            sum.encode(out);
        }
        Acc::Float { sum, n } => {
            out.extend(n.to_le_bytes());
            sum.encode(out);
        }
        Acc::IntegerMoments { moments, n } => {
            out.extend(n.to_le_bytes());
            moments.encode(out);
        }
        Acc::FloatMoments { moments, n } => {
            out.extend(n.to_le_bytes());
            moments.encode(out);
        }
        Acc::Powers { sums, n } => {
            out.extend(n.to_le_bytes());
            sums.encode(out);
        }
        Acc::Extreme(best) => {
            out.push(u8::from(best.is_some()));
            best.iter().for_each(|b| put_held(out, b));
        }
        Acc::Edge(best) => {
            out.push(u8::from(best.is_some()));
            best.iter().for_each(|b| put_edge(out, b));
        }
        Acc::Bools { trues, falses } => {
            out.extend(trues.to_le_bytes());
            out.extend(falses.to_le_bytes());
        }
        // Totals keep these as tallies with rows of their own.
        Acc::Values(_) => {}
        Acc::Sketch(Sketch::Few(hashes)) => {
            count(out, hashes.len());
            hashes.iter().for_each(|hash| out.extend(hash.to_le_bytes()));
        }
        Acc::Sketch(Sketch::Many(registers)) => {
            out.extend(OWN_ROWS.to_le_bytes());
            put_bytes(out, registers);
        }
        Acc::List(list) => {
            count(out, list.0.len());
            list.0.iter().for_each(|edge| put_edge(out, edge));
        }
        Acc::Best(best) => {
            count(out, best.0.len());
            best.0.iter().for_each(|held| put_held(out, held));
        }
    }
}

fn get_total(
    r: &mut Reader<'_>,
    fold: &Fold,
    aggregate: usize,
    id: u64,
    chunk: &mut impl FnMut(u64) -> Option<Vec<u8>>,
) -> Result<Total, LayoutError> {
    let mut total = Total::empty(&fold.plan, &fold.plan.aggregates[aggregate]);
    match &mut total {
        Total::Acc(acc) => get_acc(r, acc)?,
        Total::Distinct(values) | Total::Values(values) => *values = get_tally(r, |r| r.held(), id, chunk)?,
        Total::Edges(edges) => *edges = get_tally(r, |r| r.edge(), id, chunk)?,
    }
    Ok(total)
}

fn get_tally<K: Ord>(
    r: &mut Reader<'_>,
    get: fn(&mut Reader<'_>) -> Result<K, LayoutError>,
    id: u64,
    chunk: &mut impl FnMut(u64) -> Option<Vec<u8>>,
) -> Result<Tally<K>, LayoutError> {
    let counts = |r: &mut Reader<'_>, n: u32| (0..n).map(|_| Ok((get(r)?, r.int()?))).collect::<Result<Vec<_>, _>>();
    let n = r.number()?;
    if n != OWN_ROWS {
        let run = Run { id: 0, dirty: true, counts: counts(r, n)? };
        return Ok(Tally::from_runs(vec![run], 1));
    }
    let (next, mut runs) = (r.number()?, vec![]);
    for _ in 0..r.number()? {
        let name = r.number()?;
        let read = |row: &mut Reader<'_>| {
            let n = row.number()?;
            counts(row, n)
        };
        runs.push(Run { id: name, dirty: false, counts: own_row(id | u64::from(name), chunk, read)? });
    }
    Ok(Tally::from_runs(runs, next))
}

fn get_acc(r: &mut Reader<'_>, acc: &mut Acc) -> Result<(), LayoutError> {
    const SUM: LayoutError = LayoutError("a damaged sum");
    match acc {
        Acc::Count(n) => *n = r.int()?,
        Acc::Distinct(_) => {}
        Acc::Integer { sum, n } => {
            *n = r.int()?;
            *sum = IntegerSum::decode(&mut r.0).ok_or(SUM)?;
        }
        Acc::Float { sum, n } => {
            *n = r.int()?;
            *sum = ExactSum::decode(&mut r.0).ok_or(SUM)?;
        }
        Acc::IntegerMoments { moments, n } => {
            *n = r.int()?;
            *moments = IntegerMoments::decode(&mut r.0).ok_or(SUM)?;
        }
        Acc::FloatMoments { moments, n } => {
            *n = r.int()?;
            *moments = ExactMoments::decode(&mut r.0).ok_or(SUM)?;
        }
        Acc::Powers { sums, n } => {
            *n = r.int()?;
            **sums = PowerSums::decode(sums.terms(), &mut r.0).ok_or(SUM)?;
        }
        Acc::Extreme(best) => *best = if r.byte()? == 1 { Some(r.held()?) } else { None },
        Acc::Edge(best) => *best = if r.byte()? == 1 { Some(Box::new(r.edge()?)) } else { None },
        Acc::Bools { trues, falses } => (*trues, *falses) = (r.int()?, r.int()?),
        Acc::Values(_) => {}
        Acc::Sketch(sketch) => match r.number()? {
            OWN_ROWS => *sketch = Sketch::registers(r.bytes()?).ok_or(LayoutError("a damaged sketch"))?,
            n => (0..n).try_for_each(|_| r.int().map(|hash| sketch.see(hash.cast_unsigned())))?,
        },
        Acc::List(list) => list.0 = (0..r.count()?).map(|_| r.edge()).collect::<Result<_, _>>()?,
        Acc::Best(best) => best.0 = (0..r.count()?).map(|_| r.held()).collect::<Result<_, _>>()?,
    }
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], LayoutError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(LayoutError("cut short"))?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        self.take(N)?.try_into().map_err(|_| LayoutError("cut short"))
    }
    fn byte(&mut self) -> Result<u8, LayoutError> {
        Ok(self.array::<1>()?[0])
    }
    fn int(&mut self) -> Result<i64, LayoutError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    fn number(&mut self) -> Result<u32, LayoutError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn count(&mut self) -> Result<usize, LayoutError> {
        Ok(self.number()? as usize)
    }
    fn bytes(&mut self) -> Result<&'a [u8], LayoutError> {
        let n = self.count()?;
        self.take(n)
    }
    fn words(&mut self) -> Result<Vec<u64>, LayoutError> {
        let n = self.count()?;
        let bytes = self.take(n.checked_mul(8).ok_or(LayoutError("cut short"))?)?;
        Ok(bytes.chunks_exact(8).map(|w| w.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))).collect())
    }
    fn held(&mut self) -> Result<Held, LayoutError> {
        Ok(match self.byte()? {
            0 => Held::Null,
            1 => Held::Int(self.int()?),
            2 => Held::Float(self.int()?.cast_unsigned()),
            3 => Held::Decimal(i128::from_le_bytes(self.array()?)),
            4 => Held::Bytes(self.bytes()?.into()),
            _ => return Err(LayoutError("unknown kind of value")),
        })
    }
    fn edge(&mut self) -> Result<Edge, LayoutError> {
        Ok(Edge {
            order: self.bytes()?.into(),
            event_time: self.int()?,
            origin: Origin::from_bits(u32::from_le_bytes(self.array()?)),
            offset: self.int()?,
            value: self.held()?,
        })
    }
}
