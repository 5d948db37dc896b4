//! From exact numbers to the nearest double: the only place of the exact sums that rounds.
//!
//! Invariant: to nearest, ties to even (IEEE 754-2019, 4.3.1), once, in the subnormal range too; what is beyond the
//! largest double by half a unit or more becomes infinite, and up to half the smallest becomes a zero of its sign.
//! Neighbours: `mod.rs` and `integer` bring what is exact; nobody else rounds.

#![expect(clippy::cast_possible_truncation, reason = "halves of words, and a count of digits far below 2^31")]

use num_bigint::{BigInt, BigUint, Sign};

/// ±Σ digits\[i\]·2^(64·i + exponent), plus a part of the last place if `inexact`, as the nearest double.
///
/// With `inexact` the digits must have at least 64 significant bits, which division provides.
pub(super) fn nearest(negative: bool, digits: &[u64], exponent: i32, inexact: bool) -> f64 {
    let Some(top) = digits.iter().rposition(|&digit| digit != 0) else { return 0.0 };
    let zeros = digits[top].leading_zeros();
    let below = if top == 0 { 0 } else { digits[top - 1] };
    // The leading 64 bits, the first of them set, and whether anything follows.
    let lead = ((u128::from(digits[top]) << 64 | u128::from(below)) << zeros >> 64) as u64;
    let rest = inexact || below << zeros != 0 || digits[..top.saturating_sub(1)].iter().any(|&digit| digit != 0);
    let exponent = exponent + 64 * top as i32 + 63 - zeros.cast_signed();
    let bits = match exponent {
        1024.. => f64::INFINITY.to_bits(),
        // A mantissa that rounds up to 2^53 carries into the exponent, as it should, up to infinity.
        -1022..1024 => (u64::from((exponent + 1022).cast_unsigned()) << 52) + drop_bits(lead, 11, rest),
        -1075..-1022 => drop_bits(lead, (11 - 1022 - exponent).cast_unsigned(), rest),
        ..-1075 => 0,
    };
    f64::from_bits(bits | u64::from(negative) << 63)
}

/// `lead`/2^`count` to the nearest integer, ties to even; `count` is 11 to 64.
fn drop_bits(lead: u64, count: u32, rest: bool) -> u64 {
    let kept = lead.unbounded_shr(count);
    let dropped = lead << (64 - count);
    let half = 1 << 63;
    kept + u64::from(dropped > half || dropped == half && (rest || kept & 1 == 1))
}

/// `numerator`/`denominator`·2^`exponent` as the nearest double; an exact zero is +0.
pub(super) fn ratio(numerator: &BigInt, denominator: &BigUint, exponent: i32) -> f64 {
    let (sign, magnitude) = (numerator.sign(), numerator.magnitude());
    if sign == Sign::NoSign {
        return 0.0;
    }
    // Enough bits in front that the quotient has 64 before the remainder matters.
    let shift = (denominator.bits() + 65).saturating_sub(magnitude.bits());
    let shifted = magnitude << shift;
    let quotient = &shifted / denominator;
    let inexact = &quotient * denominator != shifted;
    let exponent = exponent - i32::try_from(shift).expect("a denominator is far below 2^(2^31)");
    nearest(sign == Sign::Minus, &quotient.to_u64_digits(), exponent, inexact)
}

/// Divides limbs, the lowest first, in place; true if something remains.
pub(super) fn divide(digits: &mut [u64], divisor: u64) -> bool {
    let divisor = u128::from(divisor);
    let mut remainder = 0;
    for digit in digits.iter_mut().rev() {
        let dividend = remainder << 64 | u128::from(*digit);
        *digit = (dividend / divisor) as u64;
        remainder = dividend % divisor;
    }
    remainder != 0
}
