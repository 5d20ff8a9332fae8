//! The story of one message: each stage and each wait, with its cause (G10).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    job::Job,
    time::{Timestamp, millis},
};

/// The most entries kept for one message, so that one that waits for a day does not grow without bound; later ones
/// replace the last.
pub const ENTRIES_MAX: usize = 64;

/// From so many entries on waits and calls are added to the last of their kind, so that the times still add up.
const ADDED_UP_FROM: usize = 48;

/// What a message waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// To be taken from the queue.
    Queue,
    /// Earlier messages of its conversation to be answered.
    Turn,
    /// More fragments of the same customer.
    Merge,
    /// An earlier message of the conversation that is being tried again.
    Head,
    /// A free slot.
    Slot,
    /// The rate limiter.
    Limiter,
    /// An open breaker.
    Breaker,
    /// The pause after a failure of the AI service.
    Backoff,
    /// The same question asked by another, whose answer serves both.
    Shared,
    /// The pause before it is tried again after it failed.
    Retry,
    /// Zendesk's API.
    Zendesk,
    /// The queue or the state on disk, which could not be written.
    Store,
    /// Another node that works on its conversation.
    Owner,
    /// Its turn to run alone, after it was in hand when the process died.
    Alone,
    /// An operator, who paused the pool.
    Paused,
}

/// One thing that happened to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// Stored durably; the webhook was answered.
    Accepted {
        /// The trace it is part of (32 hexadecimal digits), if its way is traced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
    },
    /// Taken into a conversation's inbox.
    Taken,
    /// Became part of a burst answered by one reply.
    Merged {
        /// How many fragments the burst has.
        fragments: usize,
    },
    /// A newer message of the customer arrived before the reply was posted.
    Superseded,
    /// Waited.
    Waited {
        /// For what.
        on: Wait,
        /// How long, in milliseconds.
        ms: u64,
    },
    /// The AI service was asked.
    Asked {
        /// The service.
        service: String,
        /// How long it took, in milliseconds.
        ms: u64,
        /// `ok`, or the kind of failure.
        outcome: String,
    },
    /// The reply was written into the ledger.
    Intended,
    /// The reply was posted.
    Posted {
        /// In how many parts.
        parts: usize,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// The reply was recorded and not posted (`chat.shadow`).
    Recorded,
    /// Zendesk was searched for our mark, because an earlier post's outcome was not known.
    LookedFor {
        /// How many parts were found there.
        found: usize,
    },
    /// Failed; goes to the dead letters.
    Failed {
        /// The cause, without any text of the customer.
        cause: String,
    },
    /// An operator gave it a new life.
    Replayed {
        /// Which it is: 1, and one more each time.
        replay: u32,
    },
    /// Handed to a human.
    HandedOver,
    /// Answered after a later message of its conversation had been answered (G3).
    Late,
    /// Ended.
    Ended {
        /// How (`outcome` of `messages_total`).
        outcome: String,
    },
}

impl Stage {
    /// How the story of a message begins.
    pub fn accepted(job: &Job) -> Self {
        Self::Accepted { trace: job.trace.map(|trace| trace.trace_id()) }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub stage: Stage,
}

/// The entries of one message, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(Vec<Entry>);

impl Timeline {
    /// Adds an entry.
    pub fn note(&mut self, at: Timestamp, stage: Stage) {
        if self.0.len() >= ADDED_UP_FROM && self.add_up(&stage) {
            return;
        }
        if self.0.len() >= ENTRIES_MAX {
            self.0.pop();
        }
        self.0.push(Entry { at, stage });
    }

    /// Adds the time of a wait or a call to the last one of its kind, if there is one.
    fn add_up(&mut self, stage: &Stage) -> bool {
        self.0.iter_mut().rev().any(|entry| match (&mut entry.stage, stage) {
            (Stage::Waited { on, ms }, Stage::Waited { on: other, ms: more }) if on == other => {
                *ms += more;
                true
            }
            (Stage::Asked { service, ms, outcome }, Stage::Asked { service: other, ms: more, outcome: ended })
                if service == other && outcome == ended =>
            {
                *ms += more;
                true
            }
            _ => false,
        })
    }

    /// Puts what befell the message in earlier tries and lives before this one; the time between is the wait for the
    /// retry, in a new life that in the queue.
    pub fn go_on(&mut self, earlier: Self) {
        let Some((last, stage)) = earlier.0.last().map(|entry| (entry.at, entry.stage.clone())) else { return };
        let on = if matches!(stage, Stage::Replayed { .. }) { Wait::Queue } else { Wait::Retry };
        let this = std::mem::replace(self, earlier);
        for entry in this.0 {
            match entry.stage {
                Stage::Accepted { .. } => {}
                Stage::Taken => {
                    let ms = millis(entry.at.since(last));
                    self.note(entry.at, Stage::Waited { on, ms });
                    self.note(entry.at, Stage::Taken);
                }
                stage => self.note(entry.at, stage),
            }
        }
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }
}

/// How a message ended (G1): exactly one of these is recorded for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered by a reply of its own or as the head of a burst.
    Replied,
    /// Answered by the reply of the burst it was merged into.
    Merged,
    /// A human holds the conversation, or it was removed.
    Ignored,
    /// Handed to a human.
    HandedOver,
    /// Could not be answered; lies among the parked dead letters.
    Parked,
    /// A state change, applied.
    Applied,
    /// The same message had been answered already.
    Duplicate,
    /// Removed by an operator or with its customer.
    Discarded,
}

impl Outcome {
    /// Every outcome, for metrics that start at zero.
    pub const ALL: [Self; 8] = [
        Self::Replied,
        Self::Merged,
        Self::Ignored,
        Self::HandedOver,
        Self::Parked,
        Self::Applied,
        Self::Duplicate,
        Self::Discarded,
    ];

    /// The outcome as label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replied => "replied",
            Self::Merged => "merged",
            Self::Ignored => "ignored",
            Self::HandedOver => "handed_over",
            Self::Parked => "parked",
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Discarded => "discarded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_bounded_and_keeps_its_beginning_and_its_end() {
        let mut timeline = Timeline::default();
        for n in 0..500 {
            timeline.note(Timestamp(n), Stage::Taken);
        }
        timeline.note(Timestamp(500), Stage::HandedOver);
        assert_eq!(timeline.entries().len(), ENTRIES_MAX);
        assert_eq!(timeline.entries()[0].at, Timestamp(0));
        assert_eq!(timeline.entries().last().unwrap().stage, Stage::HandedOver);
    }

    #[test]
    fn a_long_story_still_adds_up() {
        let mut timeline = Timeline::default();
        timeline.note(Timestamp(0), Stage::Taken);
        for n in 0..1_000 {
            timeline.note(Timestamp(n), Stage::Waited { on: Wait::Backoff, ms: 10 });
            let asked = Stage::Asked { service: "primary".into(), ms: 5, outcome: "5xx".into() };
            timeline.note(Timestamp(n), asked);
        }
        timeline.note(Timestamp(2_000), Stage::HandedOver);
        let spent: u64 = timeline
            .entries()
            .iter()
            .map(|entry| match &entry.stage {
                Stage::Waited { ms, .. } | Stage::Asked { ms, .. } => *ms,
                _ => 0,
            })
            .sum();
        assert_eq!(spent, 15_000);
        assert!(timeline.entries().len() <= ENTRIES_MAX);
    }

    #[test]
    fn a_further_try_goes_on_with_the_story() {
        let failed = Stage::Failed { cause: "panic".into() };
        let mut earlier = Timeline::default();
        for (at, stage) in [(0, Stage::Accepted { trace: None }), (1, Stage::Taken), (5, failed.clone())] {
            earlier.note(Timestamp(at), stage);
        }
        let mut timeline = Timeline::default();
        timeline.note(Timestamp(0), Stage::Accepted { trace: None });
        timeline.note(Timestamp(2_005), Stage::Taken);
        timeline.go_on(earlier);
        let stages: Vec<&Stage> = timeline.entries().iter().map(|entry| &entry.stage).collect();
        let waited = Stage::Waited { on: Wait::Retry, ms: 2_000 };
        assert_eq!(stages, [&Stage::Accepted { trace: None }, &Stage::Taken, &failed, &waited, &Stage::Taken]);
    }
}
