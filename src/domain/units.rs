//! Quantities as people write them in configuration: `800ms`, `1h`, `4GiB`.
//!
//! Inside the program a span of time is a `Duration` and a size is a `u64`; units live only in configuration keys,
//! metrics and logs.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Serde for a `Duration` written as `30s`, `800ms` or `1h 30m`.
pub mod duration {
    use super::*;

    /// Writes the span in words.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*span))
    }

    /// Reads the span from words; a bare number has no unit and is refused.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|_| D::Error::custom(format!("`{text}` is not a span of time; write it like 800ms, 30s or 1h")))
    }
}

/// Serde for a `Duration` between programs: a whole number of milliseconds.
pub mod millis {
    use super::*;

    /// Writes the milliseconds.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(crate::domain::time::millis(*span))
    }

    /// Reads the milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Serde for a size in bytes written as `256KiB`, `1MiB` or `4GiB`.
pub mod bytes {
    use super::*;

    const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    /// Writes the size in the largest unit that divides it.
    pub fn serialize<S: Serializer>(size: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let (unit, factor) =
            UNITS.into_iter().find(|(_, factor)| *size != 0 && size.is_multiple_of(*factor)).unwrap_or(("B", 1));
        serializer.collect_str(&format_args!("{}{unit}", size / factor))
    }

    /// Reads the size; the number is whole and the unit is one of B, KiB, MiB and GiB.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a size; write it like 256KiB, 1MiB or 4GiB")))
    }

    fn parse(text: &str) -> Option<u64> {
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(factor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Span(#[serde(with = "duration")] Duration);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Size(#[serde(with = "bytes")] u64);

    #[test]
    fn spans_are_read_and_written_in_words() {
        let cases = [("0s", 0), ("800ms", 800), ("30s", 30_000), ("1h 30m", 5_400_000), ("7d", 604_800_000)];
        for (text, millis) in cases {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(serde_json::from_value::<Span>(text.into()).unwrap(), span, "{text}");
            let written = serde_json::to_value(&span).unwrap();
            assert_eq!(serde_json::from_value::<Span>(written).unwrap(), span, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_in_the_largest_unit() {
        for (text, size) in [("0B", 0), ("7B", 7), ("256KiB", 262_144), ("1MiB", 1 << 20), ("4GiB", 4 << 30)] {
            assert_eq!(serde_json::from_value::<Size>(text.into()).unwrap(), Size(size), "{text}");
            assert_eq!(serde_json::to_value(Size(size)).unwrap(), text);
        }
    }

    #[test]
    fn quantities_without_a_known_unit_are_refused() {
        for text in ["", "30", "-1s", "30 parsecs", "s"] {
            assert!(serde_json::from_value::<Span>(text.into()).is_err(), "{text}");
        }
        for text in ["", "30", "-1B", "1.5MiB", "1MB", "MiB", "99999999999GiB"] {
            assert!(serde_json::from_value::<Size>(text.into()).is_err(), "{text}");
        }
    }
}
