//! Exact sums: what went in can be taken out, and no order of arrival shows.
//!
//! A sum of doubles in doubles depends on the order and forgets what it cannot hold, so a window's total would drift
//! and a recomputation would differ. Here totals are exact: doubles in wide fixed point, integers and decimals in
//! integers. Rounding happens once, when a value is read.
//!
//! Invariants: `add` with the negated multiplicity undoes `add`; `merge` and `add` commute; equal totals compare equal
//! and encode to equal bytes, whatever led to them. Counts are the caller's: a sum does not know its `n`.
//! Neighbours: `fold`'s accumulators hold these; `verify` has arithmetic of its own and must not use this.

mod bytes;
mod fixed;
mod integer;
mod powers;
#[cfg(test)]
mod powers_tests;
mod round;
#[cfg(test)]
mod tests;

pub use integer::{IntegerMoments, IntegerSum};
pub use powers::{Number, PowerSums};

use num_bigint::BigUint;

use fixed::Fixed;
use integer::{pairs, positive, squared};

/// Bits by which a multiplicity may widen a square (106 bits) so that the product has at most 128.
const CHUNK_BITS: u32 = 22;

/// Σ multiplicity·x over doubles: exact, order-free, invertible. 40 bytes while its values lie within 192 binary
/// places of each other (10^-18 to 10^18, say), and on the heap beyond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSum {
    finite: Fixed<3>,
    /// Almost no sum meets one, so they cost one pointer; absent when all counts are zero.
    specials: Option<Box<Specials>>,
}

/// How often each value without a place on the number line was added. Counted, so that it can be retracted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Specials {
    nan: i64,
    positive: i64,
    negative: i64,
}

impl ExactSum {
    /// Adds `x` as often as `multiplicity` says; a negative one takes it back.
    #[inline]
    pub fn add(&mut self, x: f64, multiplicity: i64) {
        match Parts::of(x) {
            Some(parts) => {
                let magnitude = u128::from(parts.mantissa) * u128::from(multiplicity.unsigned_abs());
                self.finite.add_product(magnitude, parts.exponent, parts.negative ^ (multiplicity < 0));
            }
            None => self.add_special(x, multiplicity),
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &ExactSum) {
        self.finite.merge(&other.finite);
        if let Some(specials) = &other.specials {
            self.add_special(f64::NAN, specials.nan);
            self.add_special(f64::INFINITY, specials.positive);
            self.add_special(f64::NEG_INFINITY, specials.negative);
        }
    }

    /// The real sum, rounded once: to nearest, ties to even, ±∞ beyond the largest double. An exact zero is +0. NaN if
    /// a NaN or both infinities are in it, else an infinity that is in it.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.special().unwrap_or_else(|| {
            let (negative, digits, exponent) = self.finite.magnitude(0);
            round::nearest(negative, &digits, exponent, false)
        })
    }

    /// The real sum divided by `n`, rounded once; a negative quotient too small for a double is −0. What is not finite
    /// is as in [`value`](Self::value).
    ///
    /// # Panics
    /// If `n` is not positive: the mean of nothing is null, which the caller knows.
    #[must_use]
    pub fn mean(&self, n: i64) -> f64 {
        let n = positive(n);
        self.special().unwrap_or_else(|| {
            // Two zero limbs below leave at least 64 bits of quotient before the remainder.
            let (negative, mut digits, exponent) = self.finite.magnitude(2);
            let inexact = round::divide(&mut digits, n);
            round::nearest(negative, &digits, exponent, inexact)
        })
    }

    /// Whether nothing is left: an exact zero, and nothing that is not finite.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.specials.is_none() && self.finite.is_zero()
    }

    /// Appends the sum; equal sums give equal bytes: the finite part, then 0, or 1 and the counts of NaN, ∞ and −∞.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.finite.encode(out);
        match &self.specials {
            None => out.push(0),
            Some(specials) => {
                out.push(1);
                for count in [specials.nan, specials.positive, specials.negative] {
                    out.extend_from_slice(&count.to_le_bytes());
                }
            }
        }
    }

    /// Reads what `encode` wrote and moves `input` behind it; `None` if no sum is written like that.
    pub fn decode(input: &mut &[u8]) -> Option<ExactSum> {
        let finite = Fixed::decode(input)?;
        let specials = match input.split_off_first()? {
            0 => None,
            1 => {
                let mut count = || Some(i64::from_le_bytes(*input.split_off(..8)?.first_chunk()?));
                let specials = Specials { nan: count()?, positive: count()?, negative: count()? };
                if specials == Specials::default() {
                    return None;
                }
                Some(Box::new(specials))
            }
            _ => return None,
        };
        Some(ExactSum { finite, specials })
    }

    /// Bytes held outside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.finite.heap_bytes() + self.specials.as_ref().map_or(0, |_| size_of::<Specials>())
    }

    #[cold]
    fn add_special(&mut self, x: f64, multiplicity: i64) {
        let specials = self.specials.get_or_insert_default();
        let count = if x.is_nan() {
            &mut specials.nan
        } else if x > 0.0 {
            &mut specials.positive
        } else {
            &mut specials.negative
        };
        // Wrapping is as invertible and order-free as the rest; no stream has 2^63 of anything.
        *count = count.wrapping_add(multiplicity);
        if **specials == Specials::default() {
            self.specials = None;
        }
    }

    /// The sum where the number line has none.
    fn special(&self) -> Option<f64> {
        let specials = self.specials.as_ref()?;
        Some(match (specials.nan, specials.positive, specials.negative) {
            (0, _, 0) => f64::INFINITY,
            (0, 0, _) => f64::NEG_INFINITY,
            _ => f64::NAN,
        })
    }
}

/// Σ multiplicity·x and Σ multiplicity·x² over doubles, both exact, for variances. 80 bytes for usual values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactMoments {
    sum: ExactSum,
    squares: Fixed<4>,
}

impl ExactMoments {
    /// Adds `x` as often as `multiplicity` says; a negative one takes it back.
    #[inline]
    pub fn add(&mut self, x: f64, multiplicity: i64) {
        self.sum.add(x, multiplicity);
        let Some(parts) = Parts::of(x) else { return };
        let square = u128::from(parts.mantissa) * u128::from(parts.mantissa);
        let (mut count, mut exponent) = (multiplicity.unsigned_abs(), 2 * parts.exponent);
        while count != 0 {
            let chunk = count & ((1 << CHUNK_BITS) - 1);
            self.squares.add_product(square * u128::from(chunk), exponent, multiplicity < 0);
            count >>= CHUNK_BITS;
            exponent += CHUNK_BITS.cast_signed();
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &ExactMoments) {
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// The sample variance of `n` values, (n Σx² − (Σx)²) / (n (n − 1)), rounded once; `None` for n < 2; NaN if one of
    /// them is not finite.
    #[must_use]
    pub fn variance(&self, n: i64) -> Option<f64> {
        Some(self.spread_over(&pairs(n)?, n))
    }

    /// The variance of a whole population of `n`, (n Σx² − (Σx)²) / n², rounded once; `None` for n < 1; NaN if one of them
    /// is not finite.
    #[must_use]
    pub fn population_variance(&self, n: i64) -> Option<f64> {
        Some(self.spread_over(&squared(n)?, n))
    }

    /// n Σx² − (Σx)² over a divisor.
    fn spread_over(&self, divisor: &BigUint, n: i64) -> f64 {
        if self.sum.specials.is_some() {
            return f64::NAN;
        }
        let (sum, sum_exponent) = self.sum.finite.to_bigint();
        let (squares, squares_exponent) = self.squares.to_bigint();
        // Both terms in units of the finer one.
        let exponent = squares_exponent.min(2 * sum_exponent);
        let spread =
            ((squares * n) << (squares_exponent - exponent)) - ((&sum * &sum) << (2 * sum_exponent - exponent));
        round::ratio(&spread, divisor, exponent)
    }

    /// The square root of [`variance`](Self::variance).
    #[must_use]
    pub fn stddev(&self, n: i64) -> Option<f64> {
        self.variance(n).map(f64::sqrt)
    }

    /// Whether nothing is left, as after everything was taken back.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.sum.is_zero() && self.squares.is_zero()
    }

    /// Appends both sums; equal moments give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
        self.squares.encode(out);
    }

    /// Reads what `encode` wrote and moves `input` behind it; `None` if no moments are written like that.
    pub fn decode(input: &mut &[u8]) -> Option<ExactMoments> {
        Some(ExactMoments { sum: ExactSum::decode(input)?, squares: Fixed::decode(input)? })
    }

    /// Bytes held outside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.sum.heap_bytes() + self.squares.heap_bytes()
    }
}

/// A finite double as ±mantissa·2^exponent.
struct Parts {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

impl Parts {
    /// `None` for NaN and the infinities.
    #[inline(always)]
    fn of(x: f64) -> Option<Parts> {
        let bits = x.to_bits();
        let field = (bits >> 52 & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormals share the exponent of the smallest normals and lack the hidden bit.
        let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
        (field != 0x7ff).then_some(Parts { negative: x.is_sign_negative(), mantissa, exponent: field.max(1) - 1075 })
    }
}
