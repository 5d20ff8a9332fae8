//! Posts a reply into a conversation, each part once, although Zendesk has no idempotency key.
//!
//! A post whose outcome is not known is looked for by its mark: at once, and again when it can no longer turn up late.
//! Only what is missing then is posted again. The AI is not asked for any of this.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    KillPoint, Parts,
    conversation::State,
    hand::Phase,
    inbox::Cell,
    lease::{Lease, VALID_FOR},
    settings::Mute,
    turn::is_too_old,
};
use crate::{
    client::{self, Found},
    domain::{
        ids::ConversationId,
        job::Job,
        reply::{Purpose, Reply},
        time::Timestamp,
        timeline::Wait,
    },
    guard::{Class, Permit, bulkhead::Slot},
    state::Claim,
};

/// The first pause while Zendesk cannot be reached; doubles up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// The pause after a 401: somebody has to mend the key.
const SETUP_PAUSE: Duration = Duration::from_secs(10);

/// How far back the search for a mark goes beyond the intent; clocks differ.
const LOOK_BACK: Duration = Duration::from_secs(600);

/// What is known of earlier attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// None was made.
    NothingPosted,
    /// There may have been one: look first.
    Unknown,
}

/// How it went.
pub(super) struct Posted {
    pub parts: usize,
    /// The time of the calls, without what was waited for.
    pub took: Duration,
    /// Parts that had been posted before.
    pub found: usize,
}

/// Why a reply was not posted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A human holds the conversation; nothing was posted.
    #[error("a human holds the conversation")]
    NotOurs,
    /// A message that comes before these has arrived; nothing was posted.
    #[error("an earlier message has arrived")]
    Preceded,
    /// The customer has waited so long that the reply would be stale.
    #[error("the deadline has passed")]
    Expired,
    /// An operator has muted the bot there; nothing was posted.
    #[error("the bot is muted ({0})")]
    Muted(Mute),
    /// The node drains; the ledger knows what was meant.
    #[error("the node drains")]
    Draining,
    /// Another node has taken the conversation over; it posts.
    #[error("another node has taken the conversation over")]
    Lost,
    /// The actor was replaced while it was blocked; its successor posts.
    #[error("the actor has been replaced")]
    Outlived,
    /// Zendesk will never take it.
    #[error("{0}")]
    Refused(String),
}

/// Posts into one conversation.
pub(super) struct Poster {
    parts: Arc<Parts>,
    app: Option<String>,
    brand: Option<String>,
    /// Where posts go: the message's conversation, or the one it was merged into.
    target: ConversationId,
    /// Whose phase is shown, if a conversation's actor posts.
    watched: Option<(Arc<Cell>, u64)>,
    /// Under which claim.
    lease: Lease,
}

impl Poster {
    /// For the actor of a conversation, on behalf of what it has in hand.
    pub fn of_conversation(parts: &Arc<Parts>, state: &State) -> Self {
        let (app, brand) = {
            let inner = state.cell.lock();
            let head = inner.hand.as_ref().and_then(|hand| hand.items.first()).map(|head| &head.delivery.job);
            (head.and_then(|job| job.app.clone()), head.and_then(|job| job.brand.clone()))
        };
        let target = state.alias.clone().unwrap_or_else(|| state.cell.id.clone());
        let lease = Lease::default();
        if let Some(held) = state.lease.get() {
            lease.set(held);
        }
        Self { parts: parts.clone(), app, brand, target, watched: Some((state.cell.clone(), state.generation)), lease }
    }

    /// For anybody else, on behalf of one message.
    pub fn detached(parts: &Arc<Parts>, job: &Job, alias: Option<ConversationId>) -> Self {
        let target = alias.unwrap_or_else(|| job.conversation.clone());
        let (app, brand) = (job.app.clone(), job.brand.clone());
        Self { parts: parts.clone(), app, brand, target, watched: None, lease: Lease::default() }
    }

    /// Enters what is no answer into the ledger and posts it, at most once whoever tries. A ledger that was lost takes it
    /// for new; then what was posted since the message was `received` tells.
    pub async fn post_once(&self, reply: &Reply, received: Timestamp) -> Result<Posted, Error> {
        let entered = matches!(self.parts.state.intend(reply, None).await, Ok(Claim::Ours));
        let there = if entered { self.find_marks(reply.covers[0].as_str(), received).await? } else { Vec::new() };
        if there.iter().any(|mark| mark.key == reply.key()) {
            return Ok(Posted { parts: reply.parts.len(), took: Duration::ZERO, found: there.len() });
        }
        self.post(reply, if entered { Knowledge::NothingPosted } else { Knowledge::Unknown }).await
    }

    /// Posts the parts that are missing.
    pub async fn post(&self, reply: &Reply, known: Knowledge) -> Result<Posted, Error> {
        let mut took = Duration::ZERO;
        let present = match known {
            Knowledge::NothingPosted => HashSet::new(),
            // Whoever meant it may have been posting until just now; one that was thought dead may begin even then, as
            // long as it believes in its claim.
            Knowledge::Unknown => {
                let inherited = self.lease.get().is_some_and(|held| held.inherited);
                let grace = if inherited { VALID_FOR } else { Duration::ZERO };
                self.present(reply, self.settled_at(self.parts.clock.now()) + grace).await?
            }
        };
        for part in 0..reply.parts.len() {
            if present.contains(&reply.mark(part).part) {
                continue;
            }
            let begun = part > 0 || !present.is_empty();
            let untried = known == Knowledge::NothingPosted && part == 0;
            took += self.post_part(reply, part, begun, untried).await?;
            if part == 0 && reply.parts.len() > 1 {
                self.parts.faults.kill_point(KillPoint::BetweenParts);
            }
        }
        Ok(Posted { parts: reply.parts.len(), took, found: present.len() })
    }

    /// The marks in the conversation that name a message.
    pub async fn find_marks(&self, message: &str, since: Timestamp) -> Result<Vec<Found>, Error> {
        let mut pause = PAUSE_FIRST;
        loop {
            let since = since.before(LOOK_BACK);
            self.show(Phase::Waiting(Wait::Zendesk, None));
            let marks = self.parts.sunshine.look(self.app.as_deref(), &self.target, message, since).await;
            self.show(Phase::Post);
            self.parts.heard_of_zendesk(marks.as_ref().err());
            match marks {
                Ok(marks) => return Ok(marks),
                // A conversation that is not there has no marks. Any other refusal proves nothing.
                Err(client::Error::Refused(404)) => return Ok(Vec::new()),
                Err(error @ client::Error::Refused(_)) => return Err(Error::Refused(error.to_string())),
                Err(error) => pause = self.wait_out(&error, pause).await?,
            }
        }
    }

    /// From when (monotonic) on a post begun at `begun` (wall) can no longer turn up late.
    fn settled_at(&self, begun: Timestamp) -> Duration {
        let settled = begun.after(self.parts.post_timeout);
        self.parts.clock.monotonic() + settled.since(self.parts.clock.now())
    }

    /// The parts that are there. One look may be enough to find all; absence counts only after `settled_at`.
    async fn present(&self, reply: &Reply, settled_at: Duration) -> Result<HashSet<String>, Error> {
        let key = reply.key();
        loop {
            let final_look = self.parts.clock.monotonic() >= settled_at;
            let marks = self.find_marks(reply.covers[0].as_str(), reply.at).await?;
            let present: HashSet<String> =
                marks.into_iter().filter(|mark| mark.key == key).map(|mark| mark.part).collect();
            if final_look || present.len() == reply.parts.len() {
                return Ok(present);
            }
            self.wait_until(settled_at).await?;
        }
    }

    /// Posts one part. `begun`: an earlier part is there. `untried`: no part has been sent yet, so the intent can still
    /// be revoked (design rule 5). Returns how long the calls took.
    async fn post_part(&self, reply: &Reply, part: usize, begun: bool, mut untried: bool) -> Result<Duration, Error> {
        let mark = reply.mark(part);
        let mut took = Duration::ZERO;
        let mut pause = PAUSE_FIRST;
        loop {
            if self.parts.chat.shadow {
                self.still_ours(reply, untried).await?;
                return Ok(took);
            }
            let (slot, permit) = self.turn_to_post(reply).await?;
            if self.is_outlived() {
                return Err(Error::Outlived);
            }
            // Looked at last: the waits before may have been long. First whether another node posts it meanwhile: then
            // nothing of it is ours to take back.
            self.still_owner(reply).await?;
            if !begun {
                self.still_ours(reply, untried).await?;
            }
            let Some(call) = permit.used_now() else { continue };
            self.show(Phase::Post);
            untried = false;
            let (started, began) = (self.parts.clock.now(), self.parts.clock.monotonic());
            let sent = self.parts.sunshine.post(self.app.as_deref(), &self.target, &reply.parts[part], &mark).await;
            drop((call, slot));
            took += self.parts.clock.monotonic().saturating_sub(began);
            self.parts.metrics.posted(sent.as_ref().err());
            let works = !matches!(
                sent,
                Err(client::Error::Unknown(_) | client::Error::Unreachable | client::Error::Unauthorized)
            );
            self.parts.zendesk_up.store(works, Ordering::Relaxed);
            self.parts.heard_of_zendesk(sent.as_ref().err());
            match sent {
                Ok(()) => {
                    self.parts.posts.succeeded();
                    return Ok(took);
                }
                Err(client::Error::Unknown(_)) => {
                    let found = self.present(reply, self.settled_at(started)).await?;
                    if found.contains(&mark.part) {
                        return Ok(took);
                    }
                }
                Err(error @ (client::Error::Refused(_) | client::Error::Locked)) => {
                    return Err(Error::Refused(error.to_string()));
                }
                Err(error) => pause = self.wait_out(&error, pause).await?,
            }
        }
    }

    /// Waits for a slot and for the limiter; neither is held while anything else is waited for.
    async fn turn_to_post(&self, reply: &Reply) -> Result<(Slot, Permit), Error> {
        self.show(Phase::Waiting(Wait::Slot, None));
        let slot = tokio::select! {
            biased;
            slot = self.parts.posting.enter(reply.at.0, Class::Chat) => slot,
            () = self.parts.draining.cancelled() => return Err(Error::Draining),
        };
        if let Some(permit) = self.parts.posts.at_once(1) {
            return Ok((slot, permit));
        }
        self.show(Phase::Waiting(Wait::Limiter, None));
        tokio::select! {
            biased;
            permit = self.parts.posts.acquire(1, Class::Chat) => Ok((slot, permit)),
            () = self.parts.draining.cancelled() => Err(Error::Draining),
        }
    }

    /// Right before the first post, and before it is tried again: is the bot muted, does a human hold the conversation
    /// meanwhile, is it too late, and, as long as none was tried, has an earlier message arrived?
    async fn still_ours(&self, reply: &Reply, untried: bool) -> Result<(), Error> {
        let names = [&self.target, &reply.conversation];
        if let Some(mute) = self.parts.settings.mutes_in(&names, self.brand.as_deref()) {
            return Err(Error::Muted(mute));
        }
        if reply.purpose != Purpose::Answer {
            return Ok(());
        }
        let control = self.parts.state.control(&self.target).await;
        // What cannot be asked now was asked at the last look.
        let taken = control.is_ok_and(|control| control.is_some_and(|control| !control.holder.lets_us_answer()));
        if taken {
            return Err(Error::NotOurs);
        }
        let Some((cell, _)) = self.watched.as_ref().filter(|_| !self.parts.draining.is_cancelled()) else {
            return Ok(());
        };
        let inner = cell.lock();
        let head = inner.hand.as_ref().and_then(|hand| hand.items.first());
        if head.is_some_and(|head| is_too_old(&self.parts, &head.delivery.job)) {
            return Err(Error::Expired);
        }
        if untried && inner.is_preceded() { Err(Error::Preceded) } else { Ok(()) }
    }

    /// Right before each post: the state must have said lately that the conversation is ours. A node that was stopped
    /// for a while, or had to wait, asks again: meanwhile it may have been taken for dead.
    async fn still_owner(&self, reply: &Reply) -> Result<(), Error> {
        let Some(held) = self.lease.get() else { return Ok(()) };
        let asked = self.parts.clock.monotonic();
        if asked.saturating_sub(held.confirmed) < VALID_FOR {
            return Ok(());
        }
        match self.parts.state.is_ours(&reply.conversation, held.fence).await {
            Ok(true) => {
                self.lease.confirm(asked);
                Ok(())
            }
            Ok(false) => Err(Error::Lost),
            Err(error) => {
                tracing::warn!(%error, conversation.id = %reply.conversation, "whether a conversation is ours is not known; it is claimed anew");
                Err(Error::Lost)
            }
        }
    }

    /// Whether another incarnation of the conversation's actor works meanwhile.
    fn is_outlived(&self) -> bool {
        self.watched.as_ref().is_some_and(|(cell, generation)| !cell.lock().is_current(*generation))
    }

    /// Waits after a failure that is not the message's; returns the next pause.
    async fn wait_out(&self, error: &client::Error, pause: Duration) -> Result<Duration, Error> {
        let wait = match error {
            client::Error::Throttled(retry_after) => {
                self.parts.posts.throttled(*retry_after);
                retry_after.unwrap_or(pause)
            }
            client::Error::Unauthorized => {
                tracing::error!("Zendesk does not accept our key (zendesk.key_id, zendesk.key_secret); replies wait");
                SETUP_PAUSE
            }
            _ => pause,
        };
        self.wait_until(self.parts.clock.monotonic() + wait).await?;
        Ok((pause * 2).min(PAUSE_LONGEST))
    }

    async fn wait_until(&self, until: Duration) -> Result<(), Error> {
        self.show(Phase::Waiting(Wait::Zendesk, Some(until)));
        tokio::select! {
            () = self.parts.draining.cancelled() => Err(Error::Draining),
            () = tokio::time::sleep_until(self.parts.clock.instant(until)) => {
                self.show(Phase::Post);
                Ok(())
            }
        }
    }

    fn show(&self, phase: Phase) {
        let Some((cell, generation)) = &self.watched else { return };
        let mut inner = cell.lock();
        if let (true, Some(hand)) = (inner.is_current(*generation), &mut inner.hand) {
            hand.enter(phase, self.parts.clock.monotonic(), self.parts.clock.now());
        }
    }
}
