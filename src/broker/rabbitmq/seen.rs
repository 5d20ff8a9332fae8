//! Which messages this node has published lately. It spares the queue most of Zendesk's repetitions and is lost with
//! the process: the settlement, which all nodes share, has the last word.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broker::{Publication, Published};

/// Ids remembered, of events and of messages together.
pub const IDS_MAX: usize = 200_000;

/// The ids.
#[derive(Default)]
pub struct Seen {
    memory: Arc<Mutex<Memory>>,
    ended: Arc<Notify>,
}

#[derive(Default)]
struct Memory {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    under_way: HashSet<Arc<str>>,
}

/// New ids, under way as long as this exists. They are remembered only if it is kept.
#[must_use = "what is not kept is not remembered"]
pub struct Claim {
    ids: Vec<Arc<str>>,
    memory: Arc<Mutex<Memory>>,
    ended: Arc<Notify>,
}

impl Seen {
    /// Remembers messages of an earlier time, the last one first.
    pub fn remember(&self, earlier: &[[String; 2]]) {
        let mut memory = self.memory.lock();
        for [event, message] in earlier.iter().rev() {
            memory.remember(named(event, message));
        }
    }

    /// Tells what is new, and claims it. Waits for whoever has one of the same messages under way; all are claimed at
    /// once, so that two cannot wait for each other.
    pub async fn claim(&self, messages: &[Publication]) -> (Claim, Vec<Published>) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if let Some(claimed) = self.try_claim(messages) {
                return claimed;
            }
            ended.await;
        }
    }

    fn try_claim(&self, messages: &[Publication]) -> Option<(Claim, Vec<Published>)> {
        let mut memory = self.memory.lock();
        let ids: Vec<Option<[Arc<str>; 2]>> = messages.iter().map(ids).collect();
        if ids.iter().flatten().flatten().any(|id| memory.under_way.contains(id)) {
            return None;
        }
        let mut claimed = Vec::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for ids in ids {
            let Some([event, message]) = ids else {
                outcomes.push(Published::Stored);
                continue;
            };
            let is_known = |id: &Arc<str>| memory.known.contains(id) || memory.under_way.contains(id);
            let outcome = match (is_known(&event), is_known(&message)) {
                (true, _) => Published::DuplicateEvent,
                (_, true) => Published::DuplicateMessage,
                _ => Published::Stored,
            };
            outcomes.push(outcome);
            if outcome == Published::Stored {
                memory.under_way.extend([event.clone(), message.clone()]);
                claimed.extend([event, message]);
            }
        }
        Some((Claim { ids: claimed, memory: self.memory.clone(), ended: self.ended.clone() }, outcomes))
    }
}

impl Claim {
    /// They are safe: remembers them.
    pub fn keep(self) {
        self.memory.lock().remember(self.ids.iter().cloned());
    }
}

impl Memory {
    fn remember(&mut self, ids: impl IntoIterator<Item = Arc<str>>) {
        for id in ids {
            if self.known.insert(id.clone()) {
                self.order.push_back(id);
            }
        }
        while self.order.len() > IDS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut memory = self.memory.lock();
        for id in &self.ids {
            memory.under_way.remove(id);
        }
        drop(memory);
        self.ended.notify_waiters();
    }
}

/// `None`: it was imported, and may have been here before.
fn ids(message: &Publication) -> Option<[Arc<str>; 2]> {
    let is_new_here = message.job.imported.is_none();
    is_new_here.then(|| named(message.job.id.as_str(), message.job.message.as_str()))
}

/// The two kinds of id may be equal.
fn named(event: &str, message: &str) -> [Arc<str>; 2] {
    [format!("e:{event}").into(), format!("m:{message}").into()]
}
