//! A message as it travels through RabbitMQ: the job as body, what is known about it as properties and headers.
//!
//! `x-death` is never read: from RabbitMQ 4.0 on it is not counted any more when a message is published again.

use std::{sync::Arc, time::Duration};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest, Sha256};

use crate::{
    broker::{
        Lane, Standing,
        letters::{Content, FOREIGN, Letter},
    },
    domain::{hex, ids::ConversationId, job::Job, time::Timestamp, trace::TraceContext},
};

const PERSISTENT: u8 = 2;

/// The longest cause kept, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// A message that only a newer version can read waits so long for one; then it is parked.
const NEWER_FOR: Duration = Duration::from_secs(24 * 3600);

const LANE: &str = "x-lane";
const CONVERSATION: &str = "x-conversation";
const FIRST_SEEN: &str = "x-first-seen";
const TRIES: &str = "x-retry-count";
const REPLAY: &str = "x-replay";
const REST: &str = "x-rest";
const REASON: &str = "x-last-error";
const PARKED_FOR: &str = "x-parked-reason";
const PARKED_AT: &str = "x-parked-at";

/// Set by the server.
const DELIVERIES: &str = "x-delivery-count";

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The message.
    pub job: Arc<Job>,
    /// The lane it belongs to, wherever it lies.
    pub lane: Lane,
    /// Tries spent on it.
    pub tries: u32,
    /// Which life it lives.
    pub replay: u32,
    /// It was to come again: whoever receives it waits so much longer, for the tiers know whole steps only. A span, not a
    /// time, for no two clocks agree.
    pub rest: Option<Duration>,
    /// Why it failed last.
    pub reason: Option<String>,
    /// When it was parked, if it was.
    pub parked_at: Option<Timestamp>,
}

impl Envelope {
    /// A new message.
    pub fn new(job: Arc<Job>, lane: Lane) -> Self {
        let replay = job.imported.unwrap_or_default();
        Self { job, lane, tries: 0, replay, rest: None, reason: None, parked_at: None }
    }

    /// One that comes again, and waits for the rest of its pause then; no try is counted.
    pub fn delayed(&self, rest: Duration) -> Self {
        Self { rest: Some(rest), parked_at: None, ..self.clone() }
    }

    /// One that failed, in the attempt of that span; a try is counted.
    pub fn buried(&self, reason: String, attempt: Option<TraceContext>) -> Self {
        let job = self.job.attempted(attempt);
        Self { job, tries: self.tries + 1, rest: None, reason: Some(shortened(reason)), ..self.clone() }
    }

    /// One that failed for good.
    pub fn parked(&self, reason: String, at: Timestamp) -> Self {
        Self { rest: None, reason: Some(shortened(reason)), parked_at: Some(at), ..self.clone() }
    }

    /// The same message in its next life.
    pub fn reborn(&self, now: Timestamp) -> Self {
        let job = Arc::new(self.job.replayed(now));
        Self { replay: self.replay + 1, ..Self::new(job, self.lane) }
    }

    /// The letter that it is to operators.
    pub fn letter(self, standing: Standing) -> Letter {
        Letter {
            id: self.job.id.to_string(),
            content: Content::Message(self.job),
            lane: Some(self.lane),
            standing,
            tries: self.tries,
            replay: self.replay,
            reason: self.reason,
            parked_at: self.parked_at.filter(|_| standing == Standing::Parked),
        }
    }

    /// Its body.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&*self.job).expect("a job is plain data")
    }

    /// Its properties, headers among them.
    pub fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        let mut put = |name: &str, value: AMQPValue| {
            headers.insert(name.into(), value);
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        put(LANE, text(self.lane.as_str()));
        put(CONVERSATION, text(self.job.conversation.as_str()));
        put(FIRST_SEEN, AMQPValue::LongLongInt(self.job.first_seen.0));
        put(TRIES, AMQPValue::LongInt(i32::try_from(self.tries).unwrap_or(i32::MAX)));
        put(REPLAY, AMQPValue::LongInt(i32::try_from(self.replay).unwrap_or(i32::MAX)));
        if let Some(trace) = &self.job.trace {
            put(TraceContext::HEADER, text(&trace.to_string()));
        }
        if let Some(rest) = self.rest {
            put(REST, AMQPValue::LongLongInt(i64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)));
        }
        if let Some(reason) = &self.reason {
            put(if self.parked_at.is_some() { PARKED_FOR } else { REASON }, text(reason));
        }
        if let Some(at) = self.parked_at {
            put(PARKED_AT, AMQPValue::LongLongInt(at.0));
        }
        let seconds = u64::try_from(self.job.first_seen.0 / 1_000).unwrap_or_default();
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_app_id("tidegate".into())
            // An id has 256 bytes at most, a property 255.
            .with_message_id(self.message_id().into())
            .with_timestamp(seconds)
            .with_headers(headers)
    }

    /// The name under which the server gives it back if it can be routed nowhere.
    fn message_id(&self) -> &str {
        let id = self.job.id.as_str();
        let end = (0..=255.min(id.len())).rev().find(|end| id.is_char_boundary(*end)).unwrap_or_default();
        &id[..end]
    }

    /// Reads a message; `None`: it is none of ours. `lane`: that of the queue it lay in, where the queue has one.
    pub fn read(properties: &BasicProperties, body: &[u8], lane: Option<Lane>) -> Option<Self> {
        let job: Job = serde_json::from_slice(body).ok()?;
        if job.v > Job::VERSION {
            // What it would be written back as were not what it is.
            return None;
        }
        let headers = properties.headers().as_ref().map(FieldTable::inner);
        let header = |name: &str| headers.and_then(|headers| headers.get(name));
        let count = |name| header(name).and_then(number).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        Some(Self {
            job: Arc::new(job),
            lane: lane.or_else(|| self::lane(properties))?,
            tries: count(TRIES),
            replay: count(REPLAY),
            rest: header(REST).and_then(number).map(|rest| Duration::from_millis(rest.max(0).unsigned_abs())),
            reason: header(PARKED_FOR).or_else(|| header(REASON)).and_then(words),
            parked_at: header(PARKED_AT).and_then(number).map(Timestamp),
        })
    }
}

/// A message that only a newer version can read.
pub struct Newer {
    /// The lane it says it belongs to.
    pub lane: Option<Lane>,
    /// The conversation it belongs to.
    pub conversation: ConversationId,
}

/// What is known of a message that cannot be read, if a newer version wrote it, whose nodes may still take it: for a day.
pub fn newer(properties: &BasicProperties, body: &[u8], now: Timestamp) -> Option<Newer> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        v: u64,
    }
    let Versioned { v } = serde_json::from_slice(body).ok()?;
    let headers = properties.headers().as_ref()?.inner();
    let first_seen = headers.get(FIRST_SEEN).and_then(number).map(Timestamp)?;
    let conversation = ConversationId::new(&headers.get(CONVERSATION).and_then(words)?).ok()?;
    let may_come = v > u64::from(Job::VERSION) && now.since(first_seen) < NEWER_FOR;
    may_come.then(|| Newer { lane: lane(properties), conversation })
}

/// The lane that a message says it belongs to.
fn lane(properties: &BasicProperties) -> Option<Lane> {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    match headers.and_then(|headers| headers.get(LANE)).and_then(words)?.as_str() {
        "chat" => Some(Lane::Chat),
        "events" => Some(Lane::Events),
        _ => None,
    }
}

/// The properties of a message that is parked although it is none of ours.
pub fn parked_as_it_is(properties: BasicProperties, reason: &str, at: Timestamp) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(PARKED_FOR.into(), AMQPValue::LongString(reason.into()));
    headers.insert(PARKED_AT.into(), AMQPValue::LongLongInt(at.0));
    properties.with_delivery_mode(PERSISTENT).with_headers(headers)
}

/// A message that lies among the letters.
pub fn letter(properties: &BasicProperties, body: &[u8], standing: Standing) -> Letter {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    let header = |name: &str| headers.and_then(|headers| headers.get(name));
    let Some(envelope) = Envelope::read(properties, body, None) else {
        let named = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        return Letter {
            id: named.filter(|id| !id.is_empty()).unwrap_or_else(|| named_by(body)),
            content: Content::Foreign(body.to_vec()),
            lane: None,
            standing,
            tries: 0,
            replay: 0,
            reason: header(PARKED_FOR).and_then(words).or_else(|| Some(FOREIGN.to_owned())),
            parked_at: header(PARKED_AT).and_then(number).map(Timestamp),
        };
    };
    envelope.letter(standing)
}

/// The same message as it lies there, to be published once more: how often the server has delivered it is counted anew.
pub fn as_it_lies(properties: &BasicProperties) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(|headers| headers.inner()) {
        if name.as_str() != DELIVERIES {
            headers.insert(name.clone(), value.clone());
        }
    }
    properties.clone().with_delivery_mode(PERSISTENT).with_headers(headers)
}

/// How often the server has delivered it before.
pub fn deliveries(properties: &BasicProperties) -> i64 {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    headers.and_then(|headers| headers.get(DELIVERIES)).and_then(number).unwrap_or_default()
}

/// When a message was parked, whatever it is.
pub fn parked_at(properties: &BasicProperties) -> Option<Timestamp> {
    let headers = properties.headers().as_ref()?.inner();
    headers.get(PARKED_AT).and_then(number).map(Timestamp)
}

/// A name for bytes that have none, the same each time they are seen.
fn named_by(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    format!("foreign-{}", hex::hex(&digest[..12]))
}

fn words(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        _ => None,
    }
}

fn shortened(mut reason: String) -> String {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
    reason.truncate(end);
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::support;

    #[test]
    fn what_travels_comes_out_as_it_went_in() {
        let trace = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let job = Arc::new(Job { trace, ..support::job(b"{}", None, "digest", Timestamp(1_234)) });
        let new = Envelope::new(job, Lane::Chat);
        let buried = new.buried("panic: no".into(), trace);
        let all = [
            new.clone(),
            new.delayed(Duration::from_millis(99)),
            buried.clone(),
            buried.parked("no tries left".into(), Timestamp(7)),
            Envelope { replay: 3, ..buried.clone() },
            buried.reborn(Timestamp(8)),
            Envelope { lane: Lane::Events, ..new },
        ];
        for envelope in all {
            let read = Envelope::read(&envelope.properties(), &envelope.body(), None).unwrap();
            assert_eq!(read, envelope);
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        let properties = BasicProperties::default();
        for body in [&b""[..], b"{}", b"[1]", b"\xff\xfe", b"{\"task\": \"chat.process\"}"] {
            assert_eq!(Envelope::read(&properties, body, Some(Lane::Chat)), None);
        }
        let job = Arc::new(support::job(b"{}", None, "digest", Timestamp(1)));
        let body = Envelope::new(job, Lane::Chat).body();
        assert_eq!(Envelope::read(&properties, &body, None), None, "nothing tells its lane");
        assert!(Envelope::read(&properties, &body, Some(Lane::Chat)).is_some(), "its queue does");
    }
}
