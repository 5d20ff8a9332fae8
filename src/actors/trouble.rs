//! What a puller does when the queue or the state cannot be used: it waits and goes on.
//!
//! A full disk is nobody's fault in here and a restart changes nothing; an actor that failed for it would use up the
//! intensity of everyone above, and end the process (G7). What was in hand is dropped, which gives it back.

use std::{fmt::Display, time::Duration};

use super::Parts;

/// The pause after the store could not be used.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Says so, and waits a moment, or until the node drains.
pub(super) async fn sit_out(parts: &Parts, actor: &str, error: &(dyn Display + Sync)) {
    tracing::error!(actor.path = actor, %error, "the store cannot be used; what waits, waits on");
    tokio::select! {
        () = parts.draining.cancelled() => {}
        () = tokio::time::sleep(STORE_PAUSE) => {}
    }
}
