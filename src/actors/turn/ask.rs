//! Asks the AI, through the guards, for as long as it takes: waiting is not failing (G5).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use ractor::ActorProcessingErr;

use super::{Next, finish, prepare, set_phase};
use crate::{
    actors::{Parts, Payer, conversation::State, hand::Phase, posting},
    domain::{
        answer::Answer,
        job::{Job, Kind},
        prompt::{History, Prompt},
        reply::{Purpose, Reply, split},
        time::millis,
        timeline::{Stage, Wait},
        verdict::{Blame, Failure, SERVICE_FAILURES_MAX, blame},
    },
    guard::{Class, Failed, Key, Progress, Question, Tenant, breaker::Caller},
    store::in_hand::Working,
    telemetry::span,
};

/// A service that cannot be used as it is set up is asked again after so long; somebody has to mend it.
const SETUP_PAUSE: Duration = Duration::from_secs(10);

/// How asking ended.
pub(super) enum Asked {
    Answer(Answer),
    Over(Next),
}

/// How one attempt ended.
enum Attempt {
    Answer(Answer),
    Failed(Failed),
    SoftLimit,
    Deadline,
    Drain,
}

/// Asks until there is an answer, the message is to blame, or there is no more time.
pub(super) async fn ask(parts: &Arc<Parts>, state: &mut State) -> Result<Asked, ActorProcessingErr> {
    let jobs: Vec<Arc<Job>> = prepare::jobs(state).into_iter().map(|(job, ..)| job).collect();
    let prompt = prompt(parts, state, &jobs);
    let Some(_alone) = alone(parts, state, &jobs).await else { return Ok(Asked::Over(Next::HandBack)) };
    let mut held = false;
    loop {
        let attempt = attempt(parts, state, &jobs, &prompt, &mut held).await;
        let failed = match attempt {
            Attempt::Answer(answer) => return Ok(Asked::Answer(answer)),
            Attempt::Drain => return Ok(Asked::Over(Next::HandBack)),
            Attempt::Deadline => {
                return finish::hand_over(parts, state, "the deadline has passed", None).await.map(Asked::Over);
            }
            Attempt::SoftLimit => {
                let cause = "time limit: the AI call took too long and was cancelled";
                return finish::failed(parts, state, cause).await.map(Asked::Over);
            }
            Attempt::Failed(failed) => failed,
        };
        let cause = format!("{}: {}", failed.service, failed.failure);
        match blame(&failed.failure) {
            Blame::Hopeless => return finish::give_up(parts, state, &cause).await.map(Asked::Over),
            Blame::Message => return finish::failed(parts, state, &cause).await.map(Asked::Over),
            Blame::Setup => {
                if prepare::wait(parts, state, Wait::Backoff, SETUP_PAUSE).await.is_none() {
                    return Ok(Asked::Over(Next::HandBack));
                }
                if let Some(next) = prepare::last_look(parts, state, true).await? {
                    return Ok(Asked::Over(next));
                }
            }
            Blame::Service => {
                let failures = count_failure(state, &failed);
                if failures >= SERVICE_FAILURES_MAX && failed.answers_others {
                    let cause = format!("{cause}, {failures} times while it answered others");
                    return finish::failed(parts, state, &cause).await.map(Asked::Over);
                }
                // After a 429 the limiter knows how long to wait.
                let pause = match failed.failure {
                    Failure::Throttled(_) => Duration::ZERO,
                    _ => parts.retry.service_pause(failures, rand::random()),
                };
                if prepare::wait(parts, state, Wait::Backoff, pause).await.is_none() {
                    return Ok(Asked::Over(Next::HandBack));
                }
                if let Some(next) = prepare::last_look(parts, state, true).await? {
                    return Ok(Asked::Over(next));
                }
            }
        }
    }
}

fn count_failure(state: &State, failed: &Failed) -> u32 {
    let mut inner = state.cell.lock();
    let Some(head) = inner.hand.as_mut().and_then(|hand| hand.items.first_mut()) else { return 1 };
    if !matches!(failed.failure, Failure::Throttled(_)) {
        head.service_failures += 1;
    }
    head.service_failures.max(1)
}

fn prompt(parts: &Parts, state: &State, jobs: &[Arc<Job>]) -> Prompt {
    let texts: Vec<&str> = jobs.iter().filter_map(|job| job.kind.text()).collect();
    let images = jobs.iter().filter_map(|job| match &job.kind {
        Kind::Message { image, .. } => image.clone(),
        _ => None,
    });
    let none = History::default();
    Prompt::new(&parts.chat.system_prompt, state.history.as_ref().unwrap_or(&none), &texts, images.collect())
}

/// Messages that were in hand at two deaths of the process run one at a time, so that the next death tells which it is.
async fn alone<'a>(
    parts: &'a Parts,
    state: &State,
    jobs: &[Arc<Job>],
) -> Option<Option<tokio::sync::SemaphorePermit<'a>>> {
    let is_suspect = jobs.iter().any(|job| parts.in_hand.crashes(job.message.as_str()) >= 2);
    if !is_suspect {
        return Some(None);
    }
    set_phase(state, parts, Phase::Waiting(Wait::Alone, None));
    tokio::select! {
        () = parts.draining.cancelled() => None,
        permit = parts.suspects.acquire() => permit.ok().map(Some),
    }
}

/// Asks one service. What that used is counted once it has answered, whatever it says; of a call that is given up
/// nobody knows it.
async fn ask_one(parts: &Parts, service: usize, prompt: &Prompt) -> Result<Answer, Failure> {
    let ai = &parts.ai[service];
    let (tokens, answer) = ai.ask(prompt, parts.clock.now()).await;
    parts.charge(Payer::Chat, service, ai.model(), tokens);
    answer
}

async fn attempt(parts: &Arc<Parts>, state: &State, jobs: &[Arc<Job>], prompt: &Prompt, held: &mut bool) -> Attempt {
    let head = &jobs[0];
    let key = cache_key(parts, state, head, prompt);
    // Somebody may be asking the same; if not, the guards say at once what is waited for.
    set_phase(state, parts, key.as_ref().map_or(Phase::Preparing, |_| Phase::Waiting(Wait::Shared, None)));
    let question = Question {
        caller: Caller { conversation: state.cell.id.as_str(), message: head.message.as_str() },
        class: Class::Chat,
        received: head.received,
        tokens: prompt.tokens(),
        key,
        chain: None,
        stand_ins: &[],
        begun: None,
        patience: None,
        until: None,
    };
    let watch = Watch { parts, state, jobs, working: Mutex::new(None), asked: Mutex::new(None) };
    let call = |service: usize| ask_one(parts, service, prompt);
    let asking = parts.stack.ask(question, &watch, call);
    tokio::pin!(asking);
    let soft_limit = state.cell.lock().hand.as_ref().map(|hand| hand.soft_limit.clone()).unwrap_or_default();
    let mut typing = parts.typing && !parts.chat.shadow;
    let mut finishing = false;
    loop {
        let deadline = until_deadline(parts, head);
        let holding = until_holding(parts, head, *held);
        tokio::select! {
            asked = &mut asking => return asked.map_or_else(Attempt::Failed, Attempt::Answer),
            () = soft_limit.cancelled() => return Attempt::SoftLimit,
            () = parts.giving_up.cancelled() => return Attempt::Drain,
            () = parts.draining.cancelled(), if !finishing => {
                // A call under way is finished; one that waits is handed back.
                finishing = watch.is_working();
                if !finishing { return Attempt::Drain }
            }
            () = tokio::time::sleep(deadline) => {
                if prepare::is_too_old(parts, head) { return Attempt::Deadline }
            }
            () = tokio::time::sleep(parts.chat.typing_after), if typing => {
                typing = false;
                show_typing(parts, state, head);
            }
            () = tokio::time::sleep(holding), if !*held => {
                *held = true;
                tell_to_hold(parts, state, head);
            }
        }
    }
}

/// Answers are kept for the first message of a conversation only: later ones depend on what was said. One that was in
/// hand before asks for itself: it would wait for the call of the actor that was given up with it.
fn cache_key(parts: &Parts, state: &State, head: &Job, prompt: &Prompt) -> Option<Key> {
    let was_in_hand = prepare::jobs(state).iter().any(|(_, _, redelivered)| *redelivered);
    let first = state.begins == Some(true) && prompt.images.is_empty() && !was_in_hand;
    let tenant = Tenant::new(head.app.as_deref().unwrap_or_default());
    first.then(|| Key::new(tenant, head.brand.as_deref().unwrap_or_default(), parts.ai[0].model(), prompt))
}

fn until_deadline(parts: &Parts, head: &Job) -> Duration {
    let left = head.replayed.unwrap_or(head.received).after(parts.chat.deadline).since(parts.clock.now());
    // Past it, the clocks may disagree; then it is asked for again from time to time.
    if left.is_zero() { Duration::from_secs(5) } else { left }
}

fn until_holding(parts: &Parts, head: &Job, held: bool) -> Duration {
    let off = held || parts.chat.holding_after.is_zero() || parts.chat.holding_message.is_empty();
    if off {
        Duration::from_secs(3600 * 24)
    } else {
        head.received.after(parts.chat.holding_after).since(parts.clock.now())
    }
}

/// Shows the customer that an answer is being written. A courtesy: nobody waits for it and its failure is nothing.
fn show_typing(parts: &Arc<Parts>, state: &State, head: &Arc<Job>) {
    let (shown, head) = (parts.clone(), head.clone());
    let target = state.alias.clone().unwrap_or_else(|| state.cell.id.clone());
    let typing = async move {
        let _ = shown.sunshine.typing(head.app.as_deref(), &target).await;
    };
    parts.courtesies.spawn(span::below(span::current(), typing));
}

/// Tells the customer that the answer takes longer, through the ledger and so at most once.
fn tell_to_hold(parts: &Arc<Parts>, state: &State, head: &Arc<Job>) {
    let is_off = parts.chat.holding_message.is_empty() || parts.chat.holding_after.is_zero();
    if is_off || parts.settings.mutes(head, state.alias.as_ref().unwrap_or(&state.cell.id)).is_some() {
        return;
    }
    let reply = Reply {
        conversation: state.cell.id.clone(),
        covers: vec![head.message.clone()],
        purpose: Purpose::Holding,
        parts: split(&parts.chat.holding_message),
        replay: 0,
        at: parts.clock.now(),
    };
    let (poster, received) = (posting::Poster::detached(parts, head, state.alias.clone()), head.received);
    let telling = async move {
        if let Err(error) = poster.post_once(&reply, received).await {
            tracing::warn!(%error, "a holding message could not be posted");
        }
    };
    parts.courtesies.spawn(span::below(span::current(), telling));
}

/// Watches a question on its way through the guards.
struct Watch<'a> {
    parts: &'a Parts,
    state: &'a State,
    jobs: &'a [Arc<Job>],
    /// In the journal as long as the AI works on it.
    working: Mutex<Option<Working<'a>>>,
    /// Which service is being asked, and since when (monotonic).
    asked: Mutex<Option<(&'static str, Duration)>>,
}

impl Watch<'_> {
    fn is_working(&self) -> bool {
        self.working.lock().is_some()
    }

    fn note_asked(&self, service: &str, took: Duration, outcome: &str) {
        let asked = Stage::Asked { service: service.to_owned(), ms: millis(took), outcome: outcome.to_owned() };
        super::note(self.state, self.parts, &asked);
    }
}

impl Progress for Watch<'_> {
    fn waiting(&self, on: Wait, until: Option<Duration>) {
        drop(self.working.lock().take());
        set_phase(self.state, self.parts, Phase::Waiting(on, until));
    }

    fn asking(&self, service: &'static str, now: Duration) {
        let ids = self.jobs.iter().map(|job| job.message.to_string());
        *self.working.lock() = Some(self.parts.in_hand.begin(ids));
        *self.asked.lock() = Some((service, now));
        set_phase(self.state, self.parts, Phase::Ai);
        self.parts.faults.kill_on(self.parts, self.jobs);
    }

    fn answered(&self, service: &'static str, took: Duration, outcome: &'static str) {
        if outcome != "ok"
            && let Some(hand) = &mut self.state.cell.lock().hand
        {
            hand.forgive(took, self.parts.clock.monotonic(), self.parts.clock.now());
        }
        self.asked.lock().take();
        self.note_asked(service, took, outcome);
    }
}

impl Drop for Watch<'_> {
    /// A call that was given up, or whose actor was killed, took its time too.
    fn drop(&mut self) {
        if let Some((service, since)) = self.asked.lock().take() {
            self.note_asked(service, self.parts.clock.monotonic().saturating_sub(since), "cancelled");
        }
    }
}
