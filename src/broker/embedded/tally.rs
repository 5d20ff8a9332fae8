//! Counts what lies in the queue, so that limits and metrics cost no I/O.

use super::schema::Census;
use crate::broker::{Count, Lane, Standing};

const LANES: [Lane; 2] = [Lane::Chat, Lane::Events];
const STANDINGS: [Standing; 5] =
    [Standing::Ready, Standing::InHand, Standing::Delayed, Standing::Dead, Standing::Parked];

/// Messages by lane and standing, and the bytes of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    messages: [[u64; STANDINGS.len()]; LANES.len()],
    bytes: u64,
}

fn position(standing: Standing) -> usize {
    STANDINGS.iter().position(|known| *known == standing).expect("every standing is listed")
}

impl Tally {
    /// Begins with what the disk holds.
    pub fn new(census: &Census) -> Self {
        let mut tally = Self::default();
        for (lane, messages, bytes) in &census.lanes {
            tally.messages[*lane as usize][position(Standing::Ready)] = *messages;
            tally.bytes += bytes;
        }
        for (lane, standing, messages) in &census.aside {
            tally.messages[*lane as usize][position(*standing)] = *messages;
            tally.messages[*lane as usize][position(Standing::Ready)] -= messages;
        }
        tally
    }

    pub fn added(&mut self, lane: Lane, standing: Standing, bytes: u64) {
        self.messages[lane as usize][position(standing)] += 1;
        self.bytes += bytes;
    }

    pub fn removed(&mut self, lane: Lane, standing: Standing, bytes: u64) {
        let count = &mut self.messages[lane as usize][position(standing)];
        *count = count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn moved(&mut self, lane: Lane, from: Standing, to: Standing) {
        self.removed(lane, from, 0);
        self.added(lane, to, 0);
    }

    /// A dead letter in hand still counts as dead: somebody looks at it, nobody works on it.
    pub fn taken(&mut self, lane: Lane, dead: bool) {
        if !dead {
            self.moved(lane, Standing::Ready, Standing::InHand);
        }
    }

    /// The messages of one lane and standing.
    pub fn of(&self, lane: Lane, standing: Standing) -> u64 {
        self.messages[lane as usize][position(standing)]
    }

    /// All messages.
    pub fn messages(&self) -> u64 {
        self.messages.iter().flatten().sum()
    }

    /// The bytes of all messages.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One count for each lane and standing.
    pub fn counts(&self) -> Vec<Count> {
        let count = |lane: Lane, standing| Count { lane, standing, messages: self.of(lane, standing), oldest: None };
        LANES.into_iter().flat_map(|lane| STANDINGS.into_iter().map(move |standing| count(lane, standing))).collect()
    }
}
