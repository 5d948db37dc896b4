//! Sums of powers against big integers: what is summed, that it can be taken out again, and each statistic rounded once.

use num_bigint::BigInt;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tests::{check_nearest, check_same, double, integer, multiplicity, units};
use super::{Number, PowerSums};

const ALL: [&[(u8, u8)]; 5] =
    [PowerSums::COVARIANCE, PowerSums::SLOPE, PowerSums::CORRELATION, PowerSums::SKEWNESS, PowerSums::KURTOSIS];

fn sums_of(terms: &'static [(u8, u8)], rows: &[(f64, f64, i64)]) -> PowerSums {
    let mut sums = PowerSums::new(terms);
    rows.iter().for_each(|(x, y, m)| sums.add(Number::of_double(*x), Number::of_double(*y), *m));
    sums
}

/// Sums of two kinds of the same rows are equal in bytes, and are read back.
fn check(left: &PowerSums, right: &PowerSums) {
    for (n, terms) in ALL.iter().enumerate().filter(|(_, terms)| left.terms() == **terms) {
        // A decoder is told which sums it reads.
        let decode: fn(&mut &[u8]) -> Option<PowerSums> = match n {
            0 => |input| PowerSums::decode(ALL[0], input),
            1 => |input| PowerSums::decode(ALL[1], input),
            2 => |input| PowerSums::decode(ALL[2], input),
            3 => |input| PowerSums::decode(ALL[3], input),
            _ => |input| PowerSums::decode(ALL[4], input),
        };
        assert_eq!(right.terms(), *terms);
        check_same(left, right, PowerSums::encode, decode);
    }
}

fn rows() -> impl Strategy<Value = Vec<(f64, f64, i64)>> {
    vec((double(), double(), multiplicity()), 0..8)
}

/// Σ m·xⁱ·yʲ in units of 2^(−1074·(i + j)).
fn exact(rows: &[(f64, f64, i64)], i: u32, j: u32) -> BigInt {
    rows.iter().map(|(x, y, m)| units(*x).pow(i) * units(*y).pow(j) * m).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn no_order_shows_and_all_can_be_taken_out(rows in rows(), cut in 0usize..8, kept in rows()) {
        for terms in ALL {
            let whole = sums_of(terms, &rows);
            let (left, right) = rows.split_at(cut.min(rows.len()));
            let mut merged = sums_of(terms, right);
            merged.merge(&sums_of(terms, left));
            check(&whole, &merged);
            let mut back = sums_of(terms, &kept);
            back.merge(&whole);
            back.add(Number::of_double(f64::NAN), Number::of_double(1.0), 3);
            prop_assert!(!back.is_zero());
            back.add(None, None, -3);
            for (x, y, m) in &rows {
                // −m of the least integer is none; !m and 1 are the same together.
                back.add(Number::of_double(*x), Number::of_double(*y), !m);
                back.add(Number::of_double(*x), Number::of_double(*y), 1);
            }
            check(&back, &sums_of(terms, &kept));
        }
    }

    #[test]
    fn statistics_of_doubles_are_rounded_once(rows in rows(), n in 4i64..100, scale in -3i32..=3) {
        let (x, y, xy) = (exact(&rows, 1, 0), exact(&rows, 0, 1), exact(&rows, 1, 1));
        let (both, unit) = (xy * n - &x * &y, BigInt::from(1) << 1074);
        let ten = BigInt::from(10).pow(scale.unsigned_abs());
        let (up, down) = if scale < 0 { (ten, BigInt::from(1)) } else { (BigInt::from(1), ten) };
        let covariance = sums_of(PowerSums::COVARIANCE, &rows);
        // Squares are in units of 2^−2148, a double in those of 2^−1074.
        check_nearest(&(&both * &up), &(&down * n * (n - 1) * &unit), covariance.covariance(n, false, scale).unwrap());
        check_nearest(&(&both * &up), &(&down * n * n * &unit), covariance.covariance(n, true, scale).unwrap());
        let spread_y = exact(&rows, 0, 2) * n - &y * &y;
        if spread_y > BigInt::ZERO {
            let slope = sums_of(PowerSums::SLOPE, &rows).slope(n, scale).unwrap();
            check_nearest(&(&both * &up * &unit), &(&spread_y * &down), slope);
        }
        let (second, third, fourth) = (exact(&rows, 2, 0), exact(&rows, 3, 0), exact(&rows, 4, 0));
        let spread = &second * n - &x * &x;
        if spread > BigInt::ZERO {
            let m4: BigInt = fourth * n * n * n - third * &x * n * n * 4 + second * &x * &x * n * 6 - x.pow(4) * 3;
            let above = (m4 * (n + 1) - &spread * &spread * 3 * (n - 1)) * (n - 1) * &unit;
            let kurtosis = sums_of(PowerSums::KURTOSIS, &rows).kurtosis(n).unwrap();
            check_nearest(&above, &(&spread * &spread * (n - 2) * (n - 3)), kurtosis);
        }
    }

    #[test]
    fn integers_of_any_size_are_exact(rows in vec((integer(), integer(), multiplicity()), 0..8), n in 4i64..100) {
        let sum = |i: u32, j: u32| -> BigInt {
            rows.iter().map(|(x, y, m)| BigInt::from(*x).pow(i) * BigInt::from(*y).pow(j) * m).sum()
        };
        let (mut pairs, mut powers) = (PowerSums::new(PowerSums::COVARIANCE), PowerSums::new(PowerSums::KURTOSIS));
        for (x, y, m) in &rows {
            pairs.add(Some(Number::of_integer(*x)), Some(Number::of_integer(*y)), *m);
            powers.add(Some(Number::of_integer(*x)), Some(Number::of_integer(*x)), *m);
        }
        let unit = BigInt::from(1) << 1074;
        let both = (sum(1, 1) * n - sum(1, 0) * sum(0, 1)) * &unit;
        check_nearest(&both, &(BigInt::from(n) * n), pairs.covariance(n, true, 0).unwrap());
        let spread = sum(2, 0) * n - sum(1, 0).pow(2);
        if spread > BigInt::ZERO {
            let x = sum(1, 0);
            let m4: BigInt = sum(4, 0) * n * n * n - sum(3, 0) * &x * n * n * 4 + sum(2, 0) * &x * &x * n * 6 - x.pow(4) * 3;
            let above = (m4 * (n + 1) - &spread * &spread * 3 * (n - 1)) * (n - 1) * &unit;
            check_nearest(&above, &(&spread * &spread * (n - 2) * (n - 3)), powers.kurtosis(n).unwrap());
        }
    }
}

#[test]
fn known_statistics() {
    let one = |values: &[f64]| values.iter().map(|x| (*x, *x, 1)).collect::<Vec<_>>();
    let skewness = |values: &[f64]| sums_of(PowerSums::SKEWNESS, &one(values)).skewness(values.len() as i64);
    // Deviations −2, −1, −1, 4: m₂ = 22/4, m₃ = 54/4; √12 / 2 · 13.5 / 5.5^1.5 = √(12 · 182.25 / 4 / 166.375).
    assert_eq!(skewness(&[0.0, 1.0, 1.0, 6.0]), Some((546.75f64 / 166.375).sqrt()));
    assert_eq!(skewness(&[-0.0, -1.0, -1.0, -6.0]), Some(-(546.75f64 / 166.375).sqrt()));
    assert_eq!((skewness(&[1.0, 2.0]), skewness(&[3.0, 3.0, 3.0])), (None, None));
    assert_eq!(skewness(&[1e200, 2e200, 3e200]), Some(0.0), "what is between may be beyond any double");
    let kurtosis = |values: &[f64]| sums_of(PowerSums::KURTOSIS, &one(values)).kurtosis(values.len() as i64);
    assert_eq!(kurtosis(&[1.0, 2.0, 3.0, 4.0]), Some(-1.2));
    assert_eq!((kurtosis(&[1.0, 2.0, 3.0]), kurtosis(&[3.0; 9])), (None, None));
    assert!(kurtosis(&[1.0, 2.0, 3.0, f64::INFINITY]).is_some_and(f64::is_nan));

    let pairs = [(1.0, 10.0, 1), (2.0, 12.0, 1), (3.0, 11.0, 1)];
    let correlation = |rows: &[(f64, f64, i64)]| sums_of(PowerSums::CORRELATION, rows).correlation(rows.len() as i64);
    assert_eq!(correlation(&pairs), Some(0.5));
    assert_eq!(correlation(&[(1e300, -1e-300, 1), (2e300, -2e-300, 1)]), Some(-1.0));
    assert_eq!(correlation(&[(0.1, 3.0, 1), (0.1, 4.0, 1)]), None);
    assert!(correlation(&[(0.1, f64::NAN, 1), (0.1, 4.0, 1)]).is_some_and(f64::is_nan));
}

#[test]
fn usual_values_stay_small() {
    let mut sums = PowerSums::new(PowerSums::KURTOSIS);
    for i in 0..10_000 {
        sums.add(Number::of_double(f64::from(i) * 0.01 - 30.0), Number::of_double(1.0), 1);
    }
    assert!(sums.heap_bytes() <= 4 * 50, "{} bytes", sums.heap_bytes());
}
