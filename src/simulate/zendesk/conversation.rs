//! One simulated conversation: its messages, who is in control, its judge, and its webhooks still to be sent.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::control::{Control, Integration, Switchboard};
use super::judge::Judge;
use super::webhooks::Delivery;

/// Messages on a page of `GET messages` (Zendesk's specification: fixed).
const PAGE: usize = 100;

/// A conversation; what changes is behind one short lock.
pub struct Conversation {
    /// The conversation's id.
    pub id: String,
    /// The customer's id.
    pub user_id: String,
    /// `personal` or `sdkGroup`.
    pub kind: &'static str,
    /// Flat metadata.
    pub metadata: Option<Map<String, Value>>,
    /// When it was created, in Zendesk's form.
    pub created_at: String,
    /// What changes.
    pub state: Mutex<State>,
}

/// What changes in a conversation.
#[derive(Default)]
pub struct State {
    /// The messages kept, oldest first; their ids rise.
    pub messages: VecDeque<Arc<Stored>>,
    /// The newest `received`, which never goes back.
    pub received_ms: u64,
    /// Who is in control.
    pub control: Control,
    /// What is owed to the customer.
    pub judge: Judge,
    /// Webhooks waiting for their turn.
    pub outbox: VecDeque<Delivery>,
    /// Whether the dispatcher has this conversation in hand.
    pub sending: bool,
    /// The conversation into which this one was merged.
    pub moved_to: Option<Arc<Conversation>>,
}

/// A stored message; the JSON is the same in answers and webhooks.
pub struct Stored {
    /// The message's id.
    pub id: String,
    /// The message object.
    pub json: Box<RawValue>,
}

/// Where a page of messages starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Messages older than this id.
    pub before: Option<String>,
    /// Messages newer than this id.
    pub after: Option<String>,
}

/// One page of messages, oldest first.
pub struct Page {
    /// The messages.
    pub messages: Vec<Arc<Stored>>,
    /// Whether there are more in the direction of the walk.
    pub more: bool,
    /// The cursor to older messages.
    pub before: Option<String>,
    /// The cursor to newer messages.
    pub after: Option<String>,
}

impl State {
    /// The page at the cursor; without one the newest.
    pub fn page(&self, cursor: &Cursor) -> Page {
        let position = |id: &str| self.messages.partition_point(|message| message.id.as_str() < id);
        let (start, end) = match (&cursor.after, &cursor.before) {
            (Some(after), _) => {
                let start = self.messages.partition_point(|message| message.id.as_str() <= after.as_str());
                (start, (start + PAGE).min(self.messages.len()))
            }
            (None, before) => {
                let end = before.as_deref().map_or(self.messages.len(), position);
                (end.saturating_sub(PAGE), end)
            }
        };
        let messages: Vec<_> = self.messages.range(start..end).cloned().collect();
        let (older, newer) = (start > 0, end < self.messages.len());
        let end_id = |message: Option<&Arc<Stored>>, there: bool| message.filter(|_| there).map(|one| one.id.clone());
        let (before, after) = (end_id(messages.first(), older), end_id(messages.last(), newer));
        let more = if cursor.after.is_some() { newer } else { older };
        Page { messages, more, before, after }
    }
}

/// A conversation as it appears in webhooks and answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active_switchboard_integration: Option<&'a Integration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_switchboard_integration: Option<&'a Integration>,
}

impl Conversation {
    /// The conversation under this control.
    pub fn view<'a>(&'a self, control: Control, board: &'a Switchboard) -> View<'a> {
        View {
            id: &self.id,
            kind: self.kind,
            metadata: self.metadata.as_ref(),
            active_switchboard_integration: control.active.map(|holder| board.integration(holder)),
            pending_switchboard_integration: control.pending.map(|holder| board.integration(holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_messages(count: usize) -> State {
        let stored = |number| Stored { id: format!("{number:024x}"), json: RawValue::NULL.to_owned() };
        State { messages: (0..count).map(stored).map(Arc::new).collect(), ..State::default() }
    }

    fn walk(state: &State, next: impl Fn(&Page) -> Option<Cursor>, mut cursor: Cursor) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let page = state.page(&cursor);
            ids.extend(page.messages.iter().map(|message| message.id.clone()));
            let onward = next(&page);
            assert_eq!(page.more, onward.is_some());
            let Some(onward) = onward else { return ids };
            cursor = onward;
        }
    }

    #[test]
    fn walking_back_and_forth_meets_every_message_once() {
        for count in [0, 1, 99, 100, 101, 250] {
            let state = with_messages(count);
            let back = |page: &Page| page.before.clone().map(|id| Cursor { before: Some(id), after: None });
            let forth = |page: &Page| page.after.clone().map(|id| Cursor { before: None, after: Some(id) });
            let mut met = walk(&state, back, Cursor::default());
            met.sort();
            let all: Vec<_> = state.messages.iter().map(|message| message.id.clone()).collect();
            assert_eq!(met, all, "back through {count}");
            let start = Cursor { before: None, after: Some(String::new()) };
            assert_eq!(walk(&state, forth, start), all, "forth through {count}");
        }
    }

    #[test]
    fn the_first_page_is_the_newest() {
        let state = with_messages(250);
        let page = state.page(&Cursor::default());
        assert_eq!((page.messages.len(), page.messages[99].id.as_str()), (100, format!("{:024x}", 249).as_str()));
        assert!(page.more && page.after.is_none());
    }
}
