//! Durations and counts as people read and write them.

use std::fmt::Display;
use std::time::Duration;

/// A duration in the unit that says enough: `<0.1 s`, `2.4 s`, `90 s`, `3 m`, `3 m 20 s`, `2 h 5 m`, `3 d 4 h`.
pub fn duration(time: Duration) -> String {
    let tenths = time.as_millis().saturating_add(50) / 100;
    let seconds = time.as_millis().saturating_add(500) / 1000;
    let with = |rest: u128, unit: &str| if rest == 0 { String::new() } else { format!(" {rest} {unit}") };
    match seconds {
        _ if time.is_zero() => "0 s".to_owned(),
        _ if tenths == 0 => "<0.1 s".to_owned(),
        _ if tenths < 100 && !tenths.is_multiple_of(10) => format!("{}.{} s", tenths / 10, tenths % 10),
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} m{}", seconds / 60, with(seconds % 60, "s")),
        7200..172_800 => format!("{} h{}", seconds / 3600, with(seconds % 3600 / 60, "m")),
        _ => format!("{} d{}", seconds / 86_400, with(seconds % 86_400 / 3600, "h")),
    }
}

/// The same of milliseconds.
pub fn millis(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

/// `1 lock`, `2 locks`.
pub fn number(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The same of a noun whose plural ends in s.
pub fn count(n: u64, noun: &str) -> String {
    number(n, noun, &format!("{noun}s"))
}

/// The first few of them, and how many others there are: `a, b and 3 more`.
pub fn first<T: Display>(all: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = all.len().saturating_sub(most);
    let shown: Vec<String> = all.take(most).map(|one| one.to_string()).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Longest time that [`read_time`] takes.
#[cfg(feature = "tools")]
pub const LONGEST: Duration = Duration::from_hours(24);

/// A time with its unit, from a millisecond to a day.
#[cfg(feature = "tools")]
pub fn read_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time > LONGEST => Err("the longest is 24h (m is minutes, M is months)".to_owned()),
        Ok(time) if time >= Duration::from_millis(1) => Ok(time),
        Ok(_) => Err("the shortest is 1ms".to_owned()),
        Err(_) => Err("write a number and ms, s, m or h: 500ms, 90s, 3m".to_owned()),
    }
}

/// An age, which may be longer: days and years.
#[cfg(feature = "tools")]
pub fn read_age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number and s, m, h, days or years: 90s, 12h, 90days".to_owned())
}

/// A whole number as large as its type can have.
pub fn read_number<T: TryFrom<i128>>(text: &str) -> Result<T, String> {
    let number: i128 = text.parse().map_err(|_| "write a whole number")?;
    T::try_from(number).map_err(|_| if number < 0 { "it is too small" } else { "it is too large" }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_want_a_unit_and_lie_between_a_millisecond_and_a_day() {
        assert_eq!(read_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(read_time("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(read_time("24h"), Ok(LONGEST));
        for (bad, words) in [("0s", "1ms"), ("0", "1ms"), ("1us", "1ms"), ("3M", "24h (m is minutes"), ("25h", "24h")] {
            assert!(read_time(bad).unwrap_err().contains(words), "{bad}");
        }
        for bad in ["", "90", "-1s", "soon", "5x", "999999999999999999h"] {
            assert_eq!(read_time(bad), Err("write a number and ms, s, m or h: 500ms, 90s, 3m".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_number_is_whole_and_within_its_type() {
        assert_eq!((read_number("-1"), read_number("65535")), (Ok(-1_i32), Ok(65535_u16)));
        let said = [read_number::<u16>("x"), read_number("1.5"), read_number("-1"), read_number("65536")];
        let words = ["write a whole number", "write a whole number", "it is too small", "it is too large"];
        assert_eq!(said.map(Result::unwrap_err), words);
    }

    #[test]
    fn a_duration_has_the_unit_that_says_enough() {
        for (ms, shown) in [
            (0, "0 s"),
            (2, "<0.1 s"),
            (50, "0.1 s"),
            (953, "1 s"),
            (2_449, "2.4 s"),
            (5_002, "5 s"),
            (13_428, "13 s"),
            (90_000, "90 s"),
            (119_600, "2 m"),
            (200_000, "3 m 20 s"),
            (7_500_000, "2 h 5 m"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(millis(ms), shown, "{ms}");
        }
    }

    #[test]
    fn one_is_not_several() {
        assert_eq!((count(1, "client"), count(0, "client")), ("1 client".to_owned(), "0 clients".to_owned()));
        assert_eq!(number(2, "reply", "replies"), "2 replies");
    }

    #[test]
    fn the_first_few_are_named_and_the_others_counted() {
        let shown = |most| first(["a", "b", "c"].iter(), most);
        assert_eq!([1, 2, 3, 4].map(shown), ["a and 2 more", "a, b and 1 more", "a, b, c", "a, b, c"]);
        assert_eq!(first([""; 0].iter(), 3), "");
    }
}
