//! Failures made on purpose, so that surviving them can be seen. Off unless `admin.fault_injection` is on.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ractor::ActorProcessingErr;

use super::{
    FaultsConfig, KillPoint, Parts,
    conversation::State,
    inbox::Phase,
    roster::{Fault, FaultMode},
};

/// What fails, and when.
pub struct Faults {
    config: FaultsConfig,
    passed: AtomicU64,
    active: bool,
}

impl Faults {
    /// Takes the configured failures.
    pub fn new(config: FaultsConfig) -> Self {
        let active = config != FaultsConfig::default();
        Self { config, passed: AtomicU64::new(0), active }
    }

    /// Lets a conversation fail with what it has in hand, as configured or as ordered for it.
    pub(super) async fn strike(&self, parts: &Parts, state: &State) -> Result<(), ActorProcessingErr> {
        let ordered = state.cell.lock().fault.take();
        let fault = ordered.or_else(|| if self.active { self.dice(parts) } else { None });
        let Some(fault) = fault else { return Ok(()) };
        if let Some(hand) = &mut state.cell.lock().hand {
            hand.enter(Phase::Ai, &parts.clock);
        }
        fault.strike().await?;
        Ok(())
    }

    fn dice(&self, parts: &Parts) -> Option<Fault> {
        let blocked = parts.chat.time_limit * 2 + Duration::from_secs(2);
        let odds = [
            (self.config.panic, FaultMode::Panic),
            (self.config.error, FaultMode::Error),
            (self.config.hang, FaultMode::Hang),
            (self.config.block, FaultMode::Block),
        ];
        let mut die: f64 = rand::random();
        for (chance, mode) in odds {
            if die < chance {
                return Some(Fault { mode, ms: Some(u64::try_from(blocked.as_millis()).unwrap_or(1_000)) });
            }
            die -= chance;
        }
        None
    }

    /// Kills the process, without a word, when it passes the configured point.
    pub fn kill_point(&self, point: KillPoint) {
        if !self.active || self.config.kill_at != point {
            return;
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) == self.config.kill_after {
            // As SIGKILL would: nothing is unwound, flushed or told.
            std::process::abort();
        }
    }
}
