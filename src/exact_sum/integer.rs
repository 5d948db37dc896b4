//! Exact sums over integers and decimals, and their moments.
//!
//! A decimal is its unscaled integer, so both are the same sum; the scale comes in when it is read. Totals are an
//! `i128` and become a big integer only while they need to, so a value that fits has one representation.
//!
//! Invariants: order-free and invertible like the sums over doubles; nothing wraps.
//! Neighbours: `round` makes the doubles; `fold`'s accumulators turn a sum that does not fit into null.

use num_bigint::{BigInt, BigUint};

use super::{bytes, round};

/// Whole numbers up to here are doubles, so one division of two of them rounds once.
const EXACT_IN_F64: u64 = 1 << 53;
/// Σ multiplicity·x² of 128-bit integers has at most 254 + 63 + 64 bits.
const LONGEST: usize = 48;

/// Σ multiplicity·x over integers, or over the unscaled integers of decimals of one scale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegerSum {
    total: Total,
}

/// `Big` only while the total does not fit 128 bits. Halves, because an `i128` would align every owner to 16 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Total {
    Small { low: u64, high: i64 },
    Big(Box<BigInt>),
}

impl Default for IntegerSum {
    fn default() -> Self {
        IntegerSum { total: small(0) }
    }
}

impl IntegerSum {
    /// Adds `x` as often as `multiplicity` says; a negative one takes it back.
    #[inline]
    pub fn add(&mut self, x: i128, multiplicity: i64) {
        let product = match i64::try_from(x) {
            Ok(x) => Some(i128::from(x) * i128::from(multiplicity)),
            Err(_) => x.checked_mul(i128::from(multiplicity)),
        };
        if let (Some(total), Some(product)) = (self.value(), product)
            && let Some(sum) = total.checked_add(product)
        {
            self.total = small(sum);
        } else {
            self.add_big(BigInt::from(x) * multiplicity);
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &IntegerSum) {
        match &other.total {
            Total::Small { .. } => self.add(other.value().unwrap_or(0), 1),
            Total::Big(total) => self.add_big(total.as_ref().clone()),
        }
    }

    /// The sum, unscaled; `None` while it does not fit.
    #[inline]
    #[must_use]
    pub fn value(&self) -> Option<i128> {
        match self.total {
            Total::Small { low, high } => Some(i128::from(high) << 64 | i128::from(low)),
            Total::Big(_) => None,
        }
    }

    /// sum / (n·10^scale), rounded once; `scale` is that of the decimals, 0 for integers.
    ///
    /// # Panics
    /// If `n` is not positive: the mean of nothing is null, which the caller knows.
    #[must_use]
    pub fn mean_f64(&self, n: i64, scale: i8) -> f64 {
        let n = positive(n);
        let fast = 10u64.checked_pow(u32::from(scale.unsigned_abs())).and_then(|power| power.checked_mul(n));
        if let (Some(total), Some(denominator @ ..=EXACT_IN_F64), 0..) = (self.value(), fast, scale)
            && total.unsigned_abs() <= u128::from(EXACT_IN_F64)
        {
            return total as f64 / denominator as f64;
        }
        let power = BigUint::from(10u8).pow(u32::from(scale.unsigned_abs()));
        if scale < 0 {
            round::ratio(&(self.to_bigint() * BigInt::from(power)), &BigUint::from(n), 0)
        } else {
            round::ratio(&self.to_bigint(), &(power * n), 0)
        }
    }

    /// sum·10^extra_scale / n, rounded half away from zero: the mean, unscaled, with `extra_scale` more decimal places
    /// than what was summed. `None` if it has more than `precision` digits (at most 38).
    ///
    /// # Panics
    /// If `n` is not positive.
    #[must_use]
    pub fn mean_decimal(&self, n: i64, extra_scale: u8, precision: u8) -> Option<i128> {
        let n = i128::from(positive(n));
        let power = 10i128.checked_pow(u32::from(extra_scale));
        let scaled = self.value().zip(power).and_then(|(total, power)| total.checked_mul(power));
        let mean = match scaled {
            Some(scaled) => {
                let (quotient, remainder) = (scaled / n, scaled % n);
                // n is below 2^63, so twice the remainder cannot overflow, and a quotient at the edge has none.
                quotient + if 2 * remainder.abs() >= n { remainder.signum() } else { 0 }
            }
            None => {
                let scaled = self.to_bigint() * BigInt::from(10u8).pow(u32::from(extra_scale));
                let (quotient, remainder) = (&scaled / n, &scaled % n);
                let remainder = i128::try_from(remainder).expect("a remainder is below n");
                let up = if 2 * remainder.abs() >= n { remainder.signum() } else { 0 };
                i128::try_from(quotient + up).ok()?
            }
        };
        let fits = 10u128.checked_pow(u32::from(precision)).is_none_or(|limit| mean.unsigned_abs() < limit);
        fits.then_some(mean)
    }

    /// Whether the sum is zero, as after everything was taken back.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.value() == Some(0)
    }

    /// Appends the sum; equal sums give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, digits: &[u8]| {
            let digits = bytes::shortest(digits);
            bytes::put_length(out, digits.len());
            out.extend_from_slice(digits);
        };
        match &self.total {
            Total::Small { .. } => put(out, &self.value().unwrap_or(0).to_le_bytes()),
            Total::Big(total) => put(out, &total.to_signed_bytes_le()),
        }
    }

    /// Reads what `encode` wrote and moves `input` behind it; `None` if no sum is written like that.
    pub fn decode(input: &mut &[u8]) -> Option<IntegerSum> {
        let length = bytes::take_length(input)?;
        let digits = input.split_off(..length)?;
        if length > LONGEST || !bytes::is_shortest(digits) || digits == [0] {
            return None;
        }
        let mut sum = IntegerSum::default();
        sum.add_big(BigInt::from_signed_bytes_le(digits));
        Some(sum)
    }

    /// Bytes held outside the value itself, about.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.total {
            Total::Small { .. } => 0,
            Total::Big(total) => size_of::<BigInt>() + total.magnitude().iter_u64_digits().len() * size_of::<u64>(),
        }
    }

    #[cold]
    fn add_big(&mut self, x: BigInt) {
        let sum = self.to_bigint() + x;
        self.total = match i128::try_from(&sum) {
            Ok(sum) => small(sum),
            Err(_) => Total::Big(Box::new(sum)),
        };
    }

    fn to_bigint(&self) -> BigInt {
        match &self.total {
            Total::Small { .. } => BigInt::from(self.value().unwrap_or(0)),
            Total::Big(total) => total.as_ref().clone(),
        }
    }
}

/// Σ multiplicity·x and Σ multiplicity·x² over integers or decimals of one scale, for variances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegerMoments {
    sum: IntegerSum,
    squares: IntegerSum,
}

impl IntegerMoments {
    /// Adds `x` as often as `multiplicity` says; a negative one takes it back.
    #[inline]
    pub fn add(&mut self, x: i128, multiplicity: i64) {
        self.sum.add(x, multiplicity);
        match x.checked_mul(x) {
            Some(square) => self.squares.add(square, multiplicity),
            None => self.squares.add_big(BigInt::from(x) * x * multiplicity),
        }
    }

    /// Adds all that `other` has seen.
    pub fn merge(&mut self, other: &IntegerMoments) {
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    /// The sample variance of `n` values, (n Σx² − (Σx)²) / (n (n − 1)·10^(2·scale)), rounded once; `None` for n < 2.
    #[must_use]
    pub fn variance(&self, n: i64, scale: i8) -> Option<f64> {
        Some(self.spread_over(&pairs(n)?, n, scale))
    }

    /// The variance of a whole population of `n`, (n Σx² − (Σx)²) / (n²·10^(2·scale)), rounded once; `None` for n < 1.
    #[must_use]
    pub fn population_variance(&self, n: i64, scale: i8) -> Option<f64> {
        Some(self.spread_over(&squared(n)?, n, scale))
    }

    /// n Σx² − (Σx)² over a divisor.
    fn spread_over(&self, divisor: &BigUint, n: i64, scale: i8) -> f64 {
        let sum = self.sum.to_bigint();
        let spread = self.squares.to_bigint() * n - &sum * &sum;
        let power = BigUint::from(10u8).pow(2 * u32::from(scale.unsigned_abs()));
        if scale < 0 {
            round::ratio(&(spread * BigInt::from(power)), divisor, 0)
        } else {
            round::ratio(&spread, &(divisor * power), 0)
        }
    }

    /// The square root of [`variance`](Self::variance).
    #[must_use]
    pub fn stddev(&self, n: i64, scale: i8) -> Option<f64> {
        self.variance(n, scale).map(f64::sqrt)
    }

    /// Whether both sums are zero, as after everything was taken back.
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
    pub fn decode(input: &mut &[u8]) -> Option<IntegerMoments> {
        Some(IntegerMoments { sum: IntegerSum::decode(input)?, squares: IntegerSum::decode(input)? })
    }

    /// Bytes held outside the value itself, about.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.sum.heap_bytes() + self.squares.heap_bytes()
    }
}

/// The variance's denominator, n (n − 1); `None` for n < 2, where there is no variance.
pub(super) fn pairs(n: i64) -> Option<BigUint> {
    (n >= 2).then(|| BigUint::from(n.unsigned_abs()) * (n.unsigned_abs() - 1))
}

/// The denominator of a population's variance, n²; `None` for n < 1, where there is none.
pub(super) fn squared(n: i64) -> Option<BigUint> {
    (n >= 1).then(|| BigUint::from(n.unsigned_abs()) * n.unsigned_abs())
}

/// A count one may divide by.
pub(super) fn positive(n: i64) -> u64 {
    assert!(n > 0, "the mean of {n} values");
    n.unsigned_abs()
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn small(total: i128) -> Total {
    Total::Small { low: total.cast_unsigned() as u64, high: (total >> 64) as i64 }
}
