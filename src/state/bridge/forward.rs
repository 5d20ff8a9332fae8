//! Tells Redis what the file has taken while it was away. Idempotent: whatever breaks it off, also the end of the process,
//! it begins again with what is left.

use std::sync::{Weak, atomic::Ordering};

use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::{Bridge, LEFT_ALONE};
use crate::{
    domain::ids::ConversationId,
    state::{
        Audit, Error, Keeping, Ledger, Memory,
        local::{Kept, Portion},
    },
};

/// So much is told at once: a portion holds up those who use the file.
const AT_ONCE: usize = 16;

/// Forwards whenever there is something to forward and Redis can be reached, as long as the bridge stands.
pub(super) async fn forever(bridge: Weak<Bridge>, mut connections: watch::Receiver<u64>) {
    while let Some(bridge) = bridge.upgrade() {
        if *bridge.behind.borrow()
            && bridge.is_reachable()
            && let Err(error) = bridge.forward().await
        {
            // Noted, and tried again.
            bridge.left_alone(&error);
        }
        let mut behind = bridge.behind.subscribe();
        drop(bridge);
        tokio::select! {
            () = tokio::time::sleep(LEFT_ALONE) => {}
            changed = connections.changed() => if changed.is_err() { return },
            changed = behind.changed() => if changed.is_err() { return },
        }
    }
}

impl Bridge {
    /// Portion by portion; in between others go on with the file, which ends when they are slower than this.
    async fn forward(&self) -> Result<(), Error> {
        loop {
            let _closed = self.gate.write().await;
            if !self.forward_portion().await? {
                self.forward_releases().await?;
                self.local.forget_controls();
                self.behind.send_replace(false);
                if self.away.swap(false, Ordering::AcqRel) {
                    tracing::warn!("Redis is back, and knows what has happened meanwhile");
                }
                return Ok(());
            }
        }
    }

    /// `false` when there is nothing left.
    async fn forward_portion(&self) -> Result<bool, Error> {
        let Some(outstanding) = self.local.outstanding().await? else { return Ok(false) };
        match &outstanding.portion {
            Portion::Replies(replies) => {
                for some in replies.chunks(AT_ONCE) {
                    // Whether it was known or is not wanted any more: its end follows.
                    let told: Vec<_> = some.iter().map(|reply| self.redis.intend(reply, None)).collect();
                    try_join_all(told).await?;
                }
            }
            Portion::Records(records) => {
                for some in records.chunks(AT_ONCE) {
                    let told: Vec<_> =
                        some.iter().map(|record| self.redis.conclude(vec![record.clone()], None, None)).collect();
                    try_join_all(told).await?;
                }
            }
            Portion::Conversations(kept) => {
                for some in kept.chunks(AT_ONCE) {
                    let told: Vec<_> = some.iter().map(|kept| self.forward_conversation(kept)).collect();
                    try_join_all(told).await?;
                }
            }
            Portion::Entries(entries) => {
                for some in entries.chunks(AT_ONCE) {
                    try_join_all(some.iter().map(|entry| self.redis.note(entry))).await?;
                }
            }
        }
        self.local.forwarded(outstanding).await?;
        Ok(true)
    }

    async fn forward_releases(&self) -> Result<(), Error> {
        let unreleased: Vec<ConversationId> = self.unreleased.iter().map(|id| id.clone()).collect();
        for some in unreleased.chunks(AT_ONCE) {
            let told: Vec<_> = some.iter().map(|conversation| self.redis.release(conversation, None)).collect();
            try_join_all(told).await?;
            some.iter().for_each(|conversation| drop(self.unreleased.remove(conversation)));
        }
        Ok(())
    }

    /// What is known of a conversation helps, and is no proof of anything: what Redis refuses of it is given up, lest it
    /// hold up all the rest.
    async fn forward_conversation(&self, kept: &Kept) -> Result<(), Error> {
        match self.tell_conversation(kept).await {
            Err(Error::Failed(why)) => {
                tracing::error!(conversation.id = %kept.conversation, why, "Redis refuses what happened in a conversation while it was away");
                Ok(())
            }
            told => told,
        }
    }

    async fn tell_conversation(&self, kept: &Kept) -> Result<(), Error> {
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
}
