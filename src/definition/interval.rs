//! `INTERVAL '90 minutes'`: which lengths of time an expression may name.
//!
//! Arrow reads many more texts, some of which no two readers take alike (a fraction of a month, a number without a unit).
//!
//! Invariant: what passes has the length that it says, in whole months and whole microseconds, and is at most a hundred
//! years long: an instant that far from any event is still one of the calendar. Neighbours: `expressions` asks for every
//! interval of a definition.

use super::near::nearest;

/// A length of time: months have no fixed length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) months: i128,
    /// Microseconds.
    pub(super) micros: i128,
}

/// The longest interval: a hundred years.
pub(super) const LONGEST_DAYS: i128 = 36_525;
const DAY: i128 = 86_400_000_000;

const EXAMPLE: &str = "write INTERVAL '90 minutes'";

/// What a number counts: months, or this many microseconds.
fn unit(name: &str) -> Option<Length> {
    let of = |months, micros| Some(Length { months, micros });
    match name.to_lowercase().as_str() {
        "y" | "yr" | "yrs" | "year" | "years" => of(12, 0),
        "mon" | "mons" | "month" | "months" => of(1, 0),
        "w" | "week" | "weeks" => of(0, 7 * DAY),
        "d" | "day" | "days" => of(0, DAY),
        "h" | "hr" | "hrs" | "hour" | "hours" => of(0, 3_600_000_000),
        "m" | "min" | "mins" | "minute" | "minutes" => of(0, 60_000_000),
        "s" | "sec" | "secs" | "second" | "seconds" => of(0, 1_000_000),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => of(0, 1_000),
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => of(0, 1),
        _ => None,
    }
}

const UNITS: [&str; 9] = ["year", "month", "week", "day", "hour", "minute", "second", "millisecond", "microsecond"];

/// The length of a text such as `1 day 12 hours`; with a unit after the literal, that of a number of these. `Err`: what is
/// wrong, and what to write.
pub(super) fn length(text: &str, after: Option<&str>) -> Result<Length, (String, String)> {
    let mut total = Length::default();
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(("an empty interval".into(), EXAMPLE.into()));
    }
    if rest.contains(':') {
        return Err((format!("'{text}' is not an interval"), "write its units: INTERVAL '1 hour 30 minutes'".into()));
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, '-' | '+' | '.')).unwrap_or(rest.len());
        let (number, more) = rest.split_at(end);
        let more = more.trim_start();
        let end = more.find(|c: char| !c.is_alphabetic()).unwrap_or(more.len());
        let (name, more) = match after {
            Some(name) if more.is_empty() => (name, more),
            _ => more.split_at(end),
        };
        let Some(amount) = amount(number) else {
            return Err((format!("'{text}' is not an interval"), EXAMPLE.into()));
        };
        let Some(unit) = unit(name) else {
            let (message, help) = match nearest(&name.to_lowercase(), UNITS) {
                _ if name.is_empty() => (format!("INTERVAL '{text}' has no unit"), format!("write '{text} seconds'")),
                Some(near) => (format!("`{name}` is not a unit of time"), format!("did you mean `{near}`?")),
                None => (format!("`{name}` is not a unit of time"), format!("the units are {}", UNITS.join(", "))),
            };
            return Err((message, help));
        };
        add(&mut total, amount, unit).ok_or_else(|| {
            (format!("'{text}' is not whole"), "an interval is whole months and microseconds".to_string())
        })?;
        rest = more.trim_start();
    }
    if (total.months * 30 * DAY).abs() + total.micros.abs() > LONGEST_DAYS * DAY {
        let help = "leave the bound out to count everything".to_string();
        return Err((format!("'{text}' is too long: an interval is at most 100 years"), help));
    }
    Ok(total)
}

/// A decimal number: its digits, and how many of them stand after the point.
fn amount(text: &str) -> Option<(i128, u32)> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("-", rest) => (-1, rest),
        ("+", rest) => (1, rest),
        _ => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let good = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if !good(whole) || !good(fraction) || whole.len() + fraction.len() == 0 || whole.len() + fraction.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((sign * digits, u32::try_from(fraction.len()).ok()?))
}

/// `None` if that many units are not a whole number of months and microseconds.
fn add(total: &mut Length, (digits, scale): (i128, u32), unit: Length) -> Option<()> {
    let one = 10i128.pow(scale);
    // A fraction of a month would be a number of days that nobody said.
    if unit.months != 0 && digits % one != 0 || (digits * unit.micros) % one != 0 {
        return None;
    }
    total.months += digits / one * unit.months;
    total.micros += digits * unit.micros / one;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_what_they_say() {
        let check = |text: &str, after: Option<&str>, months: i128, micros: i128| {
            assert_eq!(length(text, after), Ok(Length { months, micros }), "{text} {after:?}");
        };
        check("1 hour", None, 0, 3_600_000_000);
        check("1 day 12 hours", None, 0, 36 * 3_600_000_000);
        check("-1.5 days", None, 0, -36 * 3_600_000_000);
        check("90min", None, 0, 5_400_000_000);
        check("0.000001 seconds", None, 0, 1);
        check("1 year 2 months", None, 14, 0);
        check("2", Some("HOUR"), 0, 7_200_000_000);
        check("36525 days", None, 0, LONGEST_DAYS * DAY);
    }

    #[test]
    fn what_is_no_length_is_refused() {
        let check = |text: &str, want: (&str, &str)| {
            let (message, help) = length(text, None).expect_err(text);
            assert_eq!((message.as_str(), help.as_str()), want, "{text}");
        };
        check("1 huor", ("`huor` is not a unit of time", "did you mean `hour`?"));
        check("5", ("INTERVAL '5' has no unit", "write '5 seconds'"));
        check("1 hour 5", ("INTERVAL '1 hour 5' has no unit", "write '1 hour 5 seconds'"));
        let units = "write its units: INTERVAL '1 hour 30 minutes'";
        check("01:30:00", ("'01:30:00' is not an interval", units));
        check("1 day 01:30", ("'1 day 01:30' is not an interval", units));
        check("hour", ("'hour' is not an interval", EXAMPLE));
        check("", ("an empty interval", EXAMPLE));
        check("0.5 months", ("'0.5 months' is not whole", "an interval is whole months and microseconds"));
        check("0.5 us", ("'0.5 us' is not whole", "an interval is whole months and microseconds"));
        let help = "leave the bound out to count everything";
        check("36525 days 1 us", ("'36525 days 1 us' is too long: an interval is at most 100 years", help));
        check("106000000 days", ("'106000000 days' is too long: an interval is at most 100 years", help));
    }
}
