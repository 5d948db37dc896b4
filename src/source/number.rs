//! Numbers, instants and dates from their text, exactly: what fits a column and what does not.
//!
//! Digits never go through a double on their way to a DECIMAL or an integer. `10.0` and `1e3` are integers; a non-zero
//! digit beyond the scale, or one too many before it, does not fit. Pure functions of text.
//! Neighbours: `column` stores what these return; `json`, `csv` and `avro` find the text; keys are read by the same rules.

/// Why a number does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberMisfit {
    /// The text is no number at all.
    NotANumber,
    /// Non-zero digits beyond the scale.
    Fraction,
    /// Beyond the type's range.
    TooLarge,
}

/// 10^0 to 10^38, all that an i128 holds.
const POWERS: [i128; 39] = {
    let mut powers = [1i128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// The number in `text` times 10^`scale`, if that is a whole number below 10^`precision` in magnitude.
///
/// `scale` may be negative. Accepts a sign, digits with a point anywhere, and an exponent.
///
/// # Errors
/// [`NumberMisfit`].
pub fn fixed_point(text: &[u8], precision: usize, scale: i32) -> Result<i128, NumberMisfit> {
    if let Some(found) = plain(text, precision, scale) {
        return Ok(found);
    }
    let (negative, digits, exponent) = dissect(text).ok_or(NumberMisfit::NotANumber)?;
    if digits.is_empty() {
        return Ok(0);
    }
    let shift = exponent.saturating_add(i64::from(scale));
    let shift = usize::try_from(shift).map_err(|_| NumberMisfit::Fraction)?;
    if digits.len().saturating_add(shift) > precision {
        return Err(NumberMisfit::TooLarge);
    }
    // At most 38 digits from here on, so nothing overflows.
    let value = digits.iter().fold(0i128, |v, d| v * 10 + i128::from(d - b'0')) * POWERS[shift];
    Ok(if negative { -value } else { value })
}

/// The common case, up to 18 digits, no exponent and no digit beyond the scale: `None` sends it to the general one.
fn plain(text: &[u8], precision: usize, scale: i32) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let (mut value, mut seen, mut point) = (0i64, 0usize, None);
    for &b in digits {
        match b {
            b'0'..=b'9' if seen < 18 => (value, seen) = (value * 10 + i64::from(b - b'0'), seen + 1),
            b'.' if point.is_none() => point = Some(seen),
            _ => return None,
        }
    }
    if seen == 0 {
        return None;
    }
    let fraction = seen - point.unwrap_or(seen);
    let shift = usize::try_from(scale).ok()?.checked_sub(fraction)?;
    let value = i128::from(value).checked_mul(*POWERS.get(shift)?)?;
    if value >= *POWERS.get(precision)? {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// Sign, significant digits without zeros at either end, and the power of ten they are multiplied by.
fn dissect(text: &[u8]) -> Option<(bool, Vec<u8>, i64)> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (mantissa, mut exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&rest[..at], power(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let (mut digits, mut point, mut any) = (Vec::with_capacity(mantissa.len()), false, false);
    for &b in mantissa {
        match b {
            b'0'..=b'9' => {
                any = true;
                if point {
                    exponent = exponent.saturating_sub(1);
                }
                if b != b'0' || !digits.is_empty() {
                    digits.push(b);
                }
            }
            b'.' if !point => point = true,
            _ => return None,
        }
    }
    while digits.last() == Some(&b'0') {
        digits.pop();
        exponent = exponent.saturating_add(1);
    }
    any.then_some((negative, digits, exponent))
}

/// An exponent; one beyond i64 is as good as the greatest.
fn power(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0i64, |v, d| v.saturating_mul(10).saturating_add(i64::from(d - b'0')));
    // Halved so that adding a scale or a count of digits cannot overflow.
    let value = value.min(i64::MAX / 2);
    Some(if negative { -value } else { value })
}

/// The double nearest to the number in `text`; one beyond the greatest double does not fit.
pub(super) fn double(text: &str) -> Result<f64, NumberMisfit> {
    // Rust also reads `inf` and `nan`, in any case: those are no numbers here.
    if text.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')) {
        return Err(NumberMisfit::NotANumber);
    }
    let value: f64 = text.parse().map_err(|_| NumberMisfit::NotANumber)?;
    if value.is_finite() { Ok(value) } else { Err(NumberMisfit::TooLarge) }
}

/// Microseconds since 1970-01-01 UTC of RFC 3339 text; digits beyond microseconds are cut. A text without a zone is no
/// instant: whose midnight it means, nobody knows.
pub(super) fn instant(text: &str) -> Option<i64> {
    zulu(text.as_bytes()).or_else(|| crate::time::parse_rfc3339(text))
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn date(text: &str) -> Option<i32> {
    let text: &[u8; 10] = text.as_bytes().try_into().ok()?;
    i32::try_from(calendar(text)?).ok()
}

/// `YYYY-MM-DDTHH:MM:SS[.f]Z`, the way nearly every producer writes it; anything else is `None`.
fn zulu(text: &[u8]) -> Option<i64> {
    let (day, clock) = text.split_first_chunk::<10>()?;
    let (clock, fraction) = clock.split_first_chunk::<9>()?;
    if clock[0] != b'T' || clock[3] != b':' || clock[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(clock[1], clock[2])?, two(clock[4], clock[5])?, two(clock[7], clock[8])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None; // a leap second is left to the general reader
    }
    let micros = match fraction {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            (0..6).fold(0, |v, i| v * 10 + i64::from(digits.get(i).map_or(0, |d| d - b'0')))
        }
        _ => return None,
    };
    Some((calendar(day)? * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000_000 + micros)
}

fn two(a: u8, b: u8) -> Option<i64> {
    (a.is_ascii_digit() && b.is_ascii_digit()).then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
}

/// Days since 1970-01-01 of `YYYY-MM-DD` in the proleptic Gregorian calendar
/// (H. Hinnant, "chrono-compatible low-level date algorithms", days_from_civil).
fn calendar(t: &[u8; 10]) -> Option<i64> {
    if t[4] != b'-' || t[7] != b'-' {
        return None;
    }
    let year = two(t[0], t[1])? * 100 + two(t[2], t[3])?;
    let (month, day) = (two(t[5], t[6])?, two(t[8], t[9])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, in_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = in_era * 365 + in_era / 4 - in_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use NumberMisfit::{Fraction, NotANumber, TooLarge};

    #[test]
    fn fixed_points() {
        let check = |text: &str, precision: usize, scale: i32, want: Result<i128, NumberMisfit>| {
            assert_eq!(fixed_point(text.as_bytes(), precision, scale), want, "{text} as ({precision}, {scale})");
        };
        for text in ["10", "10.0", "1e1", "1E+1", "100e-1", "10.000000000000000000000000000", "0.1e2", "010", "+10"] {
            check(text, 19, 0, Ok(10));
        }
        check("-9223372036854775808", 19, 0, Ok(-9_223_372_036_854_775_808));
        check("9007199254740993.0", 19, 0, Ok(9_007_199_254_740_993));
        check("10.5", 19, 0, Err(Fraction));
        check("1e-1", 19, 0, Err(Fraction));
        check("1e30", 19, 0, Err(TooLarge));
        check("1e999999999999999999999", 19, 0, Err(TooLarge));
        check("1e-999999999999999999999", 19, 0, Err(Fraction));
        check("0e999999999999999999999", 19, 0, Ok(0));
        check("-0", 19, 0, Ok(0));
        check("12.5", 10, 2, Ok(1250));
        check("12.500", 10, 2, Ok(1250));
        check("0.135", 10, 2, Err(Fraction));
        check("99999999.99", 10, 2, Ok(9_999_999_999));
        check("100000000", 10, 2, Err(TooLarge));
        check("100000000.00", 10, 2, Err(TooLarge));
        check("-11062.06", 10, 2, Ok(-1_106_206));
        check("99999999999999999999999999999999999999", 38, 0, Ok(99_999_999_999_999_999_999_999_999_999_999_999_999));
        check("1200", 4, -2, Ok(12));
        check("1250", 4, -2, Err(Fraction));
        for text in ["", "-", ".", "1e", "1e+", "e5", "1.2.3", "0x10", "1 ", "NaN", "--1", "1_000"] {
            check(text, 19, 0, Err(NotANumber));
        }
    }

    #[test]
    fn doubles() {
        let check = |text: &str, want: Result<f64, NumberMisfit>| assert_eq!(double(text), want, "{text}");
        check("0.1", Ok(0.1));
        check("1e400", Err(TooLarge));
        check("-1e400", Err(TooLarge));
        check("9007199254740993", Ok(9_007_199_254_740_992.0));
        check("nan", Err(NotANumber));
        check("inf", Err(NotANumber));
        check("", Err(NotANumber));
        assert!(double("-0").is_ok_and(f64::is_sign_negative));
    }

    #[test]
    fn the_fast_reader_of_instants_agrees_with_the_general_one() {
        let general = |text: &str| crate::time::parse_rfc3339(text);
        for text in [
            "2013-07-10T22:00:00Z",
            "2013-07-10T22:00:00.5Z",
            "2013-07-10T22:00:00.123456789Z",
            "1969-12-31T23:59:59.9999999Z",
            "0000-03-01T00:00:00Z",
            "0000-02-29T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
            "2000-02-29T12:00:00Z",
            "1900-03-01T00:00:00Z",
        ] {
            assert_eq!(zulu(text.as_bytes()), general(text), "{text}");
            assert!(zulu(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["1900-02-29T00:00:00Z", "2013-13-01T00:00:00Z", "2013-01-01T24:00:00Z", "2013-01-01T00:00:00.Z"] {
            assert_eq!(zulu(text.as_bytes()), None, "{text}");
            assert_eq!(general(text), None, "{text}");
        }
        // From year 0 to year 9999.
        for days in (-719_528..2_932_896).step_by(997) {
            let text = crate::time::format_instant(days * 86_400_000_000);
            assert_eq!(instant(&text), Some(days * 86_400_000_000), "{text}");
        }
    }

    #[test]
    fn instants_have_a_zone_and_no_blanks() {
        let noon = Some(1_714_564_800_000_000);
        for text in [
            "2024-05-01T12:00:00Z",
            "2024-05-01T12:00:00z",
            "2024-05-01t12:00:00Z",
            "2024-05-01 12:00:00.000Z",
            "2024-05-01T12:00:00.00000000000000Z",
            "2024-05-01T12:00:00.0000009Z",
            "2024-05-01T14:00:00+02:00",
            "2024-05-01 06:30:00-05:30",
            "2024-05-01T12:00:00-00:00",
            "2024-05-01T11:59:60Z",
        ] {
            assert_eq!(instant(text), noon, "{text}");
        }
        for text in [
            "2024-05-01",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00Z",
            "2024-05-01T12:00:00-08",
            "2024-05-01T12:00:00+0100",
            "2024-05-01T12:00:00+24:00",
            "2024-05-01T12:00:00\u{2212}08:00",
            "2024-05-01T12:00:00 UTC",
            "2024-05-01T12:00:00 Z",
            "2024-05-01T12:00:00.Z",
            "2024-5-1T12:00:00Z",
            "2024-05-01  12:00:00Z",
            "2024-05-01_12:00:00Z",
            "2024-05-01T12:00:00Z ",
            " 2024-05-01T12:00:00Z",
            "12024-05-01T12:00:00Z",
            "+12024-05-01T12:00:00Z",
            "-2024-05-01T12:00:00Z",
            "1714564800",
            "",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn dates() {
        let check = |text: &str, want: Option<i32>| assert_eq!(date(text), want, "{text}");
        check("1970-01-01", Some(0));
        check("1969-12-31", Some(-1));
        check("2024-02-29", Some(19_782));
        check("2023-02-29", None);
        check("2024-2-29", None);
        check("2024-02-29T00:00:00Z", None);
    }
}
