//! Each aggregate against values worked out by hand, in every way in which it may be kept: without a lower bound and within a
//! window, of an input that retracts and of one that does not, few rows and many chunks, written and read again.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::columns::value_type;
use super::entry::{Entry, Origin, Shape, Update, VALUES, pack_bytes, place};
use super::plan::{Aggregate, FoldPlan, Function, ValueType, Window};
use super::{Fold, Group, layout};

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum V {
    Null,
    Float(f64),
    Int(i64),
    Decimal(i128),
    Text(&'static str),
}
use V::{Decimal, Float, Int, Null, Text};

/// A function over a first value and perhaps a second.
struct Case {
    function: Function,
    types: Vec<DataType>,
    pairs: bool,
    result: DataType,
}

const LAST: i64 = 1_000_000;

fn case(function: Function, types: &[DataType], result: DataType) -> Case {
    Case { function, types: types.to_vec(), pairs: types.len() == 2, result }
}

impl Case {
    fn fold(&self, window: Window, retracts: bool) -> Fold {
        let aggregate = Aggregate {
            function: self.function,
            value: (!self.types.is_empty()).then_some(0),
            second: self.pairs.then_some(1),
            order: None,
            filter: None,
            window,
            ignore_nulls: false,
            result: self.result.clone(),
        };
        Fold::new(FoldPlan {
            streams: vec!["events".into()],
            group_types: vec![DataType::Int64],
            values: self.types.iter().map(value_type).collect(),
            value_types: self.types.clone(),
            filters: 0,
            admit: Window::ALL,
            aggregates: vec![aggregate],
            resolution: None,
            retracts,
        })
    }

    /// The answer over rows of event times and values, whatever the order in which they come and whatever comes and goes.
    #[track_caller]
    fn check(&self, rows: &[(i64, &[V])], want: &str) {
        self.check_in(&[(false, Window::ALL), (true, Window::ALL), (true, within(2 * LAST))], rows, want);
    }

    /// Does the input retract, and the window: for each of these.
    #[track_caller]
    fn check_in(&self, ways: &[(bool, Window)], rows: &[(i64, &[V])], want: &str) {
        let mut rng = StdRng::seed_from_u64(rows.len() as u64);
        for &(retracts, window) in ways {
            let fold = self.fold(window, retracts);
            for round in 0..4 {
                let mut group = Group::new(&fold);
                let mut updates: Vec<(usize, i64, &[V], i32)> =
                    rows.iter().enumerate().map(|(n, (time, values))| (n, *time, *values, 1)).collect();
                updates.shuffle(&mut rng);
                if retracts {
                    // Rows that go again: what is kept must come back to what it was.
                    for n in 0..10 * round {
                        let at = rng.random_range(0..=updates.len());
                        let values = rows.get(n % rows.len().max(1)).map_or(&[Null, Null][..self.types.len()], |r| r.1);
                        updates.insert(at, (1_000 + n, 5, values, 1));
                        let at = rng.random_range(0..=updates.len());
                        updates.insert(at, (1_000 + n, 5, values, -1));
                    }
                }
                updates.iter().for_each(|(n, time, values, diff)| apply(&mut group, *n, *time, values, *diff, &fold));
                group.advance(LAST, &fold);
                group.prepare(&fold);
                let encoded = layout::encode(&group, &fold, true);
                let row = |id: u64| encoded.chunks.iter().find(|(i, _)| *i == id).map(|(_, row)| row.clone());
                let read = layout::decode(&encoded.page, &fold, row).expect("what was written can be read");
                for group in [&group, &read] {
                    let got = group.evaluate(LAST, &fold).values.remove(0);
                    assert_eq!(shown(&got), want, "{:?} {retracts} {window:?} {round}", self.function);
                    assert_eq!(got.data_type(), self.result, "{:?}", self.function);
                }
            }
        }
    }

    /// As [`Self::check`], within a window alone: the plan gives every such function one.
    #[track_caller]
    fn check_bounded(&self, rows: &[(i64, &[V])], until: i64, want: &str) {
        self.check_in(&[(true, within(until)), (false, within(until))], rows, want);
    }

    /// As [`Self::check`], of rows one after the other.
    #[track_caller]
    fn check_all(&self, rows: &[&[V]], want: &str) {
        let rows: Vec<(i64, &[V])> = rows.iter().enumerate().map(|(n, values)| (10 + n as i64, *values)).collect();
        self.check(&rows, want);
    }

    /// As [`Self::check_all`], of one value each.
    #[track_caller]
    fn check_one(&self, values: &[V], want: &str) {
        let rows: Vec<&[V]> = values.iter().map(std::slice::from_ref).collect();
        self.check_all(&rows, want);
    }
}

fn within(until: i64) -> Window {
    Window { from: 0, until: Some(until) }
}

fn shown(value: &ScalarValue) -> String {
    match value {
        null if null.is_null() => "NULL".into(),
        ScalarValue::Float64(Some(x)) => format!("{x:?}"),
        other => other.to_string(),
    }
}

fn apply(group: &mut Group, n: usize, time: i64, values: &[V], diff: i32, fold: &Fold) {
    let shape: &Shape = &fold.shape;
    let mut words = vec![0u64; shape.stride];
    let mut heap = vec![];
    words[0] = time.cast_unsigned();
    words[1] = n as u64;
    words[2] = place(Origin::new(0, 0), diff);
    for (at, value) in values.iter().enumerate() {
        let (slot, kind) = shape.slots[at];
        assert!(slot >= VALUES);
        match (value, kind) {
            (Null, _) => words[3] |= 1 << at,
            (Float(x), ValueType::Float) => words[slot] = x.to_bits(),
            (Int(x), ValueType::Int) => words[slot] = x.cast_unsigned(),
            #[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
            (Decimal(x), ValueType::Decimal) => {
                words[slot] = x.cast_unsigned() as u64;
                words[slot + 1] = (x.cast_unsigned() >> 64) as u64;
            }
            (Text(x), ValueType::Bytes) => words[slot] = pack_bytes(x.as_bytes(), &mut heap),
            other => panic!("{other:?}"),
        }
    }
    let entry = Entry { words: &words, heap: &heap };
    let update = Update { hash: 0, group: &[], epoch: 0, counts_from: time, closing: false, entry };
    group.apply(&update, LAST, fold);
}

/// Rule 19: from exact sums, and rounded as docs/sql.md says.
#[test]
fn statistics_of_pairs() {
    let double = DataType::Float64;
    let of = |function| case(function, &[DataType::Float64, DataType::Float64], DataType::Float64);
    let pairs: [&[V]; 5] = [
        &[Float(1.0), Float(10.0)],
        &[Float(2.0), Float(12.0)],
        &[Null, Float(1e9)],
        &[Float(3.0), Float(11.0)],
        &[Float(-1e9), Null],
    ];
    of(Function::CovarSamp).check_all(&pairs, "0.5");
    of(Function::CovarPop).check_all(&pairs, "0.3333333333333333");
    of(Function::Corr).check_all(&pairs, "0.5");
    of(Function::RegrSlope).check_all(&pairs, "0.5");
    // Nothing; one row; no spread.
    let one: [&[V]; 1] = [&[Float(7.0), Float(-0.0)]];
    let same: [&[V]; 2] = [&[Float(7.0), Float(2.0)], &[Float(8.0), Float(2.0)]];
    for (function, of_one, of_same) in [
        (Function::CovarSamp, "NULL", "0.0"),
        (Function::CovarPop, "0.0", "0.0"),
        (Function::Corr, "NULL", "NULL"),
        (Function::RegrSlope, "NULL", "NULL"),
    ] {
        of(function).check_all(&[], "NULL");
        of(function).check_all(&one, of_one);
        of(function).check_all(&same, of_same);
        of(function).check_all(&[&[Float(1.0), Float(f64::NAN)], &[Float(1.0), Float(2.0)]], "NaN");
        of(function).check_all(&[&[Float(1.0), Float(5.0)], &[Float(f64::NEG_INFINITY), Float(2.0)]], "NaN");
    }
    // What doubles would lose.
    let far: [&[V]; 2] = [&[Float(1e16), Float(1.0)], &[Float(1e16 + 2.0), Float(2.0)]];
    of(Function::CovarSamp).check_all(&far, "1.0");
    // Of whole numbers and decimals, each with its own places.
    let mixed = case(Function::RegrSlope, &[DataType::Decimal128(12, 2), DataType::Int64], double.clone());
    mixed.check_all(&[&[Decimal(150), Int(1)], &[Decimal(450), Int(3)]], "1.5");
    let mixed = case(Function::CovarSamp, &[DataType::Decimal128(12, 2), DataType::Float64], double.clone());
    mixed.check_all(&[&[Decimal(150), Float(1.0)], &[Decimal(450), Float(3.0)]], "3.0");
    let wide = case(Function::Corr, &[DataType::Decimal128(38, 0), DataType::Int64], double);
    wide.check_all(&[&[Decimal(10i128.pow(37)), Int(i64::MAX)], &[Decimal(-(10i128.pow(37))), Int(i64::MIN)]], "1.0");
}

#[test]
fn statistics_of_one_value() {
    let of = |function| case(function, &[DataType::Float64], DataType::Float64);
    let (some, four) = ([0.0, 1.0, 1.0, 6.0].map(Float), [1.0, 2.0, 3.0, 4.0].map(Float));
    of(Function::VarPop).check_one(&four, "1.25");
    of(Function::VarPop).check_one(&[Float(5.0), Null], "0.0");
    of(Function::StddevPop).check_one(&[Float(2.0), Float(4.0)], "1.0");
    of(Function::Skewness).check_one(&some, &format!("{:?}", (546.75f64 / 166.375).sqrt()));
    of(Function::Skewness).check_one(&some[..2], "NULL");
    of(Function::Kurtosis).check_one(&four, "-1.2");
    of(Function::Kurtosis).check_one(&four[..3], "NULL");
    for function in [Function::VarPop, Function::StddevPop, Function::Skewness, Function::Kurtosis] {
        of(function).check_one(&[], "NULL");
        of(function).check_one(&[Null, Null], "NULL");
        of(function).check_one(&[Float(1.0), Float(2.0), Float(f64::INFINITY), Float(3.0)], "NaN");
    }
    let whole = case(Function::VarPop, &[DataType::Int64], DataType::Float64);
    whole.check_one(&[Int(i64::MIN), Int(i64::MAX)], "8.507059173023462e37");
    let cents = case(Function::StddevPop, &[DataType::Decimal128(12, 2)], DataType::Float64);
    cents.check_one(&[Decimal(150), Decimal(450)], "1.5");
    let many: Vec<V> = (0..2_000).map(|n| Float(f64::from(n % 4))).collect();
    of(Function::VarPop).check_one(&many, "1.25");
    case(Function::Kurtosis, &[DataType::Int64], DataType::Float64)
        .check_one(&(0..2_000).map(|n| Int(n % 2)).collect::<Vec<_>>(), "-2.00200300450676");
}

fn list(item: &DataType) -> DataType {
    DataType::List(std::sync::Arc::new(arrow::datatypes::Field::new_list_field(item.clone(), true)))
}

#[test]
fn the_middle_and_the_most_frequent() {
    let median = |t: DataType| case(Function::Median, &[t], DataType::Float64);
    median(DataType::Float64).check_one(&[Float(3.0), Null, Float(1.0), Float(-2.0)], "1.0");
    median(DataType::Float64).check_one(&[Float(f64::MAX), Float(f64::MAX)], "1.7976931348623157e308");
    median(DataType::Float64).check_one(&[Float(f64::INFINITY), Float(f64::NEG_INFINITY)], "NaN");
    median(DataType::Float64).check_one(&[Float(-0.0)], "0.0");
    median(DataType::Int64).check_one(&[Int(i64::MAX), Int(i64::MAX - 1), Int(1), Int(2)], "4.611686018427388e18");
    median(DataType::Decimal128(12, 2)).check_one(&[Decimal(150), Decimal(225)], "1.875");
    median(DataType::Int64).check_one(&(0..3_001).map(|n| Int(n * 7 % 3_001)).collect::<Vec<_>>(), "1500.0");
    median(DataType::Int64).check_one(&[Null], "NULL");

    let mode = |t: DataType| case(Function::Mode, std::slice::from_ref(&t), t.clone());
    mode(DataType::Utf8).check_one(&[Text("b"), Text("a"), Text("b"), Text("a text of more"), Null, Null, Null], "b");
    mode(DataType::Utf8).check_one(&[Text("b"), Text("a")], "a");
    mode(DataType::Float64).check_one(&[Float(0.0), Float(-0.0), Float(1.0)], "0.0");
    mode(DataType::Float64).check_one(&[Float(f64::NAN), Float(-f64::NAN), Float(1.0)], "NaN");
    mode(DataType::Int64).check_one(&[], "NULL");

    let entropy = case(Function::Entropy, &[DataType::Int64], DataType::Float64);
    entropy.check_one(&[Int(1), Int(2), Int(3), Int(4)], "2.0");
    entropy.check_one(&[Int(1), Int(1), Null], "0.0");
    entropy.check_one(&[], "NULL");
    entropy.check_one(&(0..2_048).map(Int).collect::<Vec<_>>(), "11.0");
}

#[test]
fn percentiles_of_values_cut_to_eight_digits() {
    let of = |millionths, t: DataType| case(Function::Percentile { millionths }, &[t], DataType::Float64);
    let hundred: Vec<V> = (1..=100).map(Int).collect();
    // The rank is worked out in whole numbers: 0.07 times 100 is 7, though not for doubles.
    for (millionths, want) in [(70_000, "7.0"), (70_001, "8.0"), (0, "1.0"), (1_000_000, "100.0"), (999_999, "100.0")] {
        of(millionths, DataType::Int64).check_one(&hundred, want);
    }
    of(500_000, DataType::Float64).check_one(&[Float(-259.5)], "-258.0");
    of(500_000, DataType::Decimal128(38, 10)).check_one(&[Decimal(1_000_000_000)], "0.099609375");
    of(500_000, DataType::Float64).check_one(&[Float(f64::INFINITY), Float(-5e-324), Float(f64::NAN)], "inf");
    of(0, DataType::Float64).check_one(&[Float(f64::INFINITY), Float(-5e-324), Float(f64::NAN)], "0.0");
    of(500_000, DataType::Float64).check_one(&[Null], "NULL");
    // However many rows there are, there are 128 values from one power of two to the next.
    let fold = of(500_000, DataType::Int64).fold(Window::ALL, false);
    let mut group = Group::new(&fold);
    (0..20_000).for_each(|n| apply(&mut group, n, 5, &[Int(65_536 + n as i64)], 1, &fold));
    group.advance(LAST, &fold);
    assert!(group.totals[0].kept() <= 128, "{} values", group.totals[0].kept());
}

#[test]
fn the_best_few() {
    let text = [Text("b"), Null, Text("a"), Text("c, which is longer"), Text("b")];
    let of = |function, t: DataType| case(function, std::slice::from_ref(&t), list(&t));
    let (top, bottom) = (|k, distinct| Function::TopK { k, distinct }, |k, distinct| Function::BottomK { k, distinct });
    of(top(3, false), DataType::Utf8).check_one(&text, "[c, which is longer, b, b]");
    of(top(3, true), DataType::Utf8).check_one(&text, "[c, which is longer, b, a]");
    of(bottom(2, false), DataType::Utf8).check_one(&text, "[a, b]");
    of(bottom(9, false), DataType::Utf8).check_one(&text, "[a, b, b, c, which is longer]");
    of(bottom(9, true), DataType::Utf8).check_one(&text[..2], "[b]");
    of(top(1, false), DataType::Utf8).check_one(&[Null], "NULL");
    of(top(1, false), DataType::Utf8).check_one(&[], "NULL");
    let floats = [Float(f64::NAN), Float(1.0), Float(-0.0), Float(0.0), Float(f64::NEG_INFINITY)];
    of(top(4, true), DataType::Float64).check_one(&floats, "[NaN, 1.0, 0.0, -inf]");
    of(bottom(3, false), DataType::Float64).check_one(&floats, "[-inf, 0.0, 0.0]");
    let many: Vec<V> = (0..3_000).map(|n| Int(n * 7 % 1_000)).collect();
    of(top(4, false), DataType::Int64).check_one(&many, "[999, 999, 999, 998]");
    of(bottom(3, true), DataType::Int64).check_one(&many, "[0, 1, 2]");
}

/// Rule 13: whichever end a list begins at, rows of one instant stand in the order of their places.
#[test]
fn the_first_few_rows() {
    let of = |limit, distinct, latest_first| {
        case(Function::ArrayAgg { limit, distinct, latest_first }, &[DataType::Utf8], list(&DataType::Utf8))
    };
    let rows: [(i64, &[V]); 5] = [
        (50, &[Text("a")]),
        (70, &[Text("b")]),
        (70, &[Text("c, which is longer")]),
        (30, &[Text("d")]),
        (60, &[Text("a")]),
    ];
    of(2, false, true).check(&rows, "[b, c, which is longer]");
    of(4, false, true).check(&rows, "[b, c, which is longer, a, a]");
    of(9, true, true).check(&rows, "[b, c, which is longer, a, d]");
    of(3, true, false).check(&rows, "[d, a, b]");
    of(3, false, false).check(&rows, "[d, a, a]");
    of(3, false, false).check(&[], "NULL");
    let many: Vec<(i64, &[V])> =
        (0..3_000).map(|n| (n * 7 % 1_000, &[Text("x")][..])).chain([(2_000, &[Text("y")][..])]).collect();
    of(2, false, true).check(&many, "[y, x]");
    of(3, true, false).check(&many, "[x, y]");
}

/// However it is kept, the answer follows from the set of values.
#[test]
fn different_values_are_counted_and_then_estimated() {
    let of = |t: DataType| case(Function::ApproxDistinct, &[t], DataType::Int64);
    of(DataType::Float64).check_one(&[Float(0.0), Float(-0.0), Float(f64::NAN), Float(-f64::NAN), Null], "2");
    of(DataType::Utf8).check_one(&[Text("a"), Text("a"), Text("a text of more than seven bytes")], "2");
    of(DataType::Int64).check_one(&[], "0");
    of(DataType::Int64).check_one(&(0..2_000).map(|n| Int(n % 256)).collect::<Vec<_>>(), "256");
    let mut sketch = super::sketch::Sketch::default();
    (0..3_000).for_each(|n| sketch.see(super::sketch::hash(&super::aggregate::Held::Int(n))));
    of(DataType::Int64).check_one(&(0..3_000).map(Int).collect::<Vec<_>>(), &sketch.count().to_string());
}

/// x · 2^(−age / half-life); at the ask each row's age is `LAST` less its event time.
#[test]
fn decayed_sums() {
    let sum = |half_life, t: DataType| case(Function::DecayedSum { half_life }, &[t], DataType::Float64);
    let rows: [(i64, &[V]); 4] =
        [(LAST, &[Float(8.0)]), (LAST - 100, &[Float(4.0)]), (LAST - 200, &[Float(-4.0)]), (LAST - 50, &[Null])];
    sum(100, DataType::Float64).check_bounded(&rows, 100 * 64, "9.0");
    sum(100, DataType::Float64).check_bounded(&rows, 200, "10.0");
    sum(100, DataType::Float64).check_bounded(&rows[3..], 100 * 64, "NULL");
    sum(1, DataType::Float64).check_bounded(&[(LAST - 64, &[Float(1.0)])], 100, "NULL");
    sum(1, DataType::Float64).check_bounded(&[(LAST - 63, &[Float(1.0)])], 100, &format!("{:?}", 2f64.powi(-63)));
    sum(100, DataType::Float64).check_bounded(&[(LAST, &[Float(f64::INFINITY)]), (LAST, &[Float(1.0)])], 100, "inf");
    sum(100, DataType::Decimal128(12, 2)).check_bounded(&[(LAST - 100, &[Decimal(150)])], 200, "0.75");
    sum(100, DataType::Int64).check_bounded(&[(LAST - 100, &[Int(3)]), (LAST, &[Int(-1)])], 200, "0.5");
    // Added exactly: in doubles, one after the other, nothing would be left of the ones.
    let far: [(i64, &[V]); 3] = [(LAST, &[Float(1e16)]), (LAST, &[Float(1.0)]), (LAST, &[Float(-1e16)])];
    sum(100, DataType::Float64).check_bounded(&far, 200, "1.0");
    let count = case(Function::DecayedCount { half_life: 100 }, &[], DataType::Float64);
    count.check_bounded(&[(LAST, &[]), (LAST - 100, &[]), (LAST - 200, &[])], 100 * 64, "1.75");
    count.check_bounded(&[], 100 * 64, "0.0");
}
