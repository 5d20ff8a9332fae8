//! The judge: finds lost, doubled and disordered replies from what the simulator itself sees.
//!
//! Method. Each customer text carries a unique token `[ref:00001a2b]`; a reply answers the tokens it contains. Every
//! event gets a *tick*, a microsecond of its own; an acceptance counts 50 ms later, because it and a reply may cross. For each reference the judge knows its place
//! `(received, position)`, when its webhook first got a 2xx (*accepted*), and how many business posts contained it.
//! - duplicate: more than one post contains it.
//! - out of order: when it is first answered, a reference with a larger place has been answered since it was accepted.
//!   The tokens of one post are taken in the order of the text. Equal places have no order.
//! - handed off: unanswered, and after it control went to a human (or was there already), or a post with metadata
//!   `tidegate_kind` = `failure` or `handoff` names its message in `tidegate_ids`.
//! - lost: accepted, not answered, not handed off. While the system works this means "not yet".
//! - misdirected: a post contains a token that was never written in that conversation.

use std::collections::HashMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::simulate::reference::Reference;

/// References judged per conversation; later ones are counted as `unjudged`, so memory stays bounded.
const REFERENCES_MAX: usize = 500_000;

/// Where a message stands in its conversation: when it was received, and its position in its delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Milliseconds since 1970.
    pub received_ms: u64,
    /// The position in the delivery.
    pub position: u32,
}

/// What was counted about references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Customers' messages with a reference.
    pub customers_messages: u64,
    /// References whose webhook got a 2xx.
    pub accepted: u64,
    /// References contained in at least one business post.
    pub answered: u64,
    /// References contained in more than one business post.
    pub duplicates: u64,
    /// References answered after a later one, though they had been accepted before that.
    pub out_of_order: u64,
    /// References that ended with a human or with a failure message instead of an answer.
    pub handed_off: u64,
    /// References accepted, but neither answered nor handed off.
    pub lost: u64,
    /// References with a webhook still to be delivered or tried again; even of an answered one, because a repeated
    /// delivery is what provokes a second answer.
    pub undelivered: u64,
    /// Tokens in posts to a conversation in which they were never written.
    pub misdirected: u64,
    /// Messages beyond the bound of the judge's memory.
    pub unjudged: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.customers_messages += other.customers_messages;
        self.accepted += other.accepted;
        self.answered += other.answered;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.handed_off += other.handed_off;
        self.lost += other.lost;
        self.undelivered += other.undelivered;
        self.misdirected += other.misdirected;
        self.unjudged += other.unjudged;
    }
}

/// Why a reference is named in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offence {
    /// Accepted and unanswered.
    Lost,
    /// Answered by more than one post.
    Duplicate,
    /// Answered after its successor.
    OutOfOrder,
}

/// A customer's message as the judge sees it.
pub struct Written<'a> {
    /// The token in its text.
    pub reference: Reference,
    /// The id of the message, or of the event for a postback.
    pub message_id: &'a str,
    /// Its place in the conversation.
    pub place: Place,
    /// When it was written, in microseconds of any clock.
    pub at_us: u64,
    /// Whether a human is in control.
    pub human: bool,
}

#[derive(Clone, Debug, Default)]
struct Case {
    message_id: String,
    place: Place,
    written_us: u64,
    accepted: Option<u64>,
    posts: u32,
    deliveries: u32,
    out_of_order: bool,
    handed_off: bool,
}

impl Case {
    fn lost(&self) -> bool {
        self.accepted.is_some() && self.posts == 0 && !self.handed_off
    }

    fn tally(&self) -> Tally {
        Tally {
            customers_messages: 1,
            accepted: u64::from(self.accepted.is_some()),
            answered: u64::from(self.posts > 0),
            duplicates: u64::from(self.posts > 1),
            out_of_order: u64::from(self.out_of_order),
            handed_off: u64::from(self.handed_off && self.posts == 0),
            lost: u64::from(self.lost()),
            undelivered: u64::from(self.deliveries > 0),
            ..Tally::default()
        }
    }
}

/// Judges one conversation.
#[derive(Default)]
pub struct Judge {
    cases: HashMap<Reference, Case>,
    messages: HashMap<String, Vec<Reference>>,
    /// First answers `(tick, place)` that no later answer has overtaken: ticks rise, places fall.
    leaders: Vec<(u64, Place)>,
    tally: Tally,
}

impl Judge {
    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// A customer has written.
    pub fn wrote(&mut self, written: &Written<'_>) {
        if self.cases.len() >= REFERENCES_MAX || self.cases.contains_key(&written.reference) {
            self.tally.unjudged += 1;
            return;
        }
        let case = Case {
            message_id: written.message_id.to_owned(),
            place: written.place,
            written_us: written.at_us,
            handed_off: written.human,
            ..Case::default()
        };
        self.tally += case.tally();
        self.messages.entry(case.message_id.clone()).or_default().push(written.reference);
        self.cases.insert(written.reference, case);
    }

    /// A delivery of these references has been queued.
    pub fn queued(&mut self, references: &[Reference]) {
        self.change(references, |case| case.deliveries += 1);
    }

    /// A delivery has ended for good: at `Some(tick)` with a 2xx, or given up.
    pub fn delivered(&mut self, references: &[Reference], accepted: Option<u64>) {
        self.change(references, |case| {
            case.deliveries = case.deliveries.saturating_sub(1);
            case.accepted = case.accepted.or(accepted);
        });
    }

    /// A business post contains these references; tells how long each newly answered one has waited, in microseconds.
    pub fn posted(&mut self, references: &[Reference], tick: u64, now_us: u64) -> Vec<u64> {
        let mut waits = Vec::new();
        for reference in references {
            let Some(case) = self.cases.get(reference) else {
                self.tally.misdirected += 1;
                continue;
            };
            let first = case.posts == 0;
            let overtaken = first && self.overtaken(case);
            if first {
                waits.push(now_us.saturating_sub(case.written_us));
                self.lead(tick, case.place);
            }
            self.change(&[*reference], |case| {
                case.posts += 1;
                case.out_of_order |= overtaken;
            });
        }
        waits
    }

    /// Control has gone to a human: what is unanswered is his.
    pub fn handed_over(&mut self) {
        let open: Vec<_> = self.cases.iter().filter(|(_, case)| case.posts == 0).map(|(known, _)| *known).collect();
        self.change(&open, |case| case.handed_off = true);
    }

    /// A failure or hand-off post names these messages.
    pub fn told(&mut self, message_ids: impl Iterator<Item = impl AsRef<str>>) {
        for id in message_ids {
            let references = self.messages.get(id.as_ref()).cloned().unwrap_or_default();
            self.change(&references, |case| case.handed_off = true);
        }
    }

    /// Takes over the cases of a conversation that was merged into this one.
    pub fn absorb(&mut self, other: Judge) {
        self.tally += other.tally;
        self.cases.extend(other.cases);
        self.messages.extend(other.messages);
        let mut leaders = std::mem::take(&mut self.leaders);
        leaders.extend(other.leaders);
        leaders.sort_unstable();
        leaders.into_iter().for_each(|(tick, place)| self.lead(tick, place));
    }

    /// Everything a report names: the reference, its message and what is wrong with it.
    pub fn offences(&self) -> impl Iterator<Item = (Offence, Reference, &str)> {
        self.cases.iter().flat_map(|(reference, case)| {
            let kinds = [
                (case.lost(), Offence::Lost),
                (case.posts > 1, Offence::Duplicate),
                (case.out_of_order, Offence::OutOfOrder),
            ];
            kinds.into_iter().filter(|(is, _)| *is).map(|(_, kind)| (kind, *reference, case.message_id.as_str()))
        })
    }

    /// Whether something with a larger place was first answered after this case had been accepted.
    fn overtaken(&self, case: &Case) -> bool {
        let Some(accepted) = case.accepted else { return false };
        let since = self.leaders.partition_point(|(tick, _)| *tick <= accepted);
        self.leaders.get(since).is_some_and(|(_, place)| *place > case.place)
    }

    /// Records a first answer. An earlier one with a smaller place can never convict anybody again, because whoever it
    /// overtook the new one overtook as well; dropping it keeps the search logarithmic.
    fn lead(&mut self, tick: u64, place: Place) {
        while self.leaders.last().is_some_and(|(_, known)| *known <= place) {
            self.leaders.pop();
        }
        self.leaders.push((tick, place));
    }

    fn change(&mut self, references: &[Reference], mut change: impl FnMut(&mut Case)) {
        for reference in references {
            let Some(case) = self.cases.get_mut(reference) else { continue };
            let before = case.tally();
            change(case);
            self.tally.replace(before, case.tally());
        }
    }
}

impl Tally {
    fn replace(&mut self, before: Tally, after: Tally) {
        *self += after;
        self.customers_messages -= before.customers_messages;
        self.accepted -= before.accepted;
        self.answered -= before.answered;
        self.duplicates -= before.duplicates;
        self.out_of_order -= before.out_of_order;
        self.handed_off -= before.handed_off;
        self.lost -= before.lost;
        self.undelivered -= before.undelivered;
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
