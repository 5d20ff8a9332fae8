//! What a queue keeps in memory of what lies on the disk: the next messages, who holds how many, how far it has read.
//!
//! A published message goes straight from the writer into `ready`, as long as the queue has read everything before it
//! and there is room; otherwise it stays on the disk and is read when its turn comes. A conversation that holds its
//! share is *saturated*: its further messages stay on the disk and are read for it alone when it has settled some, so
//! that one hot conversation does not fill the window of all.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use crate::{
    broker::Lane,
    domain::{ids::ConversationId, job::Job, time::Timestamp},
};

/// Messages kept in memory ahead of the consumer, per queue.
pub(super) const READY_MAX: usize = 2_048;

/// One stored message.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub seq: i64,
    pub lane: Lane,
    pub job: Arc<Job>,
    pub tries: u32,
    pub replay: u32,
    pub bytes: u64,
    pub redelivered: bool,
    pub reason: Option<String>,
}

/// What the shelf wants to have read from the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// The next ready rows behind `after`.
    Backlog { after: i64, committed: i64 },
    /// The next ready rows of one conversation behind `after`.
    Conversation { id: ConversationId, after: i64, passed_to: i64, limit: usize },
}

#[derive(Debug, Clone, Copy)]
struct Saturated {
    /// The last row given out.
    taken_to: i64,
    /// The last row that was passed over in memory, and so has to be read again.
    passed_to: i64,
}

/// The memory of one queue.
#[derive(Debug)]
pub(super) struct Shelf {
    share: usize,
    ready: VecDeque<Row>,
    /// Rows that were out and have come back, or whose time has come, by number; they go first.
    returned: VecDeque<Row>,
    reached: i64,
    committed: i64,
    caught_up: bool,
    held: HashMap<ConversationId, usize>,
    /// By number, with the time they were taken in.
    in_hand: BTreeMap<i64, Timestamp>,
    /// Rows that left somebody's hand while a reading was under way; what is read of them is out of date.
    settled: HashSet<i64>,
    reading: bool,
    saturated: HashMap<ConversationId, Saturated>,
    /// Conversations that were saturated: rows up to here have been given out although they still lie in `ready`.
    resumed: HashMap<ConversationId, i64>,
    wanted: HashSet<ConversationId>,
}

impl Shelf {
    /// `share`: the most messages one conversation may hold.
    pub fn new(share: usize, committed: i64) -> Self {
        Self {
            share: share.max(1),
            ready: VecDeque::new(),
            returned: VecDeque::new(),
            reached: 0,
            committed,
            caught_up: committed == 0,
            held: HashMap::new(),
            in_hand: BTreeMap::new(),
            settled: HashSet::new(),
            reading: false,
            saturated: HashMap::new(),
            resumed: HashMap::new(),
            wanted: HashSet::new(),
        }
    }

    /// A row was committed.
    pub fn published(&mut self, row: &Row) {
        self.committed = row.seq;
        if self.caught_up && self.ready.len() < READY_MAX {
            self.reached = row.seq;
            self.ready.push_back(row.clone());
        } else {
            self.caught_up = false;
        }
    }

    /// A row has come back, or its time has come.
    pub fn returned(&mut self, row: Row) {
        let place = self.returned.partition_point(|waiting| waiting.seq < row.seq);
        self.returned.insert(place, row);
    }

    /// Whether somebody has it in hand.
    pub fn holds(&self, seq: i64) -> bool {
        self.in_hand.contains_key(&seq)
    }

    /// When the oldest unsettled row in memory was taken in; else the number behind which the disk may hold one.
    pub fn oldest(&self) -> Result<Timestamp, Option<i64>> {
        let waiting =
            self.returned.front().into_iter().chain(self.ready.front()).map(|row| (row.seq, row.job.first_seen));
        let oldest = waiting
            .chain(self.in_hand.iter().next().map(|(seq, first_seen)| (*seq, *first_seen)))
            .min_by_key(|(seq, _)| *seq);
        oldest.map(|(_, first_seen)| first_seen).ok_or((!self.caught_up).then_some(self.reached))
    }

    /// A row that was held has been settled.
    pub fn released(&mut self, row: &Row) {
        let conversation = &row.job.conversation;
        self.in_hand.remove(&row.seq);
        if self.reading {
            self.settled.insert(row.seq);
        }
        let left = match self.held.get_mut(conversation) {
            Some(held) => {
                *held -= 1;
                *held
            }
            None => 0,
        };
        if left == 0 {
            self.held.remove(conversation);
        }
        if left <= self.share / 2 && self.saturated.contains_key(conversation) {
            self.wanted.insert(conversation.clone());
        }
    }

    /// Nobody is given the row until it is let go.
    pub fn withhold(&mut self, row: &Row) {
        self.in_hand.insert(row.seq, row.job.first_seen);
    }

    /// They wait no longer to be given out.
    pub fn leave_out(&mut self, withheld: &HashSet<i64>) {
        self.ready.retain(|row| !withheld.contains(&row.seq));
        self.returned.retain(|row| !withheld.contains(&row.seq));
    }

    /// The row is withheld no more: it has gone, or is put back.
    pub fn let_go(&mut self, seq: i64) {
        self.in_hand.remove(&seq);
        if self.reading {
            self.settled.insert(seq);
        }
    }

    /// Gives out at most `room` rows.
    pub fn pop(&mut self, room: usize) -> Vec<Row> {
        let mut out = Vec::new();
        while out.len() < room {
            let Some(row) = self.returned.pop_front().or_else(|| self.next_ready()) else { break };
            *self.held.entry(row.job.conversation.clone()).or_default() += 1;
            self.in_hand.insert(row.seq, row.job.first_seen);
            out.push(row);
        }
        if self.ready.is_empty() && self.caught_up {
            self.resumed.clear();
        }
        out
    }

    fn next_ready(&mut self) -> Option<Row> {
        while let Some(row) = self.ready.pop_front() {
            let conversation = &row.job.conversation;
            if self.resumed.get(conversation).is_some_and(|given_to| row.seq <= *given_to) {
                continue;
            }
            if let Some(saturated) = self.saturated.get_mut(conversation) {
                saturated.passed_to = row.seq;
                continue;
            }
            if self.held.get(conversation).is_some_and(|held| *held >= self.share) {
                let saturated = Saturated { taken_to: row.seq - 1, passed_to: row.seq };
                self.saturated.insert(conversation.clone(), saturated);
                continue;
            }
            return Some(row);
        }
        None
    }

    /// What has to be read before more can be given out, if anything. A reading that was wished for before and not
    /// brought is forgotten.
    pub fn wish(&mut self) -> Option<Wish> {
        let wish = self.next_wish();
        self.settled.clear();
        self.reading = wish.is_some();
        wish
    }

    fn next_wish(&self) -> Option<Wish> {
        if let Some(id) = self.wanted.iter().next() {
            let (after, passed_to) = self.saturated.get(id).map_or((i64::MAX, 0), |it| (it.taken_to, it.passed_to));
            let limit = self.share.saturating_sub(self.held.get(id).copied().unwrap_or(0)).max(1);
            return Some(Wish::Conversation { id: id.clone(), after, passed_to, limit });
        }
        let exhausted = self.ready.is_empty() && !self.caught_up;
        exhausted.then_some(Wish::Backlog { after: self.reached, committed: self.committed })
    }

    /// Takes what was read for `Wish::Backlog` with `limit`.
    pub fn backlog(&mut self, rows: Vec<Row>, limit: usize, committed_before: i64) {
        let complete = rows.len() < limit;
        match rows.last() {
            _ if complete => self.reached = committed_before,
            Some(last) => self.reached = last.seq,
            None => {}
        }
        // Rows committed since the reading began were not put into `ready`; they are read in the next round.
        self.caught_up = complete && self.committed == committed_before;
        let fresh = self.fresh(rows);
        self.ready.extend(fresh);
    }

    /// What of the rows read is not out already: a row whose time has come goes out before the reading has reached it.
    fn fresh(&mut self, rows: Vec<Row>) -> Vec<Row> {
        self.reading = false;
        let returned: HashSet<i64> = self.returned.iter().map(|row| row.seq).collect();
        let known = |seq| self.in_hand.contains_key(&seq) || self.settled.contains(&seq) || returned.contains(&seq);
        rows.into_iter().filter(|row| !known(row.seq)).collect()
    }

    /// Takes what was read for `Wish::Conversation`; `limit` and `passed_to` are those of the wish.
    pub fn conversation(&mut self, id: &ConversationId, rows: Vec<Row>, limit: usize, passed_to: i64) {
        let complete = rows.len() < limit;
        if let Some(saturated) = self.saturated.get_mut(id) {
            saturated.taken_to = rows.last().map_or(saturated.taken_to, |last| last.seq);
            // Rows passed over since the reading began may be missing from it: then it is read once more.
            let missed_none = saturated.passed_to == passed_to;
            if complete && missed_none {
                self.resumed.insert(id.clone(), saturated.taken_to.max(passed_to));
                self.saturated.remove(id);
            }
            if !complete || missed_none {
                self.wanted.remove(id);
            }
        } else {
            self.wanted.remove(id);
        }
        self.fresh(rows).into_iter().for_each(|row| self.returned(row));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        ids::{EventId, MessageId},
        job::Kind,
        time::Timestamp,
    };

    const SHARE: usize = 4;

    fn row(seq: i64, conversation: &str) -> Row {
        let job = Job::new(
            EventId::new(&format!("e{seq}")).unwrap(),
            MessageId::new(&format!("m{seq}")).unwrap(),
            ConversationId::new(conversation).unwrap(),
            Kind::ConversationRemoved,
            Timestamp(seq),
        );
        Row { seq, lane: Lane::Chat, job: job.into(), tries: 0, replay: 0, bytes: 1, redelivered: false, reason: None }
    }

    /// The disk, and a reading that has begun: the rows it will bring and the wish it answers.
    struct World {
        shelf: Shelf,
        disk: Vec<Row>,
        held: Vec<Row>,
        given: Vec<i64>,
        reading: Option<(Wish, Vec<Row>)>,
    }

    const BACKLOG_LIMIT: usize = 3;

    impl World {
        fn new() -> Self {
            Self { shelf: Shelf::new(SHARE, 0), disk: Vec::new(), held: Vec::new(), given: Vec::new(), reading: None }
        }

        fn publish(&mut self, seq: i64, conversation: u8) {
            let row = row(seq, &format!("c{conversation}"));
            self.disk.push(row.clone());
            self.shelf.published(&row);
        }

        fn take(&mut self, room: usize) {
            for row in self.shelf.pop(room) {
                self.given.push(row.seq);
                self.held.push(row);
            }
        }

        fn settle(&mut self, which: usize) {
            if self.held.is_empty() {
                return;
            }
            let row = self.held.remove(which % self.held.len());
            self.disk.retain(|on_disk| on_disk.seq != row.seq);
            self.shelf.released(&row);
        }

        fn begin_reading(&mut self) {
            let Some(wish) = self.shelf.wish() else { return };
            let (after, limit, of) = match &wish {
                Wish::Backlog { after, .. } => (*after, BACKLOG_LIMIT, None),
                Wish::Conversation { id, after, limit, .. } => (*after, *limit, Some(id.clone())),
            };
            let wanted = |row: &&Row| row.seq > after && of.as_ref().is_none_or(|id| *id == row.job.conversation);
            let rows = self.disk.iter().filter(wanted).take(limit).cloned().collect();
            self.reading = Some((wish, rows));
        }

        fn end_reading(&mut self) {
            match self.reading.take() {
                Some((Wish::Backlog { committed, .. }, rows)) => self.shelf.backlog(rows, BACKLOG_LIMIT, committed),
                Some((Wish::Conversation { id, limit, passed_to, .. }, rows)) => {
                    self.shelf.conversation(&id, rows, limit, passed_to);
                }
                None => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
        #[test]
        fn every_row_is_given_out_once_and_in_order_within_its_conversation(
            steps in prop::collection::vec((0_u8..6, 0_u8..3, any::<usize>()), 1..300)
        ) {
            let mut world = World::new();
            let mut conversations = HashMap::new();
            let mut published = 0;
            for (step, conversation, n) in steps {
                match step {
                    0 | 1 => {
                        published += 1;
                        conversations.insert(published, conversation);
                        world.publish(published, conversation);
                    }
                    2 => world.take(n % 6),
                    3 => world.settle(n),
                    4 if world.reading.is_none() => world.begin_reading(),
                    _ => world.end_reading(),
                }
            }
            // Let it run dry: whatever is left is given out in finitely many rounds.
            for _ in 0..published * 4 + 20 {
                world.end_reading();
                world.take(10);
                world.settle(0);
                world.begin_reading();
            }
            let mut given = world.given.clone();
            for of in 0..3 {
                let order: Vec<_> = given.iter().filter(|seq| conversations[*seq] == of).collect();
                prop_assert!(order.is_sorted(), "conversation {} came as {:?}", of, order);
            }
            given.sort_unstable();
            prop_assert_eq!(given, (1..=published).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_hot_conversation_holds_no_more_than_its_share() {
        let mut world = World::new();
        (1..=100).for_each(|seq| world.publish(seq, 0));
        world.publish(101, 1);
        world.take(1_000);
        assert_eq!(world.given, [1, 2, 3, 4, 101], "its neighbour does not wait");
    }
}
