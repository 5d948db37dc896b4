//! The two byte forms that all exact sums share: a length, and the shortest two's complement.
//!
//! Invariant: one number has one form, so that equal sums are equal bytes in pages and logs.
//! Neighbours: `fixed` and `integer` write and read through it.

/// Appends a length as LEB128: seven bits a byte, the lowest first.
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
pub(super) fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Reads a length of at most two bytes, far beyond any sum; `None` if it is longer, or longer than it need be.
pub(super) fn take_length(input: &mut &[u8]) -> Option<usize> {
    let first = usize::from(*input.split_off_first()?);
    if first < 0x80 {
        return Some(first);
    }
    let second = usize::from(*input.split_off_first()?);
    (1..0x80).contains(&second).then_some(first & 0x7f | second << 7)
}

/// Drops from little-endian two's complement the top bytes that only repeat the sign; zero keeps none.
pub(super) fn shortest(mut digits: &[u8]) -> &[u8] {
    while !is_shortest(digits) {
        digits = &digits[..digits.len() - 1];
    }
    if digits == [0] { &[] } else { digits }
}

/// Whether the top byte of a little-endian two's complement is needed.
pub(super) fn is_shortest(digits: &[u8]) -> bool {
    !matches!(digits, [.., 0..=0x7f, 0] | [.., 0x80..=0xff, 0xff])
}
