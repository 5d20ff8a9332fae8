//! The fleet's state with the node's own file beside it: while Redis is away, or refuses, the file takes what happens.
//!
//! ```text
//! asked --Redis answers--> Redis
//!       --it does not----> Local, durable; absence there proves nothing, so whoever asks looks at Zendesk
//! Redis is back: what Local has taken is forwarded, then forgotten there; only then Redis is asked again
//! ```
//! So nothing is asked of Redis that it has not been told. Forwarding is idempotent: whatever breaks it off, also the
//! end of the process, it begins again with what is left.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use dashmap::DashSet;
use parking_lot::Mutex;
use tokio::{sync::RwLock, task::AbortHandle, time::Instant};

use super::{
    Away, Claim, Claimed, Error, Fence, Keeping, Ledger, Life, Local, Memory, Presence, Recall, Record, Redis,
    Remembered, Turn,
    local::{Kept, Portion},
};
use crate::domain::{
    control::Control,
    ids::{ConversationId, UserId},
    job::Job,
    prompt::History,
    reply::Reply,
    time::Timestamp,
    timeline::Timeline,
};

/// After a failure Redis is not asked for so long: nobody waits for its silence again and again.
const LEFT_ALONE: Duration = Duration::from_millis(500);

/// Right after the start the first connection is waited for, rather than Redis taken for away.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// The state on Redis, with a file for its absences.
pub struct Bridge {
    redis: Arc<Redis>,
    local: Arc<Local>,
    /// Written to while forwarding, read while the file is used.
    gate: RwLock<()>,
    /// Whether the file may hold what Redis was not told.
    behind: AtomicBool,
    away: AtomicBool,
    started: Instant,
    ask_again_at: Mutex<Option<Instant>>,
    /// Conversations that Redis may think are still claimed by us.
    unreleased: DashSet<ConversationId>,
    /// When this node was last alive.
    alive: AtomicI64,
    forwarder: Mutex<Option<AbortHandle>>,
}

/// Asks Redis, or goes on with the file.
macro_rules! either {
    ($self:ident, $redis:expr, $local:expr) => {
        match $self.on_redis($redis).await {
            Some(answer) => answer,
            None => {
                let _open = $self.gate.read().await;
                $self.behind.store(true, Ordering::Release);
                $local.await
            }
        }
    };
}

impl Bridge {
    /// Joins the two. What the file still holds from before is forwarded first.
    pub fn new(redis: Arc<Redis>, local: Arc<Local>) -> Arc<Self> {
        let bridge = Arc::new(Self {
            redis,
            local,
            gate: RwLock::default(),
            behind: AtomicBool::new(true),
            away: AtomicBool::new(false),
            started: Instant::now(),
            ask_again_at: Mutex::default(),
            unreleased: DashSet::new(),
            alive: AtomicI64::new(0),
            forwarder: Mutex::default(),
        });
        let (here, mut connections) = (Arc::downgrade(&bridge), bridge.redis.connections());
        let task = tokio::spawn(async move {
            while let Some(bridge) = here.upgrade() {
                let is_behind = bridge.behind.load(Ordering::Acquire);
                if is_behind && bridge.is_reachable() {
                    // What fails is noted, and tried again.
                    let _ = bridge.forward().await;
                }
                drop(bridge);
                tokio::select! {
                    () = tokio::time::sleep(LEFT_ALONE) => {}
                    changed = connections.changed() => if changed.is_err() { return },
                }
            }
        });
        *bridge.forwarder.lock() = Some(task.abort_handle());
        bridge
    }

    fn is_reachable(&self) -> bool {
        let is_left_alone = self.ask_again_at.lock().is_some_and(|at| Instant::now() < at);
        self.redis.is_up() && !is_left_alone
    }

    async fn connects(&self) {
        let mut connections = self.redis.connections();
        let until = self.started + CONNECTS_WITHIN;
        if *connections.borrow() == 0 && Instant::now() < until {
            // Without one it is away.
            let _ = tokio::time::timeout_at(until, connections.wait_for(|count| *count > 0)).await;
        }
    }

    /// Asks Redis; `None` when it is away.
    async fn on_redis<T>(&self, asking: impl Future<Output = Result<T, Error>>) -> Option<Result<T, Error>> {
        self.connects().await;
        let may_ask = self.is_reachable() && (!self.behind.load(Ordering::Acquire) || self.forward().await.is_ok());
        if !may_ask {
            self.gone("no connection");
            return None;
        }
        match asking.await {
            Err(error @ (Error::Away(_) | Error::Failed(_))) => {
                self.left_alone(&error);
                None
            }
            answer => Some(answer),
        }
    }

    fn left_alone(&self, error: &Error) {
        *self.ask_again_at.lock() = Some(Instant::now() + LEFT_ALONE);
        self.gone(&error.to_string());
    }

    fn gone(&self, why: &str) {
        if !self.away.swap(true, Ordering::AcqRel) {
            tracing::error!(
                why,
                "Redis is away; this node goes on with its own file and looks at Zendesk before it answers"
            );
        }
    }

    /// Tells Redis what it has missed.
    async fn forward(&self) -> Result<(), Error> {
        let _closed = self.gate.write().await;
        if !self.behind.load(Ordering::Acquire) {
            return Ok(());
        }
        let forwarded = self.forward_all().await;
        if let Err(error) = &forwarded {
            self.left_alone(error);
            return forwarded;
        }
        self.local.forget_controls();
        self.behind.store(false, Ordering::Release);
        if self.away.swap(false, Ordering::AcqRel) {
            tracing::warn!("Redis is back, and knows what has happened meanwhile");
        }
        Ok(())
    }

    async fn forward_all(&self) -> Result<(), Error> {
        while let Some(outstanding) = self.local.outstanding().await? {
            match &outstanding.portion {
                Portion::Replies(replies) => {
                    for reply in replies {
                        // Whether it was known or is not wanted any more: its end follows.
                        self.redis.intend(reply, None).await?;
                    }
                }
                Portion::Records(records) => {
                    for record in records {
                        self.redis.conclude(vec![record.clone()], None, None).await?;
                    }
                }
                Portion::Conversations(kept) => {
                    for kept in kept {
                        self.forward_conversation(kept).await?;
                    }
                }
            }
            self.local.forwarded(outstanding).await?;
        }
        let unreleased: Vec<ConversationId> = self.unreleased.iter().map(|id| id.clone()).collect();
        for conversation in unreleased {
            self.redis.release(&conversation, None).await?;
            self.unreleased.remove(&conversation);
        }
        Ok(())
    }

    async fn forward_conversation(&self, kept: &Kept) -> Result<(), Error> {
        let conversation = &kept.conversation;
        if let Some(user) = &kept.user {
            self.redis.note_user(conversation, user, kept.touched).await?;
        }
        if let Some(control) = kept.control {
            self.redis.write_control(conversation, control).await?;
        }
        if kept.away.is_some() {
            self.redis.note_away(conversation, kept.away.clone()).await?;
        }
        if let Some(history) = &kept.history {
            self.redis.note_said(conversation, history, kept.touched).await?;
        }
        Ok(())
    }

    /// Only Redis knows; while it is away the question waits.
    async fn only_redis<T>(&self, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.on_redis(asking).await.unwrap_or_else(|| Err(Error::Away("Redis is away".into())))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(forwarder) = self.forwarder.lock().take() {
            forwarder.abort();
        }
    }
}

/// Absence in the file proves nothing.
fn unproven(recall: Recall) -> Recall {
    if recall == Recall::New { Recall::Unknown } else { recall }
}

#[async_trait]
impl Ledger for Bridge {
    async fn claim(&self, turn: &Turn) -> Result<Claimed, Error> {
        let here = async {
            self.unreleased.insert(turn.conversation.clone());
            // This node may have answered it just now, before Redis went.
            let lives = turn.lives.iter().map(|life| Life { redelivered: true, ..life.clone() }).collect();
            let claimed = self.local.claim(&Turn { lives, ..turn.clone() }).await?;
            Ok(match claimed {
                Claimed::Ours(mut ours) => {
                    ours.recalls = ours.recalls.into_iter().map(unproven).collect();
                    Claimed::Ours(ours)
                }
                held => held,
            })
        };
        either!(self, self.redis.claim(turn), here)
    }

    async fn is_ours(&self, conversation: &ConversationId, fence: Fence) -> Result<bool, Error> {
        // A claim made here means nothing to Redis, and one made there nothing here.
        if fence == Fence(0) { Ok(true) } else { self.only_redis(self.redis.is_ours(conversation, fence)).await }
    }

    async fn release(&self, conversation: &ConversationId, fence: Option<Fence>) -> Result<(), Error> {
        if fence == Some(Fence(0)) {
            return Ok(());
        }
        either!(self, self.redis.release(conversation, fence), async {
            self.unreleased.insert(conversation.clone());
            Ok(())
        })
    }

    async fn recall(&self, conversation: &ConversationId, life: &Life) -> Result<Recall, Error> {
        let here = async { self.local.recall(conversation, life).await.map(unproven) };
        either!(self, self.redis.recall(conversation, life), here)
    }

    async fn intend(&self, reply: &Reply, fence: Option<Fence>) -> Result<Claim, Error> {
        either!(self, self.redis.intend(reply, fence), self.local.intend(reply, fence))
    }

    async fn revoke(&self, reply: &Reply) -> Result<(), Error> {
        // There it may have been entered before.
        self.only_redis(self.redis.revoke(reply)).await?;
        self.local.revoke(reply).await
    }

    async fn conclude(&self, records: Vec<Record>, said: Option<History>, fence: Option<Fence>) -> Result<(), Error> {
        let fence = fence.filter(|fence| *fence != Fence(0));
        either!(self, self.redis.conclude(records.clone(), said.clone(), fence), async {
            if let (Some(_), Some(first)) = (fence, records.first()) {
                self.unreleased.insert(first.conversation.clone());
            }
            self.local.conclude(records, said, fence).await
        })
    }
}

#[async_trait]
impl Memory for Bridge {
    async fn remembered(&self, conversation: &ConversationId) -> Result<Remembered, Error> {
        either!(self, self.redis.remembered(conversation), self.local.remembered(conversation))
    }

    async fn control(&self, conversation: &ConversationId) -> Result<Option<Control>, Error> {
        if let Some(known) = self.redis.heard(conversation).await {
            return Ok(Some(known));
        }
        either!(self, self.redis.control(conversation), self.local.control(conversation))
    }

    async fn note_control(&self, conversation: &ConversationId, control: Control) -> Result<bool, Error> {
        either!(self, self.redis.note_control(conversation, control), async {
            self.redis.hear(conversation, control).await;
            self.local.note_control(conversation, control).await
        })
    }

    async fn note_away(&self, conversation: &ConversationId, away: Option<Away>) -> Result<(), Error> {
        either!(self, self.redis.note_away(conversation, away.clone()), self.local.note_away(conversation, away))
    }
}

#[async_trait]
impl Keeping for Bridge {
    async fn record(&self, id: &str) -> Result<Option<Record>, Error> {
        match self.on_redis(self.redis.record(id)).await {
            Some(answer) => answer,
            None => match self.local.record(id).await? {
                Some(record) => Ok(Some(record)),
                None => Err(Error::Away("Redis is away".into())),
            },
        }
    }

    async fn note_story(&self, job: &Job, story: &Timeline) -> Result<(), Error> {
        self.only_redis(self.redis.note_story(job, story)).await
    }

    async fn story(&self, message: &str) -> Result<Option<Timeline>, Error> {
        self.only_redis(self.redis.story(message)).await
    }

    async fn note_user(&self, conversation: &ConversationId, user: &UserId, at: Timestamp) -> Result<(), Error> {
        either!(self, self.redis.note_user(conversation, user, at), self.local.note_user(conversation, user, at))
    }

    async fn merge(&self, from: &ConversationId, into: &ConversationId) -> Result<(), Error> {
        self.only_redis(self.redis.merge(from, into)).await
    }

    async fn conversations_of(&self, user: &UserId) -> Result<Vec<ConversationId>, Error> {
        self.only_redis(self.redis.conversations_of(user)).await
    }

    async fn forget_conversation(&self, conversation: &ConversationId) -> Result<(), Error> {
        self.only_redis(self.redis.forget_conversation(conversation)).await
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        // What is not forwarded is kept whatever its age; what was is gone.
        self.on_redis(self.redis.tidy(now)).await.unwrap_or(Ok(()))
    }
}

#[async_trait]
impl Presence for Bridge {
    async fn last_alive(&self) -> Result<Option<Timestamp>, Error> {
        let here = Some(Timestamp(self.alive.load(Ordering::Acquire))).filter(|at| at.0 > 0);
        // While Redis is away nobody can leave a mark there; that is no absence.
        let there = self.on_redis(self.redis.last_alive()).await.unwrap_or(Ok(None))?;
        Ok(here.max(there))
    }

    async fn alive(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        let before = self.last_alive().await?;
        self.alive.store(now.0, Ordering::Release);
        self.on_redis(self.redis.alive(now)).await.unwrap_or(Ok(None))?;
        Ok(before)
    }

    async fn open_since(&self, since: Timestamp, limit: usize) -> Result<Vec<ConversationId>, Error> {
        self.only_redis(self.redis.open_since(since, limit)).await
    }
}

#[cfg(test)]
mod tests;
