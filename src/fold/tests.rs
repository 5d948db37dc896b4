//! A group against a scan of its rows: what is kept to answer fast, and what is written back in parts, must not change an
//! answer; and what is taken back leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::columns::{from_batch, group_converter, to_batch, updates_schema};
use super::entry::{Entry, Origin, Update, Updates, hash_group, pack_bytes, place};
use super::plan::{Aggregate, FoldPlan, Function, ValueType, Window};
use super::total::Total;
use super::{Evaluation, Fold, Group, Status, Wanted, layout};
use crate::id::ViewId;
use crate::offset::PARTITIONS_MAX;

const HORIZON: i64 = 6_000;

fn aggregate(function: Function, value: Option<usize>, filter: Option<usize>, window: Window) -> Aggregate {
    let result = if value == Some(1) { DataType::Utf8 } else { DataType::Int64 };
    Aggregate { function, value, second: None, order: None, filter, window, ignore_nulls: false, result }
}

/// Of rows with a number and a text by which some are ordered.
fn fold_of(aggregates: Vec<Aggregate>, admit: Window, resolution: Option<i64>, retracts: bool) -> Fold {
    Fold::new(FoldPlan {
        streams: vec!["clicks".into(), "views".into()],
        group_types: vec![DataType::Int64],
        values: vec![ValueType::Int, ValueType::Bytes],
        value_types: vec![DataType::Int64, DataType::Utf8],
        filters: 1,
        admit,
        aggregates,
        resolution,
        retracts,
    })
}

fn list_of_numbers() -> DataType {
    DataType::List(std::sync::Arc::new(arrow::datatypes::Field::new_list_field(DataType::Int64, true)))
}

fn list(function: Function, filter: Option<usize>, window: Window) -> Aggregate {
    Aggregate { result: list_of_numbers(), ..aggregate(function, Some(0), filter, window) }
}

fn listed(limit: u32, distinct: bool, latest_first: bool) -> Function {
    Function::ArrayAgg { limit, distinct, latest_first }
}

fn within(from: i64, until: i64) -> Window {
    Window { from, until: Some(until) }
}

fn fold(resolution: Option<i64>) -> Fold {
    let ordered = |function, window| Aggregate { order: Some(1), ..aggregate(function, Some(0), Some(0), window) };
    let some = |function, window| Aggregate { ignore_nulls: true, ..aggregate(function, Some(0), None, window) };
    let aggregates = vec![
        aggregate(Function::Count, None, None, within(0, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), None, within(0, 100)),
        aggregate(Function::CountDistinct, Some(0), None, within(0, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), Some(0), within(0, 3_000)),
        aggregate(Function::CountDistinct, Some(0), None, within(1_000, 4_000)),
        aggregate(Function::Max, Some(0), None, within(0, 2_000)),
        aggregate(Function::Sum, Some(0), Some(0), within(500, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), None, Window::ALL),
        aggregate(Function::Min, Some(0), Some(0), Window::ALL),
        aggregate(Function::Last, Some(0), None, Window::ALL),
        aggregate(Function::Last, Some(0), Some(0), within(0, 2_500)),
        aggregate(Function::First, Some(0), None, within(0, 2_500)),
        some(Function::Last, within(1_000, HORIZON)),
        some(Function::First, within(0, HORIZON)),
        ordered(Function::Last, within(0, HORIZON)),
        ordered(Function::First, within(0, 700)),
        ordered(Function::First, Window::ALL),
        list(Function::TopK { k: 3, distinct: false }, None, within(0, HORIZON)),
        list(Function::BottomK { k: 4, distinct: true }, Some(0), within(500, 3_000)),
        list(Function::TopK { k: 2, distinct: true }, None, Window::ALL),
        aggregate(Function::Mode, Some(0), None, within(0, 4_000)),
        aggregate(Function::Mode, Some(0), Some(0), Window::ALL),
        list(listed(3, false, true), None, within(0, HORIZON)),
        list(listed(5, true, true), Some(0), within(0, 2_500)),
        list(listed(4, false, false), None, within(300, 2_500)),
        list(listed(3, true, true), None, Window::ALL),
        Aggregate { order: Some(1), ..list(listed(4, false, false), None, within(0, HORIZON)) },
        Aggregate { order: Some(1), ..list(listed(3, true, false), Some(0), Window::ALL) },
    ];
    fold_of(aggregates, within(0, HORIZON), resolution, true)
}

/// Event time, offset, value (none: null), filter.
type Row = (i64, i64, Option<i64>, bool);

/// Rows of one event time come from several partitions of two streams.
fn partition(row: &Row) -> i32 {
    i32::try_from(row.1.rem_euclid(3)).expect("small")
}

fn rank(row: &Row) -> u8 {
    u8::try_from(row.1.rem_euclid(7) / 4).expect("0 or 1")
}

/// What a row is ordered by where it is not by time: longer than what fits into a word.
fn order(row: &Row) -> String {
    format!("{:012}", row.2.unwrap_or(3) % 7)
}

/// An update of a row that counts from an instant.
fn update(group: &mut Group, row: Row, diff: i32, counts_from: i64, closing: bool, now: i64, fold: &Fold) {
    let (time, offset, value, passes) = row;
    let bits = u64::from(value.is_none()) | u64::from(passes) << 2;
    let mut heap = vec![];
    let text = pack_bytes(order(&row).as_bytes(), &mut heap);
    let word = value.unwrap_or_default().cast_unsigned();
    let place = place(Origin::new(rank(&row), partition(&row)), diff);
    let words = [time.cast_unsigned(), offset.cast_unsigned(), place, bits, word, text];
    let entry = Entry { words: &words, heap: &heap };
    group.apply(&Update { hash: 0, group: &[], epoch: 0, counts_from, closing, entry }, now, fold);
}

fn apply(group: &mut Group, row: Row, diff: i32, now: i64, fold: &Fold) {
    update(group, row, diff, row.0, false, now, fold);
}

fn bytes(group: &Group, fold: &Fold) -> Vec<u8> {
    let encoded = layout::encode(group, fold, true);
    assert!(encoded.chunks.is_empty(), "a small group is one row");
    encoded.page
}

/// The values of the query over these rows.
fn scan(rows: &[Row], now: i64, fold: &Fold) -> Vec<ScalarValue> {
    let one = |aggregate: &Aggregate| {
        let Window { from, until } = aggregate.window;
        let age = |r: &Row| now - fold.plan.tile(r.0);
        let inside = rows.iter().filter(|r| from <= age(r) && until.is_none_or(|u| age(r) < u));
        let counted = inside.filter(|r| aggregate.filter.is_none() || r.3);
        let choice = counted.clone().filter(|r| !aggregate.ignore_nulls || r.2.is_some());
        let key = |r: &&Row| (aggregate.order.map(|_| order(r)), r.0, rank(r), partition(r), r.1, r.2);
        let values: Vec<Option<i64>> = counted.map(|r| r.2).collect();
        let there = || values.iter().flatten();
        let mut listed: Vec<Option<i64>> = vec![];
        let (limit, distinct) = match aggregate.function {
            Function::ArrayAgg { limit, distinct, latest_first } => {
                let mut rows: Vec<&Row> = choice.clone().collect();
                let time = |r: &Row| if latest_first { -r.0 } else { r.0 };
                rows.sort_by_key(|r| (aggregate.order.map(|_| order(r)), time(r), rank(r), partition(r), r.1, r.2));
                listed.extend(rows.iter().map(|r| r.2));
                (limit, distinct)
            }
            Function::TopK { k, distinct } | Function::BottomK { k, distinct } => {
                listed.extend(there().copied().map(Some));
                listed.sort_unstable();
                if matches!(aggregate.function, Function::TopK { .. }) {
                    listed.reverse();
                }
                (k, distinct)
            }
            _ => (0, false),
        };
        if limit > 0 {
            let mut seen = BTreeSet::new();
            listed.retain(|v| !distinct || seen.insert(*v));
            listed.truncate(limit as usize);
            let items: Vec<ScalarValue> = listed.into_iter().map(ScalarValue::Int64).collect();
            return match items.is_empty() {
                true => ScalarValue::try_from(&aggregate.result).expect("a list may be null"),
                false => ScalarValue::List(ScalarValue::new_list_nullable(&items, &DataType::Int64)),
            };
        }
        ScalarValue::Int64(match aggregate.function {
            Function::Mode => {
                let mut counts = BTreeMap::new();
                there().for_each(|v| *counts.entry(*v).or_insert(0) += 1);
                counts.into_iter().max_by_key(|(v, n)| (*n, -*v)).map(|(v, _)| v)
            }
            Function::Count => Some(values.len() as i64),
            Function::CountDistinct => Some(there().collect::<BTreeSet<_>>().len() as i64),
            Function::Max => there().max().copied(),
            Function::Min => there().min().copied(),
            Function::Last => choice.max_by_key(key).and_then(|r| r.2),
            Function::First => choice.min_by_key(key).and_then(|r| r.2),
            _ => there().copied().reduce(|a, b| a + b),
        })
    };
    fold.plan.aggregates.iter().map(one).collect()
}

/// All values, which must be the same when they are asked for one by one.
fn values(group: &Group, now: i64, fold: &Fold) -> Vec<ScalarValue> {
    let all = group.evaluate(now, fold);
    for a in 0..all.values.len() {
        let one = group.evaluate_some(now, &Wanted::of([a], all.values.len()), fold);
        let others = one.values.iter().enumerate().filter(|(n, _)| *n != a);
        assert!(one.values[a] == all.values[a] && others.into_iter().all(|(_, v)| v.is_null()), "aggregate {a}");
        assert_eq!((one.status, one.event_time), (all.status, all.event_time));
    }
    all.values
}

#[test]
fn a_large_group_answers_as_a_scan_of_its_rows() {
    for (seed, resolution) in (0..3).zip([None, Some(50), Some(700)]) {
        let fold = fold(resolution);
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut group, mut rows, mut now) = (Group::new(&fold), Vec::<Row>::new(), 0i64);
        let mut disk = BTreeMap::<u64, Vec<u8>>::new();
        for n in 0..12_000i64 {
            now += rng.random_range(0..3);
            let late = if rng.random_bool(0.2) { rng.random_range(0..HORIZON / 2) } else { 0 };
            // Some values are everywhere, some come once; at times none come at all, and the group is small again.
            let most = if rng.random_bool(0.7) { 20 } else { 100_000 };
            let value = rng.random_bool(0.95).then(|| rng.random_range(0..most));
            let row = (now - late, n, value, rng.random_bool(0.5));
            apply(&mut group, row, 1, now, &fold);
            rows.push(row);
            if rng.random_bool(0.05) {
                // The same event, joined with another row.
                let other = (row.0, row.1, rng.random_bool(0.8).then(|| rng.random_range(200_000..300_000)), row.3);
                apply(&mut group, other, 1, now, &fold);
                rows.push(other);
            }
            if rng.random_bool(0.1) {
                let gone = rows.swap_remove(rng.random_range(0..rows.len()));
                apply(&mut group, gone, -1, now, &fold);
            }
            if rng.random_bool(0.001) {
                now += rng.random_range(0..2 * HORIZON);
            }
            if rng.random_bool(0.02) {
                group.retire(now, &fold);
            }
            if rng.random_bool(0.02) {
                group.advance(now, &fold);
                if rng.random_bool(0.5) {
                    group.prepare(&fold);
                }
                let want = scan(&rows, now, &fold);
                assert_eq!(values(&group, now, &fold), want, "seed {seed}, row {n}, {resolution:?}");
            }
            if rng.random_bool(0.005) {
                let encoded = layout::encode(&group, &fold, false);
                layout::mark_clean(&mut group);
                disk.extend(encoded.chunks);
                disk.retain(|id, _| encoded.listed.contains(id));
                if rng.random_bool(0.3) {
                    let read = layout::decode(&encoded.page, &fold, |id| disk.get(&id).cloned());
                    group = read.expect("what was written can be read");
                }
            }
        }
    }
}

/// Rule 13: the source's name, then partition, then offset, among rows of one event time; never the order in which they came.
#[test]
fn ties_go_by_source_and_partition_and_then_by_offset() {
    // (source, partition) of each: (0, 0), (1, 0), (1, 1), (0, 2). So 3 is the first and 4 the last; by offset, or by
    // partition alone, others would be.
    let rows: [Row; 4] =
        [(10, 3, Some(3), true), (10, 6, Some(6), true), (10, 4, Some(4), true), (10, 2, Some(2), true)];
    let origins: Vec<(u8, i32)> = rows.iter().map(|r| (rank(r), partition(r))).collect();
    assert_eq!(origins, [(0, 0), (1, 0), (1, 1), (0, 2)]);
    for (retracts, window) in [(false, Window::ALL), (true, Window::ALL), (true, within(0, 100))] {
        let ordered = |function| Aggregate { order: Some(1), ..aggregate(function, Some(0), None, window) };
        let by_time = |function| aggregate(function, Some(0), None, window);
        let kinds = vec![by_time(Function::First), by_time(Function::Last), ordered(Function::First)];
        let fold = fold_of(kinds, window, None, retracts);
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..20 {
            let (mut group, mut shuffled) = (Group::new(&fold), rows);
            shuffled.shuffle(&mut rng);
            shuffled.iter().for_each(|row| apply(&mut group, *row, 1, 20, &fold));
            group.advance(20, &fold);
            let got: Vec<String> = group.evaluate(20, &fold).values.iter().map(ToString::to_string).collect();
            assert_eq!(got, ["3", "4", "2"], "{window:?}, {retracts}: {shuffled:?}");
        }
    }
}

/// Rule 25: what was inserted can be retracted without residue, whatever comes between.
#[test]
fn everything_retracted_is_nothing_left() {
    for seed in 0..8 {
        let fold = fold(None);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut updates: Vec<(Row, i32, i64, bool)> = vec![];
        for n in 0..700i64 {
            let row = (n / 2, n % 90, rng.random_bool(0.9).then(|| n % 11), n % 2 == 0);
            let (from, to) = (row.0 + n % 40, row.0 + n % 40 + rng.random_range(1..3_000));
            updates.extend([(row, 1, from, false), (row, -1, to, true), (row, -1, from, false), (row, 1, to, true)]);
        }
        updates.shuffle(&mut rng);
        let (mut group, mut now) = (Group::new(&fold), 0);
        for (row, diff, counts_from, closing) in updates {
            now = (now + 1).min(2_500);
            update(&mut group, row, diff, counts_from, closing, now, &fold);
            if rng.random_bool(0.02) {
                group.advance(now, &fold);
                group.prepare(&fold);
            }
        }
        group.advance(5_000, &fold);
        let Evaluation { status, values, .. } = group.evaluate(5_000, &fold);
        assert_eq!((status, values), (Status::Absent, Evaluation::of_nothing(&fold).values), "seed {seed}");
        assert!(group.chunks.is_empty() && group.waiting.is_empty(), "seed {seed}");
        assert!(group.totals.iter().all(|t| matches!(t, Total::Acc(_)) || t.kept() == 0));
        assert_eq!((group.header.rows, group.header.ever), (0, 0), "seed {seed}");
    }
}

/// Rule 11: a row that was taken back before it counted has been one of the group's all the same.
#[test]
fn an_event_time_is_the_greatest_that_was_ever_inserted() {
    let fold = fold_of(vec![aggregate(Function::Count, None, None, Window::ALL)], Window::ALL, None, true);
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut group, mut now, mut inserted) = (Group::new(&fold), 0, vec![]);
        for n in 0..400 {
            now += rng.random_range(0..3);
            let time = now + rng.random_range(-20..60);
            let (row, from) = ((time, n, None, true), time + rng.random_range(0..40));
            update(&mut group, row, 1, from, false, now, &fold);
            inserted.push((row, from));
            for _ in 0..rng.random_range(0..3) {
                let (row, from) = inserted[rng.random_range(0..inserted.len())];
                update(&mut group, row, -1, from, false, now, &fold);
                update(&mut group, row, 1, from, false, now, &fold);
            }
            update(&mut group, row, -1, from, false, now, &fold);
            if rng.random_bool(0.3) {
                group.advance(now, &fold);
                let want = inserted.iter().filter(|(_, from)| *from <= now).map(|(row, _)| row.0).max();
                assert_eq!(group.evaluate(now, &fold).event_time, want, "seed {seed}, at {now}");
                group = layout::decode(&bytes(&group, &fold), &fold, |_| None).expect("what was written can be read");
            }
        }
        assert!(group.announced.len() < 100, "{} of 400", group.announced.len());
    }
}

/// Equal groups give equal bytes, in whatever order their rows came and whatever came and went.
#[test]
fn equal_groups_give_equal_bytes() {
    let fold = fold(None);
    let mut rng = StdRng::seed_from_u64(5);
    let mut rows: Vec<Row> = (0..200).map(|n| (n / 3, n, Some(n % 50), n % 2 == 0)).collect();
    let announced: Vec<Row> = (0..30).map(|n| (5_000 + n % 4, 1_000 + n, Some(n), true)).collect();
    let group = |rows: &[Row], announced: &[Row]| {
        let mut group = Group::new(&fold);
        rows.iter().chain(announced).for_each(|row| apply(&mut group, *row, 1, 1_000, &fold));
        group.advance(1_000, &fold);
        group
    };
    let soon = |n: i64| (9_000, 5_000, Some(n % 3), false);
    let want = {
        let mut group = group(&rows, &announced);
        // What was announced and taken back leaves its event time.
        apply(&mut group, soon(0), 1, 1_000, &fold);
        apply(&mut group, soon(0), -1, 1_000, &fold);
        bytes(&group, &fold)
    };
    for _ in 0..5 {
        rows.shuffle(&mut rng);
        let mut later = announced.clone();
        later.shuffle(&mut rng);
        let mut group = group(&rows, &later);
        // A table's row moves this group's rows away, and back; and what it announces it takes back.
        for (n, row) in (0..3_000).zip(rows.iter().cycle().copied()) {
            apply(&mut group, row, -1, 1_000, &fold);
            apply(&mut group, row, 1, 1_000, &fold);
            apply(&mut group, soon(n), 1, 1_000, &fold);
            apply(&mut group, soon(n), -1, 1_000, &fold);
        }
        assert_eq!(bytes(&group, &fold), want);
        let read = layout::decode(&want, &fold, |_| None).expect("what was written can be read");
        assert_eq!(bytes(&read, &fold), want);
    }
}

/// Rows that a table's changes move away and back, over and over, take no more memory than once.
#[test]
fn churn_does_not_add_up() {
    let fold = fold(None);
    let rows: Vec<Row> = (0..100).map(|n| (n, n, Some(n), true)).collect();
    let mut group = Group::new(&fold);
    rows.iter().for_each(|row| apply(&mut group, *row, 1, 1_000, &fold));
    group.advance(1_000, &fold);
    let (memory, size) = (group.memory(), bytes(&group, &fold).len());
    for n in 0..50_000 {
        let row = rows[n % rows.len()];
        apply(&mut group, row, -1, 1_000, &fold);
        apply(&mut group, row, 1, 1_000, &fold);
        // A version's end that is to come is announced, and taken back when it moves.
        update(&mut group, row, -1, 4_000, true, 1_000, &fold);
        update(&mut group, row, 1, 4_000, true, 1_000, &fold);
    }
    let heap: usize = group.chunks.iter().map(|c| c.heap.len()).sum();
    assert!(heap <= 2 * 12 * rows.len() + 24, "{heap} bytes for {} texts of twelve", rows.len());
    assert!(group.memory() <= 3 * memory + 64 * 300, "{memory} bytes became {}", group.memory());
    assert_eq!(bytes(&group, &fold).len(), size);
}

/// Rule 26: without a lower bound no rows are kept, but what retraction needs.
#[test]
fn totals_keep_what_their_input_asks_for() {
    let all = |function| aggregate(function, Some(0), None, Window::ALL);
    let functions = [Function::Sum, Function::Min, Function::Last, Function::CountDistinct];
    for (retracts, kept) in [(false, [1, 1, 1, 500]), (true, [1, 500, 2_000, 500])] {
        let fold = fold_of(functions.iter().map(|f| all(*f)).collect(), Window::ALL, None, retracts);
        let mut group = Group::new(&fold);
        (0..2_000).for_each(|n| apply(&mut group, (n, n, Some(n % 500), true), 1, 1_999, &fold));
        // One from the future waits as it is.
        apply(&mut group, (9_000, 1, Some(-5), true), 1, 1_999, &fold);
        group.advance(1_999, &fold);
        assert!(group.chunks.is_empty() && group.waiting.len() == 1);
        assert_eq!(group.totals.iter().map(Total::kept).collect::<Vec<_>>(), kept, "retracts: {retracts}");
        let text = |now: i64, group: &Group| -> Vec<String> {
            group.evaluate(now, &fold).values.iter().map(ToString::to_string).collect()
        };
        assert_eq!(text(1_999, &group), ["499000", "0", "499", "500"]);
        if retracts {
            // The best row is taken back: the next one is there.
            apply(&mut group, (1_999, 1_999, Some(499), true), -1, 1_999, &fold);
            assert_eq!(text(1_999, &group), ["498501", "0", "498", "500"]);
        }
        group.advance(9_000, &fold);
        assert_eq!(text(9_000, &group)[1..3], ["-5", "-5"]);
    }
}

/// Rule 11: the greatest event time among what was inserted and counts by then; no retraction lowers it, no sweep.
#[test]
fn event_time_is_that_of_insertions() {
    let fold = fold_of(vec![aggregate(Function::Count, None, None, within(0, 100))], within(0, 100), None, true);
    let mut group = Group::new(&fold);
    let event_time = |group: &Group, now: i64| group.evaluate(now, &fold).event_time;
    assert_eq!(event_time(&group, 0), None);
    apply(&mut group, (10, 1, None, true), 1, 50, &fold);
    apply(&mut group, (5, 2, None, true), 1, 50, &fold);
    // A version that starts at 60 brings a row of 20; a row of 70 is from the future.
    update(&mut group, (20, 3, None, true), 1, 60, false, 50, &fold);
    apply(&mut group, (70, 4, None, true), 1, 50, &fold);
    for (now, want) in [(50, 10), (59, 10), (60, 20), (69, 20), (70, 70)] {
        group.advance(now, &fold);
        assert_eq!(event_time(&group, now), Some(want), "at {now}");
    }
    apply(&mut group, (70, 4, None, true), -1, 71, &fold);
    update(&mut group, (20, 3, None, true), -1, 71, true, 71, &fold);
    group.advance(71, &fold);
    assert_eq!(event_time(&group, 71), Some(70), "retractions do not lower it");
    assert!(group.retire(10_000, &fold));
    let swept = layout::decode(&bytes(&group, &fold), &fold, |_| None).expect("what was written can be read");
    assert_eq!((event_time(&swept, 10_000), swept.chunks.len()), (Some(70), 0), "nor does the sweep");
}

/// Rule 12: a status is about what `WHERE` admitted at some instant, of the rows that are there.
#[test]
fn a_row_that_left_early_was_never_admitted() {
    let status = |admit: Window, updates: &[(i32, i64, bool)], now: i64| {
        let fold = fold_of(vec![aggregate(Function::Count, None, None, admit)], admit, None, true);
        let mut group = Group::new(&fold);
        for (diff, counts_from, closing) in updates {
            update(&mut group, (0, 0, Some(1), true), *diff, *counts_from, *closing, now, &fold);
        }
        group.advance(now, &fold);
        let status = group.evaluate(now, &fold).status;
        group.retire(now, &fold);
        assert_eq!(group.evaluate(now, &fold).status, status, "the sweep changes no status");
        status
    };
    let (came, gone) = ((1, 0, false), |at| (-1, at, true));
    // It is moved to another group at the age of 100: it was admitted here.
    assert_eq!(status(within(0, 5_000), &[came, gone(100)], 99), Status::Present);
    assert_eq!(status(within(0, 5_000), &[came, gone(100)], 100), Status::Expired);
    assert_eq!(status(within(0, 5_000), &[came, gone(100)], 50_000), Status::Expired);
    // WHERE admits rows from the age of 1,000 on: at 100 it was not admitted yet, at 1,001 it was.
    assert_eq!(status(within(1_000, 5_000), &[came, gone(100)], 50_000), Status::Absent);
    assert_eq!(status(within(1_000, 5_000), &[came, gone(1_000)], 50_000), Status::Absent);
    assert_eq!(status(within(1_000, 5_000), &[came, gone(1_001)], 50_000), Status::Expired);
    // It came when it was too old for WHERE, and leaves.
    assert_eq!(status(within(0, 5_000), &[(1, 5_000, false), gone(6_000)], 50_000), Status::Absent);
    // Taken back by a correction, with its end: it never was.
    let never = [came, gone(100), (-1, 0, false), (1, 100, true)];
    assert_eq!(status(within(0, 5_000), &never, 50_000), Status::Absent);
    // Comes back into the group when the next version ends.
    assert_eq!(status(within(0, 5_000), &[came, gone(100), (1, 200, false)], 300), Status::Present);
}

#[test]
fn a_row_is_expired_only_once_it_was_admitted() {
    let mut plan = fold(None).plan;
    plan.admit = Window { from: 1_000, until: Some(5_000) };
    let fold = Fold::new(plan);
    let mut group = Group::new(&fold);
    apply(&mut group, (0, 0, Some(1), true), 1, 0, &fold);
    for (now, want) in [
        (0, Status::Absent),
        (999, Status::Absent),
        (1_000, Status::Present),
        (4_999, Status::Present),
        (5_000, Status::Expired),
        (50_000, Status::Expired),
    ] {
        group.advance(now, &fold);
        assert_eq!(group.evaluate(now, &fold).status, want, "at {now}");
    }
}

/// Rule 25: the source is part of a row's identity, and stands in the log by its name.
#[test]
fn an_update_in_the_log_says_its_source() {
    let fold = fold(None);
    let group = group_converter(&fold.plan).expect("one number");
    let group = group.convert_columns(&[Arc::new(Int64Array::from(vec![7]))]).expect("one row");
    let mut updates = Updates::of(ViewId::new(3));
    let origins = [(1, 0), (0, PARTITIONS_MAX - 1), (1, PARTITIONS_MAX - 1), (0, 0)];
    for (n, (rank, partition)) in (0..).zip(origins) {
        let origin = Origin::new(rank, partition);
        assert_eq!((origin.rank(), origin.partition()), (rank, partition));
        let words = [10, n, place(origin, 1), 0, 5, pack_bytes(b"a", &mut vec![])];
        let entry = Entry { words: &words, heap: &[] };
        let group = group.row(0);
        let hash = hash_group(group.as_ref());
        let update = Update { hash, group: group.as_ref(), epoch: 1, counts_from: 10, closing: false, entry };
        updates.push(&update, &fold.shape);
    }
    let schema = updates_schema(&fold.plan, &["user".into()]);
    let batch = to_batch(&updates, &[0, 1, 2, 3], &fold.plan, &fold.shape, &schema).expect("plain types");
    let names: Vec<_> = batch.column_by_name("_source").expect("there").as_string::<i32>().iter().flatten().collect();
    assert_eq!(names, ["views", "clicks", "views", "clicks"]);
    let read = from_batch(updates.view, &batch, &fold.plan).expect("as it was written");
    assert_eq!((read.view, &read.words, &read.hashes), (updates.view, &updates.words, &updates.hashes));
    // In the order of names, then of partitions.
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by(|a, b| read.get(*a, &fold.shape).entry.compare(&read.get(*b, &fold.shape).entry, &fold.shape));
    assert_eq!(order, [3, 1, 0, 2]);
    // A log of other streams is no log of this view.
    let others = FoldPlan { streams: vec!["clicks".into()], ..fold.plan.clone() };
    assert!(from_batch(updates.view, &batch, &others).is_err());
}
