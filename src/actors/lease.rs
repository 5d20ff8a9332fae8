//! A conversation's claim: what its turn's writes are checked against, and until when it may post (design rule 4).

use std::time::Duration;

use parking_lot::Mutex;

use crate::state::Fence;

/// A post starts within this time after the state was last seen to be ours; a successor waits it out.
pub(super) const VALID_FOR: Duration = Duration::from_secs(2);

/// A claim.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub fence: Fence,
    /// Whether it was taken from another node, which may still be posting.
    pub inherited: bool,
    /// When (monotonic) the state was last asked, and said that it is ours.
    pub confirmed: Duration,
}

/// The claim of a conversation's actor, if it has one.
#[derive(Default)]
pub struct Lease(Mutex<Option<Held>>);

impl Lease {
    pub(super) fn get(&self) -> Option<Held> {
        *self.0.lock()
    }

    pub(super) fn set(&self, held: Held) {
        *self.0.lock() = Some(held);
    }

    pub(super) fn take(&self) -> Option<Held> {
        self.0.lock().take()
    }

    /// The state, asked at `asked` (monotonic), has said that it is ours.
    pub(super) fn confirm(&self, asked: Duration) {
        if let Some(held) = &mut *self.0.lock() {
            held.confirmed = asked;
        }
    }

    pub(super) fn fence(&self) -> Option<Fence> {
        self.get().map(|held| held.fence)
    }
}
