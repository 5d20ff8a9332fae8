//! Times and ids of the simulated Zendesk.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Zendesk's form of a time: `2026-03-14T09:00:01.347Z`.
pub fn timestamp(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, time) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

/// Makes ids of 24 hex characters that rise, like Zendesk's: seconds, then a part of this simulator, then a counter.
pub struct Ids {
    seconds: AtomicU64,
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        // The upper 24 bits tell simulators apart; the lower 40 count.
        Self { seconds: AtomicU64::new(0), next: AtomicU64::new(u64::from(rand::random::<u32>() >> 8) << 40) }
    }
}

impl Ids {
    /// The next id; ids made one after another rise even if the wall clock goes back.
    pub fn next(&self) -> String {
        let now = wall_ms() / 1000;
        let seconds = self.seconds.fetch_max(now, Relaxed).max(now);
        format!("{:08x}{:016x}", seconds & 0xffff_ffff, self.next.fetch_add(1, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_zendesks_form() {
        assert_eq!(timestamp(1_773_478_801_347), "2026-03-14T09:00:01.347Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn ids_rise_and_have_24_characters() {
        let ids = Ids::default();
        let made: Vec<_> = (0..1000).map(|_| ids.next()).collect();
        assert!(made.is_sorted_by(|earlier, later| earlier < later));
        assert!(made.iter().all(|id| id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
