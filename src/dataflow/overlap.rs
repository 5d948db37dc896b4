//! The join of a stream's rows with a table's versions: pairs of one key, at the instants at which both are valid.
//!
//! Either side is a set of dated rows that changes epoch by epoch. A change is joined with what it can touch and with
//! nothing else: a version that only ends earlier than it did touches the rows that were still valid then, and a row
//! touches the versions between its event time and its end. So a table whose versions follow one another costs one look
//! per version, however many there are. A left join adds the row with nulls for the instants at which no version is valid.
//!
//! ```text
//! row `a` valid [5, 20), version `x` [0, MAX)         a·x [5, 20)
//! then version `y` comes, valid from 9                a·x [5, 20) leaves, a·x [5, 9) and a·y [9, 20) come
//! then a tombstone from 15                            a·y [9, 20) leaves, a·y [9, 15) comes; LEFT: a·null [15, 20)
//! ```
//!
//! Late rows of either side are as good as any; what is taken back leaves exactly what it brought.
//!
//! Invariants: what was given, added up, is at every step the join of both sides as they are; the order of changes does
//! not matter. Nothing of the stream is forgotten, since a version may come late. Neighbours: `join` finds keys and puts
//! this into the dataflow.

use std::cell::Cell;

use differential_dataflow::consolidation::consolidate;
use rustc_hash::FxHashMap;

use super::multiset::Multiset;
use super::rows::{Dated, Diff, Row, overlap, unsortable};

/// One change of a side: a key, what is valid under it when, and how often more.
pub type Change = ((Row, Dated), Diff);

/// A version of a table: ordered by when it ends, so that those that a row can still meet are the last ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version {
    valid_to: i64,
    valid_from: i64,
    row: Row,
}

/// Both sides under one key. Rows start with their event time, sortable.
#[derive(Default)]
struct Sides {
    rows: Multiset<Dated>,
    versions: Multiset<Version>,
}

/// How a join is kept.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// How long after its event time a row can be valid at most; `None`: for ever.
    pub reach: Option<i64>,
    /// At no instant is more than one version of a key valid.
    pub one_version: bool,
    /// LEFT: what a row gains where no version is valid.
    pub nulls: Option<Row>,
}

/// A join's state: both sides, by key.
pub struct Overlap {
    kind: Kind,
    keys: FxHashMap<Row, Sides>,
    /// Rows and versions that were looked at, of all steps.
    looks: Cell<u64>,
}

impl Overlap {
    /// With nothing on either side.
    pub fn new(kind: Kind) -> Overlap {
        Overlap { kind, keys: FxHashMap::default(), looks: Cell::new(0) }
    }

    /// One epoch's changes of both sides. `give` gets what follows for the join: each row of it with its columns appended.
    pub fn step(&mut self, mut rows: Vec<Change>, mut versions: Vec<Change>, give: &mut impl FnMut(Dated, Diff)) {
        // Versions first, against the rows of earlier epochs; then the new rows against all versions: each pair once.
        consolidate(&mut versions);
        for changes in versions.chunk_by_mut(|a, b| a.0.0 == b.0.0) {
            self.change_versions(changes, give);
        }
        consolidate(&mut rows);
        for changes in rows.chunk_by_mut(|a, b| a.0.0 == b.0.0) {
            self.change_rows(changes, give);
        }
    }

    /// Rows and versions that were looked at, of all steps: the work done.
    pub fn looks(&self) -> u64 {
        self.looks.get()
    }

    /// Changes of one key's versions. They are moved and not copied: at a start they are all there is.
    fn change_versions(&mut self, changes: &mut [Change], give: &mut impl FnMut(Dated, Diff)) {
        let Some(((key, _), _)) = changes.first() else { return };
        let Overlap { kind, keys, looks } = self;
        let sides = keys.entry(key.clone()).or_default();

        // Step 1. What rows have of the versions that change.
        let mut touched = (i64::MAX, i64::MIN);
        for same in changes.chunk_by(same_start) {
            let (from, to) = touches(same);
            touched = (touched.0.min(from), touched.1.max(to));
            for (row, times) in rows_within(&sides.rows, (from, to), kind.reach, looks) {
                for (valid, diff) in shared(same, (row.valid_from, row.valid_to)) {
                    give(dated(&row.row, &same[0].0.1.row, valid), diff * times);
                }
            }
        }

        // Step 2. The versions change. What they cover is compared before and after.
        let before = kind.nulls.as_ref().map(|_| cover(sides, touched, kind, looks));
        for ((_, version), diff) in changes.iter_mut() {
            let Dated { row, valid_from, valid_to } = std::mem::take(version);
            sides.versions.add(Version { valid_to, valid_from, row }, *diff);
        }
        if let (Some(nulls), Some(before)) = (&kind.nulls, before)
            && before != cover(sides, touched, kind, looks)
        {
            uncover(sides, touched, &before, (kind, looks), nulls, give);
        }
        if sides.rows.is_empty() && sides.versions.is_empty() {
            keys.remove(&changes[0].0.0);
        }
    }

    /// Changes of one key's rows; they are moved.
    fn change_rows(&mut self, changes: &mut [Change], give: &mut impl FnMut(Dated, Diff)) {
        let Some(((key, _), _)) = changes.first() else { return };
        let Overlap { kind, keys, looks } = self;
        let sides = keys.entry(key.clone()).or_default();
        for same in changes.chunk_by(same_start) {
            let (from, to) = touches(same);
            let row = &same[0].0.1;
            for (version, times) in versions_within(sides, (from, to), kind, looks) {
                for (valid, diff) in shared(same, (version.valid_from, version.valid_to)) {
                    give(dated(&row.row, &version.row, valid), diff * times);
                }
            }
            if let Some(nulls) = &kind.nulls {
                let covered = cover(sides, (row.valid_from, to), kind, looks);
                let mut net: Vec<((i64, i64), Diff)> = vec![];
                for ((_, row), diff) in same {
                    let gaps = gaps(&covered, (row.valid_from, row.valid_to), (from, i64::MAX));
                    net.extend(gaps.into_iter().map(|gap| (gap, *diff)));
                }
                consolidate(&mut net);
                net.into_iter().for_each(|(gap, diff)| give(dated(&row.row, nulls, gap), diff));
            }
        }
        for ((_, row), diff) in changes.iter_mut() {
            sides.rows.add(std::mem::take(row), *diff);
        }
        if sides.rows.is_empty() && sides.versions.is_empty() {
            keys.remove(&changes[0].0.0);
        }
    }
}

/// Are they about one row from the same instant on? Then they differ in when it ends.
fn same_start(a: &Change, b: &Change) -> bool {
    let (a, b) = (&a.0.1, &b.0.1);
    a.row == b.row && a.valid_from == b.valid_from
}

/// The instants at which something changes, of changes that start alike and come in the order of their ends.
///
/// As much given as taken: the row is there as before, up to where the first of them ends.
fn touches(same: &[Change]) -> (i64, i64) {
    let (first, last) = (&same[0].0.1, &same[same.len() - 1].0.1);
    let moved = same.iter().map(|(_, diff)| diff).sum::<Diff>() == 0;
    (if moved { first.valid_to } else { first.valid_from }, last.valid_to)
}

/// What these changes, which start alike, change within an interval.
fn shared(same: &[Change], within: (i64, i64)) -> Vec<((i64, i64), Diff)> {
    let parts = same.iter().filter_map(|((_, d), diff)| Some((overlap((d.valid_from, d.valid_to), within)?, *diff)));
    let mut parts: Vec<_> = parts.collect();
    consolidate(&mut parts);
    parts
}

fn dated(row: &Row, columns: &Row, (valid_from, valid_to): (i64, i64)) -> Dated {
    Dated { row: Row::cat(&[row, columns]), valid_from, valid_to }
}

/// The rows that are valid at some of these instants.
fn rows_within<'a>(
    rows: &'a Multiset<Dated>,
    (from, to): (i64, i64),
    reach: Option<i64>,
    looks: &Cell<u64>,
) -> impl Iterator<Item = (&'a Dated, Diff)> {
    let gone = move |r: &Dated| reach.is_some_and(|reach| unsortable(&r.row).saturating_add(reach) <= from);
    // A row is not valid before its event time.
    rows.from(gone)
        .take_while(move |(r, _)| unsortable(&r.row) < to)
        .inspect(|_| looks.update(|looks| looks + 1))
        .filter(move |(r, _)| r.valid_to > from && r.valid_from < to)
}

/// The versions that are valid at some of these instants.
fn versions_within<'a>(
    sides: &'a Sides,
    (from, to): (i64, i64),
    kind: &Kind,
    looks: &Cell<u64>,
) -> impl Iterator<Item = (&'a Version, Diff)> {
    // Where one follows the other, those that end later start later.
    let one_version = kind.one_version;
    sides
        .versions
        .from(move |v| v.valid_to <= from)
        .take_while(move |(v, _)| !one_version || v.valid_from < to)
        .inspect(|_| looks.update(|looks| looks + 1))
        .filter(move |(v, _)| v.valid_from < to)
}

/// The instants of an interval at which some version is valid.
fn cover(sides: &Sides, within: (i64, i64), kind: &Kind, looks: &Cell<u64>) -> Vec<(i64, i64)> {
    let versions = versions_within(sides, within, kind, looks);
    union(versions.filter_map(|(v, _)| overlap((v.valid_from, v.valid_to), within)).collect())
}

/// The union of intervals, in order.
fn union(mut intervals: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    intervals.sort_unstable();
    let mut merged: Vec<(i64, i64)> = vec![];
    for (from, to) in intervals {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// Gives what changes of the rows with nulls when what is covered changed within `touched`, where it was `before`.
fn uncover(
    sides: &Sides,
    touched: (i64, i64),
    before: &[(i64, i64)],
    (kind, looks): (&Kind, &Cell<u64>),
    nulls: &Row,
    give: &mut impl FnMut(Dated, Diff),
) {
    // A gap may reach beyond what changed: its ends follow from all that is covered while some of these rows is valid.
    let rows: Vec<(&Dated, Diff)> = rows_within(&sides.rows, touched, kind.reach, looks).collect();
    let from = rows.iter().map(|(r, _)| r.valid_from).min();
    let to = rows.iter().map(|(r, _)| r.valid_to).max();
    let (Some(from), Some(to)) = (from, to) else { return };
    let is = cover(sides, (from, to), kind, looks);
    // Elsewhere it was as it is.
    let elsewhere = is.iter().flat_map(|i| [overlap(*i, (i64::MIN, touched.0)), overlap(*i, (touched.1, i64::MAX))]);
    let was = union(elsewhere.flatten().chain(before.iter().copied()).collect());

    for (row, times) in rows {
        let gaps = |cover: &[(i64, i64)]| gaps(cover, (row.valid_from, row.valid_to), touched);
        let (was, is) = (gaps(&was), gaps(&is));
        was.iter().filter(|gap| !is.contains(gap)).for_each(|gap| give(dated(&row.row, nulls, *gap), -times));
        is.iter().filter(|gap| !was.contains(gap)).for_each(|gap| give(dated(&row.row, nulls, *gap), times));
    }
}

/// The parts of an interval that are not covered: those that touch the instants `near`, and perhaps the one before.
fn gaps(cover: &[(i64, i64)], (from, to): (i64, i64), near: (i64, i64)) -> Vec<(i64, i64)> {
    let first = cover.partition_point(|c| c.1 < near.0);
    let mut at = first.checked_sub(1).map_or(from, |n| from.max(cover[n].1));
    let mut found = vec![];
    for c in cover[first..].iter().chain([&(i64::MAX, i64::MAX)]) {
        if at >= to || at > near.1 {
            break;
        }
        if c.0 > at {
            found.push((at, c.0.min(to)));
        }
        at = at.max(c.1);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::super::rows::sortable;
    use super::*;

    fn stream_row(event_time: i64, name: u8) -> Row {
        Row::cat(&[&sortable(event_time), &[name]])
    }

    fn key(n: u8) -> Row {
        Row::from_slice(&[n])
    }

    /// The join of both sides as they are, from scratch.
    fn joined(rows: &[(Row, Dated)], versions: &[(Row, Dated)], nulls: Option<&Row>) -> BTreeMap<Dated, Diff> {
        let mut out = BTreeMap::<Dated, Diff>::new();
        for (key, row) in rows {
            let valid = (row.valid_from, row.valid_to);
            let mut covered = vec![];
            for (_, version) in versions.iter().filter(|(k, _)| k == key) {
                if let Some(both) = overlap(valid, (version.valid_from, version.valid_to)) {
                    covered.push(both);
                    *out.entry(dated(&row.row, &version.row, both)).or_default() += 1;
                }
            }
            let Some(nulls) = nulls else { continue };
            for gap in gaps(&union(covered), valid, (i64::MIN, i64::MAX)) {
                *out.entry(dated(&row.row, nulls, gap)).or_default() += 1;
            }
        }
        out
    }

    /// Versions of one key as a table has them: each valid until the next one starts, some of them tombstones.
    fn chain(key: &Row, starts: &BTreeMap<i64, Option<u8>>) -> Vec<(Row, Dated)> {
        let ends = starts.keys().skip(1).copied().chain([i64::MAX]);
        let version = |((from, row), to): ((&i64, &Option<u8>), i64)| {
            Some((key.clone(), Dated { row: Row::from_slice(&[(*row)?]), valid_from: *from, valid_to: to }))
        };
        starts.iter().zip(ends).filter_map(version).collect()
    }

    /// What has to change for `was` to become `is`.
    fn difference(was: &[(Row, Dated)], is: &[(Row, Dated)]) -> Vec<Change> {
        let all = was.iter().map(|v| (v.clone(), -1)).chain(is.iter().map(|v| (v.clone(), 1)));
        let mut all: Vec<Change> = all.collect();
        consolidate(&mut all);
        all
    }

    #[test]
    fn it_is_the_join_of_both_sides_at_every_step() {
        for seed in 0..60u64 {
            let mut rng = StdRng::seed_from_u64(seed);
            let reach = [None, Some(10), Some(60)][usize::try_from(seed % 3).expect("small")];
            let nulls = (seed % 2 == 0).then(|| Row::from_slice(&[0]));
            let one_version = seed % 4 < 2;
            let mut overlap = Overlap::new(Kind { reach, one_version, nulls: nulls.clone() });
            let mut got = BTreeMap::<Dated, Diff>::new();
            let (mut rows, mut versions): (Vec<(Row, Dated)>, Vec<(Row, Dated)>) = (vec![], vec![]);
            let mut starts: BTreeMap<Row, BTreeMap<i64, Option<u8>>> = BTreeMap::new();
            for step in 0..60 {
                let (old_rows, old_versions) = (rows.clone(), versions.clone());
                for _ in 0..rng.random_range(0..4) {
                    let at = rng.random_range(0..100);
                    let until = reach.map_or(i64::MAX, |reach| at + reach);
                    let row = Dated { row: stream_row(at, rng.random_range(1..4)), valid_from: at, valid_to: until };
                    match rng.random_range(0..4) {
                        // Taken back, or ended at another instant, as an earlier join does.
                        0 if !rows.is_empty() => drop(rows.swap_remove(rng.random_range(0..rows.len()))),
                        1 if !rows.is_empty() => {
                            let n = rng.random_range(0..rows.len());
                            let row = &mut rows[n].1;
                            let last = reach.map_or(200, |reach| unsortable(&row.row) + reach);
                            row.valid_to = rng.random_range(row.valid_from + 1..=last.max(row.valid_from + 1));
                        }
                        _ => rows.push((key(rng.random_range(0..3)), row)),
                    }
                }
                for _ in 0..rng.random_range(0..3) {
                    let (key, from) = (key(rng.random_range(0..3)), rng.random_range(0..120));
                    if one_version {
                        let row = rng.random_bool(0.7).then(|| rng.random_range(1..4));
                        let versions = starts.entry(key).or_default();
                        match rng.random_bool(0.2) {
                            true => drop(versions.remove(&from)),
                            false => drop(versions.insert(from, row)),
                        }
                        continue;
                    }
                    let valid_to = *[from + 1, from + 30, i64::MAX].choose(&mut rng).expect("three");
                    let row = Row::from_slice(&[rng.random_range(1..4)]);
                    match rng.random_bool(0.3) && !versions.is_empty() {
                        true => drop(versions.swap_remove(rng.random_range(0..versions.len()))),
                        false => versions.push((key, Dated { row, valid_from: from, valid_to })),
                    }
                }
                if one_version {
                    versions = starts.iter().flat_map(|(key, starts)| chain(key, starts)).collect();
                }
                overlap.step(difference(&old_rows, &rows), difference(&old_versions, &versions), &mut |row, diff| {
                    *got.entry(row).or_default() += diff
                });
                got.retain(|_, diff| *diff != 0);
                let want = joined(&rows, &versions, nulls.as_ref());
                assert_eq!(got, want, "seed {seed}, step {step}: {rows:?} with {versions:?}");
            }
        }
    }

    /// Looks, and rows given, for so many versions of one key, one after the other, each with twenty rows.
    fn work(versions: i64, reach: Option<i64>, left: bool, late: bool) -> (i64, i64) {
        let nulls = left.then(|| Row::from_slice(&[0]));
        let mut overlap = Overlap::new(Kind { reach, one_version: true, nulls });
        let mut given = 0;
        let mut starts: BTreeMap<i64, Option<u8>> = BTreeMap::new();
        for n in 0..versions {
            // Every tenth version, and its rows, comes long after its time.
            let from = if late && n % 10 == 0 { 20 * n / 2 + 5 } else { 20 * n };
            let next = starts.range(from + 1..).next().map_or(i64::MAX, |(next, _)| *next);
            let version =
                |valid_from: i64, valid_to: i64| (key(0), Dated { row: Row::from_slice(&[1]), valid_from, valid_to });
            let mut changes = vec![(version(from, next), 1)];
            if let Some((before, _)) = starts.range(..from).next_back() {
                changes.extend([(version(*before, next), -1), (version(*before, from), 1)]);
            }
            starts.insert(from, Some(1));
            overlap.step(vec![], changes, &mut |_, _| given += 1);
            for at in from..from + 20 {
                let until = reach.map_or(i64::MAX, |reach| at + reach);
                let row = Dated {
                    row: stream_row(at, u8::try_from(n % 250).expect("small")),
                    valid_from: at,
                    valid_to: until,
                };
                overlap.step(vec![((key(0), row), 1)], vec![], &mut |_, _| given += 1);
            }
        }
        (i64::try_from(overlap.looks()).expect("few"), given)
    }

    #[test]
    fn work_grows_with_the_versions_and_not_with_their_square() {
        // A row meets the version of its time, a new version the four rows that are still valid, its predecessor the same.
        let (looks, given) = work(2_000, Some(4), false, false);
        assert!(looks <= 2_000 * (20 + 2 * 4) && given <= 2_000 * (20 + 3 * 4), "{looks} looks for {given} rows");
        for (left, late) in [(false, true), (true, false), (true, true)] {
            let (few, many) = (work(200, Some(4), left, late), work(2_000, Some(4), left, late));
            assert!(many.0 <= 11 * few.0 && many.1 <= 11 * few.1, "LEFT {left}, late {late}: {few:?} {many:?}");
        }
        // Without a bound each row is joined with each later version: no more looks than there is to give.
        let (looks, given) = work(100, None, false, false);
        assert!(looks <= 2 * given, "{looks} looks for {given} rows");
    }

    #[test]
    fn intervals_unite_and_leave_gaps() {
        let check = |given: &[(i64, i64)], want: &[(i64, i64)]| assert_eq!(union(given.to_vec()), want);
        check(&[], &[]);
        check(&[(5, 9), (0, 5)], &[(0, 9)]);
        check(&[(5, 9), (0, 4), (6, 7)], &[(0, 4), (5, 9)]);
        let all = (i64::MIN, i64::MAX);
        assert_eq!(gaps(&[(0, 4), (5, 9)], (2, 20), all), [(4, 5), (9, 20)]);
        assert_eq!(gaps(&[(0, 4), (5, 9)], (2, 20), (0, 3)), [(0, 0); 0]);
        assert_eq!(gaps(&[(0, 4), (5, 9)], (2, 20), (0, 4)), [(4, 5)]);
        assert_eq!(gaps(&[(0, 4), (5, 9), (10, 12)], (-3, 18), (6, 7)), [(4, 5)]);
        assert_eq!(gaps(&[], (3, i64::MAX), (7, 9)), [(3, i64::MAX)]);
    }
}
