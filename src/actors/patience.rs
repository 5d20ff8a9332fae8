//! What an actor does while the store under it fails. A full disk is no fault of the actor: restarts would not help,
//! and too many of them end the node, which could still answer 503 and go on once there is room.

use std::{fmt::Display, time::Duration};

use super::{Parts, roster::Card};

/// The pause before the store is tried again; nothing that waits gets lost meanwhile.
pub(super) const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Says that the store failed and waits, at the longest until the node drains.
pub(super) async fn outwait(parts: &Parts, card: &Card, error: &(impl Display + ?Sized)) {
    tracing::warn!(actor.path = card.path, %error, "the store failed; it is tried again in a second");
    tokio::select! {
        () = parts.draining.cancelled() => {}
        () = tokio::time::sleep(STORE_PAUSE) => {}
    }
}
