//! Judges the dead letters: those with tries left come again after a pause, the others are given up.
//!
//! Supervised by the node.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Parts,
    farewell::farewell,
    hand::Item,
    patience::{STORE_PAUSE, outwait},
    posting::Poster,
    roster::Card,
    settings::Pool,
    story, turn,
};
use crate::{
    broker::{self, Delivery, Queue},
    domain::{ids::ConversationId, reason, timeline::Stage},
    state::{Away, Life, Recall},
    telemetry::span,
};

/// Dead letters judged at once; those beyond wait on the disk.
const AT_ONCE: usize = 64;

/// Farewells said at once; while Zendesk is away each takes its whole time.
const FAREWELLS_AT_ONCE: usize = 64;

/// Letters that wait for their farewell in memory. As long as there are fewer, they keep none from being tried again.
const FAREWELLS_MAX: usize = 1_024;

/// As long Zendesk is asked whether a message was answered after all, before the letter goes back.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// The judge.
pub(super) struct RetryActor {
    pub parts: Arc<Parts>,
    pub card: Arc<Card>,
}

/// What it is told.
pub(super) enum Message {
    /// Take what there is, or wait for it.
    Pull,
}

/// What it knows.
pub(super) struct State {
    /// Farewells under way, or waiting for their turn.
    farewells: JoinSet<()>,
    turns: Arc<Semaphore>,
}

impl Actor for RetryActor {
    type Msg = Message;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Message>, (): ()) -> Result<State, ActorProcessingErr> {
        Ok(State { farewells: JoinSet::new(), turns: Arc::new(Semaphore::new(FAREWELLS_AT_ONCE)) })
    }

    async fn post_start(&self, myself: ActorRef<Message>, _: &mut State) -> Result<(), ActorProcessingErr> {
        Ok(myself.cast(Message::Pull)?)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Pull => self.pull(state).await?,
        }
        if !self.parts.draining.is_cancelled() {
            myself.cast(Message::Pull)?;
        }
        Ok(())
    }
}

impl RetryActor {
    async fn pull(&self, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.card.meet_fault().await?;
        while state.farewells.try_join_next().is_some() {}
        if state.farewells.len() >= FAREWELLS_MAX {
            state.farewells.join_next().await;
        }
        if let Err(error) = self.take(state).await {
            // What was not settled comes back.
            outwait(&self.parts, &self.card, &error).await;
        }
        Ok(())
    }

    async fn take(&self, state: &mut State) -> Result<(), broker::Error> {
        let room = AT_ONCE.min(FAREWELLS_MAX.saturating_sub(state.farewells.len())).max(1);
        let taking = self.parts.broker.take(Queue::Dead, room);
        let letters = tokio::select! {
            biased;
            () = self.parts.draining.cancelled() => return Ok(()),
            () = self.parts.settings.held(Pool::Retry) => {
                self.rest().await;
                return Ok(());
            }
            taken = taking => taken?,
        };
        let _in_hand = self.card.begin("judging");
        self.card.handled(letters.len() as u64);
        for letter in letters {
            let _in_hand = self.card.begin("a dead letter");
            match self.parts.retry.pause(letter.tries, rand::random()) {
                Some(pause) => self.bring_back(letter, pause).await?,
                None => {
                    let (parts, turns, sent) = (self.parts.clone(), state.turns.clone(), letter.job.trace);
                    let giving_up = async move {
                        let _turn = turns.acquire().await;
                        give_up(&parts, letter).await;
                    };
                    state.farewells.spawn(span::below(sent, giving_up));
                }
            }
        }
        Ok(())
    }

    /// Waits as long as the pool is paused.
    async fn rest(&self) {
        tokio::select! {
            () = self.parts.draining.cancelled() => {}
            () = self.parts.settings.free(Pool::Retry) => {}
        }
    }

    async fn bring_back(&self, letter: Delivery, pause: Duration) -> Result<(), broker::Error> {
        let job = letter.job.clone();
        let cause = letter.reason.clone().unwrap_or_default();
        tracing::info!(job.id = %job.id, tries = letter.tries, cause, pause_ms = pause.as_millis() as u64, "a message is tried again");
        self.parts.metrics.retried(letter.lane, reason::cause(&cause));
        let away = Away { head: job.message.clone(), until: self.parts.clock.now().after(pause) };
        if let Some(cell) = self.parts.directory.find(&job.conversation) {
            cell.lock().away = Some(away);
        }
        letter.retry(pause).await
    }
}

/// Whether an answer to it is at Zendesk; `None` when Zendesk does not say.
async fn was_posted(parts: &Arc<Parts>, letter: &Delivery, alias: Option<ConversationId>) -> Option<bool> {
    let job = &letter.job;
    let reply = match parts.state.recall(&job.conversation, &Life::of(job, letter.replay, true)).await {
        Ok(Recall::Intended(reply)) => reply,
        Ok(_) => return Some(false),
        Err(_) => return None,
    };
    // One that fails again and again after that is given up all the same.
    if letter.tries > parts.retry.max_retries + 1 {
        return Some(false);
    }
    let poster = Poster::detached(parts, job, alias);
    let looking = poster.find_marks(job.message.as_str(), job.received);
    let marks = tokio::time::timeout(LOOK_WITHIN, looking).await.ok()?;
    Some(marks.ok()?.iter().any(|mark| mark.key == reply.key()))
}

/// Tells the customer, hands the conversation over, parks the message; its followers go on.
async fn give_up(parts: &Arc<Parts>, letter: Delivery) {
    let job = letter.job.clone();
    let cause = letter.reason.clone().unwrap_or_else(|| "failed".into());
    let alias = parts.state.remembered(&job.conversation).await.ok().and_then(|remembered| remembered.alias);
    match was_posted(parts, &letter, alias.clone()).await {
        Some(false) => {}
        // It failed after its answer had been posted: once more through its conversation, which finds that and ends it.
        Some(true) => {
            if let Err(error) = letter.retry(Duration::ZERO).await {
                tracing::error!(%error, job.id = %job.id, "a message could not be brought back");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            return;
        }
        // The letter comes back.
        None => return tokio::time::sleep(STORE_PAUSE).await,
    }
    let cause = farewell(parts, (&job, letter.replay), alias, &cause).await;
    if parts.draining.is_cancelled() {
        // Not told, perhaps; the next start goes on from here.
        return;
    }
    let tries = letter.tries;
    let mut item = Item::new(letter, parts.clock.now());
    story::recall(parts, &mut item).await;
    item.timeline.note(parts.clock.now(), Stage::Failed { cause: format!("{cause}; tried {tries} times") });
    if let Err(error) = turn::park(parts, vec![item], &cause, None).await {
        tracing::error!(%error, job.id = %job.id, "a message could not be parked; it comes back");
        tokio::time::sleep(STORE_PAUSE).await;
    }
}
