//! Answers what people ask about actors and messages: from cards, cells and the stores, never by waiting on an actor.

mod views;

use std::sync::Arc;

use self::views::story;
pub use self::views::{AliveView, ConversationView, EndedSummary, MessageView, WaitingView};
use super::{
    Parts, explain,
    hand::Item,
    inbox::Cell,
    roster::{Fault, Snapshot},
};
use crate::{
    broker::Standing,
    domain::{
        ids::ConversationId,
        job::Job,
        time::{Timestamp, millis},
        timeline::{Stage, Timeline},
    },
    state::{Record, Remembered},
};

const CONVERSATIONS: &str = "node/conversations";

/// Messages of one conversation that are told.
const MESSAGES: usize = 50;

/// The inspector.
#[derive(Clone)]
pub struct Inspector {
    parts: Arc<Parts>,
}

impl Inspector {
    /// Looks at one node.
    pub fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// The tree of actors, with at most `limit` of the conversations after `after` whose id contains `part`.
    pub fn tree(&self, after: Option<&str>, part: Option<&str>, limit: usize) -> Option<Snapshot> {
        let mut tree = self.parts.roster.tree()?;
        if let Some(node) = tree.children.iter_mut().find(|child| child.path == CONVERSATIONS) {
            let (cells, total) = self.parts.directory.page(after, part, limit, |cell| {
                let (restarts, failed) = cell.sums();
                (node.restarts, node.failed) = (node.restarts + restarts, node.failed + failed);
            });
            let now = self.parts.clock.monotonic();
            node.children = cells.iter().map(|cell| cell.snapshot(now)).collect();
            node.children_total = total;
        }
        Some(tree)
    }

    /// One actor.
    pub fn actor(&self, path: &str) -> Option<Snapshot> {
        if let Some(cell) = conversation(path).and_then(|id| self.parts.directory.find(&id)) {
            return Some(cell.snapshot(self.parts.clock.monotonic()));
        }
        find(self.tree(None, None, 0)?, path)
    }

    /// Whether nobody is above an actor.
    pub fn is_root(&self, path: &str) -> bool {
        self.parts.roster.tree().is_some_and(|tree| tree.path == path)
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

    /// Has an actor started again; what it has in hand goes the road of failures. `false` if none runs there.
    pub fn restart(&self, path: &str, who: &str) -> bool {
        let cause = format!("error: restarted by {who}");
        if let Some(cell) = conversation(path).and_then(|id| self.parts.directory.find(&id)) {
            let mut inner = cell.lock();
            let Some(actor) = inner.actor.clone() else { return false };
            inner.killed_for = Some(cause);
            drop(inner);
            actor.kill();
            return true;
        }
        self.parts.roster.find(path).is_some_and(|card| card.stamp.kill(&cause))
    }

    /// The conversations that are alive and whose id contains `part`, by id; and how many there are.
    pub fn conversations(&self, after: Option<&str>, part: Option<&str>, limit: usize) -> (Vec<AliveView>, usize) {
        let (cells, total) = self.parts.directory.page(after, part, limit, |_| ());
        (cells.iter().map(|cell| self.alive(cell)).collect(), total)
    }

    /// The conversations whose customers have been waiting longest.
    pub fn longest_waiting(&self, limit: usize) -> Vec<AliveView> {
        let cells = self.parts.directory.all().into_iter();
        let mut waiting: Vec<_> =
            cells.filter_map(|cell| Some((explain::waiting_since(&cell.lock())?, cell.clone()))).collect();
        waiting.sort_by_key(|(since, _)| *since);
        waiting.truncate(limit);
        waiting.iter().map(|(_, cell)| self.alive(cell)).collect()
    }

    fn alive(&self, cell: &Cell) -> AliveView {
        let inner = cell.lock();
        let waiting_since = explain::waiting_since(&inner);
        let explanation = match &inner.hand {
            Some(hand) => explain::hand(&self.parts, hand),
            None if inner.inbox.is_empty() => "nothing waits".into(),
            None => explain::inbox(&self.parts, &inner),
        };
        AliveView {
            id: cell.id.to_string(),
            waiting: inner.inbox.len(),
            phase: inner.hand.as_ref().map(|hand| hand.phase.name()),
            waiting_since: waiting_since.map(Timestamp::to_rfc3339),
            waiting_ms: waiting_since.map(|since| millis(self.parts.clock.now().since(since))),
            restarts: inner.restarts,
            explanation,
        }
    }

    /// All that is known of a conversation; `None`: nothing.
    pub async fn conversation(&self, id: &ConversationId) -> Result<Option<ConversationView>, String> {
        let text = |error: crate::state::Error| error.to_string();
        let known = self.parts.state.remembered(id).await.map_err(text)?;
        let ended = self.parts.state.messages_of(id, MESSAGES).await.map_err(text)?;
        let cell = self.parts.directory.find(id);
        if cell.is_none() && ended.is_empty() && known == Remembered::default() {
            return Ok(None);
        }
        let waiting = cell.as_ref().map(|cell| self.waiting(cell)).unwrap_or_default();
        let alive = cell.as_ref().filter(|_| !waiting.is_empty()).map(|cell| self.alive(cell).explanation);
        let is_humans = known.control.is_some_and(|control| !control.holder.lets_us_answer());
        let explanation = match alive {
            Some(alive) if is_humans => format!("a human holds it, so what waits will not be answered; {alive}"),
            Some(alive) => alive,
            None => match self.claimed_elsewhere(id).await.map_err(text)? {
                Some(node) => explain::elsewhere(&self.parts, &node),
                None => explain::idle(&self.parts, id, &known, ended.first()),
            },
        };
        Ok(Some(ConversationView {
            id: id.to_string(),
            explanation,
            customer_id: known.user.as_ref().map(ToString::to_string),
            holder: known.control.map(|control| control.holder),
            merged_into: known.alias.as_ref().map(ToString::to_string),
            actor: cell.map(|cell| cell.snapshot(self.parts.clock.monotonic())),
            waiting,
            ended: ended.iter().map(EndedSummary::of).collect(),
        }))
    }

    /// The other node that has a conversation in hand.
    async fn claimed_elsewhere(&self, id: &ConversationId) -> Result<Option<String>, crate::state::Error> {
        let node = self.parts.state.claimed_by(id).await?;
        Ok(node.filter(|node| node != self.parts.nodes.id()))
    }

    fn waiting(&self, cell: &Cell) -> Vec<WaitingView> {
        let inner = cell.lock();
        let view = |item: &Item, explanation: &str| WaitingView {
            message_id: item.delivery.job.message.to_string(),
            accepted_at: item.delivery.job.first_seen.to_rfc3339(),
            tries: item.delivery.tries,
            explanation: explanation.to_owned(),
        };
        let mut all = Vec::new();
        if let Some(hand) = &inner.hand {
            let explanation = explain::hand(&self.parts, hand);
            all.extend(hand.items.iter().map(|item| view(item, &explanation)));
        }
        if !inner.inbox.is_empty() {
            let explanation = explain::inbox(&self.parts, &inner);
            all.extend(inner.inbox.iter().take(MESSAGES).map(|item| view(item, &explanation)));
        }
        all
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
        let known = self.in_memory(&found.job.conversation, found.job.message.as_str());
        let (phase, explanation, timeline) = match known {
            Some(known) if known.is_whole => (Some(known.phase), known.explanation, known.timeline),
            Some(known) => (Some(known.phase), known.explanation, self.whole_story(&found.job, known.timeline).await?),
            None => {
                let story = self.whole_story(&found.job, Timeline::default()).await?;
                (None, explain::queued(&self.parts, &found), story)
            }
        };
        Ok(Some(MessageView::Queued {
            id: found.job.id.to_string(),
            explanation,
            message_id: found.job.message.to_string(),
            conversation_id: found.job.conversation.to_string(),
            standing: if phase.is_some() { Standing::InHand } else { found.standing },
            phase,
            tries: found.tries,
            reason: found.reason,
            accepted_at: found.job.first_seen.to_rfc3339(),
            timeline: story(&timeline),
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
            None if this.entries().is_empty() => this.note(job.first_seen, Stage::accepted(job)),
            None => {}
        }
        Ok(this)
    }

    /// What is known of a message as far as it is in memory.
    fn in_memory(&self, conversation: &ConversationId, message: &str) -> Option<InMemory> {
        let cell = self.parts.directory.find(conversation)?;
        let inner = cell.lock();
        let is_it = |item: &&Item| item.delivery.job.message.as_str() == message;
        let known = |item: &Item, phase: String, explanation: String| InMemory {
            phase,
            explanation,
            timeline: item.timeline.clone(),
            is_whole: item.is_story_known,
        };
        if let Some(hand) = &inner.hand
            && let Some(item) = hand.items.iter().find(is_it)
        {
            return Some(known(item, hand.phase.name(), explain::hand(&self.parts, hand)));
        }
        let item = inner.inbox.iter().find(is_it)?;
        Some(known(item, "waiting in its conversation".into(), explain::inbox(&self.parts, &inner)))
    }
}

/// A message in memory.
struct InMemory {
    phase: String,
    explanation: String,
    timeline: Timeline,
    /// Whether that is its whole story.
    is_whole: bool,
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
