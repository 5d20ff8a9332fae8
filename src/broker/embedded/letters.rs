//! What the queue keeps in memory of its dead letters, which are judged one after the other, in no conversation's order.

use std::collections::{HashSet, VecDeque};

use super::shelf::{READY_MAX, Row};

/// The dead letters.
#[derive(Debug, Default)]
pub(super) struct Letters {
    waiting: VecDeque<Row>,
    /// In somebody's hand.
    held: HashSet<i64>,
    /// More lie on the disk than in `waiting`.
    behind: bool,
    /// How many were left on the disk so far; tells whether one was while a reading was under way.
    left: u64,
    /// Left somebody's hand while a reading was under way; what is read of them is out of date.
    settled: HashSet<i64>,
    reading: bool,
}

/// A reading that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    left: u64,
}

impl Letters {
    /// `behind`: whether the disk holds some.
    pub fn new(behind: bool) -> Self {
        Self { behind, ..Self::default() }
    }

    /// A message has died, and that is written.
    pub fn died(&mut self, row: Row) {
        if self.behind || self.waiting.len() >= READY_MAX {
            self.behind = true;
            self.left += 1;
        } else {
            self.waiting.push_back(row);
        }
    }

    /// Whether somebody has it in hand.
    pub fn holds(&self, seq: i64) -> bool {
        self.held.contains(&seq)
    }

    /// Nobody is given these until they are settled or returned.
    pub fn leave_out(&mut self, withheld: &HashSet<i64>) {
        self.waiting.retain(|row| !withheld.contains(&row.seq));
        self.held.extend(withheld);
    }

    /// Gives out at most `room`.
    pub fn pop(&mut self, room: usize) -> Vec<Row> {
        let rows: Vec<Row> = self.waiting.drain(..room.min(self.waiting.len())).collect();
        self.held.extend(rows.iter().map(|row| row.seq));
        rows
    }

    /// One that was held has been settled.
    pub fn released(&mut self, seq: i64) {
        self.held.remove(&seq);
        if self.reading {
            self.settled.insert(seq);
        }
    }

    /// One that was held comes back.
    pub fn returned(&mut self, row: Row) {
        self.held.remove(&row.seq);
        self.waiting.push_back(row);
    }

    /// Whether the disk has to be read; a reading that was begun before and given up does not count.
    pub fn wish(&mut self) -> Option<Reading> {
        self.settled.clear();
        self.reading = self.behind;
        self.behind.then_some(Reading { left: self.left })
    }

    /// Takes what was read with `limit`; `false` when nothing of it was new.
    pub fn read(&mut self, rows: Vec<Row>, limit: usize, reading: Reading) -> bool {
        self.behind = rows.len() >= limit || self.left != reading.left;
        self.reading = false;
        let waiting: HashSet<i64> = self.waiting.iter().map(|row| row.seq).collect();
        let known = |seq| self.held.contains(&seq) || self.settled.contains(&seq) || waiting.contains(&seq);
        let fresh: Vec<Row> = rows.into_iter().filter(|row| !known(row.seq)).collect();
        let any = !fresh.is_empty();
        self.waiting.extend(fresh);
        any
    }
}
