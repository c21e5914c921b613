//! An instant as it is shown: RFC 3339, milliseconds, with its offset; and an address.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde::{Serialize, Serializer};

use crate::wire::types::Address;

/// Milliseconds since 1970. In JSON in UTC, `2026-11-22T15:45:28.123+00:00`; for people in their time zone, with its
/// offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

impl Stamp {
    /// A clock beyond jiff's years (about 9999) is shown at their end.
    fn timestamp(self) -> Timestamp {
        let at = i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.unwrap_or(Timestamp::MAX)
    }

    /// In this time zone, with the offset there.
    pub fn local(self, zone: &TimeZone) -> String {
        let at = self.timestamp();
        format!("{:.3}", at.display_with_offset(zone.to_offset(at)))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp().display_with_offset(Offset::UTC))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Stamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let at: Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        u64::try_from(at.as_millisecond()).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_rfc_3339_with_milliseconds_and_an_offset() {
        assert_eq!(Stamp(0).to_string(), "1970-01-01T00:00:00.000+00:00");
        assert_eq!(Stamp(1_795_362_328_007).to_string(), "2026-11-22T15:45:28.007+00:00");
        let text = serde_json::to_string(&Stamp(1)).unwrap();
        assert_eq!(text, "\"1970-01-01T00:00:00.001+00:00\"");
        assert_eq!(serde_json::from_str::<Stamp>(&text).unwrap(), Stamp(1));
    }

    #[test]
    fn people_read_it_in_their_time_zone_with_its_offset() {
        let zone = TimeZone::fixed(Offset::from_seconds(5 * 3600 + 1800).unwrap());
        assert_eq!(Stamp(1_795_362_328_007).local(&zone), "2026-11-22T21:15:28.007+05:30");
        assert!(Stamp(u64::MAX).local(&zone).ends_with("+05:30"));
    }

    #[test]
    fn a_clock_beyond_all_years_is_still_shown() {
        assert!(Stamp(u64::MAX).to_string().starts_with("9999-"));
    }
}
