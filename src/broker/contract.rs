//! What every broker owes its callers (`the trait Broker`), as functions over a [`Factory`]: each implementation runs
//! all of them through [`contract!`]. What is not said there, callers may not assume.
//!
//! [`contract_on_disk!`] adds what a broker owes that keeps everything on the node's own disk: it knows each message by
//! its ids, counts to the message and to the byte, and goes by the node's clock. RabbitMQ keeps no index of ids and tells
//! how much lies there only when asked, and the pauses run by the server's clock: it owes none of that.

mod bounds;
mod dedupe;
mod letters;
mod publishing;
mod removing;
mod settling;
mod taking;
pub(super) mod tools;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Broker, Letters, WINDOW};

/// How a broker is set up for a test.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// Messages held at most.
    pub max_messages: u64,
    /// Bytes held at most.
    pub max_bytes: u64,
    /// How long parked messages are kept.
    pub parked_for: Duration,
    /// Messages its window holds, where that can be chosen.
    pub window: usize,
}

impl Default for Setup {
    fn default() -> Self {
        let parked_for = Duration::from_secs(30 * 24 * 3600);
        Self { max_messages: 1_000_000, max_bytes: 4 << 30, parked_for, window: WINDOW }
    }
}

/// A place where one broker after the other keeps the same messages.
#[async_trait]
pub(super) trait Factory: Send + Sync {
    /// Opens a broker on what the one before has left. That one ends first; what it had in hand is ready again.
    async fn open(&self, setup: Setup) -> Arc<dyn Broker>;

    /// The letters of the broker that was opened last.
    fn letters(&self) -> Arc<dyn Letters>;

    /// The smallest window that can be chosen.
    fn window_min(&self) -> usize {
        WINDOW
    }
}

/// A place on the node's own disk.
pub(super) trait DiskFactory: Factory {
    /// Lets the wall clock jump.
    fn pass(&self, span: Duration);
}

pub(super) use bounds::*;
pub(super) use dedupe::*;
pub(super) use letters::*;
pub(super) use publishing::*;
pub(super) use removing::*;
pub(super) use settling::*;
pub(super) use taking::*;

/// Runs what every broker owes against what `$factory` makes; one fresh factory for each test.
macro_rules! contract {
    ($factory:expr) => {
        $crate::broker::contract::each!($factory =>
            a_conversation_comes_in_the_order_of_publication
            event_ids_and_message_ids_are_told_apart
            an_unusable_event_goes_straight_to_the_parked_letters
            take_gives_no_more_than_there_is_room_for
            lanes_are_taken_from_apart
            a_hot_conversation_leaves_room_for_its_neighbours
            a_hot_conversation_is_delivered_completely_and_in_order
            a_take_that_is_given_up_loses_nothing
            a_take_of_dead_letters_that_is_given_up_loses_nothing
            a_take_that_is_given_up_while_delayed_ones_wake_loses_nothing
            nothing_is_lost_or_doubled_between_many_publishers_and_a_consumer
            what_is_acknowledged_is_gone_for_good
            what_is_to_be_retried_comes_at_its_time_and_not_before
            what_is_buried_comes_as_a_dead_letter_with_one_more_try
            a_dead_letter_that_is_retried_keeps_its_tries_and_its_reason
            what_is_parked_is_never_delivered
            what_is_dropped_comes_back_first_and_unspent
            what_was_settled_stays_settled_over_a_restart
            the_first_attempt_that_failed_is_remembered
            what_was_in_hand_is_ready_after_a_restart
            a_long_reason_is_cut_between_characters
            the_counts_become_true_in_each_standing
            letters_are_listed_by_standing_cause_lane_and_conversation
            many_letters_are_taken_in_hand_and_each_goes_its_own_way
            a_list_goes_on_although_its_letters_go
            a_letter_is_shown_by_either_id_with_all_that_is_known
            who_looks_leaves_all_where_it_lay
            what_is_replayed_begins_a_new_life
            what_is_discarded_is_gone
            what_could_not_be_understood_is_not_replayed
            a_replay_that_is_given_up_loses_nothing
            a_list_that_is_given_up_loses_nothing
            an_imported_letter_lies_here_as_it_lay_elsewhere
            a_node_that_ends_during_replays_loses_nothing
            what_lies_here_of_a_customer_is_removed_and_stays_if_it_is_given_back
        );
    };
}
pub(super) use contract;

/// Runs what a broker on the node's own disk owes beyond that.
macro_rules! contract_on_disk {
    ($factory:expr) => {
        $crate::broker::contract::each!($factory =>
            publications_are_answered_in_order
            a_duplicate_is_known_across_batches_lanes_and_restarts
            what_is_known_is_never_stored_again_and_what_is_new_always
            a_batch_is_stored_whole_although_its_publisher_gives_up
            an_unusable_event_is_found_with_its_reason
            what_is_parked_is_found
            what_was_delayed_is_delivered_once_after_a_restart
            what_was_delayed_for_an_hour_comes_behind_what_was_ready
            what_is_found_has_its_reason_as_it_was_cut
            what_lies_of_a_conversation_is_removed_in_each_standing
            what_a_customer_wrote_is_removed_from_conversations_not_known_as_theirs
            what_was_to_be_removed_and_is_given_back_stands_where_it_stood
            a_customer_is_removed_from_a_long_backlog_that_is_worked_off_meanwhile
            a_message_is_found_in_each_standing
            the_counts_are_true_in_each_standing
            a_full_queue_refuses_messages_and_recovers
            a_queue_full_of_bytes_refuses_and_recovers
            tidy_forgets_parked_messages_by_their_age
            what_is_kept_is_found_however_old_it_is
            ids_are_remembered_longer_than_zendesk_repeats_itself
        );
    };
}
pub(super) use contract_on_disk;

macro_rules! each {
    ($factory:expr => $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::broker::contract::$name(&$factory).await;
            }
        )*
    };
}
pub(super) use each;
