//! The limiter that decides on this node alone, and its successors.

use std::time::Duration;

use super::limiter::Limiter;

/// What decides where nothing is shared. Each life has permits of its own: their numbers name other ones in the next.
pub(super) struct Machine {
    pub limiter: Limiter,
    pub life: u64,
}

impl Machine {
    /// Its first life.
    pub fn new(limiter: Limiter) -> Self {
        Self { limiter, life: 0 }
    }

    /// The machine that has given a permit, if it is still the same.
    pub fn of(&mut self, life: u64) -> Option<&mut Limiter> {
        (life == self.life).then_some(&mut self.limiter)
    }

    /// Another takes its place. What the service has asked for holds for that one too.
    pub fn give_way(&mut self, now: Duration, mut successor: Limiter) {
        if let Some(until) = self.limiter.paused_until(now) {
            successor.pause(now, until);
        }
        (self.limiter, self.life) = (successor, self.life + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::limiter::Limits;

    #[test]
    fn a_successor_keeps_the_pause_and_knows_none_of_the_permits() {
        let second = Duration::from_secs(1);
        let limiter = Limiter::new(Limits { per_minute: 5, ..Limits::NONE }, second);
        let mut machine = Machine::new(limiter.clone());
        machine.limiter.pause(second, second * 30);
        let life = machine.life;
        machine.give_way(second * 2, limiter);
        assert_eq!(machine.limiter.paused_until(second * 3), Some(second * 30));
        assert!(machine.of(life).is_none());
        let life = machine.life;
        assert!(machine.of(life).is_some());
    }
}
