//! Calendar months in UTC, by which budgets are counted.

use std::fmt;

use time::{Date, OffsetDateTime};

use super::time::Timestamp;

/// A month of a year, in UTC; written like `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Since January of the year 0.
    months: i32,
}

impl Month {
    /// The month in which a moment lies; what no calendar knows lies in the first month of Unix time.
    pub fn of(at: Timestamp) -> Self {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000);
        let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self { months: time.year() * 12 + i32::from(u8::from(time.month())) - 1 }
    }

    /// The one after it.
    pub fn next(self) -> Self {
        Self { months: self.months.saturating_add(1) }
    }

    /// The one so many months earlier.
    pub fn before(self, months: i32) -> Self {
        Self { months: self.months.saturating_sub(months) }
    }

    /// Its first moment.
    pub fn begins(self) -> Timestamp {
        let (year, month) = self.parts();
        let first = time::Month::try_from(month).and_then(|month| Date::from_calendar_date(year, month, 1));
        let at = first.map(|date| date.midnight().assume_utc().unix_timestamp());
        Timestamp(at.map_or(i64::MAX, |seconds| seconds.saturating_mul(1_000)))
    }

    /// The year, and the month from 1.
    fn parts(self) -> (i32, u8) {
        (self.months.div_euclid(12), self.months.rem_euclid(12) as u8 + 1)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month) = self.parts();
        write!(f, "{year:04}-{month:02}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn a_month_is_written_with_its_year_and_turns_at_midnight_in_utc() {
        let table = [
            ("2026-11-30T23:59:59.999Z", "2026-11", "2026-12-01T00:00:00Z"),
            ("2026-12-01T00:00:00Z", "2026-12", "2027-01-01T00:00:00Z"),
            ("2026-12-31T23:59:59.999Z", "2026-12", "2027-01-01T00:00:00Z"),
            ("2028-02-29T12:00:00Z", "2028-02", "2028-03-01T00:00:00Z"),
            ("2026-12-01T00:30:00+01:00", "2026-11", "2026-12-01T00:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01", "1970-02-01T00:00:00Z"),
        ];
        for (now, name, next) in table {
            let month = Month::of(at(now));
            assert_eq!((month.to_string().as_str(), month.next().begins()), (name, at(next)), "{now}");
        }
        assert_eq!(Month::of(at("2026-11-05T00:00:00Z")).before(13).to_string(), "2025-10");
        for never in [i64::MIN, i64::MAX] {
            assert_eq!(Month::of(Timestamp(never)).to_string(), "1970-01");
        }
    }

    proptest! {
        #[test]
        fn every_moment_lies_between_the_beginnings_of_its_month_and_the_next(ms in -10_i64.pow(13)..10_i64.pow(14)) {
            let month = Month::of(Timestamp(ms));
            prop_assert!(month.begins() <= Timestamp(ms) && Timestamp(ms) < month.next().begins());
            prop_assert_eq!(Month::of(month.begins()), month);
            prop_assert_eq!(month.next().before(1), month);
            prop_assert!(month < month.next());
        }
    }
}
