//! Failures made on purpose, so that surviving them can be seen. Off unless `admin.fault_injection` is on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ractor::ActorProcessingErr;

use super::{
    FaultsConfig, KillPoint, Parts,
    conversation::State,
    hand::{Item, Phase},
    roster::{Fault, FaultMode},
};
use crate::domain::job::Job;

/// A message that kills the process does so after the AI has had it for this long, so that others are in hand as well.
const KILL_AFTER: Duration = Duration::from_millis(500);

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
        let fault =
            ordered.or_else(|| if self.active { self.marked(state).or_else(|| self.dice(parts)) } else { None });
        let Some(fault) = fault else { return Ok(()) };
        if let Some(hand) = &mut state.cell.lock().hand {
            hand.enter(Phase::Ai, parts.clock.monotonic(), parts.clock.now());
        }
        fault.strike().await?;
        Ok(())
    }

    fn marked(&self, state: &State) -> Option<Fault> {
        let marker = &self.config.panic_on;
        let inner = state.cell.lock();
        let marked = |item: &Item| item.kind().text().is_some_and(|text| text.contains(marker));
        let is_marked = !marker.is_empty() && inner.hand.as_ref().is_some_and(|hand| hand.items.iter().any(marked));
        is_marked.then_some(Fault { mode: FaultMode::Panic, ms: None })
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

    /// Kills the process while the AI works on a message that contains the configured text.
    pub(super) fn kill_on(&self, parts: &Parts, jobs: &[Arc<Job>]) {
        let marker = &self.config.kill_on;
        let marked = |job: &Arc<Job>| job.kind.text().is_some_and(|text| text.contains(marker));
        if !marker.is_empty() && jobs.iter().any(marked) {
            parts.courtesies.spawn(async {
                tokio::time::sleep(KILL_AFTER).await;
                std::process::abort();
            });
        }
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
