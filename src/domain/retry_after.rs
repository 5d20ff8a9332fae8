//! What a service's answer says about when to ask it again, read from its headers.
//!
//! `retry-after-ms` is finer than `Retry-After` and goes first; `Retry-After` is a number of seconds, a fraction
//! included, or an HTTP date (RFC 9110, 10.2.3). The `x-ratelimit-*` headers are OpenAI's, with spans of time as Go
//! writes them (`6ms`, `1m2s`); the `anthropic-ratelimit-*` ones are Anthropic's, with moments as RFC 3339 writes them.
//! What cannot be read is as good as absent.

use std::time::Duration;

use serde::Serialize;
use time::{
    OffsetDateTime,
    format_description::well_known::{Rfc2822, Rfc3339},
};

/// No service is believed when it wants to be left alone for longer.
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// What the headers of one answer advise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// How long to ask nothing, at most [`WAIT_MAX`]; zero when the moment is past.
    pub retry_after: Option<Duration>,
    /// Requests per minute that the service allows this key.
    pub limit_requests: Option<u64>,
    /// Requests left in the service's present window.
    pub remaining_requests: Option<u64>,
    /// How long until that window is fresh, at most [`WAIT_MAX`].
    pub reset: Option<Duration>,
}

/// Whether a header, by its lower-case name, may have to do with it; most answers have none that does.
pub fn may_advise(header: &str) -> bool {
    ["retry-after", "x-ratelimit-", "anthropic-ratelimit-"].iter().any(|begin| header.starts_with(begin))
}

/// Reads the advice through a look-up of headers by lower-case name; `wall_now_ms` is Unix time.
pub fn parse<'a>(header: impl Fn(&str) -> Option<&'a str>, wall_now_ms: i64) -> Advice {
    let precise = header("retry-after-ms").and_then(number).and_then(|ms| span(ms / 1000.0));
    let retry_after =
        precise.or_else(|| header("retry-after").and_then(|text| seconds(text).or_else(|| date(text, wall_now_ms))));
    let either = |ours: &str, other: &str| header(ours).or_else(|| header(other));
    let span = header("x-ratelimit-reset-requests").and_then(|text| seconds(text).or_else(|| go_span(text)));
    let reset = span.or_else(|| {
        let moment = OffsetDateTime::parse(header("anthropic-ratelimit-requests-reset")?.trim(), &Rfc3339).ok()?;
        Some(until(moment, wall_now_ms))
    });
    Advice {
        retry_after: retry_after.map(capped),
        limit_requests: either("x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit").and_then(count),
        remaining_requests: either("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
            .and_then(count),
        reset: reset.map(capped),
    }
}

fn capped(span: Duration) -> Duration {
    span.min(WAIT_MAX)
}

fn count(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn seconds(text: &str) -> Option<Duration> {
    number(text).and_then(span)
}

/// Digits with at most one point; Rust's own parser would take `inf`, `1e9` and signs as well.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain { text.parse().ok() } else { None }
}

/// A number too large for a span is still an order to wait.
fn span(seconds: f64) -> Option<Duration> {
    (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// The mail date format covers the HTTP one, `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(text: &str, wall_now_ms: i64) -> Option<Duration> {
    Some(until(OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?, wall_now_ms))
}

/// Nothing, when the moment is past.
fn until(moment: OffsetDateTime, wall_now_ms: i64) -> Duration {
    let ahead_ms = moment.unix_timestamp().saturating_mul(1000).saturating_sub(wall_now_ms);
    Duration::from_millis(u64::try_from(ahead_ms).unwrap_or(0))
}

/// Sums up parts like `1m` and `2.5s`; a part without a unit spoils the whole.
fn go_span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = None;
    while !rest.is_empty() {
        let unit_at = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))?;
        let (digits, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, further) = tail.split_at(unit_end);
        let part = span(number(digits)? * unit_seconds(unit)?)?;
        total = Some(total.unwrap_or(Duration::ZERO).saturating_add(part));
        rest = further;
    }
    total
}

fn unit_seconds(unit: &str) -> Option<f64> {
    match unit {
        "d" => Some(86_400.0),
        "h" => Some(3_600.0),
        "m" => Some(60.0),
        "s" => Some(1.0),
        "ms" => Some(1e-3),
        "us" | "µs" => Some(1e-6),
        "ns" => Some(1e-9),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06 08:49:00 UTC, 37 seconds before the date of RFC 9110's example.
    const NOW_MS: i64 = 784_111_740_000;

    fn advice(headers: &[(&str, &'static str)]) -> Advice {
        parse(|name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value), NOW_MS)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let table: [(&'static str, Option<u64>); 18] = [
            ("0", Some(0)),
            ("20", Some(20_000)),
            (" 20 ", Some(20_000)),
            ("1.5", Some(1_500)),
            ("0.007", Some(7)),
            ("599.9", Some(599_900)),
            ("3600", Some(600_000)),
            ("99999999999999999999999999", Some(600_000)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37_000)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(600_000)),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("inf", None),
            ("NaN", None),
            ("1e3", None),
            ("1.2.3", None),
        ];
        for (text, expected_ms) in table {
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(advice(&[("retry-after", text)]).retry_after, expected, "Retry-After: {text}");
        }
    }

    #[test]
    fn milliseconds_go_before_seconds_unless_they_cannot_be_read() {
        let both = advice(&[("retry-after-ms", "250"), ("retry-after", "1")]);
        assert_eq!(both.retry_after, Some(Duration::from_millis(250)));
        let spoilt = advice(&[("retry-after-ms", "x"), ("retry-after", "1")]);
        assert_eq!(spoilt.retry_after, Some(Duration::from_secs(1)));
        assert_eq!(advice(&[("retry-after-ms", "9000000")]).retry_after, Some(WAIT_MAX));
    }

    #[test]
    fn reset_is_a_span_as_go_writes_it() {
        let table: [(&'static str, Option<u64>); 14] = [
            ("6ms", Some(6_000)),
            ("1m2s", Some(62_000_000)),
            ("20s", Some(20_000_000)),
            ("7.66s", Some(7_660_000)),
            ("1m30.5s", Some(90_500_000)),
            ("250us", Some(250)),
            ("250µs", Some(250)),
            ("0s", Some(0)),
            ("12", Some(12_000_000)),
            ("1h2m3s", Some(600_000_000)),
            ("", None),
            ("1m2", None),
            ("ms", None),
            ("5 parsecs", None),
        ];
        for (text, expected_us) in table {
            let expected = expected_us.map(Duration::from_micros);
            assert_eq!(advice(&[("x-ratelimit-reset-requests", text)]).reset, expected, "reset: {text}");
        }
    }

    #[test]
    fn anthropic_names_moments() {
        let told = advice(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "1994-11-06T08:49:37Z"),
        ]);
        assert_eq!((told.limit_requests, told.remaining_requests), (Some(50), Some(49)));
        assert_eq!(told.reset, Some(Duration::from_secs(37)));
        assert_eq!(advice(&[("anthropic-ratelimit-requests-reset", "soon")]).reset, None);
    }

    #[test]
    fn counts_are_whole_numbers() {
        let read = advice(&[("x-ratelimit-limit-requests", "60"), ("x-ratelimit-remaining-requests", " 0")]);
        assert_eq!((read.limit_requests, read.remaining_requests), (Some(60), Some(0)));
        let unread = advice(&[("x-ratelimit-limit-requests", "60.5"), ("x-ratelimit-remaining-requests", "-1")]);
        assert_eq!(unread, Advice::default());
        assert_eq!(advice(&[]), Advice::default());
    }
}
