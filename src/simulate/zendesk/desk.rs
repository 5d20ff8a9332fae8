//! What happens in conversations: messages are stored, control moves, users merge, and each becomes a webhook.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::clock::{timestamp, wall_ms};
use super::control::{Control, Holder};
use super::conversation::{Conversation, State, Stored};
use super::draft::{Author, Draft, Writer};
use super::events;
use super::judge::{Place, Written};
use super::refusal::Refusal;
use super::webhooks::{Delivery, Errand};
use super::world::{Opening, World};
use crate::simulate::chance;
use crate::simulate::reference::Reference;

/// The integration id of the simulated web widget.
const WIDGET: &str = "66f0a1b2c3d4e5f600000014";
/// Messages that may wait to be stored late; beyond it a late store becomes no store.
const LATE_MAX: usize = 10_000;

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    received: String,
    author: FullAuthor<'a>,
    content: &'a Map<String, Value>,
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Map<String, Value>>,
}

#[derive(Serialize)]
struct FullAuthor<'a> {
    #[serde(flatten)]
    author: &'a Author,
    #[serde(rename = "userId", skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
}

#[derive(Serialize)]
struct User<'a> {
    id: &'a str,
    authenticated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    integration_id: Option<&'static str>,
}

/// What is announced and to whose account.
struct Announcement<'a, P> {
    event_id: String,
    kind: &'a str,
    payload: P,
    references: Vec<Reference>,
    room: Option<OwnedSemaphorePermit>,
}

impl World {
    /// Opens a conversation and announces it when it is new.
    ///
    /// # Errors
    /// 429 when there are too many.
    pub async fn begin(&self, opening: Opening) -> Result<Arc<Conversation>, Refusal> {
        let reason = opening.reason;
        if let Some(known) = opening.id.as_deref().and_then(|id| self.conversation(id)) {
            return Ok(known);
        }
        let room = Some(self.room().await);
        let (conversation, new) = self.open(opening)?;
        if new {
            self.with(&conversation, |conversation, state| {
                let payload = json!({
                    "conversation": conversation.view(state.control, &self.board),
                    "creationReason": reason,
                    "source": { "type": "web", "integrationId": WIDGET },
                    "user": { "id": conversation.user_id, "authenticated": false },
                    "referral": null,
                });
                self.announce(conversation, state, self.plain("conversation:create", &payload, room));
            });
        }
        Ok(conversation)
    }

    /// Stores a message, judges it and announces it. A customer's message waits for room in the queue of webhooks
    /// before; the echo of ours is dropped and counted when there is none.
    ///
    /// # Errors
    /// 423 when the conversation is full.
    pub fn store(
        &self,
        conversation: &Arc<Conversation>,
        draft: &Draft,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Arc<Stored>, Refusal> {
        let room = room.or_else(|| self.room_now());
        self.with(conversation, |conversation, state| {
            if state.messages.len() >= self.options.messages_max {
                if draft.writer == Writer::Api {
                    return Err(Refusal::new(423, "locked", "The conversation is full"));
                }
                state.messages.pop_front();
            }
            let stored = self.keep(conversation, state, draft);
            let references = self.judge(state, draft.writer, draft.text(), &stored.id);
            if let Some(ids) = told(draft) {
                state.judge.told(ids.split(',').map(str::trim));
            }
            if draft.writer == Writer::Customer || self.dial.get().echo {
                let payload = events::Message {
                    conversation: conversation.view(state.control, &self.board),
                    message: &stored.json,
                };
                let event_id = self.ids.next();
                let announcement = Announcement { event_id, kind: "conversation:message", payload, references, room };
                self.announce(conversation, state, announcement);
            }
            Ok(stored)
        })
    }

    /// Plans to store a message that was answered with an error; false when too many are planned already.
    pub fn plan_late_store(&self, conversation: Arc<Conversation>, draft: Draft, after: Duration) -> bool {
        let planned = self.late.fetch_update(Relaxed, Relaxed, |late| (late < LATE_MAX).then_some(late + 1)).is_ok();
        if planned {
            self.send(Errand::StoreAt(Instant::now() + after, conversation, Box::new(draft)));
        }
        planned
    }

    /// Stores what [`World::plan_late_store`] has planned.
    pub fn store_late(&self, conversation: &Arc<Conversation>, draft: &Draft) {
        self.late.fetch_sub(1, Relaxed);
        // A conversation that has filled up meanwhile refuses it, and nobody is left to be told.
        let _ = self.store(conversation, draft, None);
    }

    /// The customer presses a postback button; its references are judged like those of a text. Tells the event's id.
    pub fn press(&self, conversation: &Arc<Conversation>, payload: &str, room: OwnedSemaphorePermit) -> String {
        self.with(conversation, |conversation, state| {
            state.received_ms = state.received_ms.max(wall_ms());
            let event_id = self.ids.next();
            let references = self.judge(state, Writer::Customer, payload, &event_id);
            let payload = json!({
                "postback": { "payload": payload },
                "conversation": conversation.view(state.control, &self.board),
                "user": { "id": conversation.user_id, "authenticated": false },
                "source": { "type": "web", "integrationId": WIDGET },
            });
            let kind = "conversation:postback";
            let id = event_id.clone();
            self.announce(conversation, state, Announcement { event_id, kind, payload, references, room: Some(room) });
            id
        })
    }

    /// Changes control by `change` and announces it as `kind`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn switch(
        &self,
        conversation: &Arc<Conversation>,
        kind: &str,
        metadata: Option<&Map<String, Value>>,
        room: OwnedSemaphorePermit,
        change: impl FnOnce(&mut Control) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.with(conversation, |conversation, state| {
            change(&mut state.control)?;
            if state.control.human() {
                state.judge.handed_over();
            }
            let mut payload = json!({ "conversation": conversation.view(state.control, &self.board) });
            if let Some(metadata) = metadata {
                payload["metadata"] = Value::Object(metadata.clone());
            }
            self.announce(conversation, state, self.plain(kind, &payload, Some(room)));
            Ok(())
        })
    }

    /// Gives control to a holder or to nobody, as if a human had done it.
    pub async fn take_control(&self, conversation: &Arc<Conversation>, to: Option<Holder>) {
        let room = self.room().await;
        let kind = if to.is_some() { "switchboard:passControl" } else { "switchboard:releaseControl" };
        let passed = self.switch(conversation, kind, None, room, |control| {
            control.pass(to);
            Ok(())
        });
        debug_assert!(passed.is_ok(), "passing control has no conditions");
    }

    /// Merges the user and the conversation `discarded` into `surviving`: messages and debts move over.
    ///
    /// # Errors
    /// 400 when both are the same conversation.
    pub async fn merge(&self, surviving: &Arc<Conversation>, discarded: &Arc<Conversation>) -> Result<(), Refusal> {
        let room = self.room().await;
        // Two conversations are locked at once only here, and only by one merge at a time, so no circle can form.
        let _only = self.merging.lock();
        let surviving = self.with(surviving, |conversation, _| conversation.clone());
        let discarded = self.with(discarded, |conversation, _| conversation.clone());
        if Arc::ptr_eq(&surviving, &discarded) {
            return Err(Refusal::bad("A conversation cannot be merged into itself"));
        }
        let mut gone = discarded.state.lock();
        self.with(&surviving, |conversation, state| {
            gone.moved_to = Some(conversation.clone());
            state.received_ms = state.received_ms.max(gone.received_ms);
            state.messages.append(&mut gone.messages);
            state.messages.make_contiguous().sort_by(|one, other| one.id.cmp(&other.id));
            let surplus = state.messages.len().saturating_sub(self.options.messages_max);
            state.messages.drain(..surplus);
            state.judge.absorb(std::mem::take(&mut gone.judge));
            let user = |id: &str| json!({ "id": id, "authenticated": false });
            let payload = json!({
                "mergedUsers": { "surviving": user(&conversation.user_id), "discarded": user(&discarded.user_id) },
                "mergedConversations": {
                    "surviving": conversation.view(state.control, &self.board),
                    "discarded": discarded.view(gone.control, &self.board),
                },
                "reason": "sdkLogin",
            });
            self.announce(conversation, state, self.plain("user:merge", &payload, Some(room)));
        });
        Ok(())
    }

    /// Announces that the user of a conversation was removed.
    pub async fn remove_user(&self, conversation: &Arc<Conversation>) {
        let room = self.room().await;
        self.with(conversation, |conversation, state| {
            let payload = json!({ "user": { "id": conversation.user_id, "authenticated": false } });
            self.announce(conversation, state, self.plain("user:remove", &payload, Some(room)));
        });
    }

    fn keep(&self, conversation: &Conversation, state: &mut State, draft: &Draft) -> Arc<Stored> {
        state.received_ms = state.received_ms.max(wall_ms());
        let id = self.ids.next();
        let customer = draft.writer == Writer::Customer;
        let user_id = draft.author.user_id.is_none().then_some(conversation.user_id.as_str()).filter(|_| customer);
        let user = User { id: draft.author.user_id.as_deref().unwrap_or(&conversation.user_id), authenticated: false };
        let message = Message {
            id: &id,
            received: timestamp(state.received_ms),
            author: FullAuthor { author: &draft.author, user_id, user: customer.then_some(user) },
            content: &draft.content,
            source: Source { kind: draft.source, integration_id: (draft.source == "web").then_some(WIDGET) },
            metadata: draft.metadata.as_ref(),
        };
        let json = serde_json::value::to_raw_value(&message).expect("strings and JSON values always serialize");
        let stored = Arc::new(Stored { id, json });
        state.messages.push_back(stored.clone());
        stored
    }

    /// Tells the judge what was written; the references of a customer's text come back, to travel with its webhook.
    fn judge(&self, state: &mut State, writer: Writer, text: &str, message_id: &str) -> Vec<Reference> {
        let references = Reference::find_all(text);
        match writer {
            Writer::Agent => return Vec::new(),
            Writer::Api => {
                self.counters.posts.fetch_add(1, Relaxed);
                if state.control.human() {
                    self.counters.posts_while_human.fetch_add(1, Relaxed);
                }
                let waits = state.judge.posted(&references, self.tick(), self.now_us());
                waits.into_iter().for_each(|wait| self.latency.record(wait));
                return Vec::new();
            }
            Writer::Customer => {}
        }
        let place = Place { received_ms: state.received_ms, position: 0 };
        for reference in &references {
            let (at_us, human) = (self.now_us(), state.control.human());
            state.judge.wrote(&Written { reference: *reference, message_id, place, at_us, human });
        }
        references
    }

    fn plain<'a>(
        &self,
        kind: &'a str,
        payload: &'a Value,
        room: Option<OwnedSemaphorePermit>,
    ) -> Announcement<'a, &'a Value> {
        Announcement { event_id: self.ids.next(), kind, payload, references: Vec::new(), room }
    }

    /// Queues the webhook of an event, now and then twice.
    fn announce<P: Serialize>(&self, conversation: &Arc<Conversation>, state: &mut State, said: Announcement<'_, P>) {
        if self.targets.load().is_empty() {
            return;
        }
        let Some(room) = said.room else {
            self.counters.webhooks_dropped.fetch_add(1, Relaxed);
            return;
        };
        let now = wall_ms();
        let body = |event_id: &str| events::body(&self.options.app_id, event_id, said.kind, now, &said.payload);
        let delivery = |body, references, room| Delivery { body, references, attempts: 0, first_at: None, _room: room };
        let behaviour = self.dial.get();
        let copy_room = if chance(behaviour.double_delivery) { self.room_now() } else { None };
        let first = body(&said.event_id);
        let copy = copy_room.map(|room| {
            let again = if behaviour.double_delivery_new_event { body(&self.ids.next()) } else { first.clone() };
            delivery(again, said.references.clone(), room)
        });
        for delivery in std::iter::once(delivery(first, said.references, room)).chain(copy) {
            state.judge.queued(&delivery.references);
            state.outbox.push_back(delivery);
        }
        if !std::mem::replace(&mut state.sending, true) {
            self.send(Errand::Ready(conversation.clone()));
        }
    }
}

/// The message ids for which a post says that nobody but a human will answer.
fn told(draft: &Draft) -> Option<&str> {
    let kind = draft.metadata_text("tidegate_kind")?;
    let ending = draft.writer == Writer::Api && matches!(kind, "failure" | "handoff");
    draft.metadata_text("tidegate_ids").filter(|_| ending)
}
