//! What a server refuses on one channel after another: another server may take it.
//!
//! In a cluster whose servers were parted two of them may go on with different notes of who leads a queue (RabbitMQ with
//! Mnesia, rabbitmq-server issue 17319); the one that is wrong refuses what is for that queue until it is started anew. A
//! full queue is refused by all, so each change of the server comes later than the last.

use std::time::Duration;

use tokio::time::Instant;

/// Refusals for so long lead to another server; each further time it takes twice as long.
const CHANGE_AFTER: Duration = Duration::from_secs(5);
const CHANGE_AFTER_MAX: Duration = Duration::from_secs(320);

/// After so long without one the count begins anew.
const CALM: Duration = Duration::from_secs(10);

/// Counts them.
#[derive(Default)]
pub(super) struct Refusals {
    since: Option<Instant>,
    last: Option<Instant>,
    changes: u32,
}

impl Refusals {
    /// A channel has refused something and gives way; whether it is another server's turn.
    pub fn refused(&mut self) -> bool {
        let is_new = self.last.replace(Instant::now()).is_none_or(|last| last.elapsed() > CALM);
        if is_new {
            (self.since, self.changes) = (None, 0);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let change_after = CHANGE_AFTER.saturating_mul(1 << self.changes.min(10)).min(CHANGE_AFTER_MAX);
        let is_over = since.elapsed() >= change_after;
        if is_over {
            (self.since, self.changes) = (None, self.changes + 1);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_server_is_tried_after_a_while_and_then_ever_later() {
        let mut refusals = Refusals::default();
        let mut changes = Vec::new();
        for second in 0..1_400 {
            if refusals.refused() {
                changes.push(second);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let pauses: Vec<u64> = changes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((changes[0], pauses), (5, vec![11, 21, 41, 81, 161, 321, 321, 321]));
        tokio::time::sleep(CALM).await;
        assert!(!refusals.refused());
        tokio::time::sleep(CHANGE_AFTER).await;
        assert!(refusals.refused());
    }
}
