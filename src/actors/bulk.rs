//! What operators do with many letters at once: replayed, discarded or handed to humans, at a pace; watched, paused,
//! broken off.
//!
//! Each letter is taken in hand and ends as if it had been asked for alone (`letters.rs`). So a process that dies in the
//! middle loses and doubles nothing: what is left lies where it lay, and can be asked for again. Supervised by the node.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    Parts,
    letters::{self, LetterError},
    roster::Card,
};
use crate::{
    broker::letters::{Handful, Held, Page, Which},
    domain::{
        ids::MessageId,
        time::{Timestamp, rfc3339},
        timeline::Outcome,
    },
    guard::bell::Bell,
};

/// Letters worked on at once; a pace of hundreds a second waits for no single one.
const AT_ONCE: usize = 16;

/// Letters in hand at the most; whoever looks at the letters of RabbitMQ meanwhile waits for these.
const SLICE_MAX: usize = 500;

/// So many seconds' worth is taken in hand.
const SLICE_SECONDS: f64 = 2.0;

/// The slowest pace, in letters a second.
pub const RATE_MIN: f64 = 0.01;

/// The fastest pace, in letters a second.
pub const RATE_MAX: f64 = 1_000.0;

/// Jobs that have not ended.
const UNDER_WAY_MAX: usize = 16;

/// When the letters or the state cannot be reached, it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// Who is further behind than this does not make up for it.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// How long the canaries may take to come to an end.
const CANARIES_WITHIN: Duration = Duration::from_secs(600);

/// How often they are looked at.
const CANARY_POLL: Duration = Duration::from_millis(250);

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
                state.running.spawn(async move { run(&parts, &job).await });
            }
        }
        Ok(())
    }
}

async fn run(parts: &Arc<Parts>, job: &Bulk) {
    let _fate = Fate(job);
    let stage = work(parts, job).await;
    job.enter(stage);
    let progress = job.progress.lock().clone();
    let (done, failed) = (progress.done, progress.failed);
    tracing::info!(job = progress.id, deed = ?progress.deed, ?stage, done, failed, "a job on the letters has ended");
}

/// A job that panics has failed.
struct Fate<'a>(&'a Bulk);

impl Drop for Fate<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.enter(Stage::Failed);
        }
    }
}

async fn work(parts: &Arc<Parts>, job: &Bulk) -> Stage {
    if let Some(ended) = rest(parts, job, Instant::now() + job.plan.undo).await {
        return ended;
    }
    job.enter(Stage::Running);
    let total = count(parts, &job.plan.which).await;
    job.progress.lock().total = total;
    let mut walk = Walk { parts, job, seen: HashSet::new(), due: Instant::now() };
    let canary = if job.plan.deed == Deed::Replay { job.plan.canary } else { 0 };
    if canary > 0 {
        let mut canaries = Vec::new();
        if let Some(ended) = walk.go(canary, &mut |life| canaries.push(life)).await {
            return ended;
        }
        job.enter(Stage::Canary);
        if let Some(ended) = end_well(parts, job, canaries).await {
            return ended;
        }
        job.enter(Stage::Running);
    }
    walk.go(usize::MAX, &mut |_| ()).await.unwrap_or(Stage::Done)
}

/// One who goes through the letters.
struct Walk<'a> {
    parts: &'a Arc<Parts>,
    job: &'a Bulk,
    /// Those with which it did not work, or that are in hand: none is taken twice.
    seen: HashSet<String>,
    /// When the next one is due.
    due: Instant,
}

/// A message, and the life that it was given.
type Life = (MessageId, u32);

impl Walk<'_> {
    /// Takes at most `most` letters; `None` when that many or all are done.
    async fn go(&mut self, most: usize, replayed: &mut (dyn FnMut(Life) + Send)) -> Option<Stage> {
        let mut left = most;
        while left > 0 {
            // Waited for with nothing in hand.
            if let Some(ended) = rest(self.parts, self.job, self.due).await {
                return Some(ended);
            }
            let slice = ((self.job.plan.rate * SLICE_SECONDS) as usize).clamp(1, SLICE_MAX).min(left);
            let handful = self.parts.letters.hold_some(&self.job.plan.which, &self.seen, slice).await;
            let (held, trouble) = match handful {
                Ok(handful) if !handful.held.is_empty() => (handful.held, None),
                Ok(Handful { elsewhere: true, .. }) => {
                    (Vec::new(), Some("somebody else has letters in hand".to_owned()))
                }
                Ok(Handful { beyond, .. }) => {
                    let note = "letters behind those that one look reaches were not looked at";
                    self.job.progress.lock().last_error = beyond.then(|| note.to_owned());
                    return None;
                }
                Err(error) => (Vec::new(), Some(error.to_string())),
            };
            if trouble.is_some() {
                self.job.progress.lock().last_error = trouble;
                self.due = Instant::now() + AGAIN;
                continue;
            }
            let (taken, ended) = self.each(held, replayed).await;
            left -= taken;
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    /// Does it with each, at the pace, and tells with how many. When the job rests or ends, what has been begun is
    /// finished, and the others are let go of.
    async fn each(&mut self, held: Vec<Held>, replayed: &mut (dyn FnMut(Life) + Send)) -> (usize, Option<Stage>) {
        // Letters of one conversation lie side by side, and it is handed over once.
        let at_once = if self.job.plan.deed == Deed::HandOver { 1 } else { AT_ONCE };
        let mut under_way = FuturesUnordered::new();
        let (mut taken, mut ended) = (0, None);
        for one in held {
            let mut due = std::pin::pin!(until_due(self.parts, self.job, self.due));
            ended = loop {
                tokio::select! {
                    biased;
                    Some(done) = under_way.next(), if !under_way.is_empty() => note(done, &mut self.seen, replayed),
                    ended = &mut due, if under_way.len() < at_once => break ended,
                }
            };
            if ended.is_some() || *self.job.paused.borrow() {
                break;
            }
            let earliest = Instant::now().checked_sub(BEHIND_MAX).unwrap_or_else(Instant::now);
            self.due = self.due.max(earliest) + Duration::from_secs_f64(1.0 / self.job.plan.rate);
            self.seen.insert(one.letter.id.clone());
            taken += 1;
            under_way.push(done(self.parts, self.job, one));
        }
        while let Some(done) = under_way.next().await {
            note(done, &mut self.seen, replayed);
        }
        (taken, ended)
    }
}

/// A letter that was worked on: its id, whether it is gone, and its new life if it has one.
type Done = (String, bool, Option<Life>);

/// What is gone need not be remembered.
fn note((id, is_gone, life): Done, seen: &mut HashSet<String>, replayed: &mut (dyn FnMut(Life) + Send)) {
    if is_gone {
        seen.remove(&id);
    }
    life.into_iter().for_each(replayed);
}

/// Does it with one letter.
async fn done(parts: &Arc<Parts>, job: &Bulk, held: Held) -> Done {
    let id = held.letter.id.clone();
    let message = held.letter.job().map(|job| job.message.clone());
    let outcome = match job.plan.deed {
        Deed::Replay => letters::replay_held(parts, held).await.map(Some),
        Deed::Discard => letters::discard_held(parts, held).await.map(|()| None),
        Deed::HandOver => letters::hand_over_held(parts, held).await.map(|()| None),
    };
    match outcome {
        Ok(replay) => {
            job.progress.lock().done += 1;
            (id, true, message.zip(replay))
        }
        Err(error) => {
            job.failed(&error);
            (id, false, None)
        }
    }
}

/// Waits until a moment, and as long as the job rests; `Some` if it is not to go on.
async fn rest(parts: &Parts, job: &Bulk, until: Instant) -> Option<Stage> {
    let mut paused = job.paused.subscribe();
    let resting = async {
        sleep_until(until).await;
        // Whoever waits has the sender.
        let _ = paused.wait_for(|paused| !paused).await;
    };
    unless_stopped(parts, job, resting).await
}

/// Waits until a moment, or until the job is to rest; `Some` if it is not to go on.
async fn until_due(parts: &Parts, job: &Bulk, until: Instant) -> Option<Stage> {
    let mut paused = job.paused.subscribe();
    let waiting = async {
        tokio::select! {
            () = sleep_until(until) => {}
            _ = paused.wait_for(|paused| *paused) => {}
        }
    };
    unless_stopped(parts, job, waiting).await
}

async fn unless_stopped(parts: &Parts, job: &Bulk, waiting: impl Future<Output = ()>) -> Option<Stage> {
    tokio::select! {
        biased;
        () = job.stop.cancelled() => Some(Stage::Cancelled),
        () = parts.draining.cancelled() => Some(Stage::Interrupted),
        () = waiting => None,
    }
}

/// Waits until messages have ended in the lives they were given; `Some` if one did not end well.
async fn end_well(parts: &Parts, job: &Bulk, mut lives: Vec<Life>) -> Option<Stage> {
    let until = Instant::now() + CANARIES_WITHIN;
    while let Some((message, replay)) = lives.last() {
        let record = parts.state.record(message.as_str()).await.ok().flatten();
        let outcome = record.filter(|record| record.replay >= *replay).map(|record| record.outcome);
        let trouble = match outcome {
            Some(Outcome::Parked) => Some(format!("the canary {message} was given up again")),
            None if Instant::now() > until => Some(format!("the canary {message} has not come to an end")),
            _ => None,
        };
        if trouble.is_some() {
            job.progress.lock().last_error = trouble;
            return Some(Stage::Failed);
        }
        if outcome.is_some() {
            lives.pop();
        } else if let Some(ended) = rest(parts, job, Instant::now() + CANARY_POLL).await {
            return Some(ended);
        }
    }
    None
}

/// How many letters are meant, as far as they can be counted.
pub async fn count(parts: &Parts, which: &Which) -> Option<u64> {
    let mut page = Page { after: None, limit: usize::MAX };
    let mut total = 0;
    loop {
        let listing = parts.letters.list(which, &page).await.ok()?;
        total += listing.letters.len() as u64;
        page.after = listing.next;
        if page.after.is_none() {
            return (!listing.beyond).then_some(total);
        }
    }
}
