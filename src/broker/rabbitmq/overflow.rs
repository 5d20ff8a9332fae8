//! Keeps one hot conversation from filling its partition's window: what exceeds its share makes a detour through a delay
//! tier and comes back later, in order.
//!
//! A mark for each message that is away keeps the order: whoever follows waits behind it. When a channel is opened anew,
//! what was held comes again, before all else and in its order; it is marked as well, in front of what is away. The marks
//! are kept in memory, so a node that takes over a partition has none: that costs order, never a message (design rule 9).

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::domain::ids::{ConversationId, EventId};

/// All come back in the order of their times, give or take the time a server takes to notice them. One that should have
/// been back so long before another that is back went another way: it was removed, or another node had it.
const SLACK: Duration = Duration::from_secs(30);

/// Marks of one partition at most; what exceeds them is away without one.
const MARKS_MAX: usize = 100_000;

/// The messages that are away, by conversation.
#[derive(Debug, Default)]
pub struct Overflow {
    lines: HashMap<ConversationId, Line>,
    marks: usize,
}

/// The marks of one conversation, in order.
#[derive(Debug, Default)]
struct Line {
    marks: VecDeque<Mark>,
    /// The number of each, which grows from mark to mark.
    numbers: HashMap<EventId, i64>,
    /// The number of the first one.
    first: i64,
}

#[derive(Debug)]
struct Mark {
    id: EventId,
    /// When it should be back (monotonic); `None`: it was held, and comes again before all others.
    back: Option<Duration>,
}

impl Line {
    fn pop(&mut self) -> usize {
        let Some(mark) = self.marks.pop_front() else { return 0 };
        self.numbers.remove(&mark.id);
        self.first += 1;
        1
    }

    /// Where it stands, if it is away.
    fn place(&self, id: &EventId) -> Option<usize> {
        self.numbers.get(id).and_then(|number| usize::try_from(number - self.first).ok())
    }
}

impl Overflow {
    /// Whether a message may be held now: there is room for it, and none before it is away. One that may is not away any
    /// more.
    pub fn admits(&mut self, conversation: &ConversationId, id: &EventId, has_room: bool) -> bool {
        let Some(line) = self.lines.get_mut(conversation) else { return has_room };
        let place = line.place(id);
        let comes_again = place.is_some_and(|place| line.marks[place].back.is_none());
        let was_due = place.and_then(|place| line.marks[place].back).unwrap_or_default();
        // Those that were held come in their order and first: whoever is passed by was settled after all.
        let passed = |line: &Line, n: usize| {
            let mark = line.marks.front().filter(|mark| mark.id != *id)?;
            let is_gone = match mark.back {
                None => !comes_again || place.is_some_and(|place| n < place),
                Some(back) => back + SLACK < was_due,
            };
            is_gone.then_some(())
        };
        let mut gone = 0;
        while passed(line, gone).is_some() {
            gone += line.pop();
        }
        let is_first = line.marks.front().is_none_or(|first| first.id == *id);
        let admitted = is_first && (has_room || comes_again);
        if admitted {
            gone += line.pop();
        }
        if line.marks.is_empty() {
            self.lines.remove(conversation);
        }
        self.marks -= gone;
        admitted
    }

    /// How many of the conversation's messages are before this one, which has to make a detour (again).
    pub fn before(&self, conversation: &ConversationId, id: &EventId) -> usize {
        let Some(line) = self.lines.get(conversation) else { return 0 };
        line.place(id).unwrap_or(line.marks.len())
    }

    /// A message makes a detour and should be back then (monotonic).
    pub fn away(&mut self, conversation: &ConversationId, id: &EventId, back: Duration) {
        let line = self.lines.entry(conversation.clone()).or_default();
        match line.place(id) {
            Some(place) => line.marks[place].back = Some(back),
            None if self.marks < MARKS_MAX => {
                let number = line.first + i64::try_from(line.marks.len()).unwrap_or(i64::MAX);
                line.marks.push_back(Mark { id: id.clone(), back: Some(back) });
                line.numbers.insert(id.clone(), number);
                self.marks += 1;
            }
            None => {}
        }
        if line.marks.is_empty() {
            self.lines.remove(conversation);
        }
    }

    /// The channel is opened anew: what was held, in its order, comes again.
    pub fn come_again<'a>(&mut self, held: impl DoubleEndedIterator<Item = (&'a ConversationId, &'a EventId)>) {
        for (conversation, id) in held.rev() {
            let Some(line) = self.lines.get_mut(conversation) else { continue };
            if line.place(id).is_none() {
                line.first -= 1;
                line.numbers.insert(id.clone(), line.first);
                line.marks.push_front(Mark { id: id.clone(), back: None });
                self.marks += 1;
            }
        }
    }

    /// Another node goes on.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> EventId {
        EventId::new(&format!("e{n}")).unwrap()
    }

    fn conversation() -> ConversationId {
        ConversationId::new("c").unwrap()
    }

    const SOON: Duration = Duration::from_secs(1);

    #[test]
    fn what_makes_a_detour_is_held_in_its_order() {
        let (mut overflow, c) = (Overflow::default(), conversation());
        assert!(overflow.admits(&c, &id(1), true));
        for n in 2..=4 {
            assert!(!overflow.admits(&c, &id(n), false));
            assert_eq!(overflow.before(&c, &id(n)), n - 2);
            overflow.away(&c, &id(n), SOON);
        }
        assert!(!overflow.admits(&c, &id(5), true), "there is room, but others were before it");
        overflow.away(&c, &id(5), SOON);
        assert!(!overflow.admits(&c, &id(3), true), "the second comes back first");
        assert_eq!(overflow.before(&c, &id(3)), 1);
        assert!(!overflow.admits(&c, &id(2), false), "no room yet");
        for n in 2..=5 {
            assert!(overflow.admits(&c, &id(n), true), "{n}");
        }
        assert!(overflow.lines.is_empty() && overflow.marks == 0);
        assert!(overflow.admits(&c, &id(6), true));
    }

    #[test]
    fn one_that_never_comes_back_holds_up_its_followers_until_one_is_back_that_was_due_later() {
        let (mut overflow, c) = (Overflow::default(), conversation());
        for n in 1..=2 {
            overflow.away(&c, &id(n), SOON);
        }
        assert!(!overflow.admits(&c, &id(2), true), "the first may come a moment later");
        overflow.away(&c, &id(2), SOON * 2 + SLACK);
        assert!(overflow.admits(&c, &id(2), true), "the first went another way");
        assert!(overflow.lines.is_empty() && overflow.marks == 0);
    }

    #[test]
    fn what_was_held_comes_before_what_is_away_when_the_channel_is_opened_anew() {
        let (mut overflow, c) = (Overflow::default(), conversation());
        for n in 4..=5 {
            overflow.away(&c, &id(n), SOON);
        }
        let held = [id(1), id(2), id(3)];
        overflow.come_again(held.iter().map(|id| (&c, id)));
        assert!(overflow.admits(&c, &id(1), false), "it had a place before");
        // The second was acknowledged in time: it does not come again.
        assert!(overflow.admits(&c, &id(3), true));
        assert!(!overflow.admits(&c, &id(5), true), "the fourth is away");
        assert!(overflow.admits(&c, &id(4), true) && overflow.admits(&c, &id(5), true));
        assert!(overflow.lines.is_empty() && overflow.marks == 0);
    }

    #[test]
    fn what_was_held_and_does_not_come_again_holds_up_nobody() {
        let (mut overflow, c) = (Overflow::default(), conversation());
        overflow.away(&c, &id(3), SOON);
        let held = [id(1), id(2)];
        overflow.come_again(held.iter().map(|id| (&c, id)));
        assert!(overflow.admits(&c, &id(3), true), "both were acknowledged in time");
        assert!(overflow.lines.is_empty() && overflow.marks == 0);
    }

    #[test]
    fn marks_are_bounded() {
        let (mut overflow, c) = (Overflow::default(), conversation());
        for n in 0..MARKS_MAX + 10 {
            overflow.away(&c, &id(n), SOON);
        }
        assert_eq!(overflow.marks, MARKS_MAX);
        overflow.away(&ConversationId::new("d").unwrap(), &id(1), SOON);
        assert_eq!(overflow.lines.len(), 1, "no empty line is left");
    }
}
