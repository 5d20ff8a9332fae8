//! The journal of what is in hand: which messages a process that died was working on (design rules 6 and 7).
//!
//! A line is written when a message is taken into AI work and another when it leaves it in an orderly way. What the
//! next start finds begun and not ended was in hand when the process died, and gains a crash count. The lines are
//! written, not synced: the journal guards against a message that kills the process, and a process cannot undo what
//! it has written.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::Error;

/// The journal is rewritten with what is still open when it has grown to this size.
const REWRITE_BYTES: u64 = 4 << 20;

/// The most messages with a crash count that are remembered; the oldest counts matter least.
const REMEMBERED_MAX: usize = 10_000;

/// The journal of one node.
pub struct InHand {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    bytes: u64,
    /// By message: how often the process died with it in hand, and whether it is in hand now.
    open: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    crashes: u32,
    begun: bool,
}

impl InHand {
    /// Reads what the last process left behind and begins a new journal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut left = if path.exists() { read(path)? } else { HashMap::new() };
        for entry in left.values_mut() {
            entry.crashes += u32::from(std::mem::take(&mut entry.begun));
        }
        left.retain(|_, entry| entry.crashes > 0);
        if left.len() > REMEMBERED_MAX {
            let surplus: Vec<String> = left.keys().take(left.len() - REMEMBERED_MAX).cloned().collect();
            left.retain(|id, _| !surplus.contains(id));
        }
        let (file, bytes) = rewrite(path, &left)?;
        Ok(Self { path: path.to_owned(), inner: Mutex::new(Inner { file, bytes, open: left }) })
    }

    /// How often the process has died with this message in hand.
    pub fn crashes(&self, message: &str) -> u32 {
        self.inner.lock().open.get(message).map_or(0, |entry| entry.crashes)
    }

    /// The messages that were in hand when the process died, and how often.
    pub fn suspects(&self) -> Vec<(String, u32)> {
        let inner = self.inner.lock();
        let crashed = inner.open.iter().filter(|(_, entry)| entry.crashes > 0);
        crashed.map(|(id, entry)| (id.clone(), entry.crashes)).collect()
    }

    /// Forgets the crash count of a message that has come to an end.
    pub fn forget(&self, message: &str) {
        if self.crashes(message) > 0 {
            self.end(&[message.to_owned()], true);
        }
    }

    /// Notes messages as in hand until the guard is dropped in an orderly way. A panic is one: it is counted elsewhere.
    pub fn begin(&self, messages: impl IntoIterator<Item = String>) -> Working<'_> {
        let messages: Vec<String> = messages.into_iter().collect();
        let mut inner = self.inner.lock();
        for message in &messages {
            inner.open.entry(message.clone()).or_default().begun = true;
        }
        self.append(&mut inner, 'B', &messages);
        Working { journal: self, messages }
    }

    fn end(&self, messages: &[String], settled: bool) {
        let mut inner = self.inner.lock();
        for message in messages {
            let forgotten = match inner.open.get_mut(message) {
                Some(entry) => {
                    entry.begun = false;
                    settled || entry.crashes == 0
                }
                None => false,
            };
            if forgotten {
                inner.open.remove(message);
            }
        }
        self.append(&mut inner, if settled { 'S' } else { 'E' }, messages);
    }

    fn append(&self, inner: &mut Inner, verb: char, messages: &[String]) {
        let lines: String = messages.iter().map(|message| format!("{verb} {message}\n")).collect();
        inner.bytes += lines.len() as u64;
        let written = inner.file.write_all(lines.as_bytes()).map_err(Error::from);
        let outcome = written.and_then(|()| if inner.bytes > REWRITE_BYTES { self.rewrite(inner) } else { Ok(()) });
        if let Err(error) = outcome {
            // Without the journal a message that kills the process is not recognised; none is lost.
            tracing::warn!(%error, "the in-hand journal could not be written");
        }
    }

    fn rewrite(&self, inner: &mut Inner) -> Result<(), Error> {
        (inner.file, inner.bytes) = rewrite(&self.path, &inner.open)?;
        Ok(())
    }
}

/// Messages in hand.
#[must_use = "the messages are in hand as long as this lives"]
pub struct Working<'a> {
    journal: &'a InHand,
    messages: Vec<String>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.journal.end(&self.messages, false);
    }
}

fn read(path: &Path) -> Result<HashMap<String, Entry>, Error> {
    let mut open: HashMap<String, Entry> = HashMap::new();
    for line in BufReader::new(File::open(path)?).lines() {
        // A line torn by the crash, or not ours, says nothing.
        let Ok(line) = line else { continue };
        let Some((verb, rest)) = line.split_once(' ') else { continue };
        match verb {
            "B" => open.entry(rest.to_owned()).or_default().begun = true,
            "E" => drop(open.get_mut(rest).map(|entry| entry.begun = false)),
            "S" => drop(open.remove(rest)),
            "C" => {
                if let Some((count, id)) = rest.split_once(' ') {
                    open.entry(id.to_owned()).or_default().crashes = count.parse().unwrap_or(1);
                }
            }
            _ => {}
        }
    }
    Ok(open)
}

fn rewrite(path: &Path, open: &HashMap<String, Entry>) -> Result<(File, u64), Error> {
    let mut lines = String::new();
    for (id, entry) in open {
        if entry.crashes > 0 {
            lines.push_str(&format!("C {} {id}\n", entry.crashes));
        }
        if entry.begun {
            lines.push_str(&format!("B {id}\n"));
        }
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, &lines)?;
    fs::rename(&fresh, path)?;
    Ok((File::options().append(true).open(path)?, lines.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_in_hand_at_an_unclean_death_gains_a_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in-hand");
        for life in 0..3 {
            let journal = InHand::open(&path).unwrap();
            assert_eq!(journal.crashes("killer"), life);
            assert_eq!(journal.crashes("innocent"), 0);
            drop(journal.begin(["innocent".to_owned()]));
            // The process dies: the guard's end never runs.
            std::mem::forget(journal.begin(["killer".to_owned()]));
        }
        let journal = InHand::open(&path).unwrap();
        drop(journal.begin(["killer".to_owned()]));
        assert_eq!(journal.crashes("killer"), 3, "handing a message back does not clear it");
        journal.forget("killer");
        assert_eq!(InHand::open(&path).unwrap().crashes("killer"), 0);
    }

    #[test]
    fn the_journal_stays_small_and_bears_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in-hand");
        let journal = InHand::open(&path).unwrap();
        let id = |n: usize| format!("{n:0200}");
        for n in 0..40_000 {
            drop(journal.begin([id(n)]));
        }
        assert!(fs::metadata(&path).unwrap().len() <= REWRITE_BYTES + 1_024);
        std::mem::forget(journal.begin(["kept".to_owned()]));
        File::options().append(true).open(&path).unwrap().write_all(b"E ke\xff\n").unwrap();
        assert_eq!(InHand::open(&path).unwrap().crashes("kept"), 1);
    }
}
