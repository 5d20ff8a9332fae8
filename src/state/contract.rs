//! What every shared state owes its callers, as functions over a [`Factory`]: each implementation runs all of them
//! through [`contract!`]. What is not said here, callers may not assume.

mod budgets;
mod control;
mod keeping;
mod ledger;
mod model;
mod operations;
mod properties;

use std::time::Duration;

use async_trait::async_trait;

use super::{Life, Recall, Record, RetentionConfig, Shared};
use crate::domain::{
    ids::{ConversationId, EventId, MessageId, UserId},
    reply::{Purpose, Reply},
    time::Timestamp,
    timeline::{Outcome, Timeline},
};

/// A place where one state after the other keeps the same memories.
#[async_trait]
pub(super) trait Factory: Send + Sync {
    /// Opens a state on what the one before has left. That one ends first.
    async fn open(&self, retention: RetentionConfig, now: Timestamp) -> Shared;

    /// The same, on a place of its own.
    async fn fresh(&self) -> Shared;
}

pub(super) use budgets::*;
pub(super) use control::*;
pub(super) use keeping::*;
pub(super) use ledger::*;
pub(super) use operations::*;
pub(super) use properties::*;

/// Texts are kept a day, everything else a week.
pub(super) const RETENTION: RetentionConfig = RetentionConfig {
    parked: Duration::from_secs(30 * 24 * 3_600),
    history: Duration::from_secs(7 * 24 * 3_600),
    results: Duration::from_secs(24 * 3_600),
    audit: Duration::from_secs(90 * 24 * 3_600),
};

const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// When the tests begin: later than the longest retention, so that nothing is older than time itself.
const BEGIN: Timestamp = Timestamp(100 * DAY_MS);

fn later(ms: i64) -> Timestamp {
    Timestamp(BEGIN.0 + ms)
}

pub(super) fn message(id: &str) -> MessageId {
    MessageId::new(id).unwrap()
}

pub(super) fn conversation(id: &str) -> ConversationId {
    ConversationId::new(id).unwrap()
}

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

/// A life of a message that came long after the ledger was born.
fn life(id: &str, replay: u32) -> Life {
    Life { message: message(id), replay, first_seen: later(365 * DAY_MS), redelivered: true }
}

/// What is known of such a message of a conversation.
async fn recall(state: &Shared, of: &str, id: &str, replay: u32) -> Recall {
    state.recall(&conversation(of), &life(id, replay)).await.unwrap()
}

/// An answer to messages of a conversation.
pub(super) fn answer(of: &str, covers: &[&str], text: &str, at: Timestamp) -> Reply {
    let covers = covers.iter().map(|id| message(id)).collect();
    let parts = text.split('|').map(str::to_owned).collect();
    Reply { conversation: conversation(of), covers, purpose: Purpose::Answer, parts, replay: 0, at }
}

/// How a message ended; its event is named after it.
pub(super) fn record(id: &str, of: &str, outcome: Outcome, at: Timestamp, reply: Option<&Reply>) -> Record {
    Record {
        id: EventId::new(&format!("event of {id}")).unwrap(),
        message: message(id),
        conversation: conversation(of),
        replay: 0,
        outcome,
        at,
        cause: Some("cause".into()),
        timeline: Timeline::default(),
        reply: reply.map(Reply::key),
        text: None,
    }
}

/// Runs the whole contract against what `$factory` makes; one fresh factory for each test.
macro_rules! contract {
    ($factory:expr) => {
        contract!($factory =>
            an_intent_is_ours_again_with_the_same_words_and_taken_with_others
            an_intent_that_is_revoked_leaves_nothing_behind
            what_is_said_beside_an_answer_is_said_once
            a_new_life_has_an_end_of_its_own
            who_was_told_is_known_as_told_also_after_a_failed_try
            an_outcome_survives_and_ends_the_claim
            absence_proves_nothing_about_what_is_older_than_the_ledger
            a_conversation_is_claimed_with_all_that_there_is_to_know
            a_human_who_holds_the_conversation_keeps_a_reply_from_being_meant
            a_record_is_found_by_message_and_by_event
            the_messages_of_a_conversation_are_told_newest_first
            the_newest_event_says_who_holds_a_conversation
            who_holds_a_conversation_follows_the_newest_event_in_any_order
            tidying_takes_texts_first_then_all_and_never_what_has_not_ended
            however_much_is_old_one_tidying_takes_it_all
            a_forgotten_conversation_keeps_nothing_but_how_its_messages_ended
            a_merged_conversation_is_remembered_where_it_went
            a_merged_conversation_is_kept_as_long_as_the_younger_of_the_two
            a_head_that_is_away_is_remembered_until_it_is_back
            what_was_open_is_known_newest_first
            what_a_key_has_used_is_added_up_by_month_and_survives
            a_total_stays_at_the_highest_that_is_counted_exactly
            what_is_set_holds_until_it_is_taken_back
            what_is_set_survives
            what_was_done_is_told_newest_first_as_long_as_it_is_kept
            whatever_is_done_the_state_is_what_the_model_says
        );
    };
    ($factory:expr => $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::state::contract::$name(&$factory).await;
            }
        )*
    };
}
pub(super) use contract;
