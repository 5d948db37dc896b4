//! Exact sums of powers and of products, Σ multiplicity·xⁱ·yʲ, and the statistics that follow from them.
//!
//! Doubles, integers and decimals are summed alike: a number is an integer times a power of two, a decimal its unscaled
//! integer. What a function reads is a list of exponents (i, j), and there is one sum for each. A statistic is worked out
//! in big integers and rounded at the end, so that nothing cancels that should not.
//!
//! Invariants: order-free and invertible like the other sums; a value that is no number is counted, so that it can be taken back.
//! Neighbours: `fixed` adds, `round` rounds; `fold`'s accumulators count the rows.

use num_bigint::{BigInt, BigUint};

use super::fixed::Fixed;
use super::{Parts, round};

/// Limbs of a product: the fourth power of a 127-bit integer, as often as 63 bits say, and a place more for the carry.
const LIMBS: usize = 10;

/// A number that can be added up exactly: ±magnitude·2^exponent.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    negative: bool,
    magnitude: u128,
    exponent: i32,
}

impl Number {
    /// A double; `None` for NaN and the infinities.
    pub fn of_double(x: f64) -> Option<Number> {
        let parts = Parts::of(x)?;
        Some(Number { negative: parts.negative, magnitude: parts.mantissa.into(), exponent: parts.exponent })
    }

    /// An integer, or the unscaled integer of a decimal.
    pub fn of_integer(x: i128) -> Number {
        Number { negative: x < 0, magnitude: x.unsigned_abs(), exponent: 0 }
    }
}

/// Exponents (i, j) of the products xⁱ·yʲ that are summed.
type Terms = &'static [(u8, u8)];

/// Exact sums of products of powers. About 48 bytes a term for usual values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerSums {
    terms: Terms,
    sums: Box<[Fixed<4>]>,
    /// Rows with a value that is no finite number.
    non_finite: i64,
}

impl PowerSums {
    /// What [`covariance`](Self::covariance) reads.
    pub const COVARIANCE: Terms = &[(1, 0), (0, 1), (1, 1)];
    /// What [`slope`](Self::slope) reads: y first, then x.
    pub const SLOPE: Terms = &[(1, 0), (0, 1), (1, 1), (0, 2)];
    /// What [`correlation`](Self::correlation) reads.
    pub const CORRELATION: Terms = &[(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)];
    /// What [`skewness`](Self::skewness) reads, of x alone.
    pub const SKEWNESS: Terms = &[(1, 0), (2, 0), (3, 0)];
    /// What [`kurtosis`](Self::kurtosis) reads, of x alone.
    pub const KURTOSIS: Terms = &[(1, 0), (2, 0), (3, 0), (4, 0)];

    /// Of nothing.
    #[must_use]
    pub fn new(terms: Terms) -> PowerSums {
        PowerSums { terms, sums: terms.iter().map(|_| Fixed::default()).collect(), non_finite: 0 }
    }

    /// Adds a row as often as `multiplicity` says; a negative one takes it back. `None`: the value is no finite number.
    pub fn add(&mut self, x: Option<Number>, y: Option<Number>, multiplicity: i64) {
        let (Some(x), Some(y)) = (x, y) else {
            // Wrapping is as invertible and order-free as the rest; no stream has 2^63 of anything.
            self.non_finite = self.non_finite.wrapping_add(multiplicity);
            return;
        };
        for (sum, &(i, j)) in self.sums.iter_mut().zip(self.terms) {
            let mut product = Product::of(multiplicity.unsigned_abs());
            let mut negative = multiplicity < 0;
            let factors = std::iter::repeat_n(x, i.into()).chain(std::iter::repeat_n(y, j.into()));
            for factor in factors {
                product.multiply(factor.magnitude);
                negative ^= factor.negative;
            }
            let exponent = x.exponent * i32::from(i) + y.exponent * i32::from(j);
            sum.add_digits(product.digits(), exponent, negative);
        }
    }

    /// Adds all that `other` has seen, which has the same terms.
    pub fn merge(&mut self, other: &PowerSums) {
        assert_eq!(self.terms, other.terms, "sums of one aggregate are of one kind");
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, more)| sum.merge(more));
        self.non_finite = self.non_finite.wrapping_add(other.non_finite);
    }

    /// (n Σxy − Σx Σy) / (n (n − 1)), rounded once; over a whole population divided by n² instead. `scale`: decimal
    /// places of x and y together. `None` for fewer than two rows, of a population for none; NaN if a value is no number.
    #[must_use]
    pub fn covariance(&self, n: i64, population: bool, scale: i32) -> Option<f64> {
        let rows = BigInt::from(n);
        let divisor = if population { &rows * n } else { &rows * (n - 1) };
        if n < if population { 1 } else { 2 } {
            return None;
        }
        Some(self.unless_nan(|| quotient(&self.spread((1, 0), (0, 1), n), &Exact(divisor, 0), -scale)))
    }

    /// (n Σxy − Σx Σy) / √((n Σx² − (Σx)²) (n Σy² − (Σy)²)): the square is rounded, then its root. `None` for fewer than
    /// two rows and where x or y is the same in all; NaN if a value is no number.
    #[must_use]
    pub fn correlation(&self, n: i64) -> Option<f64> {
        if n < 2 {
            return None;
        }
        if self.non_finite != 0 {
            return Some(f64::NAN);
        }
        let both = self.spread((1, 0), (0, 1), n);
        let each = self.spread((1, 0), (1, 0), n).times(&self.spread((0, 1), (0, 1), n));
        (!each.is_zero()).then(|| both.sign() * quotient(&both.times(&both), &each, 0).sqrt())
    }

    /// (n Σxy − Σx Σy) / (n Σx² − (Σx)²), rounded once; y is the first of each pair. `scale`: decimal places of y less
    /// those of x. `None` for fewer than two rows and where x is the same in all; NaN if a value is no number.
    #[must_use]
    pub fn slope(&self, n: i64, scale: i32) -> Option<f64> {
        if n < 2 {
            return None;
        }
        if self.non_finite != 0 {
            return Some(f64::NAN);
        }
        let x = self.spread((0, 1), (0, 1), n);
        (!x.is_zero()).then(|| quotient(&self.spread((1, 0), (0, 1), n), &x, -scale))
    }

    /// The sample skewness √(n (n − 1)) / (n − 2) · m₃ / m₂^(3/2), with mₖ the k-th central moment: the square is rounded,
    /// then its root. `None` for fewer than three rows and where all are the same; NaN if a value is no number.
    #[must_use]
    pub fn skewness(&self, n: i64) -> Option<f64> {
        if n < 3 {
            return None;
        }
        if self.non_finite != 0 {
            return Some(f64::NAN);
        }
        // n²m₂ and n³m₃.
        let (second, third) = (self.spread((1, 0), (1, 0), n), self.third(n));
        if second.is_zero() {
            return None;
        }
        let above = third.times(&third).many(n).many(n - 1);
        let below = second.times(&second).times(&second).many(n - 2).many(n - 2);
        Some(third.sign() * quotient(&above, &below, 0).sqrt())
    }

    /// The sample excess kurtosis (n − 1) / ((n − 2) (n − 3)) · ((n + 1) m₄ / m₂² − 3 (n − 1)), rounded once. `None` for
    /// fewer than four rows and where all are the same; NaN if a value is no number.
    #[must_use]
    pub fn kurtosis(&self, n: i64) -> Option<f64> {
        if n < 4 {
            return None;
        }
        if self.non_finite != 0 {
            return Some(f64::NAN);
        }
        // n²m₂ and n⁴m₄.
        let (second, fourth) = (self.spread((1, 0), (1, 0), n), self.fourth(n));
        if second.is_zero() {
            return None;
        }
        let square = second.times(&second);
        let above = fourth.many(n + 1).less(&square.many(n - 1).many(3)).many(n - 1);
        Some(quotient(&above, &square.many(n - 2).many(n - 3), 0))
    }

    /// Appends the sums; equal ones give equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.sums.iter().for_each(|sum| sum.encode(out));
        out.extend_from_slice(&self.non_finite.to_le_bytes());
    }

    /// Reads what `encode` wrote of sums with these terms and moves `input` behind it; `None` if none are written like that.
    pub fn decode(terms: Terms, input: &mut &[u8]) -> Option<PowerSums> {
        let sums = terms.iter().map(|_| Fixed::decode(input)).collect::<Option<_>>()?;
        let non_finite = i64::from_le_bytes(*input.split_off(..8)?.first_chunk()?);
        Some(PowerSums { terms, sums, non_finite })
    }

    /// The terms that are summed.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether nothing is left, as after everything was taken back.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.non_finite == 0 && self.sums.iter().all(Fixed::is_zero)
    }

    /// Bytes held outside the value itself.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.sums.iter().map(|sum| size_of::<Fixed<4>>() + sum.heap_bytes()).sum()
    }

    fn unless_nan(&self, value: impl FnOnce() -> f64) -> f64 {
        if self.non_finite == 0 { value() } else { f64::NAN }
    }

    /// Σ xⁱ·yʲ.
    fn sum(&self, term: (u8, u8)) -> Exact {
        let at = self.terms.iter().position(|t| *t == term).expect("a statistic reads the terms that it names");
        let (mantissa, exponent) = self.sums[at].to_bigint();
        Exact(mantissa, exponent)
    }

    /// n Σab − Σa Σb of two first powers.
    fn spread(&self, a: (u8, u8), b: (u8, u8), n: i64) -> Exact {
        self.sum((a.0 + b.0, a.1 + b.1)).many(n).less(&self.sum(a).times(&self.sum(b)))
    }

    /// n³m₃ = n² Σx³ − 3n Σx² Σx + 2 (Σx)³.
    fn third(&self, n: i64) -> Exact {
        let (one, two, three) = (self.sum((1, 0)), self.sum((2, 0)), self.sum((3, 0)));
        let cube = one.times(&one).times(&one);
        three.many(n).many(n).less(&two.times(&one).many(n).many(3)).less(&cube.many(-2))
    }

    /// n⁴m₄ = n³ Σx⁴ − 4n² Σx³ Σx + 6n Σx² (Σx)² − 3 (Σx)⁴.
    fn fourth(&self, n: i64) -> Exact {
        let (one, two) = (self.sum((1, 0)), self.sum((2, 0)));
        let square = one.times(&one);
        let first = self.sum((4, 0)).many(n).many(n).many(n);
        let second = self.sum((3, 0)).times(&one).many(n).many(n).many(4);
        let third = two.times(&square).many(n).many(-6);
        first.less(&second).less(&third).less(&square.times(&square).many(3))
    }
}

/// An exact number: integer·2^exponent.
struct Exact(BigInt, i32);

impl Exact {
    fn times(&self, other: &Exact) -> Exact {
        Exact(&self.0 * &other.0, self.1 + other.1)
    }

    fn many(&self, times: i64) -> Exact {
        Exact(&self.0 * times, self.1)
    }

    fn less(&self, other: &Exact) -> Exact {
        // Both in units of the finer one.
        let exponent = self.1.min(other.1);
        Exact((&self.0 << (self.1 - exponent)) - (&other.0 << (other.1 - exponent)), exponent)
    }

    fn is_zero(&self) -> bool {
        *self.0.magnitude() == BigUint::ZERO
    }

    fn sign(&self) -> f64 {
        if self.0.sign() == num_bigint::Sign::Minus { -1.0 } else { 1.0 }
    }
}

/// above / below·10^power, rounded once; below is positive.
fn quotient(above: &Exact, below: &Exact, power: i32) -> f64 {
    let ten = BigUint::from(10u8).pow(power.unsigned_abs());
    let exponent = above.1 - below.1;
    if power < 0 {
        round::ratio(&above.0, &(below.0.magnitude() * ten), exponent)
    } else {
        round::ratio(&(&above.0 * BigInt::from(ten)), below.0.magnitude(), exponent)
    }
}

/// A product of magnitudes, the lowest limb first.
struct Product {
    limbs: [u64; LIMBS],
    len: usize,
}

impl Product {
    fn of(factor: u64) -> Product {
        let mut limbs = [0; LIMBS];
        limbs[0] = factor;
        Product { limbs, len: 1 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves of words")]
    fn multiply(&mut self, factor: u128) {
        let halves = [factor as u64, (factor >> 64) as u64];
        let halves = if halves[1] == 0 { &halves[..1] } else { &halves[..] };
        let mut product = [0u64; LIMBS];
        for (at, limb) in self.digits().iter().enumerate() {
            let mut carry = 0u128;
            for (half, place) in halves.iter().zip(&mut product[at..]) {
                let sum = u128::from(*limb) * u128::from(*half) + u128::from(*place) + carry;
                *place = sum as u64;
                carry = sum >> 64;
            }
            product[at + halves.len()] = carry as u64;
        }
        self.limbs = product;
        self.len = (self.len + halves.len()).min(LIMBS);
        while self.len > 1 && self.limbs[self.len - 1] == 0 {
            self.len -= 1;
        }
    }

    fn digits(&self) -> &[u64] {
        &self.limbs[..self.len]
    }
}
