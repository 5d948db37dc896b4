//! A large group against a scan of its rows: what is kept to answer fast, and what is written back in parts, must not
//! change an answer.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::entry::{Entry, Update, place};
use super::{Fold, Group, Status, layout};
use crate::fold::plan::{Aggregate, FoldPlan, Function, ValueType, Window};

const HORIZON: i64 = 6_000;

fn fold(resolution: Option<i64>) -> Fold {
    let window = |from, until| Window { from, until: Some(until) };
    let aggregate = |function, value, filter, window| Aggregate {
        function,
        value,
        order: None,
        filter,
        window,
        ignore_nulls: false,
        result: DataType::Int64,
    };
    let aggregates = vec![
        aggregate(Function::Count, None, None, window(0, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), None, window(0, 100)),
        aggregate(Function::CountDistinct, Some(0), None, window(0, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), Some(0), window(0, 3_000)),
        aggregate(Function::CountDistinct, Some(0), None, window(1_000, 4_000)),
        aggregate(Function::Max, Some(0), None, window(0, 2_000)),
        aggregate(Function::Sum, Some(0), Some(0), window(500, HORIZON)),
        aggregate(Function::CountDistinct, Some(0), None, Window::ALL),
        aggregate(Function::Min, Some(0), Some(0), Window::ALL),
        aggregate(Function::Last, Some(0), None, Window::ALL),
    ];
    Fold::new(FoldPlan {
        group_types: vec![DataType::Int64],
        values: vec![ValueType::Int],
        value_types: vec![DataType::Int64],
        filters: 1,
        admit: window(0, HORIZON),
        aggregates,
        resolution,
        retracts: true,
    })
}

/// Event time, offset, value (none: null), filter.
type Row = (i64, i64, Option<i64>, bool);

fn apply(group: &mut Group, row: Row, diff: i32, now: i64, fold: &Fold) {
    let (time, offset, value, passes) = row;
    let bits = u64::from(value.is_none()) | u64::from(passes) << 1;
    let word = value.unwrap_or_default().cast_unsigned();
    let words = [time.cast_unsigned(), offset.cast_unsigned(), place(0, diff), bits, word];
    let entry = Entry { words: &words, heap: &[] };
    group.apply(&Update { hash: 0, group: &[], epoch: 0, counts_from: time, closing: false, entry }, now, fold);
}

/// The values of the query over these rows.
fn scan(rows: &[Row], now: i64, fold: &Fold) -> Vec<ScalarValue> {
    let one = |aggregate: &Aggregate| {
        let Window { from, until } = aggregate.window;
        let age = |r: &Row| now - fold.plan.tile(r.0);
        let inside = rows.iter().filter(|r| from <= age(r) && until.is_none_or(|u| age(r) < u));
        let counted = inside.filter(|r| aggregate.filter.is_none() || r.3);
        let last = counted.clone().max_by_key(|r| (r.0, r.1)).and_then(|r| r.2);
        let values: Vec<Option<i64>> = counted.map(|r| r.2).collect();
        let there = || values.iter().flatten();
        ScalarValue::Int64(match aggregate.function {
            Function::Count => Some(values.len() as i64),
            Function::CountDistinct => Some(there().collect::<BTreeSet<_>>().len() as i64),
            Function::Max => there().max().copied(),
            Function::Min => there().min().copied(),
            Function::Last => last,
            _ => there().copied().reduce(|a, b| a + b),
        })
    };
    fold.plan.aggregates.iter().map(one).collect()
}

#[test]
fn a_large_group_answers_as_a_scan_of_its_rows() {
    for (seed, resolution) in (0..6).zip([None, Some(50), Some(700)].into_iter().cycle()) {
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
                let want = scan(&rows, now, &fold);
                assert_eq!(group.evaluate(now, &fold).values, want, "seed {seed}, row {n}, {resolution:?}");
            }
            if rng.random_bool(0.005) {
                let encoded = layout::encode(&group, false);
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

/// Rule 13: of rows with one event time, the partition decides, then the offset, in whatever order they come.
#[test]
fn ties_go_by_partition_and_then_by_offset() {
    let aggregate = |function, window| Aggregate {
        function,
        value: Some(0),
        order: None,
        filter: None,
        window,
        ignore_nulls: false,
        result: DataType::Int64,
    };
    let bounded = Window { from: 0, until: Some(HORIZON) };
    for retracts in [false, true] {
        let mut plan = fold(None).plan;
        plan.filters = 0;
        plan.retracts = retracts;
        plan.aggregates =
            [Function::First, Function::Last].map(|f| [aggregate(f, bounded), aggregate(f, Window::ALL)]).concat();
        let fold = Fold::new(plan);
        // (event time, partition, offset, value), in their order.
        let rows = [(5, 2, 9, 1), (7, 0, 1, 2), (7, 0, 8, 3), (7, 1, 0, 4), (7, 3, 5, 5), (7, 3, 6, 6)];
        for start in 0..rows.len() {
            let mut group = Group::new(&fold);
            // Each order is a rotation, forwards or backwards.
            let mut order: Vec<_> = rows.iter().cycle().skip(start).take(rows.len()).collect();
            if start % 2 == 1 {
                order.reverse();
            }
            for (n, (time, partition, offset, value)) in order.iter().copied().enumerate() {
                let words = [*time as u64, *offset as u64, place(*partition, 1), 0, *value as u64];
                let entry = Entry { words: &words, heap: &[] };
                let update = Update { hash: 0, group: &[], epoch: n as u64, counts_from: *time, closing: false, entry };
                group.apply(&update, 100, &fold);
                let seen = &order[..=n];
                let first = seen.iter().min().map(|r| r.3);
                let last = seen.iter().max().map(|r| r.3);
                let want = [first, first, last, last].map(ScalarValue::Int64);
                group.advance(100, &fold);
                assert_eq!(group.evaluate(100, &fold).values, want, "{seen:?}, retracts: {retracts}");
            }
        }
    }
}
