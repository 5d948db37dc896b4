//! Exact arithmetic for the oracle: sums as big integers, divided and rounded once.
//!
//! A number is taken as `mantissa * 2^exponent` (integers and decimals have exponent 0). Mantissas are added up per
//! exponent, so nothing is lost before the one rounding at the end, whatever the order.
//!
//! Invariants: nothing here rounds except `nearest_double` and `round_half_away`.
//! Neighbours: `oracle_functions` feeds it. It must not know `crate::exact_sum`, which it is there to check.

use std::collections::BTreeMap;

use num_bigint::{BigInt, BigUint, Sign};

/// An exact sum of terms `mantissa * 2^exponent`.
#[derive(Clone, Debug, Default)]
pub(super) struct ExactSum {
    /// Sums of the mantissas by exponent. A term is below 2^64, so 2^62 of them fit.
    runs: BTreeMap<i32, i128>,
}

impl ExactSum {
    /// Adds `mantissa * 2^exponent`.
    pub(super) fn add(&mut self, mantissa: i128, exponent: i32) {
        // In halves, so that each run holds only terms below 2^64. The high half keeps the sign.
        let high = mantissa >> 64;
        let low = mantissa & i128::from(u64::MAX);
        if high != 0 {
            *self.runs.entry(exponent + 64).or_default() += high;
        }
        if low != 0 {
            *self.runs.entry(exponent).or_default() += low;
        }
    }

    /// The sum as `integer * 2^exponent`.
    pub(super) fn total(&self) -> (BigInt, i32) {
        let base = self.runs.keys().next().copied().unwrap_or(0);
        let mut total = BigInt::from(0);
        for (exponent, run) in &self.runs {
            total += BigInt::from(*run) << exponent.abs_diff(base);
        }
        (total, base)
    }

    /// The sum of terms that all had exponent 0.
    pub(super) fn integer(&self) -> BigInt {
        let (total, base) = self.total();
        // Only the high halves of exponent-0 terms lie above the base.
        total << base.unsigned_abs()
    }
}

/// A finite double as `mantissa * 2^exponent`.
pub(super) fn parts(value: f64) -> (i128, i32) {
    let bits = value.to_bits();
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let biased = ((bits >> 52) & 0x7ff) as i32;
    let (mantissa, exponent) = if biased == 0 { (fraction, -1074) } else { (fraction | (1 << 52), biased - 1075) };
    (if value.is_sign_negative() { -mantissa } else { mantissa }, exponent)
}

/// The double nearest to `numerator / denominator * 2^exponent`, ties to even; beyond the largest it is an infinity.
/// Zero is +0. `denominator` is not zero.
pub(super) fn nearest_double(numerator: &BigInt, denominator: &BigUint, exponent: i32) -> f64 {
    let magnitude = numerator.magnitude();
    if magnitude.bits() == 0 {
        return 0.0;
    }
    // At least 66 bits of quotient, so that what is cut below is never a whole bit of the result.
    let wanted = 66 + i64::try_from(denominator.bits()).unwrap_or(i64::MAX);
    let shift = (wanted - i64::try_from(magnitude.bits()).unwrap_or(i64::MAX)).max(0);
    let scaled = magnitude << shift;
    let quotient = &scaled / denominator;
    let rest = &quotient * denominator != scaled;
    let lowest = i64::from(exponent) - shift; // the exponent of the quotient's last bit
    let highest = lowest + i64::try_from(quotient.bits()).unwrap_or(i64::MAX) - 1;
    let unit = (highest - 52).max(-1074); // the exponent of the result's last bit
    let cut = u64::try_from(unit - lowest).expect("66 bits are more than 53");
    let mut mantissa = u64::try_from(&quotient >> cut).expect("at most 53 bits are left");
    let half = quotient.bit(cut - 1);
    let below_half = rest || quotient.trailing_zeros().is_some_and(|zeros| zeros < cut - 1);
    if half && (below_half || mantissa & 1 == 1) {
        mantissa += 1;
    }
    let double = assemble(mantissa, unit);
    if numerator.sign() == Sign::Minus { -double } else { double }
}

/// `mantissa * 2^unit` for a mantissa of at most 2^53 and a unit of at least -1074.
fn assemble(mut mantissa: u64, mut unit: i64) -> f64 {
    if mantissa == 1 << 53 {
        mantissa >>= 1;
        unit += 1;
    }
    if mantissa < 1 << 52 {
        return f64::from_bits(mantissa); // subnormal: its unit is -1074
    }
    match u64::try_from(unit + 1075) {
        Ok(biased) if biased < 0x7ff => f64::from_bits((biased << 52) | (mantissa & ((1 << 52) - 1))),
        _ => f64::INFINITY,
    }
}

/// `numerator / denominator` to the nearest integer, halves away from zero. `denominator` is positive.
pub(super) fn round_half_away(numerator: &BigInt, denominator: &BigUint) -> BigInt {
    let doubled: BigUint = numerator.magnitude() * 2u32 + denominator;
    BigInt::from_biguint(numerator.sign(), doubled / (denominator * 2u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        for value in values {
            let (mantissa, exponent) = parts(*value);
            sum.add(mantissa, exponent);
        }
        let (total, exponent) = sum.total();
        nearest_double(&total, &BigUint::from(1u32), exponent)
    }

    #[test]
    fn sums_are_rounded_once() {
        let check = |values: &[f64], want: f64| assert_eq!(sum(values).to_bits(), want.to_bits(), "{values:?}");
        check(&[], 0.0);
        check(&[1e16, 1.0, 1.0, -1e16], 2.0);
        check(&[0.1, 0.2, -0.1, -0.2], 0.0);
        check(&[-0.0], 0.0);
        check(&[1e308, 1e308, -1e308], 1e308);
        check(&[1e308, 1e308], f64::INFINITY);
        check(&[-1e308, -1e308], f64::NEG_INFINITY);
        check(&[f64::MAX, 1e291], f64::MAX); // less than half a unit above
        check(&[5e-324, 5e-324], 1e-323);
        check(&[2.2250738585072014e-308, -5e-324], 2.225073858507201e-308); // the largest subnormal
        check(&[1.0, f64::EPSILON / 2.0], 1.0); // a tie, to even
        check(&[1.0, f64::EPSILON / 2.0, 5e-324], 1.0 + f64::EPSILON); // just above the tie
        check(&[1.0 + f64::EPSILON, f64::EPSILON / 2.0], 1.0 + 2.0 * f64::EPSILON); // a tie, to even, upwards
        check(&[0.1; 10], 1.0);
        check(&[-3.5, 1.25], -2.25);
    }

    #[test]
    fn a_single_number_comes_back() {
        let mut bits = 0x9E37_79B9_7F4A_7C15u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = f64::from_bits(bits);
            if value.is_finite() && value != 0.0 {
                assert_eq!(sum(&[value]).to_bits(), bits, "{value:e}");
            }
        }
    }

    #[test]
    fn two_numbers_add_as_the_machine_adds() {
        let mut bits = 12_345u64;
        let mut next = || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Exponents close together, so that the bits of both matter.
            f64::from_bits((bits & 0x800f_ffff_ffff_ffff) | ((1000 + ((bits >> 52) & 0x3f)) << 52))
        };
        for _ in 0..20_000 {
            let (a, b) = (next(), next());
            assert_eq!(sum(&[a, b]).to_bits(), (a + b + 0.0).to_bits(), "{a:e} + {b:e}");
            let quotient = {
                let ((ma, ea), (mb, eb)) = (parts(a), parts(b.abs()));
                nearest_double(&BigInt::from(ma), BigInt::from(mb).magnitude(), ea - eb)
            };
            assert_eq!(quotient.to_bits(), (a / b.abs()).to_bits(), "{a:e} / {b:e}");
        }
    }

    #[test]
    fn integers_beyond_128_bits() {
        let mut sum = ExactSum::default();
        for _ in 0..4 {
            sum.add(i128::MAX, 0);
        }
        assert_eq!(sum.integer(), BigInt::from(i128::MAX) * 4);
        for _ in 0..8 {
            sum.add(i128::MIN, 0);
        }
        assert_eq!(sum.integer(), BigInt::from(i128::MAX) * 4 + BigInt::from(i128::MIN) * 8);
        let mut high = ExactSum::default();
        high.add(1 << 64, 0); // only a high half
        assert_eq!(high.integer(), BigInt::from(1i128 << 64));
    }

    #[test]
    fn halves_go_away_from_zero() {
        let check = |n: i64, d: u32, want: i64| {
            assert_eq!(round_half_away(&BigInt::from(n), &BigUint::from(d)), BigInt::from(want), "{n} / {d}");
        };
        check(5, 2, 3);
        check(-5, 2, -3);
        check(7, 3, 2);
        check(-8, 3, -3);
        check(1, 3, 0);
        check(-1, 3, 0);
    }
}
