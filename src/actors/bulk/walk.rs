//! The walk of a job through the letters: slice by slice, at the pace, canaries first.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use super::{Bulk, Deed, Stage};
use crate::{
    actors::{Parts, letters},
    broker::{
        self,
        letters::{Handful, Held, Look, Which, pages},
    },
    domain::{ids::MessageId, timeline::Outcome},
};

/// Letters worked on at once; a pace of hundreds a second waits for no single one.
const AT_ONCE: usize = 16;

/// Letters in hand at the most; whoever looks at the letters of RabbitMQ meanwhile waits for these.
const SLICE_MAX: usize = 500;

/// So many seconds' worth is taken in hand.
const SLICE_SECONDS: f64 = 2.0;

/// When the letters or the state cannot be reached, it is tried again after so long.
const AGAIN: Duration = Duration::from_secs(2);

/// Who is further behind than this does not make up for it.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// How long the canaries may take to come to an end.
const CANARIES_WITHIN: Duration = Duration::from_secs(600);

/// How often they are looked at.
const CANARY_POLL: Duration = Duration::from_millis(250);

pub(super) async fn run(parts: &Arc<Parts>, job: &Bulk) {
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
    let mut walk = Walk { parts, job, seen: HashSet::new(), failed: 0, due: Instant::now() };
    if job.plan.deed == Deed::Replay && job.plan.canary > 0 {
        if let Err(ended) = walk.canaries(job.plan.canary).await {
            return ended;
        }
        job.enter(Stage::Running);
    }
    walk.go(usize::MAX, &mut |_| ()).await.err().unwrap_or(Stage::Done)
}

/// One who goes through the letters.
struct Walk<'a> {
    parts: &'a Arc<Parts>,
    job: &'a Bulk,
    /// Those that were replayed, may it be in vain, or with which it did not work: none is taken twice.
    seen: HashSet<String>,
    /// Those of them with which it did not work: they lie where they lay.
    failed: usize,
    /// When the next one is due.
    due: Instant,
}

/// A message, and the life that it was given.
type Life = (MessageId, u32);

impl Walk<'_> {
    /// Replays as many as are to be tried first, and waits until these have ended well.
    async fn canaries(&mut self, wanted: usize) -> Result<(), Stage> {
        let mut canaries = Vec::new();
        // One with which it did not work has shown nothing.
        while canaries.len() < wanted && !self.go(wanted - canaries.len(), &mut |life| canaries.push(life)).await? {}
        self.job.enter(Stage::Canary);
        end_well(self.parts, self.job, canaries).await.map_or(Ok(()), Err)
    }

    /// Takes at most `most` letters; whether none is left.
    async fn go(&mut self, most: usize, replayed: &mut (dyn FnMut(Life) + Send)) -> Result<bool, Stage> {
        let mut left = most;
        while left > 0 {
            // Waited for with nothing in hand.
            if let Some(ended) = rest(self.parts, self.job, self.due).await {
                return Err(ended);
            }
            let slice = ((self.job.plan.rate * SLICE_SECONDS) as usize).clamp(1, SLICE_MAX).min(left);
            let (held, trouble) = match self.look(slice).await {
                Ok(handful) if !handful.held.is_empty() => (handful.held, None),
                Ok(Handful { elsewhere: true, .. }) => {
                    (Vec::new(), Some("somebody else has letters in hand".to_owned()))
                }
                Ok(Handful { beyond, .. }) => {
                    let note = "letters behind those that one look reaches were not looked at";
                    self.job.progress.lock().last_error = beyond.then(|| note.to_owned());
                    return Ok(true);
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
            if let Some(ended) = ended {
                return Err(ended);
            }
        }
        Ok(false)
    }

    /// Takes some in hand that it has not seen yet.
    async fn look(&self, most: usize) -> Result<Handful, broker::Error> {
        let (letters, which) = (&self.parts.letters, &self.job.plan.which);
        let handful = letters.hold_some(which, &self.seen, self.failed, most).await?;
        // Replayed ones have come back, and others may lie behind them.
        if handful.held.is_empty() && handful.beyond && self.failed < self.seen.len() {
            return letters.hold_some(which, &self.seen, self.seen.len(), most).await;
        }
        Ok(handful)
    }

    /// Does it with each, at the pace, and tells with how many. When the job rests or ends, what has been begun is
    /// finished, and the others are let go of.
    async fn each(&mut self, held: Vec<Held>, replayed: &mut (dyn FnMut(Life) + Send)) -> (usize, Option<Stage>) {
        // Letters of one conversation lie side by side, and it is handed over once.
        let at_once = if self.job.plan.deed == Deed::HandOver { 1 } else { AT_ONCE };
        let mut under_way = FuturesUnordered::new();
        let (mut taken, mut ended) = (0, None);
        let failed = self.failed;
        for one in held {
            let mut due = pin!(until_due(self.parts, self.job, self.due));
            ended = loop {
                tokio::select! {
                    biased;
                    Some(done) = under_way.next(), if !under_way.is_empty() => self.note(done, replayed),
                    ended = &mut due, if under_way.len() < at_once => break ended,
                }
            };
            // One who waits for a Zendesk that is away keeps no other letters in hand meanwhile.
            let is_in_vain = self.job.plan.deed == Deed::HandOver && self.failed > failed;
            if ended.is_some() || is_in_vain || *self.job.paused.borrow() {
                break;
            }
            let earliest = Instant::now().checked_sub(BEHIND_MAX).unwrap_or_else(Instant::now);
            self.due = self.due.max(earliest) + Duration::from_secs_f64(1.0 / self.job.plan.rate);
            self.seen.insert(one.letter.id.clone());
            taken += 1;
            under_way.push(done(self.parts, self.job, one));
        }
        while let Some(done) = under_way.next().await {
            self.note(done, replayed);
        }
        (taken, ended)
    }

    fn note(&mut self, done: Done, replayed: &mut (dyn FnMut(Life) + Send)) {
        match done {
            // It comes back under this id if its new life ends as the last one did.
            Done::Replayed(life) => life.into_iter().for_each(replayed),
            Done::Gone(id) => drop(self.seen.remove(&id)),
            Done::Failed => self.failed += 1,
        }
    }
}

/// A letter that was worked on.
enum Done {
    /// It lives again, as this; what is none of ours has no life.
    Replayed(Option<Life>),
    /// It is gone for good.
    Gone(String),
    /// It did not work.
    Failed,
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
            match job.plan.deed {
                Deed::Replay => Done::Replayed(message.zip(replay)),
                Deed::Discard | Deed::HandOver => Done::Gone(id),
            }
        }
        Err(error) => {
            job.failed(&error);
            Done::Failed
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
    let mut pages = pin!(pages(parts.letters.clone(), which.clone(), usize::MAX, Look::Remembered));
    let (mut total, mut beyond) = (0, false);
    while let Some(listing) = pages.try_next().await.ok()? {
        total += listing.letters.len() as u64;
        beyond = listing.beyond;
    }
    (!beyond).then_some(total)
}
