//! Until when a request is worth working on.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};

use super::refusal::Refusal;

/// Seconds the client gives, at most as many as `http.request_timeout` does.
const HEADER: HeaderName = HeaderName::from_static("x-request-timeout");

/// When a request has to be answered, or a stream to have begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// By the client, or by the configuration, whatever is earlier (monotonic).
    pub at: Duration,
    /// How long the request may take in all.
    pub span: Duration,
    /// The client is in more of a hurry than the configuration: that it is given up then is no failure of a service.
    pub is_clients: bool,
}

/// By so much later a request is given up than a call under way is: that call's end is to be learned from.
const CALL_ENDS_FIRST: Duration = Duration::from_millis(100);

impl Deadline {
    /// When (monotonic) the request is given up, whatever is under way.
    pub fn give_up_at(self) -> Duration {
        if self.is_clients { self.at } else { self.at + CALL_ENDS_FIRST }
    }

    /// Reads the header of a request that arrived at `now` (monotonic).
    pub fn of(headers: &HeaderMap, now: Duration, request_timeout: Duration) -> Result<Self, Refusal> {
        let within = |span| Self { at: now + span, span, is_clients: span < request_timeout };
        let Some(value) = headers.get(HEADER) else { return Ok(within(request_timeout)) };
        let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
        let given =
            seconds.filter(|seconds| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let given = given.ok_or_else(|| {
            Refusal::invalid(format!("the header {HEADER} is not a number of seconds above 0, like 12.5"), None)
        })?;
        Ok(within(given.min(request_timeout)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_be_in_more_of_a_hurry_than_we_are() {
        let (now, limit) = (Duration::from_secs(100), Duration::from_secs(30));
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(HEADER, value.parse().unwrap())]);
            Deadline::of(&headers, now, limit).ok().map(|deadline| deadline.at - now)
        };
        assert_eq!(of("2.5"), Some(Duration::from_millis(2500)));
        assert_eq!(of("3600"), Some(limit));
        for wrong in ["", "0", "-1", "NaN", "inf", "soon", "1e300"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(Deadline::of(&HeaderMap::new(), now, limit).ok().unwrap().at, now + limit);
    }
}
