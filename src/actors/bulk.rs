//! What operators do with many letters at once: replayed, discarded or handed to humans, at a pace; watched, paused,
//! broken off.
//!
//! Each letter is taken in hand and ends as if it had been asked for alone (`letters.rs`). So a process that dies in the
//! middle loses and doubles nothing: what is left lies where it lay, and can be asked for again. Supervised by the node.

mod walk;

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

pub use walk::count;

use super::{Parts, letters::LetterError, roster::Card};
use crate::{
    broker::letters::Which,
    domain::time::{Timestamp, rfc3339},
    guard::bell::Bell,
};

/// The slowest pace, in letters a second.
pub const RATE_MIN: f64 = 0.01;

/// The fastest pace, in letters a second.
pub const RATE_MAX: f64 = 1_000.0;

/// Jobs that have not ended.
const UNDER_WAY_MAX: usize = 16;

/// Jobs remembered that have ended.
const ENDED_MAX: usize = 100;

/// What is done with each letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// It gets a new life.
    Replay,
    /// It is removed.
    Discard,
    /// Its conversation goes to a human.
    HandOver,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// With each letter.
    pub deed: Deed,
    /// Which letters.
    pub which: Which,
    /// Letters a second.
    pub rate: f64,
    /// So many are replayed first, and the others only if these end well.
    pub canary: usize,
    /// Nothing is done before this has passed, so that it can be undone.
    pub undo: Duration,
    /// Letters that are parked up to so long after the order are meant, too.
    pub reaches: Duration,
    /// Who orders it.
    pub by: String,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = JobStage)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Can be undone yet.
    Waiting,
    /// At work.
    Running,
    /// Waits for the first letters to end well.
    Canary,
    /// Done.
    Done,
    /// Broken off by an operator; what was done stays done.
    Cancelled,
    /// Broken off: a canary did not end well.
    Failed,
    /// Broken off with the process.
    Interrupted,
}

impl Stage {
    fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed | Self::Interrupted)
    }
}

/// A job as people see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct Progress {
    /// Names it on its node.
    pub id: String,
    /// What is done with each letter.
    pub deed: Deed,
    /// Who ordered it.
    pub by: String,
    /// When, RFC 3339.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub ordered_at: Timestamp,
    /// When it begins, RFC 3339; until then it can be undone.
    #[serde(with = "rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub begins_at: Timestamp,
    /// How far it is.
    pub stage: Stage,
    /// Whether it rests.
    pub paused: bool,
    /// Letters a second.
    pub rate: f64,
    /// Letters that were meant when it began, as far as they could be counted.
    pub total: Option<u64>,
    /// Letters done.
    pub done: u64,
    /// Letters with which it did not work; they lie where they lay.
    pub failed: u64,
    /// Why, the last time.
    pub last_error: Option<String>,
}

/// One job.
struct Bulk {
    plan: Plan,
    progress: Mutex<Progress>,
    stop: CancellationToken,
    paused: watch::Sender<bool>,
}

/// All jobs of this node.
#[derive(Default)]
pub struct Bulks {
    jobs: Mutex<VecDeque<Arc<Bulk>>>,
    count: AtomicU64,
    bell: Bell,
}

impl Bulks {
    /// Orders a job; `None` when too many are under way.
    pub fn order(&self, plan: Plan, now: Timestamp) -> Option<Progress> {
        let id = (self.count.fetch_add(1, Ordering::Relaxed) + 1).to_string();
        let progress = Progress {
            id,
            deed: plan.deed,
            by: plan.by.clone(),
            ordered_at: now,
            begins_at: now.after(plan.undo),
            stage: Stage::Waiting,
            paused: false,
            rate: plan.rate,
            total: None,
            done: 0,
            failed: 0,
            last_error: None,
        };
        let which = Which { until: Some(now.after(plan.reaches)), ..plan.which };
        let plan = Plan { which, ..plan };
        let (stop, paused) = (CancellationToken::new(), watch::Sender::new(false));
        let bulk = Bulk { plan, progress: Mutex::new(progress.clone()), stop, paused };
        let mut jobs = self.jobs.lock();
        if jobs.iter().filter(|job| !job.has_ended()).count() >= UNDER_WAY_MAX {
            return None;
        }
        jobs.push_back(Arc::new(bulk));
        let ended = jobs.iter().filter(|job| job.has_ended()).count();
        if let Some(oldest) = jobs.iter().position(|job| job.has_ended()).filter(|_| ended > ENDED_MAX) {
            jobs.remove(oldest);
        }
        drop(jobs);
        self.bell.ring();
        Some(progress)
    }

    /// All jobs, the newest first.
    pub fn all(&self) -> Vec<Progress> {
        self.jobs.lock().iter().rev().map(|job| job.progress.lock().clone()).collect()
    }

    /// Breaks a job off, or undoes it if it has not begun; `None`: there is none of that name.
    pub fn cancel(&self, id: &str) -> Option<Progress> {
        self.find(id).map(|job| {
            job.stop.cancel();
            job.progress.lock().clone()
        })
    }

    /// Lets a job rest, or go on.
    pub fn pause(&self, id: &str, paused: bool) -> Option<Progress> {
        self.find(id).map(|job| {
            job.paused.send_replace(paused);
            let mut progress = job.progress.lock();
            progress.paused = paused;
            progress.clone()
        })
    }

    fn find(&self, id: &str) -> Option<Arc<Bulk>> {
        self.jobs.lock().iter().find(|job| job.progress.lock().id == id).cloned()
    }
}

impl Bulk {
    fn has_ended(&self) -> bool {
        self.progress.lock().stage.has_ended()
    }

    fn enter(&self, stage: Stage) {
        self.progress.lock().stage = stage;
    }

    fn failed(&self, error: &LetterError) {
        let mut progress = self.progress.lock();
        progress.failed += 1;
        progress.last_error = Some(error.to_string());
    }
}

/// The actor that works the jobs off.
pub(super) struct BulkActor {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Look for jobs.
    Bell,
}

/// What it has under way.
#[derive(Default)]
pub(super) struct State {
    running: JoinSet<()>,
    begun: HashSet<String>,
}

impl Actor for BulkActor {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State::default())
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut State) -> Result<(), ActorProcessingErr> {
        for bell in [&self.parts.bulks.bell, &self.card.bell] {
            let myself = myself.clone();
            bell.connect(move || drop(myself.cast(Message::Bell)));
        }
        // Jobs that the one before had under way go on.
        Ok(myself.cast(Message::Bell)?)
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Bell => self.begin(state).await,
        }
    }
}

impl BulkActor {
    async fn begin(&self, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        while state.running.try_join_next().is_some() {}
        let jobs: Vec<Arc<Bulk>> =
            self.parts.bulks.jobs.lock().iter().filter(|job| !job.has_ended()).cloned().collect();
        for job in jobs {
            let id = job.progress.lock().id.clone();
            if state.begun.insert(id) {
                self.card.handled(1);
                let parts = self.parts.clone();
                state.running.spawn(async move { walk::run(&parts, &job).await });
            }
        }
        Ok(())
    }
}
