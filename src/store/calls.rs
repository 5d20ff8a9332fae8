//! The journal of calls under a limit, so that a node that is started again does not begin with empty windows, nor in
//! the middle of a pause the service has asked for: the service remembers the process before (G4).
//!
//! Written, not synced: it survives the death of the process, and a power cut takes longer than most windows.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::{
    Error,
    ahead::{self, Ahead, Entry},
};
use crate::domain::time::Timestamp;

/// The journal is rewritten without the old calls when it has grown to this size, or to twice what was left the last
/// time: with many calls an hour, what is left may be larger than this.
const REWRITE_BYTES: u64 = 4 << 20;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When.
    pub at: Timestamp,
    /// Of which limiter.
    pub limiter: String,
    /// The tokens it was estimated to use.
    pub tokens: u64,
}

/// The end of a pause that a service has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Nothing is asked before then.
    pub until: Timestamp,
    /// Of which limiter.
    pub limiter: String,
}

/// What the process before left behind.
#[derive(Debug, Default)]
pub struct Past {
    /// Calls that still count, oldest first.
    pub calls: Vec<Call>,
    /// Pauses that are not over.
    pub pauses: Vec<Pause>,
}

/// The word that begins the line of a pause.
const PAUSE: &str = "until";

/// The word that begins the line of what a call really used.
const SETTLED: &str = "settled";

/// The journal.
pub struct Calls {
    path: PathBuf,
    kept: Duration,
    inner: Mutex<Inner>,
    ahead: Mutex<HashMap<&'static str, Ahead, RandomState>>,
    settled: Mutex<Later>,
}

/// Lines that need not be in the file at once: without them a call counts as it was estimated.
#[derive(Default)]
struct Later {
    lines: String,
    written_at: i64,
}

/// Lines are written together that come within this.
const LATER_MS: i64 = 100;

struct Inner {
    file: File,
    bytes: u64,
    rewrite_at: u64,
}

impl Calls {
    /// Opens the journal; calls count for `kept`, the longest window there is.
    pub fn open(path: &Path, kept: Duration, now: Timestamp) -> Result<(Self, Past), Error> {
        let mut past = if path.exists() { read(path, kept, now)? } else { Past::default() };
        // The wall clock may have been set back since; the calls were made all the same.
        past.calls.iter_mut().for_each(|call| call.at = call.at.min(now));
        let inner = rewrite(path, &past)?;
        let (inner, ahead, settled) = (Mutex::new(inner), Mutex::default(), Mutex::default());
        Ok((Self { path: path.to_owned(), kept, inner, ahead, settled }, past))
    }

    /// Notes a call that begins now, and those that are likely to follow at once.
    pub fn note(&self, limiter: &'static str, now: Timestamp, tokens: u64) {
        let mut ahead = self.ahead.lock();
        // Noted under the lock: whoever finds his call noted goes on with it.
        if let Some(Entry { at, tokens, calls }) = ahead.entry(limiter).or_default().call(now, tokens) {
            self.append(&line(at, tokens, calls, limiter), now);
        }
    }

    /// Notes that the service has asked for a pause.
    pub fn note_pause(&self, limiter: &str, now: Timestamp, until: Timestamp) {
        self.append(&format!("{PAUSE} {} {limiter}\n", until.0), now);
    }

    /// Notes that a call that began at `at` and was estimated to use so many tokens really used `tokens`: else a start
    /// would take a large estimate for what was used, and let nobody through for as long as the window lasts.
    pub fn note_settled(&self, limiter: &str, now: Timestamp, at: Timestamp, estimated: u64, tokens: u64) {
        let mut later = self.settled.lock();
        later.lines.push_str(&format!("{SETTLED} {}:{estimated}:{tokens} {limiter}\n", at.0));
        if !(0..LATER_MS).contains(&now.0.saturating_sub(later.written_at)) {
            later.written_at = now.0;
            let lines = std::mem::take(&mut later.lines);
            drop(later);
            self.append(&lines, now);
        }
    }

    fn append(&self, line: &str, now: Timestamp) {
        let mut inner = self.inner.lock();
        inner.bytes += line.len() as u64;
        let written = inner.file.write_all(line.as_bytes()).map_err(Error::from);
        let outcome = written.and_then(|()| {
            if inner.bytes > inner.rewrite_at {
                *inner = rewrite(&self.path, &read(&self.path, self.kept, now)?)?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            // The limit holds as long as this process lives.
            tracing::warn!(%error, "a call could not be noted; a restart may begin with too empty a window");
        }
    }
}

/// What a call of that time really used.
struct Settled {
    at: i64,
    limiter: String,
    estimated: u64,
    tokens: u64,
}

impl Settled {
    fn parse(text: &str, limiter: String) -> Option<Self> {
        let mut numbers = text.splitn(3, ':');
        let (at, estimated, tokens) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some(Self { at: at.parse().ok()?, limiter, estimated: estimated.parse().ok()?, tokens: tokens.parse().ok()? })
    }
}

/// Corrects the estimates, each of one call. A line written ahead is dated a little later than the calls it stands for; of
/// several that were estimated alike it does not matter which it was.
fn settle(calls: &mut [Call], settled: &[Settled]) {
    let mut alike: HashMap<(String, u64), BTreeMap<i64, Vec<usize>>> = HashMap::new();
    for (place, call) in calls.iter().enumerate().filter(|_| !settled.is_empty()) {
        let of_time = alike.entry((call.limiter.clone(), call.tokens)).or_default();
        of_time.entry(call.at.0).or_default().push(place);
    }
    for Settled { at, limiter, estimated, tokens } in settled {
        let Some(of_time) = alike.get_mut(&(limiter.clone(), *estimated)) else { continue };
        let mut near = of_time.range_mut(*at..=at.saturating_add(ahead::REACH_MS));
        if let Some(place) = near.find_map(|(_, places)| places.pop()) {
            calls[place].tokens = *tokens;
        }
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.settled.get_mut().lines);
        if let Err(error) = self.inner.get_mut().file.write_all(lines.as_bytes()) {
            tracing::warn!(%error, "what calls used could not be noted; a restart begins with what was estimated");
        }
    }
}

fn read(path: &Path, kept: Duration, now: Timestamp) -> Result<Past, Error> {
    let (mut past, mut settled) = (Past::default(), Vec::new());
    for line in BufReader::new(File::open(path)?).lines() {
        // A line torn by the crash says nothing.
        let Ok(line) = line else { continue };
        let mut fields = line.splitn(3, ' ');
        let (Some(first), Some(second), Some(limiter)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if first == SETTLED {
            settled.extend(Settled::parse(second, limiter.to_owned()));
            continue;
        }
        let (second, times) = second.split_once('*').unwrap_or((second, "1"));
        let (Ok(second), Ok(times)) = (second.parse::<i64>(), times.parse::<u32>()) else { continue };
        let limiter = limiter.to_owned();
        if first == PAUSE {
            past.pauses.extend((Timestamp(second) > now).then_some(Pause { until: Timestamp(second), limiter }));
            continue;
        }
        let Ok(at) = first.parse::<i64>() else { continue };
        let at = Timestamp(at);
        if now.since(at) < kept {
            let call = Call { at, limiter, tokens: second.unsigned_abs() };
            past.calls.extend(std::iter::repeat_n(call, times as usize));
        }
    }
    past.calls.sort_by_key(|call| call.at);
    settle(&mut past.calls, &settled);
    Ok(past)
}

/// The line for so many calls that are the same.
fn line(at: Timestamp, tokens: u64, calls: impl std::fmt::Display, limiter: &str) -> String {
    format!("{} {tokens}*{calls} {limiter}\n", at.0)
}

fn rewrite(path: &Path, past: &Past) -> Result<Inner, Error> {
    let calls = past.calls.chunk_by(|one, next| one == next);
    let calls = calls.map(|same| line(same[0].at, same[0].tokens, same.len(), &same[0].limiter));
    let pauses = past.pauses.iter().map(|pause| format!("{PAUSE} {} {}\n", pause.until.0, pause.limiter));
    let lines: String = calls.chain(pauses).collect();
    let fresh = path.with_extension("new");
    fs::write(&fresh, &lines)?;
    fs::rename(&fresh, path)?;
    let bytes = lines.len() as u64;
    let rewrite_at = REWRITE_BYTES.max(2 * bytes);
    Ok(Inner { file: File::options().append(true).open(path)?, bytes, rewrite_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_still_counts_is_remembered_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (calls, before) = Calls::open(&path, HOUR, Timestamp(0)).unwrap();
        assert!(before.calls.is_empty() && before.pauses.is_empty());
        let now = Timestamp(10_000_000);
        calls.note("old", Timestamp(now.0 - 3_600_001), 5);
        calls.note("primary", Timestamp(now.0 - 1_000), 7);
        calls.note("tomorrow's", Timestamp(now.0 + 86_400_000), 1);
        calls.note_pause("primary", now, Timestamp(now.0 + 20_000));
        calls.note_pause("over", now, Timestamp(now.0 - 1));
        File::options().append(true).open(&path).unwrap().write_all(b"99").unwrap();
        let (_, past) = Calls::open(&path, HOUR, now).unwrap();
        let call = |at: i64, limiter: &str, tokens| Call { at: Timestamp(at), limiter: limiter.into(), tokens };
        assert_eq!(past.calls, [call(now.0 - 1_000, "primary", 7), call(now.0, "tomorrow's", 1)]);
        assert_eq!(past.pauses, [Pause { until: Timestamp(now.0 + 20_000), limiter: "primary".into() }]);
        let longer = Calls::open(&path, HOUR * 2, now).unwrap().1;
        assert_eq!(longer.calls.len(), 2, "what was left out when it was rewritten is gone");
    }

    #[test]
    fn calls_that_follow_closely_are_all_remembered_however_often_the_journal_is_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (calls, _) = Calls::open(&path, HOUR, Timestamp(0)).unwrap();
        let now = Timestamp(10_000_000);
        (0..1_000).for_each(|_| calls.note("primary", now, 7));
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 200, "{lines} lines");
        for _ in 0..2 {
            let (_, past) = Calls::open(&path, HOUR, now).unwrap();
            assert!((1_000..1_064).contains(&past.calls.len()), "{}", past.calls.len());
            assert!(past.calls.iter().all(|call| (call.at, call.tokens) == (now, 7)));
        }
    }

    #[test]
    fn what_calls_really_used_is_remembered_for_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (calls, _) = Calls::open(&path, HOUR, Timestamp(0)).unwrap();
        let now = Timestamp(10_000_000);
        let ago = |ms: i64| Timestamp(now.0 - ms);
        for (at, tokens) in [(ago(3_700_000), 500), (ago(9_000), 500), (ago(5_000), 500), (ago(4_000), 70)] {
            calls.note("primary", at, tokens);
        }
        calls.note("other", ago(5_000), 500);
        calls.note_settled("primary", now, ago(3_700_000), 500, 1);
        calls.note_settled("primary", now, ago(5_000), 500, 20);
        calls.note_settled("primary", now, ago(5_000), 500, 30);
        calls.note_settled("primary", now, ago(4_000), 60, 9);
        drop(calls);
        for _ in 0..2 {
            let (_, past) = Calls::open(&path, HOUR, now).unwrap();
            let left: Vec<_> = past.calls.iter().map(|call| (call.limiter.as_str(), call.tokens)).collect();
            assert_eq!(left, [("primary", 500), ("primary", 20), ("other", 500), ("primary", 70)]);
        }
        // Calls that were noted ahead, by one line.
        let path = folder.path().join("ahead");
        let (calls, _) = Calls::open(&path, HOUR, Timestamp(0)).unwrap();
        (0..100).for_each(|_| calls.note("busy", now, 500));
        (0..100).for_each(|_| calls.note_settled("busy", now, now, 500, 3));
        drop(calls);
        let (_, past) = Calls::open(&path, HOUR, now).unwrap();
        let tokens: u64 = past.calls.iter().filter(|call| call.limiter == "busy").map(|call| call.tokens).sum();
        assert!((300..=300 + 64 * 500).contains(&tokens), "{tokens}");
        assert_eq!(past.calls.iter().filter(|call| call.limiter == "busy" && call.tokens == 3).count(), 100);
    }

    #[test]
    fn a_busy_hour_does_not_rewrite_the_journal_with_every_call() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (calls, _) = Calls::open(&path, HOUR, Timestamp(0)).unwrap();
        let long_name: &str = "n".repeat(4_000).leak();
        // Each rewriting makes another file.
        let mut files = std::collections::BTreeSet::new();
        for n in 0..2_000 {
            calls.note(long_name, Timestamp(n * 1_000), 1);
            files.insert(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap()));
        }
        assert!(files.len() <= 3, "8 MB of calls that all count were rewritten {} times", files.len() - 1);
    }
}
