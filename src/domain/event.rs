//! Webhook bodies of Sunshine Conversations v2: the envelope, and the verdict on each event.
//!
//! One delivery carries events of several conversations; a bad one must not spoil its neighbours. So the envelope is
//! opened with its events raw, and each event is judged alone (Zendesk's OpenAPI file 17.12, `webhook` schemas).

use serde_json::value::RawValue;

use super::{
    content,
    control::{Control, Holder, Integration, Ours},
    fields::{Raw, lenient, raw_object, strict},
    ids::{ConversationId, EventId, MessageId, UserId},
    job::{Job, Kind},
    reason::{Ignore, Reject, Unusable},
    time::Timestamp,
};

/// What is to be done with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A customer wants an answer.
    Answer(Job),
    /// The state of a conversation or a customer changes.
    Change(Job),
    /// Nobody is to be answered, but it is kept for the record (delivery reports).
    Record(Job, Ignore),
    /// Left alone.
    Ignored(Ignore),
    /// Unusable.
    Rejected(Reject),
}

/// An event, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What is to be done.
    pub verdict: Verdict,
    /// Who held which conversation when the event was made, where it says so.
    pub control: Option<(ConversationId, Control)>,
}

/// The circumstances an event is judged in.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// Tells our integration from others.
    pub ours: &'a Ours,
    /// When the delivery arrived.
    pub now: Timestamp,
    /// The event's position in the delivery.
    pub position: u32,
    /// The app the delivery names.
    pub app: Option<&'a str>,
}

raw_object! { RawEnvelope { app: "app", events: "events", trigger: "trigger", messages: "messages" } }
raw_object! { RawId { id: "id" } }
raw_object! { RawEvent { id: "id", kind: "type", created_at: "createdAt", payload: "payload" } }
raw_object! { RawPayload {
    conversation: "conversation", message: "message", postback: "postback", user: "user", error: "error",
    merged_users: "mergedUsers", merged_conversations: "mergedConversations",
} }
raw_object! { RawConversation { id: "id", active: "activeSwitchboardIntegration", brand: "brandId" } }
raw_object! { RawIntegration { id: "id", name: "name", integration_id: "integrationId", kind: "integrationType" } }
raw_object! { RawMessage { id: "id", received: "received", author: "author", content: "content", deleted: "deleted" } }
raw_object! { RawAuthor { kind: "type", user_id: "userId", user: "user" } }
raw_object! { RawPostback { payload: "payload", title: "title" } }
raw_object! { RawPair { surviving: "surviving", discarded: "discarded" } }
raw_object! { RawError { code: "code" } }

/// A delivery, opened.
pub struct Envelope<'a> {
    /// The app it names.
    pub app: Option<String>,
    /// Its events, raw.
    pub events: Vec<&'a RawValue>,
}

/// Opens a delivery; its events stay raw.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, Unusable> {
    let text = std::str::from_utf8(body).map_err(|_| Unusable::NotAnObject)?;
    // A derived struct would also take an array of the right length.
    if !text.trim_start().starts_with('{') {
        return Err(Unusable::NotAnObject);
    }
    let envelope: RawEnvelope<'_> = serde_json::from_str(text).map_err(|_| Unusable::NotAnObject)?;
    let old_schema = envelope.events.is_none() && (envelope.trigger.is_some() || envelope.messages.is_some());
    if old_schema {
        return Err(Unusable::OldSchema);
    }
    let events = envelope.events.ok_or(Unusable::NoEvents)?;
    let events = serde_json::from_str(events.get()).map_err(|_| Unusable::NoEvents)?;
    let app = lenient::<RawId<'_>>(envelope.app).and_then(|app| lenient(app.id));
    Ok(Envelope { app, events })
}

/// Judges one event by itself.
pub fn judge(raw: &RawValue, around: &Circumstances<'_>) -> Judged {
    Event::read(raw).and_then(|event| event.judged(around)).unwrap_or_else(|reject| verdict(Verdict::Rejected(reject)))
}

fn verdict(verdict: Verdict) -> Judged {
    Judged { verdict, control: None }
}

struct Event<'a> {
    id: Option<EventId>,
    kind: String,
    created_at: Option<Timestamp>,
    payload: Raw<'a>,
}

impl<'a> Event<'a> {
    fn read(raw: &'a RawValue) -> Result<Self, Reject> {
        if !raw.get().starts_with('{') {
            return Err(Reject::WrongType);
        }
        let event: RawEvent<'a> = serde_json::from_str(raw.get()).map_err(|_| Reject::Malformed)?;
        Ok(Self {
            kind: strict(event.kind)?.ok_or(Reject::MissingType)?,
            id: lenient(event.id),
            created_at: time(event.created_at),
            payload: event.payload,
        })
    }

    fn payload(&self) -> Result<RawPayload<'a>, Reject> {
        object(self.payload)?.ok_or(Reject::MissingPayload)
    }

    fn judged(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        match self.kind.as_str() {
            "conversation:message" => self.message(around),
            "conversation:postback" => self.postback(around),
            "conversation:typing" | "conversation:read" => Ok(verdict(Verdict::Ignored(Ignore::Activity))),
            "conversation:create" | "conversation:join" | "conversation:leave" | "conversation:referral" => {
                Ok(verdict(Verdict::Ignored(Ignore::Lifecycle)))
            }
            "user:update" | "client:add" | "client:update" | "client:remove" => {
                Ok(verdict(Verdict::Ignored(Ignore::Lifecycle)))
            }
            "conversation:remove" => self.conversation_removed(around),
            "user:remove" => self.user_removed(around),
            "user:merge" => self.merge(around),
            kind if kind.starts_with("conversation:message:delivery:") => self.delivery_report(around),
            kind if kind.starts_with("switchboard:") => self.switchboard(around),
            _ => Ok(verdict(Verdict::Ignored(Ignore::UnknownType))),
        }
    }

    fn message(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let payload = self.payload()?;
        let message: RawMessage<'_> = object(payload.message)?.ok_or(Reject::MissingMessage)?;
        let conversation = Conversation::read(payload.conversation, around.ours)?;
        let author: RawAuthor<'_> = object(message.author)?.ok_or(Reject::MissingAuthor)?;
        let author_type: String = strict(author.kind)?.ok_or(Reject::MissingAuthor)?;
        let received = time(message.received).or(self.created_at).unwrap_or(around.now);
        let control = conversation.control(self.created_at.unwrap_or(received));
        let ignored = |reason| {
            Ok(Judged { verdict: Verdict::Ignored(reason), control: Some((conversation.id.clone(), control)) })
        };
        if author_type != "user" {
            return ignored(Ignore::BusinessAuthor);
        }
        if lenient(message.deleted) == Some(true) {
            return ignored(Ignore::Deleted);
        }
        let content = match content::read(message.content)? {
            content::Content::Usable(content) => content,
            content::Content::Empty => return ignored(Ignore::EmptyText),
            content::Content::Unsupported => return ignored(Ignore::UnsupportedContent),
        };
        if !control.holder.lets_us_answer() {
            return ignored(Ignore::NotInControl);
        }
        let user =
            lenient(author.user_id).or_else(|| lenient::<RawId<'_>>(author.user).and_then(|user| lenient(user.id)));
        let kind = Kind::Message { text: content.text, user, image: content.image };
        let job = self.job(around, &conversation, lenient(message.id), kind, received)?;
        Ok(Judged { verdict: Verdict::Answer(job), control: Some((conversation.id, control)) })
    }

    fn postback(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let payload = self.payload()?;
        let conversation = Conversation::read(payload.conversation, around.ours)?;
        let postback: RawPostback<'_> = object(payload.postback)?.ok_or(Reject::MissingContent)?;
        let text = content::postback(lenient(postback.title), strict(postback.payload)?);
        let received = self.created_at.unwrap_or(around.now);
        let control = conversation.control(received);
        let verdict = if !control.holder.lets_us_answer() {
            Verdict::Ignored(Ignore::NotInControl)
        } else if text.is_empty() {
            Verdict::Ignored(Ignore::EmptyText)
        } else {
            let kind = Kind::Postback { text, user: user_id(payload.user) };
            Verdict::Answer(self.job(around, &conversation, None, kind, received)?)
        };
        Ok(Judged { verdict, control: Some((conversation.id, control)) })
    }

    fn switchboard(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let payload = self.payload()?;
        let conversation = Conversation::read(payload.conversation, around.ours)?;
        let at = self.created_at.unwrap_or(around.now);
        let control = conversation.control(at);
        let failed = self.kind.ends_with(":failure");
        let job = self.job(around, &conversation, None, Kind::Control { holder: control.holder, failed }, at)?;
        // A failed hand-over and a mere offer change nobody's hold.
        let moved = matches!(
            self.kind.as_str(),
            "switchboard:passControl" | "switchboard:acceptControl" | "switchboard:releaseControl"
        );
        Ok(Judged { verdict: Verdict::Change(job), control: moved.then_some((conversation.id, control)) })
    }

    fn conversation_removed(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let conversation = Conversation::read(self.payload()?.conversation, around.ours)?;
        let at = self.created_at.unwrap_or(around.now);
        Ok(verdict(Verdict::Change(self.job(around, &conversation, None, Kind::ConversationRemoved, at)?)))
    }

    fn user_removed(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let user = user_id(self.payload()?.user).ok_or(Reject::NoIdentity)?;
        let lane = Conversation::standing_for(&user)?;
        let at = self.created_at.unwrap_or(around.now);
        Ok(verdict(Verdict::Change(self.job(around, &lane, None, Kind::UserRemoved { user }, at)?)))
    }

    fn merge(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let payload = self.payload()?;
        let users: RawPair<'_> = object(payload.merged_users)?.unwrap_or_default();
        let conversations: RawPair<'_> = object(payload.merged_conversations)?.unwrap_or_default();
        let (surviving_user, discarded_user) = (user_id(users.surviving), user_id(users.discarded));
        let discarded = lenient::<RawId<'_>>(conversations.discarded).and_then(|it| lenient(it.id));
        let surviving = match conversations.surviving {
            Some(_) => Conversation::read(conversations.surviving, around.ours)?,
            None => Conversation::standing_for(surviving_user.as_ref().ok_or(Reject::NoIdentity)?)?,
        };
        let at = self.created_at.unwrap_or(around.now);
        let kind = Kind::Merge { discarded, discarded_user, surviving_user };
        Ok(verdict(Verdict::Change(self.job(around, &surviving, None, kind, at)?)))
    }

    fn delivery_report(self, around: &Circumstances<'_>) -> Result<Judged, Reject> {
        let payload = self.payload()?;
        let conversation = Conversation::read(payload.conversation, around.ours)?;
        let failed = self.kind.ends_with(":failure");
        let code = lenient::<RawError<'_>>(payload.error).and_then(|error| lenient(error.code));
        let at = self.created_at.unwrap_or(around.now);
        let kind = Kind::DeliveryReport { failed, code };
        // Named by the event alone: the message in it is one of ours, reported on several times.
        let job = self.job(around, &conversation, None, kind, at)?;
        Ok(verdict(Verdict::Record(job, Ignore::Delivery)))
    }

    fn job(
        &self,
        around: &Circumstances<'_>,
        conversation: &Conversation,
        message: Option<MessageId>,
        kind: Kind,
        received: Timestamp,
    ) -> Result<Job, Reject> {
        let stands_in = |id: &str| id.to_owned().try_into().ok();
        let id = self.id.clone().or_else(|| stands_in_event(message.as_ref())).ok_or(Reject::NoIdentity)?;
        let message = message.or_else(|| stands_in(id.as_str())).ok_or(Reject::NoIdentity)?;
        Ok(Job {
            app: around.app.map(str::to_owned),
            brand: conversation.brand.clone(),
            received,
            position: around.position,
            ..Job::new(id, message, conversation.id.clone(), kind, around.now)
        })
    }
}

fn stands_in_event(message: Option<&MessageId>) -> Option<EventId> {
    message.and_then(|message| EventId::new(message.as_str()).ok())
}

struct Conversation {
    id: ConversationId,
    brand: Option<String>,
    holder: Holder,
}

impl Conversation {
    fn read(raw: Raw<'_>, ours: &Ours) -> Result<Self, Reject> {
        let raw: RawConversation<'_> = object(raw)?.ok_or(Reject::MissingConversation)?;
        let id = strict::<ConversationId>(raw.id)?.ok_or(Reject::MissingConversation)?;
        let active = lenient::<RawIntegration<'_>>(raw.active).map(|active| Integration {
            id: lenient(active.id),
            name: lenient(active.name),
            integration_id: lenient(active.integration_id),
            integration_type: lenient(active.kind),
        });
        Ok(Self { id, brand: lenient(raw.brand), holder: ours.holder(active.as_ref()) })
    }

    /// Events about a user alone belong to no conversation; the user's id takes its place.
    fn standing_for(user: &UserId) -> Result<Self, Reject> {
        let id = ConversationId::new(user.as_str()).map_err(|_| Reject::NoIdentity)?;
        Ok(Self { id, brand: None, holder: Holder::Nobody })
    }

    fn control(&self, at: Timestamp) -> Control {
        Control { holder: self.holder, at }
    }
}

fn object<'a, T: serde::Deserialize<'a>>(raw: Raw<'a>) -> Result<Option<T>, Reject> {
    match raw {
        Some(raw) if !raw.get().starts_with('{') => Err(Reject::WrongType),
        Some(raw) => serde_json::from_str(raw.get()).map(Some).map_err(|_| Reject::Malformed),
        None => Ok(None),
    }
}

fn user_id(raw: Raw<'_>) -> Option<UserId> {
    lenient::<RawId<'_>>(raw).and_then(|user| lenient(user.id))
}

fn time(raw: Raw<'_>) -> Option<Timestamp> {
    lenient::<String>(raw).and_then(|text| Timestamp::parse(&text))
}
