//! How a service is met again that has refused.

/// After a 429 one call shows whether the service answers again, then two, four and so on: those who waited out its
/// pause must not all run into the next one.
#[derive(Default)]
pub(super) struct SlowStart {
    /// Calls and unused permits outstanding.
    pub outstanding: u32,
    /// How many may be; `None`: no matter.
    pub limit: Option<u32>,
}

/// From so many calls at once on the start is over.
const FULL_SPEED: u32 = 64;

impl SlowStart {
    pub fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.outstanding < limit)
    }

    pub fn succeeded(&mut self) {
        self.limit = self.limit.map(|limit| limit * 2).filter(|limit| *limit < FULL_SPEED);
    }
}
