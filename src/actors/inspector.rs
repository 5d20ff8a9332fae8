//! Answers what people ask about actors and messages: from cards, cells and the stores, never by waiting on an actor.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    Parts,
    roster::{Fault, Snapshot},
};
use crate::{
    broker::Standing,
    domain::{
        ids::{ConversationId, EventId, MessageId},
        job::Job,
        time::{Timestamp, rfc3339},
        timeline::{Outcome, Stage, Timeline},
    },
    state::Record,
};

const CONVERSATIONS: &str = "node/conversations";

/// The inspector.
#[derive(Clone)]
pub struct Inspector {
    parts: Arc<Parts>,
}

/// What is known of a message.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum MessageView {
    /// It is in the queue.
    Queued {
        /// The event.
        id: String,
        /// The message.
        message_id: String,
        /// The conversation.
        conversation_id: String,
        /// Where it stands.
        standing: Standing,
        /// What is being done with it, if it is in hand.
        phase: Option<String>,
        /// Tries spent.
        tries: u32,
        /// Why it failed last.
        reason: Option<String>,
        /// When it was accepted, RFC 3339.
        accepted_at: String,
        /// Its story, over all its tries.
        timeline: Vec<EntryView>,
    },
    /// It has ended.
    Ended(#[serde(serialize_with = "ended")] Record),
}

/// One entry of a timeline, dated for people.
#[derive(Debug, Serialize)]
pub struct EntryView {
    #[serde(with = "rfc3339")]
    at: Timestamp,
    #[serde(flatten)]
    stage: Stage,
}

fn story(timeline: &Timeline) -> Vec<EntryView> {
    timeline.entries().iter().map(|entry| EntryView { at: entry.at, stage: entry.stage.clone() }).collect()
}

/// A record as people read it; its text is not theirs.
#[derive(Serialize)]
struct EndedView<'a> {
    id: &'a EventId,
    message_id: &'a MessageId,
    conversation_id: &'a ConversationId,
    outcome: Outcome,
    #[serde(with = "rfc3339")]
    at: Timestamp,
    cause: Option<&'a str>,
    timeline: Vec<EntryView>,
    reply: Option<&'a str>,
}

fn ended<S: Serializer>(record: &Record, serializer: S) -> Result<S::Ok, S::Error> {
    let view = EndedView {
        id: &record.id,
        message_id: &record.message,
        conversation_id: &record.conversation,
        outcome: record.outcome,
        at: record.at,
        cause: record.cause.as_deref(),
        timeline: story(&record.timeline),
        reply: record.reply.as_deref(),
    };
    view.serialize(serializer)
}

impl Inspector {
    /// Looks at one node.
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// The tree of actors, with at most `limit` conversations after `after`.
    pub fn tree(&self, after: Option<&str>, limit: usize) -> Option<Snapshot> {
        let mut tree = self.parts.roster.tree()?;
        if let Some(node) = tree.children.iter_mut().find(|child| child.path == CONVERSATIONS) {
            (node.children, node.children_total) = self.conversations(after, limit);
            node.restarts += self.parts.directory.all().iter().map(|cell| cell.lock().restarts).sum::<u64>();
        }
        Some(tree)
    }

    fn conversations(&self, after: Option<&str>, limit: usize) -> (Vec<Snapshot>, usize) {
        let mut cells = self.parts.directory.all();
        let total = cells.len();
        cells.retain(|cell| after.is_none_or(|after| cell.id.as_str() > after));
        cells.sort_by(|a, b| a.id.cmp(&b.id));
        let now = self.parts.clock.monotonic();
        (cells.iter().take(limit).map(|cell| cell.snapshot(now)).collect(), total)
    }

    /// One actor.
    pub fn actor(&self, path: &str) -> Option<Snapshot> {
        if let Some(cell) = conversation(path).and_then(|id| self.parts.directory.find(&id)) {
            return Some(cell.snapshot(self.parts.clock.monotonic()));
        }
        find(self.tree(None, 0)?, path)
    }

    /// Orders a failure for an actor's next message; `false` if there is no such actor.
    pub fn crash(&self, path: &str, fault: Fault) -> bool {
        if let Some(id) = conversation(path) {
            let Some(cell) = self.parts.directory.find(&id) else { return false };
            cell.lock().fault = Some(fault);
            cell.ring();
            return true;
        }
        let Some(card) = self.parts.roster.find(path) else { return false };
        card.order(fault);
        true
    }

    /// What is known of a message, by event id or message id.
    pub async fn message(&self, id: &str) -> Result<Option<MessageView>, String> {
        if let Some(record) = self.record(id).await? {
            return Ok(Some(MessageView::Ended(record)));
        }
        let Some(found) = self.parts.broker.find(id).await.map_err(|error| error.to_string())? else {
            // It may have ended between the two looks.
            return Ok(self.record(id).await?.map(MessageView::Ended));
        };
        let (phase, timeline) = self.in_memory(&found.job.conversation, found.job.message.as_str());
        let timeline = match timeline {
            Some((timeline, true)) => timeline,
            Some((timeline, false)) => self.whole_story(&found.job, timeline).await?,
            None => self.whole_story(&found.job, Timeline::default()).await?,
        };
        Ok(Some({
            let standing = if phase.is_some() { Standing::InHand } else { found.standing };
            MessageView::Queued {
                id: found.job.id.to_string(),
                message_id: found.job.message.to_string(),
                conversation_id: found.job.conversation.to_string(),
                standing,
                phase,
                tries: found.tries,
                reason: found.reason,
                accepted_at: found.job.first_seen.to_rfc3339(),
                timeline: story(&timeline),
            }
        }))
    }

    async fn record(&self, id: &str) -> Result<Option<Record>, String> {
        self.parts.state.record(id).await.map_err(|error| error.to_string())
    }

    /// What was written down of earlier tries, and this one.
    async fn whole_story(&self, job: &Job, mut this: Timeline) -> Result<Timeline, String> {
        let earlier = self.parts.state.story(job.message.as_str()).await.map_err(|error| error.to_string())?;
        match earlier {
            Some(earlier) => this.go_on(earlier),
            None if this.entries().is_empty() => this.note(job.first_seen, Stage::Accepted),
            None => {}
        }
        Ok(this)
    }

    /// What is being done with a message, and its story, with whether that is whole; as far as it is in memory.
    fn in_memory(&self, conversation: &ConversationId, message: &str) -> (Option<String>, Option<(Timeline, bool)>) {
        let Some(cell) = self.parts.directory.find(conversation) else { return (None, None) };
        let inner = cell.lock();
        let story = |item: &super::hand::Item| (item.timeline.clone(), item.is_story_known);
        let is_it = |item: &&super::hand::Item| item.delivery.job.message.as_str() == message;
        if let Some(hand) = &inner.hand
            && let Some(item) = hand.items.iter().find(is_it)
        {
            return (Some(hand.phase.name()), Some(story(item)));
        }
        let waiting = inner.inbox.iter().find(is_it);
        (waiting.map(|_| "waiting in its conversation".to_owned()), waiting.map(story))
    }
}

fn conversation(path: &str) -> Option<ConversationId> {
    let id = path.strip_prefix(CONVERSATIONS)?.strip_prefix('/')?;
    ConversationId::new(id).ok()
}

fn find(tree: Snapshot, path: &str) -> Option<Snapshot> {
    if tree.path == path {
        return Some(tree);
    }
    tree.children.into_iter().find_map(|child| find(child, path))
}
