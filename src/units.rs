//! Durations and counts as people read them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
