//! The spans of a message's way through the queue (OpenTelemetry's semantic conventions for messaging): sent once, worked
//! on in one attempt or several. The calls of an attempt hang below it (`client/`).
//!
//! An attempt hangs below the sending, on whatever node and after whatever time, and links to the first one that failed.
//! One for a burst hangs below that of its first message and links to the others'.

use super::{Parts, conversation::State, hand::Item};
use crate::{
    broker::{Delivery, Lane},
    domain::job::Job,
    telemetry::span::{Kind, Parent, Span, is_collected},
};

/// Begins the span of a message that is sent to the queue, and writes it down in the message. It ends when dropped.
pub fn send(parts: &Parts, lane: Lane, job: &mut Job) -> Span {
    let span = Span::begin(Kind::Producer, Parent::Current, || format!("send {}", lane.as_str()).into());
    if span.is_some() {
        describe(&span, "send", parts, lane, job);
        job.trace = span.context();
    }
    span
}

/// Begins the span of an attempt at what a conversation's actor has in hand.
pub(super) fn attempt(parts: &Parts, state: &State) -> Span {
    if !is_collected() {
        return Span::default();
    }
    let mut inner = state.cell.lock();
    let Some(hand) = inner.hand.as_mut() else { return Span::default() };
    hand.span = burst(parts, &hand.items);
    hand.span.clone()
}

fn burst(parts: &Parts, items: &[Item]) -> Span {
    let Some((head, others)) = items.split_first() else { return Span::default() };
    let span = process(parts, &head.delivery);
    others.iter().filter_map(|item| item.delivery.job.trace).for_each(|sent| span.link(sent));
    if !others.is_empty() {
        span.set("messaging.batch.message_count", items.len() as i64);
    }
    span
}

/// Begins the span of an attempt at one message.
pub(super) fn process(parts: &Parts, delivery: &Delivery) -> Span {
    let Delivery { job, lane, .. } = delivery;
    let span = Span::begin(Kind::Consumer, Parent::Told(job.trace), || format!("process {}", lane.as_str()).into());
    if span.is_some() {
        describe(&span, "process", parts, *lane, job);
        span.set("tidegate.tries", i64::from(delivery.tries));
        span.set("tidegate.life", i64::from(delivery.replay));
        if let Some(first) = job.first_attempt {
            span.link(first);
        }
    }
    span
}

fn describe(span: &Span, operation: &'static str, parts: &Parts, lane: Lane, job: &Job) {
    span.set("messaging.system", parts.upkeep.shape().system);
    span.set("messaging.operation.name", operation);
    span.set("messaging.operation.type", operation);
    span.set("messaging.destination.name", lane.as_str());
    span.set("messaging.message.id", job.message.to_string());
    span.set("messaging.message.conversation_id", job.conversation.to_string());
}
