//! The exact sums against rational arithmetic on big integers.
//!
//! The oracle never rounds: a double is right if the exact quotient lies between the midpoints to its neighbours.

use std::fmt::Debug;

use num_bigint::{BigInt, BigUint, Sign};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{ExactMoments, ExactSum, IntegerMoments, IntegerSum};

type Terms = Vec<(f64, i64)>;

/// `x` in units of the smallest double, 2^−1074; infinity stands for 2^1024, the next double if there were one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magnitude below 2^100 is whole by then")]
pub(super) fn units(x: f64) -> BigInt {
    let magnitude = match x.abs() {
        f64::INFINITY => BigUint::from(1u8) << (1024 + 1074),
        // Division by a power of two is exact while the result is normal, so this walks down to a whole number.
        finite => {
            let (mut whole, mut power) = (finite, 0u32);
            while whole >= 2f64.powi(100) {
                whole /= 2.0;
                power += 1;
            }
            while whole != 0.0 && power < 1074 && whole.fract() != 0.0 {
                whole *= 2.0;
                power += 1;
            }
            if finite >= 2f64.powi(100) {
                BigUint::from(whole as u128) << (1074 + power)
            } else {
                BigUint::from(whole as u128) << (1074 - power)
            }
        }
    };
    BigInt::from_biguint(if x < 0.0 { Sign::Minus } else { Sign::Plus }, magnitude)
}

/// Asserts that `got` is numerator/denominator (in units of 2^−1074) rounded to nearest, ties to even.
pub(super) fn check_nearest(numerator: &BigInt, denominator: &BigInt, got: f64) {
    let say = || format!("{got:e} is not nearest to {numerator}/{denominator}");
    assert!(!got.is_nan(), "{}", say());
    if numerator.sign() == Sign::NoSign {
        assert_eq!(got.to_bits(), 0, "an exact zero is +0");
        return;
    }
    assert_eq!(got.is_sign_negative(), numerator.sign() == Sign::Minus, "{}", say());
    let (exact, size) = (BigInt::from(numerator.magnitude().clone()) * 2, got.abs());
    let even = size.to_bits() & 1 == 0;
    let inside = |order: std::cmp::Ordering| order.is_lt() || order.is_eq() && even;
    if size != 0.0 {
        let below = (units(size) + units(size.next_down())) * denominator;
        assert!(inside(below.cmp(&exact)), "too large: {}", say());
    }
    if size != f64::INFINITY {
        let above = (units(size) + units(size.next_up())) * denominator;
        assert!(inside(exact.cmp(&above)), "too small: {}", say());
    }
}

fn sum_of(terms: &[(f64, i64)]) -> ExactSum {
    let mut sum = ExactSum::default();
    terms.iter().for_each(|&(x, m)| sum.add(x, m));
    sum
}

fn moments_of(terms: &[(f64, i64)]) -> ExactMoments {
    let mut moments = ExactMoments::default();
    terms.iter().for_each(|&(x, m)| moments.add(x, m));
    moments
}

fn exact(terms: &[(f64, i64)]) -> BigInt {
    terms.iter().map(|&(x, m)| units(x) * m).sum()
}

/// Equal, equal in bytes, and read back as what it was, with nothing left over and no prefix accepted.
pub(super) fn check_same<T: Debug + PartialEq>(
    left: &T,
    right: &T,
    encode: fn(&T, &mut Vec<u8>),
    decode: fn(&mut &[u8]) -> Option<T>,
) {
    assert_eq!(left, right);
    let (mut bytes, mut others) = (Vec::new(), Vec::new());
    encode(left, &mut bytes);
    encode(right, &mut others);
    assert_eq!(bytes, others);
    for end in 0..bytes.len() {
        assert!(decode(&mut &bytes[..end]).is_none(), "decoded {end} bytes of {bytes:?}");
    }
    bytes.push(77);
    let mut rest = bytes.as_slice();
    assert_eq!(decode(&mut rest).as_ref(), Some(left));
    assert_eq!(rest, [77]);
}

fn check_sums(left: &ExactSum, right: &ExactSum) {
    check_same(left, right, ExactSum::encode, ExactSum::decode);
}

fn any_finite() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |x| x.is_finite())
}

fn price() -> impl Strategy<Value = f64> {
    (-1_000_000i32..1_000_000).prop_map(|cents| f64::from(cents) / 100.0)
}

pub(super) fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => any_finite(),
        4 => price(),
        2 => (0u64..1 << 53, any::<bool>()).prop_map(|(bits, n)| f64::from_bits(bits | u64::from(n) << 63)),
        2 => (-1074i32..1024, any::<bool>()).prop_map(|(e, n)| if n { -exp2(e) } else { exp2(e) }),
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(f64::MAX),
        1 => Just(-f64::MAX),
        1 => Just(f64::from_bits(1)),
    ]
}

fn exp2(exponent: i32) -> f64 {
    if exponent < -1022 {
        f64::from_bits(1 << (exponent + 1074))
    } else {
        f64::from_bits(u64::try_from(exponent + 1023).unwrap() << 52)
    }
}

pub(super) fn multiplicity() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -2i64..3, 1 => any::<i64>(), 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

fn terms() -> impl Strategy<Value = Terms> {
    prop_oneof![
        vec((double(), multiplicity()), 0..12),
        vec((price(), -3i64..4), 0..40),
        // A first term and others so near to half its unit that rounding is close to a tie.
        (any_finite(), vec((-60i32..-48, -2i64..3), 1..4)).prop_map(|(x, tail)| {
            #[expect(clippy::cast_possible_truncation, reason = "a logarithm has four digits; that of zero saturates")]
            let unit = |e: i32| (x.abs().log2() as i32 + e).clamp(-1074, 1023);
            std::iter::once((x, 1)).chain(tail.into_iter().map(|(e, m)| (exp2(unit(e)), m))).collect()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn value_and_mean_are_rounded_once(terms in terms(), n in prop_oneof![1i64..100, 1..=i64::MAX]) {
        let (sum, total) = (sum_of(&terms), exact(&terms));
        prop_assert_eq!(sum.is_zero(), total == BigInt::ZERO);
        check_nearest(&total, &BigInt::from(1), sum.value());
        check_nearest(&total, &BigInt::from(n), sum.mean(n));
    }

    #[test]
    fn no_order_shows(terms in terms(), cut in 0usize..12, shuffle in any::<u64>()) {
        let whole = sum_of(&terms);
        let mut mixed = terms.clone();
        mixed.sort_by_key(|(x, m)| (x.to_bits() ^ m.cast_unsigned()).wrapping_mul(shuffle | 1));
        check_sums(&whole, &sum_of(&mixed));
        let (left, right) = terms.split_at(cut.min(terms.len()));
        let (mut ahead, mut behind) = (sum_of(left), sum_of(right));
        ahead.merge(&sum_of(right));
        behind.merge(&sum_of(left));
        check_sums(&whole, &ahead);
        check_sums(&whole, &behind);
        let (mut ahead, mut behind) = (moments_of(left), moments_of(right));
        ahead.merge(&moments_of(right));
        behind.merge(&moments_of(left));
        check_same(&ahead, &moments_of(&mixed), ExactMoments::encode, ExactMoments::decode);
        check_same(&ahead, &behind, ExactMoments::encode, ExactMoments::decode);
    }

    #[test]
    fn what_went_in_can_be_taken_out(terms in terms(), kept in terms(), special in any::<u64>()) {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][(special % 3) as usize];
        let (mut sum, mut moments) = (sum_of(&kept), moments_of(&kept));
        for &(x, m) in terms.iter().chain([(odd, 2)].iter()) {
            sum.add(x, m);
            moments.add(x, m);
        }
        prop_assert!(!sum.value().is_finite() && !sum.is_zero() && !moments.is_zero());
        for &(x, m) in [(odd, 2)].iter().chain(terms.iter()) {
            sum.add(x, m.checked_neg().unwrap_or(i64::MAX));
            moments.add(x, m.checked_neg().unwrap_or(i64::MAX));
            if m == i64::MIN {
                sum.add(x, 1);
                moments.add(x, 1);
            }
        }
        check_sums(&sum, &sum_of(&kept));
        check_same(&moments, &moments_of(&kept), ExactMoments::encode, ExactMoments::decode);
        kept.iter().for_each(|&(x, m)| (0..2).for_each(|i| sum.add(x, if i == 0 { !m } else { 1 })));
        check_sums(&sum, &ExactSum::default());
        prop_assert!(sum.is_zero());
    }

    #[test]
    fn variance_is_rounded_once(terms in terms(), n in prop_oneof![2i64..100, 2..=i64::MAX]) {
        let (moments, total) = (moments_of(&terms), exact(&terms));
        let squares: BigInt = terms.iter().map(|&(x, m)| units(x) * units(x) * m).sum();
        let denominator = (BigInt::from(n) * (n - 1)) << 1074;
        let variance = moments.variance(n).unwrap();
        check_nearest(&(squares * n - &total * &total), &denominator, variance);
        prop_assert_eq!(moments.stddev(n).unwrap().to_bits(), variance.sqrt().to_bits());
    }

    #[test]
    fn decoding_noise_does_not_panic(noise in vec(any::<u8>(), 0..40)) {
        // What is accepted is canonical: it is written again byte by byte as it was read.
        let mut rest = noise.as_slice();
        if let Some(moments) = ExactMoments::decode(&mut rest) {
            let mut bytes = Vec::new();
            moments.encode(&mut bytes);
            prop_assert_eq!(bytes.as_slice(), &noise[..noise.len() - rest.len()]);
        }
        let mut rest = noise.as_slice();
        if let Some(moments) = IntegerMoments::decode(&mut rest) {
            let mut bytes = Vec::new();
            moments.encode(&mut bytes);
            prop_assert_eq!(bytes.as_slice(), &noise[..noise.len() - rest.len()]);
        }
    }
}

pub(super) fn integer() -> impl Strategy<Value = i128> {
    prop_oneof![3 => -1_000_000i128..1_000_000, 2 => any::<i128>(), 1 => any::<i64>().prop_map(i128::from),
        1 => Just(i128::MIN), 1 => Just(i128::MAX)]
}

fn power(scale: i8) -> (BigInt, BigInt) {
    let power = BigInt::from(10u8).pow(u32::from(scale.unsigned_abs()));
    if scale < 0 { (power, BigInt::from(1)) } else { (BigInt::from(1), power) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn integers_are_exact(
        terms in vec((integer(), multiplicity()), 0..10), n in prop_oneof![2i64..100, 2..=i64::MAX],
        scale in -40i8..=76, extra in 0u8..50, precision in 1u8..=38,
    ) {
        let (mut sum, mut moments, mut back) = Default::default();
        terms.iter().for_each(|&(x, m)| IntegerSum::add(&mut sum, x, m));
        terms.iter().for_each(|&(x, m)| IntegerMoments::add(&mut moments, x, m));
        terms.iter().rev().for_each(|&(x, m)| IntegerSum::add(&mut back, x, m));
        check_same(&sum, &back, IntegerSum::encode, IntegerSum::decode);
        check_same(&moments, &moments.clone(), IntegerMoments::encode, IntegerMoments::decode);

        let total: BigInt = terms.iter().map(|&(x, m)| BigInt::from(x) * m).sum();
        let squares: BigInt = terms.iter().map(|&(x, m)| BigInt::from(x) * x * m).sum();
        prop_assert_eq!(sum.value(), i128::try_from(&total).ok());
        prop_assert_eq!(sum.is_zero(), total == BigInt::ZERO);

        let (over, under) = power(scale);
        let unit = BigInt::from(1) << 1074;
        check_nearest(&(&total * &over * &unit), &(&under * n), sum.mean_f64(n, scale));
        let spread = (squares * n - &total * &total) * &over * &over * &unit;
        let variance = moments.variance(n, scale).unwrap();
        check_nearest(&spread, &(BigInt::from(n) * (n - 1) * &under * &under), variance);
        prop_assert_eq!(moments.stddev(n, scale).unwrap().to_bits(), variance.sqrt().to_bits());

        // Half away from zero: floor(|2 total·10^extra / n| + 1) / 2, with the sign.
        let doubled: BigInt = &total * BigInt::from(10).pow(u32::from(extra)) * 2;
        let limit = 10i128.pow(u32::from(precision));
        let rounded = (BigInt::from(doubled.magnitude() / n.unsigned_abs()) + 1) / 2;
        let expected = i128::try_from(rounded).ok().filter(|&mean| mean < limit);
        let expected = expected.map(|mean| if total.sign() == Sign::Minus { -mean } else { mean });
        prop_assert_eq!(sum.mean_decimal(n, extra, precision), expected);

        sum.merge(&back);
        moments.merge(&moments.clone());
        prop_assert_eq!(sum.value(), i128::try_from(total * 2).ok());
        for &(x, m) in terms.iter().chain(&terms) {
            sum.add(x, !m);
            moments.add(x, !m);
            sum.add(x, 1);
            moments.add(x, 1);
        }
        check_same(&sum, &IntegerSum::default(), IntegerSum::encode, IntegerSum::decode);
        check_same(&moments, &IntegerMoments::default(), IntegerMoments::encode, IntegerMoments::decode);
    }
}

#[test]
fn known_sums() {
    const INF: f64 = f64::INFINITY;
    let tiny = f64::from_bits(1);
    let half_unit_of_max = exp2(970);
    let check = |terms: &[f64], expected: f64| {
        let sum = sum_of(&terms.iter().map(|&x| (x, 1)).collect::<Terms>());
        assert!(
            sum.value().to_bits() == expected.to_bits() || sum.value().is_nan() && expected.is_nan(),
            "{terms:?}: {} is not {expected}",
            sum.value()
        );
        check_sums(&sum, &sum);
    };
    check(&[], 0.0);
    check(&[-0.0], 0.0);
    check(&[1e16, 1.0, 1.0, -1e16], 2.0);
    check(&[1e16, 1.0, 1.0], 1e16 + 2.0);
    check(&[0.1; 10], 1.0);
    check(&[1e308, 1e308, -1e308], 1e308);
    check(&[1e308, 1e308], INF);
    check(&[f64::MAX, half_unit_of_max], INF);
    check(&[f64::MAX, half_unit_of_max, -tiny], f64::MAX);
    check(&[-f64::MAX, -half_unit_of_max], -INF);
    check(&[f64::MAX, tiny, -f64::MAX], tiny);
    check(&[tiny, tiny], 2.0 * tiny);
    check(&[f64::MIN_POSITIVE, -tiny], f64::MIN_POSITIVE - tiny);
    check(&[1.0, exp2(-53)], 1.0);
    check(&[1.0, exp2(-53), tiny], 1.0 + f64::EPSILON);
    check(&[INF, 1.0], INF);
    check(&[-INF, f64::MAX, f64::MAX], -INF);
    check(&[INF, -INF], f64::NAN);
    check(&[f64::NAN, INF], f64::NAN);
}

#[test]
fn known_means_and_variances() {
    let sum = sum_of(&[(f64::from_bits(1), 1)]);
    assert_eq!(sum.mean(2).to_bits(), 0, "a tie goes to the even zero");
    assert_eq!(sum_of(&[(f64::from_bits(3), 1)]).mean(2), f64::from_bits(2));
    assert_eq!(sum_of(&[(f64::from_bits(3), 1)]).mean(4), f64::from_bits(1), "above half the smallest double");
    assert_eq!(sum_of(&[(-f64::from_bits(1), 1)]).mean(3).to_bits(), (-0.0f64).to_bits());
    assert_eq!(sum_of(&[(f64::MAX, 2)]).mean(2), f64::MAX, "only the result may overflow");
    assert_eq!(sum_of(&[(f64::INFINITY, 2)]).mean(2), f64::INFINITY);

    let moments = moments_of(&[(1e9 + 1.0, 1), (1e9 + 2.0, 1), (1e9 + 3.0, 1)]);
    assert_eq!((moments.variance(3), moments.variance(1), moments.variance(0)), (Some(1.0), None, None));
    assert!(moments_of(&[(f64::INFINITY, 1), (1.0, 1)]).variance(2).is_some_and(f64::is_nan));
    assert_eq!(moments_of(&[(1e200, 1), (-1e200, 1)]).variance(2), Some(f64::INFINITY));

    let mut cents = IntegerMoments::default();
    [150, 250, 350].iter().for_each(|&x| cents.add(x, 1));
    assert_eq!((cents.variance(3, 2), cents.stddev(3, 2), cents.variance(1, 2)), (Some(1.0), Some(1.0), None));
}

#[test]
fn known_decimals() {
    let check = |total: i128, n: i64, extra: u8, precision: u8, expected: Option<i128>| {
        let mut sum = IntegerSum::default();
        sum.add(total, 1);
        assert_eq!(sum.mean_decimal(n, extra, precision), expected, "{total} / {n}");
    };
    check(5, 2, 0, 10, Some(3));
    check(-5, 2, 0, 10, Some(-3));
    check(7, 3, 4, 10, Some(23333));
    check(-8, 3, 4, 10, Some(-26667));
    check(199, 2, 0, 2, None);
    check(197, 2, 0, 2, Some(99));
    check(i128::MAX, 1_000_000_000, 4, 38, Some(1_701_411_834_604_692_317_316_873_037_158_841));
    check(i128::MAX, 1, 4, 38, None);

    let mut sum = IntegerSum::default();
    sum.add(i128::MAX, 2);
    assert_eq!(sum.value(), None);
    sum.add(i128::MAX, -1);
    assert_eq!((sum.value(), sum.heap_bytes()), (Some(i128::MAX), 0));
}

#[test]
fn usual_values_stay_small() {
    assert_eq!((size_of::<ExactSum>(), size_of::<ExactMoments>(), size_of::<IntegerSum>()), (40, 80, 24));
    let (mut sum, mut moments) = (ExactSum::default(), ExactMoments::default());
    for i in 0..100_000 {
        sum.add(f64::from(i) * 0.01 - 300.0, 1);
        sum.add(f64::from(i) * 1e9, 1);
        moments.add(f64::from(i) * 0.01 - 300.0, 1);
    }
    assert_eq!((sum.heap_bytes(), moments.heap_bytes()), (0, 0));
    let mut bytes = Vec::new();
    sum_of(&[(19.99, 1), (5.01, 1)]).encode(&mut bytes);
    assert!(bytes.len() <= 12, "{} bytes", bytes.len());
    sum.add(1e300, 1);
    assert!(sum.heap_bytes() > 0);
}
