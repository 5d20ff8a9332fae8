//! Keeps one hot conversation from filling its partition's window: what exceeds its share goes round through a delay
//! tier and comes back later, in order.
//!
//! Which messages are away is kept in memory, so a node that takes over a partition does not know: that costs order,
//! never a message (design rule 9).

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::domain::ids::{ConversationId, EventId};

/// One that does not come back for so long after its time went another way: it was removed, or another node had it.
const LATE: Duration = Duration::from_secs(60);

/// The messages that are away, by conversation, in their order.
#[derive(Debug, Default)]
pub struct Overflow(HashMap<ConversationId, VecDeque<Away>>);

#[derive(Debug)]
struct Away {
    id: EventId,
    /// When it should be back (monotonic).
    back: Duration,
}

impl Overflow {
    /// Whether a message may be held now: there is room for it, and none before it is away. One that may is not away any
    /// more.
    pub fn admits(&mut self, conversation: &ConversationId, id: &EventId, has_room: bool, now: Duration) -> bool {
        let Some(away) = self.0.get_mut(conversation) else { return has_room };
        while away.front().is_some_and(|first| first.id != *id && first.back + LATE < now) {
            away.pop_front();
        }
        let is_first = away.front().is_none_or(|first| first.id == *id);
        if !is_first || !has_room {
            return false;
        }
        away.pop_front();
        if away.is_empty() {
            self.0.remove(conversation);
        }
        true
    }

    /// How many of the conversation's messages are before this one, which has to go round (again).
    pub fn before(&self, conversation: &ConversationId, id: &EventId) -> usize {
        let Some(away) = self.0.get(conversation) else { return 0 };
        away.iter().position(|one| one.id == *id).unwrap_or(away.len())
    }

    /// A message goes round and should be back then (monotonic).
    pub fn sent(&mut self, conversation: &ConversationId, id: &EventId, back: Duration) {
        let away = self.0.entry(conversation.clone()).or_default();
        match away.iter_mut().find(|one| one.id == *id) {
            Some(one) => one.back = back,
            None => away.push_back(Away { id: id.clone(), back }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> EventId {
        EventId::new(&format!("e{n}")).unwrap()
    }

    #[test]
    fn what_goes_round_is_held_in_its_order() {
        let (mut overflow, c) = (Overflow::default(), ConversationId::new("c").unwrap());
        let now = Duration::ZERO;
        assert!(overflow.admits(&c, &id(1), true, now));
        for n in 2..=4 {
            assert!(!overflow.admits(&c, &id(n), false, now));
            assert_eq!(overflow.before(&c, &id(n)), n - 2);
            overflow.sent(&c, &id(n), Duration::from_secs(1));
        }
        assert!(!overflow.admits(&c, &id(5), true, now), "there is room, but others were before it");
        overflow.sent(&c, &id(5), Duration::from_secs(1));
        assert!(!overflow.admits(&c, &id(3), true, now), "the second comes back first");
        assert!(!overflow.admits(&c, &id(2), false, now), "no room yet");
        for n in 2..=5 {
            assert!(overflow.admits(&c, &id(n), true, now), "{n}");
        }
        assert!(overflow.0.is_empty());
        assert!(overflow.admits(&c, &id(6), true, now));
    }

    #[test]
    fn one_that_never_comes_back_holds_up_its_followers_for_a_while_only() {
        let (mut overflow, c) = (Overflow::default(), ConversationId::new("c").unwrap());
        for n in 1..=2 {
            overflow.sent(&c, &id(n), Duration::from_secs(1));
        }
        assert!(!overflow.admits(&c, &id(2), true, Duration::from_secs(60)));
        assert!(overflow.admits(&c, &id(2), true, Duration::from_secs(62)));
        assert!(overflow.0.is_empty());
    }
}
