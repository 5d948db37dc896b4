//! A signed fixed-point number of any width: the exact total beneath the sums over doubles.
//!
//! The number is a window of 64-bit limbs in two's complement, limb `i` of weight 2^(64·(base + i)), and the top
//! limb's sign goes on for ever. What the window covers is what has been seen so far: `N` limbs live inline, and
//! only data that spreads over more than 64·N bits moves to the heap.
//!
//! Invariants: adding never loses a bit; equality and `encode` see the number, never the window that holds it.
//! Neighbours: `mod.rs` cuts doubles into integers and exponents; `round` turns limbs back into a double.

#![expect(clippy::cast_possible_truncation, reason = "halves of words, and counts of limbs, which are a few dozen")]

use num_bigint::{BigInt, BigUint, Sign};

use super::bytes;

/// Lowest byte position (weight 2^(8·p)) that a total can have: the fourth power of the smallest double is 2^−4296.
const BYTES_LOW: i32 = -544;
/// One past the highest: fourth powers reach 2^4096, and counting them adds at most two limbs.
const BYTES_HIGH: i32 = 536;

/// See the module. `base` is the weight of the lowest limb in units of 64 binary places.
#[derive(Clone, Debug)]
pub(super) enum Fixed<const N: usize> {
    Inline { base: i16, limbs: [u64; N] },
    Heap { base: i16, limbs: Vec<u64> },
}

impl<const N: usize> Default for Fixed<N> {
    fn default() -> Self {
        Fixed::Inline { base: 0, limbs: [0; N] }
    }
}

impl<const N: usize> PartialEq for Fixed<N> {
    fn eq(&self, other: &Self) -> bool {
        self.trimmed() == other.trimmed()
    }
}

impl<const N: usize> Eq for Fixed<N> {}

impl<const N: usize> Fixed<N> {
    /// Adds ±`magnitude`·2^`exponent`.
    #[inline]
    pub(super) fn add_product(&mut self, magnitude: u128, exponent: i32, negative: bool) {
        let at = exponent >> 6;
        let shift = (exponent & 63).cast_unsigned();
        let low = magnitude << shift;
        let high = (magnitude >> 1) >> (127 - shift);
        // −v is !v + 1 in two's complement: the complement here, the 1 as the carry into the lowest limb.
        let sign = if negative { u64::MAX } else { 0 };
        let parts = [low as u64 ^ sign, (low >> 64) as u64 ^ sign, high as u64 ^ sign];
        let end = ((exponent + 128 - magnitude.leading_zeros().cast_signed()) >> 6) + 1;
        if let Fixed::Inline { base, limbs } = self {
            let base = i32::from(*base);
            if at >= base && end <= base + N as i32 {
                // Values of one magnitude all land at the bottom, where the compiler can unroll the addition.
                let overflow = match (at - base).cast_unsigned() as usize {
                    0 => add_at(limbs, 0, &parts, sign, negative),
                    above => add_at(limbs, above, &parts, sign, negative),
                };
                if overflow {
                    self.widen();
                }
                return;
            }
        }
        if magnitude != 0 {
            self.add_parts(at, end, &parts, sign, negative);
        }
    }

    /// Adds ±Σ digits\[i\]·2^(64·i + exponent); at most ten digits.
    pub(super) fn add_digits(&mut self, digits: &[u64], exponent: i32, negative: bool) {
        let Some(top) = digits.iter().rposition(|&digit| digit != 0) else { return };
        let (at, shift) = (exponent >> 6, (exponent & 63).cast_unsigned());
        let bits = 64 * (top as i32 + 1) - digits[top].leading_zeros().cast_signed();
        let end = ((exponent + bits) >> 6) + 1;
        // As above: the complement here, and the 1 as the carry.
        let sign = if negative { u64::MAX } else { 0 };
        let mut parts = [sign; 11];
        let mut below = 0;
        for (part, &digit) in parts.iter_mut().zip(&digits[..=top]) {
            *part = (digit << shift | below) ^ sign;
            below = (digit >> 1) >> (63 - shift);
        }
        parts[top + 1] = below ^ sign;
        self.add_parts(at, end, &parts, sign, negative);
    }

    /// Adds another number.
    pub(super) fn merge(&mut self, other: &Self) {
        let (at, limbs) = other.trimmed();
        self.add_limbs(at, limbs);
    }

    /// The sum of nothing, or of what cancelled out.
    pub(super) fn is_zero(&self) -> bool {
        self.window().1.iter().all(|&limb| limb == 0)
    }

    /// Sign, absolute value and exponent: ±Σ digits\[i\]·2^(64·i + exponent), with `low_zeros` zero limbs below.
    pub(super) fn magnitude(&self, low_zeros: usize) -> (bool, Vec<u64>, i32) {
        let (at, limbs) = self.trimmed();
        let negative = extension(limbs) != 0;
        let mut digits = vec![0; low_zeros];
        digits.reserve_exact(limbs.len());
        if negative {
            let mut carry = true;
            for &limb in limbs {
                let (digit, next) = (!limb).overflowing_add(u64::from(carry));
                digits.push(digit);
                carry = next;
            }
        } else {
            digits.extend_from_slice(limbs);
        }
        (negative, digits, 64 * (at - low_zeros as i32))
    }

    /// The number as integer·2^exponent.
    pub(super) fn to_bigint(&self) -> (BigInt, i32) {
        let (negative, digits, exponent) = self.magnitude(0);
        let halves: Vec<u32> = digits.iter().flat_map(|&digit| [digit as u32, (digit >> 32) as u32]).collect();
        let sign = if negative { Sign::Minus } else { Sign::Plus };
        (BigInt::from_biguint(sign, BigUint::new(halves)), exponent)
    }

    /// Bytes held outside the value itself.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Fixed::Inline { .. } => 0,
            Fixed::Heap { limbs, .. } => limbs.capacity() * size_of::<u64>(),
        }
    }

    /// Appends the shortest form: how many bytes (LEB128); then, unless none, the position of the lowest
    /// (`i16`, weight 2^(8·position)) and the bytes in two's complement, all little-endian.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (at, limbs) = self.trimmed();
        let (Some(&lowest), Some(&highest)) = (limbs.first(), limbs.last()) else {
            bytes::put_length(out, 0);
            return;
        };
        let skipped = lowest.trailing_zeros() / 8;
        // At least the top bit is the sign; of the bits that repeat it, whole bytes go.
        let redundant = ((highest ^ extension(limbs)).leading_zeros() - 1) / 8;
        bytes::put_length(out, limbs.len() * 8 - (skipped + redundant) as usize);
        let position = i16::try_from(at * 8 + skipped.cast_signed()).expect("a total spans a few hundred bytes");
        out.extend_from_slice(&position.to_le_bytes());
        let start = out.len();
        limbs.iter().for_each(|limb| out.extend_from_slice(&limb.to_le_bytes()));
        out.truncate(out.len() - redundant as usize);
        out.drain(start..start + skipped as usize);
    }

    /// Reads what `encode` wrote; `None` if it is cut short or not the shortest form.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Self> {
        let length = bytes::take_length(input)?;
        if length == 0 {
            return Some(Self::default());
        }
        let position = i32::from(i16::from_le_bytes(*input.split_off(..2)?.first_chunk()?));
        let digits = input.split_off(..length)?;
        let end = position + i32::try_from(length).ok()?;
        if !bytes::is_shortest(digits) || digits[0] == 0 || position < BYTES_LOW || end > BYTES_HIGH {
            return None;
        }
        let (base, offset) = (position.div_euclid(8) as i16, position.rem_euclid(8).cast_unsigned() as usize);
        let sign = if digits[length - 1] & 0x80 == 0 { 0 } else { 0xff };
        let place = |chunks: &mut [[u8; 8]]| {
            chunks.as_flattened_mut()[..offset].fill(0);
            chunks.as_flattened_mut()[offset..offset + length].copy_from_slice(digits);
        };
        let width = (offset + length).div_ceil(8);
        Some(if width <= N {
            let mut chunks = [[sign; 8]; N];
            place(&mut chunks);
            Fixed::Inline { base, limbs: chunks.map(u64::from_le_bytes) }
        } else {
            let mut chunks = vec![[sign; 8]; width];
            place(&mut chunks);
            Fixed::Heap { base, limbs: chunks.into_iter().map(u64::from_le_bytes).collect() }
        })
    }

    /// Adds a number given as limbs in two's complement.
    fn add_limbs(&mut self, at: i32, limbs: &[u64]) {
        if !limbs.is_empty() {
            self.add_parts(at, at + limbs.len() as i32, limbs, extension(limbs), false);
        }
    }

    /// Adds `parts`, which `sign` continues upwards and whose last limb that says more than `sign` is before `end`.
    #[inline(never)]
    fn add_parts(&mut self, at: i32, end: i32, parts: &[u64], sign: u64, carry: bool) {
        self.cover(at, end);
        let (base, window) = match self {
            Fixed::Inline { base, limbs } => (*base, limbs.as_mut_slice()),
            Fixed::Heap { base, limbs } => (*base, limbs.as_mut_slice()),
        };
        if add_at(window, (at - i32::from(base)).cast_unsigned() as usize, parts, sign, carry) {
            self.widen();
        }
    }

    /// Moves the window so that it holds both the number and the limbs `low..high`.
    fn cover(&mut self, low: i32, high: i32) {
        let (base, window) = self.window();
        if low >= base && high <= base + window.len() as i32 {
            return;
        }
        let (at, limbs) = self.trimmed();
        let at = if limbs.is_empty() { low } else { at };
        let base = at.min(low);
        let width = ((at + limbs.len() as i32).max(high) - base).cast_unsigned() as usize;
        let from = (at - base).cast_unsigned() as usize;
        let place = |window: &mut [u64]| {
            window[from..from + limbs.len()].copy_from_slice(limbs);
            window[from + limbs.len()..].fill(extension(limbs));
        };
        let base = i16::try_from(base).expect("a double's exponent has 12 bits");
        *self = if width <= N {
            let mut limbs = [0; N];
            place(&mut limbs);
            Fixed::Inline { base, limbs }
        } else {
            let mut limbs = vec![0; width];
            place(&mut limbs);
            Fixed::Heap { base, limbs }
        };
    }

    /// After a signed overflow: the limbs are right but for their sign, which is the opposite and needs one more.
    #[cold]
    fn widen(&mut self) {
        let (base, window) = self.window();
        let mut limbs = window.to_vec();
        limbs.push(!extension(window));
        let (at, limbs) = trim(base, &limbs);
        *self = Self::default();
        self.add_limbs(at, limbs);
    }

    fn window(&self) -> (i32, &[u64]) {
        match self {
            Fixed::Inline { base, limbs } => (i32::from(*base), limbs),
            Fixed::Heap { base, limbs } => (i32::from(*base), limbs),
        }
    }

    /// The number's only form without zeros below or mere signs above; no limbs at position 0 for zero.
    fn trimmed(&self) -> (i32, &[u64]) {
        let (base, window) = self.window();
        trim(base, window)
    }
}

fn trim(base: i32, window: &[u64]) -> (i32, &[u64]) {
    let Some(low) = window.iter().position(|&limb| limb != 0) else { return (0, &[]) };
    let mut limbs = &window[low..];
    while let [rest @ .., top] = limbs
        && !rest.is_empty()
        && *top == extension(rest)
    {
        limbs = rest;
    }
    (base + low as i32, limbs)
}

/// The limb that continues a number in two's complement upwards.
fn extension(limbs: &[u64]) -> u64 {
    limbs.last().map_or(0, |&top| (top.cast_signed() >> 63).cast_unsigned())
}

/// Adds `parts`, continued by `sign`, and `carry` at limb `at`; true if the result's sign overflowed.
#[inline(always)]
fn add_at(window: &mut [u64], at: usize, parts: &[u64], sign: u64, mut carry: bool) -> bool {
    let mut overflow = false;
    for (j, limb) in window[at..].iter_mut().enumerate() {
        let part = parts.get(j).copied().unwrap_or(sign);
        let (sum, next) = limb.carrying_add(part, carry);
        overflow = ((*limb ^ sum) & (part ^ sum)) >> 63 != 0;
        *limb = sum;
        carry = next;
    }
    overflow
}
