//! The journal of calls under a limit, so that a node that is started again does not begin with empty windows: the
//! service remembers the calls of the process before (G4).
//!
//! Written, not synced: it survives the death of the process, and a power cut takes longer than most windows.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;

use super::Error;
use crate::domain::time::Timestamp;

/// Calls are remembered as long as the longest usual window.
const KEPT: Duration = Duration::from_secs(3600);

/// The journal is rewritten without the old calls when it has grown to this size.
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

/// The journal.
pub struct Calls {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    bytes: u64,
}

impl Calls {
    /// Opens the journal; returns the calls of the last hour, oldest first.
    pub fn open(path: &Path, now: Timestamp) -> Result<(Self, Vec<Call>), Error> {
        let calls = if path.exists() { read(path, now)? } else { Vec::new() };
        let inner = rewrite(path, &calls)?;
        Ok((Self { path: path.to_owned(), inner: Mutex::new(inner) }, calls))
    }

    /// Notes a call that begins now.
    pub fn note(&self, limiter: &str, now: Timestamp, tokens: u64) {
        let line = format!("{} {tokens} {limiter}\n", now.0);
        let mut inner = self.inner.lock();
        inner.bytes += line.len() as u64;
        let written = inner.file.write_all(line.as_bytes()).map_err(Error::from);
        let outcome = written.and_then(|()| {
            if inner.bytes > REWRITE_BYTES {
                *inner = rewrite(&self.path, &read(&self.path, now)?)?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            // The limit holds as long as this process lives.
            tracing::warn!(%error, "a call could not be noted; a restart may begin with too empty a window");
        }
    }
}

fn read(path: &Path, now: Timestamp) -> Result<Vec<Call>, Error> {
    let mut calls = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        // A line torn by the crash says nothing.
        let Ok(line) = line else { continue };
        let mut fields = line.splitn(3, ' ');
        let mut number = || fields.next().and_then(|field| field.parse::<i64>().ok());
        let (Some(at), Some(tokens)) = (number(), number()) else { continue };
        let Some(limiter) = fields.next() else { continue };
        let call = Call { at: Timestamp(at), limiter: limiter.to_owned(), tokens: tokens.unsigned_abs() };
        if call.at <= now && now.since(call.at) < KEPT {
            calls.push(call);
        }
    }
    calls.sort_by_key(|call| call.at);
    Ok(calls)
}

fn rewrite(path: &Path, calls: &[Call]) -> Result<Inner, Error> {
    let lines: String = calls.iter().map(|call| format!("{} {} {}\n", call.at.0, call.tokens, call.limiter)).collect();
    let fresh = path.with_extension("new");
    fs::write(&fresh, &lines)?;
    fs::rename(&fresh, path)?;
    Ok(Inner { file: File::options().append(true).open(path)?, bytes: lines.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_the_last_hour_are_remembered_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let (calls, before) = Calls::open(&path, Timestamp(0)).unwrap();
        assert!(before.is_empty());
        let now = Timestamp(10_000_000);
        calls.note("old", Timestamp(now.0 - 3_600_001), 5);
        calls.note("primary", Timestamp(now.0 - 1_000), 7);
        File::options().append(true).open(&path).unwrap().write_all(b"99").unwrap();
        let (_, left) = Calls::open(&path, now).unwrap();
        assert_eq!(left, [Call { at: Timestamp(now.0 - 1_000), limiter: "primary".into(), tokens: 7 }]);
    }
}
