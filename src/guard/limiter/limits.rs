//! The limits as configured, and the rules in force after learning from the service.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::quota::{Policy, micros};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Requests remembered when only tokens are limited, which bounds such a service to 136 requests a second.
const TOKEN_ONLY_REQUESTS_MAX: u64 = 8192;
/// No window remembers more requests than this, whatever is configured; 1 Mi entries take 64 MiB.
const WINDOW_REQUESTS_MAX: u64 = 1 << 20;
/// Makes 49 of 100 * 0.7 * 0.7, which is a little less in binary.
const ROUNDING: f64 = 1e-6;
/// A burst that costs less than a hundredth of what may go through is not told of.
const WORTH_A_WORD: f64 = 0.99;
/// Whatever is more in a minute or an hour is no limit; Redis's scripts write numbers of 10^14 and more inexactly.
const SHARED_MAX: u64 = 1_000_000_000_000;
/// Reservations that may lie ahead; more callers than this at once are refused, not queued.
const AHEAD_MAX: u64 = 1024;

/// Sets what a service allows; the `[ai.services.limits]` section, where 0 means that there is no such limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that may come at once; refilled at the pace of `per_minute`, else of the shortest window.
    pub burst: u32,
    /// Requests in any 60 seconds.
    pub per_minute: u64,
    /// Requests in any 3600 seconds.
    pub per_hour: u64,
    /// Tokens in any 60 seconds, prompt and answer together.
    pub tokens_per_minute: u64,
    /// Further windows.
    pub windows: Vec<WindowLimit>,
    /// Refills the burst no faster than `per_hour` allows, so that a busy hour has no dead minutes at its end.
    pub pace_hour: bool,
}

/// Allows a number of requests in any span of one length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowLimit {
    /// Requests in any span of this length.
    pub requests: u64,
    /// The length of the span.
    #[serde(with = "crate::domain::units::duration")]
    pub per: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { burst: 20, per_minute: 100, per_hour: 5000, ..Self::NONE }
    }
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self =
        Self { burst: 0, per_minute: 0, per_hour: 0, tokens_per_minute: 0, windows: Vec::new(), pace_hour: false };

    /// Whether there is any limit at all.
    pub fn limits_anything(&self) -> bool {
        *self != Self { burst: self.burst, pace_hour: self.pace_hour, ..Self::NONE }
    }

    /// The longest window; calls are counted for so long.
    pub fn longest_window(&self) -> Duration {
        Rules::of(self, None, 1.0).longest_span()
    }

    /// Whether the burst holds up calls that the other limits would let through.
    ///
    /// Permits are used at any moment within `validity`, all at once perhaps: no more than the burst may be given in it.
    pub fn slow_burst(&self, validity: Duration) -> Option<SlowBurst> {
        let rules = Rules::of(self, None, 1.0);
        let Bucket { capacity, interval } = rules.bucket?;
        let in_a_minute = |calls: f64, span: Duration| calls * MINUTE.as_secs_f64() / span.as_secs_f64();
        let of_window = |rule: &Rule| {
            let calls = rule.limit as f64;
            if rule.span < MINUTE { in_a_minute(calls, rule.span + validity) } else { calls }
        };
        let pace = in_a_minute(1.0, interval);
        let others_per_minute = rules.windows.iter().map(of_window).fold(pace, f64::min);
        let per_minute = in_a_minute(f64::from(capacity), validity + interval);
        let enough = others_per_minute / in_a_minute(1.0, validity + interval);
        (per_minute < others_per_minute * WORTH_A_WORD).then_some(SlowBurst {
            enough: (enough - ROUNDING).ceil() as u32,
            per_minute,
            others_per_minute,
        })
    }

    /// The same for a quota that the fleet shares.
    pub fn policy(&self, validity: Duration) -> Policy {
        Policy {
            minute: self.per_minute.min(SHARED_MAX),
            hour: self.per_hour.min(SHARED_MAX),
            windows: self.windows.iter().map(|window| (window.requests.min(SHARED_MAX), micros(window.per))).collect(),
            tokens: self.tokens_per_minute.min(SHARED_MAX),
            burst: self.burst,
            pace_hour: self.pace_hour,
            validity: micros(validity),
            entries: Rules::of(self, None, 1.0).entries_max,
        }
    }
}

/// A burst that holds calls up before any other limit does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowBurst {
    /// The smallest burst that does not.
    pub enough: u32,
    /// Calls that this one lets through in 60 seconds, one minute after the other.
    pub per_minute: f64,
    /// Calls that the other limits allow in the first 60 seconds.
    pub others_per_minute: f64,
}

/// What holds at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Limits on requests.
    pub windows: Vec<Rule>,
    /// The limit on tokens.
    pub tokens: Option<Rule>,
    pub bucket: Option<Bucket>,
    /// Entries that the log may hold.
    pub entries_max: usize,
}

/// At most `limit` in any half-open interval of length `span`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub limit: u64,
    /// 0 when the service told of a limit that nobody configured.
    pub configured: u64,
    pub span: Duration,
}

/// Holds `capacity` requests and regains one in each `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub capacity: u32,
    pub interval: Duration,
}

impl Rules {
    /// The rules under `limits`, with the service's own limit per minute, all lowered to the share `factor`.
    pub fn of(limits: &Limits, header: Option<u64>, factor: f64) -> Self {
        let per_minute = match (limits.per_minute, header) {
            (0, told) => told.unwrap_or(0),
            (configured, told) => told.map_or(configured, |told| told.min(configured)),
        };
        let rule = |allowed: u64, configured: u64, span: Duration| {
            let exists = allowed > 0 && !span.is_zero();
            exists.then(|| Rule { limit: lowered(allowed, factor), configured, span })
        };
        let minute = rule(per_minute, limits.per_minute, MINUTE);
        let mut windows: Vec<Rule> = minute.into_iter().collect();
        let hour = rule(limits.per_hour, limits.per_hour, HOUR);
        windows.extend(hour);
        windows.extend(limits.windows.iter().filter_map(|window| rule(window.requests, window.requests, window.per)));
        let tokens = rule(limits.tokens_per_minute, limits.tokens_per_minute, MINUTE);
        // A limit that only the service told of must not make the configured bucket faster.
        let other_pace = || windows.iter().min_by_key(|window| (window.configured == 0, window.span)).copied();
        let pace = minute.filter(|minute| minute.configured > 0).or_else(other_pace);
        let hourly = hour.filter(|_| limits.pace_hour).map(|hour| interval(hour.span, hour.limit));
        let bucket = pace.filter(|_| limits.burst > 0 || hourly.is_some()).map(|pace| Bucket {
            capacity: limits.burst.max(1),
            interval: interval(pace.span, pace.limit).max(hourly.unwrap_or_default()),
        });
        Self { entries_max: entries_max(&windows, tokens), windows, tokens, bucket }
    }

    pub fn is_unlimited(&self) -> bool {
        self.windows.is_empty() && self.tokens.is_none()
    }

    pub fn longest_span(&self) -> Duration {
        self.windows.iter().chain(&self.tokens).map(|rule| rule.span).max().unwrap_or(Duration::ZERO)
    }
}

/// What any one window allows within the longest span, and what may lie ahead.
///
/// Lowered limits must not shrink the log, for the entries that it holds still count.
fn entries_max(windows: &[Rule], tokens: Option<Rule>) -> usize {
    let longest = windows.iter().chain(&tokens).map(|rule| rule.span.as_nanos()).max().unwrap_or(0);
    let allowed = |rule: &Rule| {
        let times = u64::try_from(longest.div_ceil(rule.span.as_nanos())).unwrap_or(u64::MAX);
        rule.limit.max(rule.configured).saturating_mul(times)
    };
    let remembered = windows.iter().map(allowed).min().unwrap_or(TOKEN_ONLY_REQUESTS_MAX);
    (remembered.min(WINDOW_REQUESTS_MAX) + AHEAD_MAX) as usize
}

/// Something is always allowed, else nothing could ever prove that the service is well again.
fn lowered(limit: u64, factor: f64) -> u64 {
    if factor >= 1.0 { limit } else { ((limit as f64 * factor + ROUNDING) as u64).clamp(1, limit) }
}

/// Rounded up, so that the bucket is never faster than its window; to microseconds, which is how the fleet counts.
fn interval(span: Duration, limit: u64) -> Duration {
    Duration::from_micros(u64::try_from(span.as_micros().div_ceil(u128::from(limit))).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits = Limits::NONE;

    #[test]
    fn the_default_is_the_documented_one_and_unknown_keys_are_refused() {
        let written =
            "burst = 20\nper_minute = 100\nper_hour = 5000\ntokens_per_minute = 0\nwindows = []\npace_hour = false";
        assert_eq!(toml::from_str::<Limits>(written).unwrap(), Limits::default());
        assert_eq!(toml::from_str::<Limits>("").unwrap(), Limits::default());
        assert!(toml::from_str::<Limits>("per_second = 1").is_err());
        let window = toml::from_str::<Limits>("windows = [{ requests = 100, per = \"10s\" }]").unwrap().windows;
        assert_eq!(window, [WindowLimit { requests: 100, per: Duration::from_secs(10) }]);
        assert!(toml::from_str::<Limits>("windows = [{ requests = 100, per = 10 }]").is_err());
    }

    #[test]
    fn zero_means_that_there_is_no_such_limit() {
        assert!(Rules::of(&NONE, None, 1.0).is_unlimited());
        let only_burst = Rules::of(&Limits { burst: 20, ..NONE }, None, 1.0);
        assert!(only_burst.is_unlimited() && only_burst.bucket.is_none(), "a bucket without a pace is no limit");
        let window = WindowLimit { requests: 5, per: Duration::ZERO };
        assert!(Rules::of(&Limits { windows: vec![window], ..NONE }, None, 1.0).is_unlimited());
        assert!(!Rules::of(&Limits { tokens_per_minute: 1, ..NONE }, None, 1.0).is_unlimited());
    }

    #[test]
    fn the_bucket_refills_at_the_pace_of_the_minute_else_of_the_shortest_window() {
        let pace = |limits: Limits| Rules::of(&limits, None, 1.0).bucket.map(|bucket| bucket.interval);
        let window = WindowLimit { requests: 3, per: Duration::from_secs(1) };
        assert_eq!(pace(Limits::default()), Some(Duration::from_millis(600)));
        assert_eq!(pace(Limits { per_minute: 0, ..Limits::default() }), Some(Duration::from_millis(720)));
        let custom = Limits { burst: 1, windows: vec![window.clone()], ..NONE };
        assert_eq!(pace(custom), Some(Duration::from_micros(333_334)));
        assert_eq!(pace(Limits { windows: vec![window], ..Limits::default() }), Some(Duration::from_millis(600)));
        assert_eq!(pace(Limits { burst: 0, ..Limits::default() }), None);
        let hourly = Limits { pace_hour: true, ..Limits::default() };
        assert_eq!(pace(hourly.clone()), Some(Duration::from_millis(720)), "5000 an hour are fewer than 100 a minute");
        assert_eq!(pace(Limits { burst: 0, ..hourly.clone() }), Some(Duration::from_millis(720)));
        assert_eq!(pace(Limits { per_hour: 9000, ..hourly }), Some(Duration::from_millis(600)));
    }

    #[test]
    fn the_log_has_room_for_the_tightest_window_over_the_longest_span() {
        let entries_max = |limits: Limits| Rules::of(&limits, None, 0.5).entries_max as u64 - AHEAD_MAX;
        let second = WindowLimit { requests: 10, per: Duration::from_secs(1) };
        assert_eq!(entries_max(Limits::default()), 5000);
        assert_eq!(entries_max(Limits { windows: vec![second.clone()], tokens_per_minute: 1, ..NONE }), 600);
        assert_eq!(entries_max(Limits { tokens_per_minute: 1, ..NONE }), TOKEN_ONLY_REQUESTS_MAX);
        assert_eq!(entries_max(Limits { per_minute: u64::MAX, ..NONE }), WINDOW_REQUESTS_MAX);
    }

    #[test]
    fn learning_lowers_limits_but_never_to_nothing() {
        let limits = |header, factor| {
            Rules::of(&Limits::default(), header, factor).windows.iter().map(|rule| rule.limit).collect::<Vec<_>>()
        };
        assert_eq!(limits(None, 1.0), [100, 5000]);
        assert_eq!(limits(Some(60), 1.0), [60, 5000]);
        assert_eq!(limits(Some(600), 1.0), [100, 5000]);
        assert_eq!(limits(None, 0.7), [70, 3500]);
        assert_eq!(limits(None, 0.000_001), [1, 1]);
        let told = Rules::of(&Limits { per_minute: 0, ..Limits::default() }, Some(600), 1.0);
        assert_eq!(told.bucket.unwrap().interval, Duration::from_millis(720), "the configured pace stays");
        let told = Rules::of(&NONE, Some(60), 1.0);
        assert_eq!(told.windows, [Rule { limit: 60, configured: 0, span: MINUTE }]);
    }
}
