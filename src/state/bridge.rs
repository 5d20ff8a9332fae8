//! The fleet's state with the node's own file beside it: while Redis is away, or refuses, the file takes what happens.
//!
//! ```text
//! asked --Redis answers--> Redis
//!       --it does not----> Local, durable; absence there proves nothing, so whoever asks looks at Zendesk
//! Redis is back: what Local has taken is forwarded (forward.rs); only then Redis is asked again
//! ```
//! So nothing is asked of Redis that it has not been told.

mod forward;
mod settings;
#[cfg(test)]
mod tests;

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
use tokio::{
    sync::{RwLock, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{
    Audit, Away, Budgets, Claim, Claimed, Error, Fence, Keeping, Ledger, Life, Local, Memory, Presence, Recall, Record,
    Redis, Remembered, Turn, audit::Entry,
};
use crate::domain::{
    control::Control,
    ids::{ConversationId, UserId},
    job::Job,
    prompt::History,
    reply::{Purpose, Reply},
    time::Timestamp,
    timeline::Timeline,
};

/// After a failure Redis is not asked for so long: nobody waits for its silence again and again.
const LEFT_ALONE: Duration = Duration::from_millis(500);

/// Right after the start the first connection is waited for, rather than Redis taken for away.
const BEGINS_WITHIN: Duration = Duration::from_secs(1);

/// The state on Redis, with a file for its absences.
pub struct Bridge {
    redis: Arc<Redis>,
    local: Arc<Local>,
    /// Written to while forwarding, read while the file is used.
    gate: RwLock<()>,
    /// Whether the file may hold what Redis was not told.
    behind: watch::Sender<bool>,
    away: AtomicBool,
    /// Whether Redis has told in this life of the process when the fleet was last alive.
    met: AtomicBool,
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
                $self.behind.send_replace(true);
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
            behind: watch::Sender::new(true),
            away: AtomicBool::new(false),
            met: AtomicBool::new(false),
            started: Instant::now(),
            ask_again_at: Mutex::default(),
            unreleased: DashSet::new(),
            alive: AtomicI64::new(0),
            forwarder: Mutex::default(),
        });
        let task = tokio::spawn(forward::forever(Arc::downgrade(&bridge), bridge.redis.connections()));
        *bridge.forwarder.lock() = Some(task.abort_handle());
        bridge
    }

    fn is_reachable(&self) -> bool {
        let is_left_alone = self.ask_again_at.lock().is_some_and(|at| Instant::now() < at);
        self.redis.is_up() && !is_left_alone
    }

    /// Right after the start: waits until there is a connection, and what the file holds from before is forwarded.
    async fn begins(&self) {
        let until = self.started + BEGINS_WITHIN;
        if Instant::now() >= until || !*self.behind.borrow() {
            return;
        }
        let mut behind = self.behind.subscribe();
        // What has not begun by then is away.
        let _ = timeout_at(until, behind.wait_for(|behind| !behind)).await;
    }

    /// Asks Redis; `None` when it is away, or has not been told yet what happened while it was.
    async fn on_redis<T>(&self, asking: impl Future<Output = Result<T, Error>>) -> Option<Result<T, Error>> {
        self.begins().await;
        if !self.is_reachable() {
            self.gone("no connection");
            return None;
        }
        if *self.behind.borrow() {
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
        // A claim that was made here may have been asked of Redis first, and have reached it late.
        let fence = fence.filter(|fence| *fence != Fence(0));
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
        let here = async {
            // Who has claimed in Redis cannot know what another node has done since: claimed again, here, it is looked for.
            let claimed_there = fence.is_some_and(|fence| fence != Fence(0));
            match claimed_there && reply.purpose == Purpose::Answer {
                true => Ok(Claim::Lost),
                false => self.local.intend(reply, fence).await,
            }
        };
        either!(self, self.redis.intend(reply, fence), here)
    }

    async fn revoke(&self, reply: &Reply) -> Result<(), Error> {
        // One that stays in Redis is ended there with its message.
        self.on_redis(self.redis.revoke(reply)).await.unwrap_or(Ok(()))?;
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

    async fn claimed_by(&self, conversation: &ConversationId) -> Result<Option<String>, Error> {
        either!(self, self.redis.claimed_by(conversation), self.local.claimed_by(conversation))
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

    async fn messages_of(&self, conversation: &ConversationId, limit: usize) -> Result<Vec<Record>, Error> {
        self.only_redis(self.redis.messages_of(conversation, limit)).await
    }

    async fn note_story(&self, job: &Job, replay: u32, story: &Timeline) -> Result<(), Error> {
        self.only_redis(self.redis.note_story(job, replay, story)).await
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
        match self.on_redis(self.redis.last_alive()).await {
            Some(there) => {
                let there = there?;
                self.met.store(true, Ordering::Release);
                Ok(here.max(there))
            }
            // Nobody can leave a mark there; that is no absence.
            None if self.met.load(Ordering::Acquire) => Ok(here),
            // How long the fleet was away is not known yet, and must not be forgotten.
            None => Err(Error::Away("Redis has not told yet when a node was last alive".into())),
        }
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

#[async_trait]
impl Budgets for Bridge {
    /// Whoever counts goes on by what it knows, and tells when Redis is back: the file would only know of this node.
    async fn spend(&self, key: &str, month: &str, tokens: u64) -> Result<u64, Error> {
        self.only_redis(self.redis.spend(key, month, tokens)).await
    }
}

#[async_trait]
impl Audit for Bridge {
    async fn note(&self, entry: &Entry) -> Result<(), Error> {
        either!(self, self.redis.note(entry), self.local.note(entry))
    }

    /// While Redis is away what is noted there is not known.
    async fn audit(&self, before: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.only_redis(self.redis.audit(before, limit)).await
    }
}
