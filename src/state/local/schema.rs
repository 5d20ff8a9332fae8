//! The tables of the local state, and what is asked of them.

use rusqlite::{Connection, OptionalExtension, Row};

use super::sql;
use crate::{
    domain::{
        ids::{ConversationId, EventId, MessageId},
        job::Job,
        reply::{self, Purpose, Reply},
        time::Timestamp,
        timeline::{Outcome, Timeline},
    },
    state::{Claim, Recall, Record},
    store::{self, Schema},
};

/// Since format 2.
macro_rules! budget {
    () => {
        "CREATE TABLE budget (
            month TEXT NOT NULL, key TEXT NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (month, key)
        ) STRICT, WITHOUT ROWID;"
    };
}

/// Since format 3.
macro_rules! operations {
    () => {
        "CREATE TABLE setting (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE audit (id TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;"
    };
}

pub(super) const SCHEMA: Schema = Schema {
    application_id: 0x7467_7374,
    version: 3,
    upgrades: &[budget!(), operations!()],
    create: concat!(
        budget!(),
        operations!(),
        "
        CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE reply (
            key TEXT PRIMARY KEY, body TEXT, done INTEGER NOT NULL DEFAULT 0, at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX reply_with_text ON reply (at) WHERE done = 1 AND body IS NOT NULL;
        CREATE TABLE record (
            row INTEGER PRIMARY KEY,
            message TEXT NOT NULL,
            replay INTEGER NOT NULL,
            event TEXT,
            conversation TEXT NOT NULL,
            outcome TEXT,
            reply TEXT,
            at INTEGER NOT NULL,
            body TEXT,
            UNIQUE (message, replay)
        ) STRICT;
        CREATE INDEX record_by_event ON record (event, replay) WHERE event IS NOT NULL AND event != message;
        CREATE INDEX record_by_conversation ON record (conversation);
        CREATE TABLE conversation (
            id TEXT PRIMARY KEY,
            user TEXT,
            control TEXT,
            history TEXT,
            away TEXT,
            alias TEXT,
            touched INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX conversation_by_user ON conversation (user) WHERE user IS NOT NULL;
        CREATE INDEX conversation_by_alias ON conversation (alias) WHERE alias IS NOT NULL;
        CREATE INDEX conversation_touched ON conversation (touched);
    "
    ),
};

pub(super) fn meta(connection: &Connection, key: &str) -> Result<Option<Timestamp>, store::Error> {
    let mut statement = connection.prepare_cached(sql::META)?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?.map(Timestamp))
}

pub(super) fn set_meta(connection: &Connection, key: &str, value: Timestamp) -> Result<(), store::Error> {
    connection.prepare_cached(sql::SET_META)?.execute((key, value.0))?;
    Ok(())
}

pub(super) use crate::state::json;

/// What a column says, if it says anything that can be read.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
    text.and_then(|text| crate::state::parsed(&text))
}

/// How a message ended, and the name of the reply that covers it.
pub(super) type Covering = (Option<String>, Option<String>);

pub(super) fn covering(connection: &Connection, message: &str, replay: u32) -> Result<Option<Covering>, store::Error> {
    let mut statement = connection.prepare_cached(sql::COVERING)?;
    Ok(statement.query_row((message, replay), |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// What is known of a message, if anything is.
pub(super) fn recall(connection: &Connection, message: &str, replay: u32) -> Result<Option<Recall>, store::Error> {
    let Some((outcome, reply)) = covering(connection, message, replay)? else {
        return told(connection, message, replay);
    };
    if let Some(outcome) = parsed::<Outcome>(outcome) {
        return Ok(Some(Recall::Ended(outcome)));
    }
    let Some(key) = reply else { return told(connection, message, replay) };
    let mut statement = connection.prepare_cached(sql::REPLY)?;
    let body: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
    // Told elsewhere, and thrown away here: this file knows nothing of it any more.
    let Some(body) = body else { return Ok(None) };
    // One that was meant and forgotten with its customer is not meant again.
    Ok(Some(parsed::<Reply>(body).map_or(Recall::Ended(Outcome::Discarded), Recall::Intended)))
}

/// Whether the customer was told already that this message gets no answer.
fn told(connection: &Connection, message: &str, replay: u32) -> Result<Option<Recall>, store::Error> {
    let Ok(message) = MessageId::new(message) else { return Ok(None) };
    let mut statement = connection.prepare_cached(sql::REPLY)?;
    for purpose in [Purpose::Handoff, Purpose::Failure] {
        let key = reply::key(&message, purpose, replay);
        let body: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
        if let Some(told) = parsed::<Reply>(body.flatten()) {
            return Ok(Some(Recall::Told(told)));
        }
    }
    Ok(None)
}

pub(super) fn intend(connection: &Connection, reply: &Reply, key: &str) -> Result<Claim, store::Error> {
    let now = reply.at;
    if reply.purpose != Purpose::Answer {
        let mut statement = connection.prepare_cached(sql::SAY_ONCE)?;
        let fresh = statement.execute((key, json(reply), now.0))? > 0;
        return Ok(if fresh { Claim::Ours } else { Claim::Taken(reply.covers[0].clone()) });
    }
    for message in &reply.covers {
        let known = covering(connection, message.as_str(), reply.replay)?;
        let taken = known.is_some_and(|(outcome, of)| outcome.is_some() || of.is_some_and(|of| of != key));
        if taken {
            return Ok(Claim::Taken(message.clone()));
        }
    }
    if is_meant_otherwise(connection, reply, key)? {
        return Ok(Claim::Taken(reply.covers[0].clone()));
    }
    connection.prepare_cached(sql::INTEND)?.execute((key, json(reply), now.0))?;
    let mut statement = connection.prepare_cached(sql::COVER)?;
    for message in &reply.covers {
        statement.execute((message.as_str(), reply.replay, reply.conversation.as_str(), key, now.0))?;
    }
    Ok(Claim::Ours)
}

/// Whether a reply of that name was entered with other words, or for other messages: those may have been posted.
pub(super) fn is_meant_otherwise(connection: &Connection, reply: &Reply, key: &str) -> Result<bool, store::Error> {
    let mut statement = connection.prepare_cached(sql::REPLY)?;
    let meant: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(meant.is_some_and(|body| {
        parsed::<Reply>(body).is_none_or(|meant| (&meant.parts, &meant.covers) != (&reply.parts, &reply.covers))
    }))
}

pub(super) fn conclude(connection: &Connection, record: &Record) -> Result<(), store::Error> {
    let mut statement = connection.prepare_cached(sql::CONCLUDE)?;
    statement.execute((
        record.message.as_str(),
        record.replay,
        record.id.as_str(),
        record.conversation.as_str(),
        json(&record.outcome),
        record.reply.as_deref(),
        record.at.0,
        json(record),
    ))?;
    if let Some(reply) = &record.reply {
        connection.prepare_cached(sql::DONE)?.execute([reply])?;
    }
    Ok(())
}

/// How a message ended. Of one whose story was forgotten, no more than that.
pub(super) fn record(connection: &Connection, statement: &str, id: &str) -> Result<Option<Record>, store::Error> {
    let read = |row: &Row<'_>| {
        let text = |column| row.get::<_, Option<String>>(column);
        let ids = [text(2)?, text(3)?, text(4)?];
        Ok((text(0)?, text(1)?, ids, text(5)?, Timestamp(row.get(6)?), row.get(7)?))
    };
    let found = connection.prepare_cached(statement)?.query_row([id], read).optional()?;
    Ok(found.and_then(|(body, said, ids, outcome, at, replay)| {
        if let Some(mut record) = parsed::<Record>(body) {
            // What was meant and not posted was not said.
            record.text = record.reply.as_ref().and_then(|_| parsed::<Reply>(said)).map(|said| said.text());
            return Some(record);
        }
        let [message, event, conversation] = ids;
        Some(Record {
            // An event's id is noted at the end; until then the message names it.
            id: EventId::new(event.as_ref().or(message.as_ref())?).ok()?,
            message: MessageId::new(&message?).ok()?,
            conversation: ConversationId::new(&conversation?).ok()?,
            replay,
            outcome: parsed(outcome)?,
            at,
            cause: None,
            timeline: Timeline::default(),
            reply: None,
            text: None,
        })
    }))
}

/// Takes an intent back, with what it covers.
pub(super) fn revoke(connection: &Connection, reply: &Reply, key: &str) -> Result<(), store::Error> {
    let mut statement = connection.prepare_cached(sql::UNCOVER)?;
    for message in &reply.covers {
        statement.execute((message.as_str(), reply.replay, key))?;
    }
    connection.prepare_cached(sql::REVOKE)?.execute([key])?;
    Ok(())
}

/// Keeps a story in the row that the record of the end will take.
pub(super) fn note_story(connection: &Connection, job: &Job, replay: u32, story: &str) -> Result<(), store::Error> {
    connection.prepare_cached(sql::NOTE_STORY)?.execute((
        job.message.as_str(),
        replay,
        job.id.as_str(),
        job.conversation.as_str(),
        job.received.0,
        story,
    ))?;
    Ok(())
}

pub(super) fn story(connection: &Connection, message: &str) -> Result<Option<Timeline>, store::Error> {
    let mut statement = connection.prepare_cached(sql::STORY)?;
    Ok(parsed(statement.query_row([message], |row| row.get(0)).optional()?.flatten()))
}

/// Removes the words of a conversation; that its messages have ended stays known, without their story.
pub(super) fn forget(connection: &Connection, id: &str) -> Result<(), store::Error> {
    let mut statement = connection.prepare_cached(sql::LIVES)?;
    let lives = statement.query_map([id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)))?;
    let mut forget = connection.prepare_cached(sql::FORGET_REPLY)?;
    for life in lives {
        let (message, last) = life?;
        let Ok(message) = MessageId::new(&message) else { continue };
        // Whatever was said about it, in this life and those before.
        for (replay, purpose) in (0..=last).flat_map(|replay| Purpose::ALL.map(|purpose| (replay, purpose))) {
            forget.execute([reply::key(&message, purpose, replay)])?;
        }
    }
    connection.prepare_cached(sql::FORGET_STORIES)?.execute((id, json(&Outcome::Discarded)))?;
    connection.prepare_cached(sql::FORGET_CONVERSATION)?.execute([id])?;
    Ok(())
}

/// Throws away at most `rows` of each kind: texts of replies older than `texts`, whatever has ended before `all`.
/// `true` when there may be more.
pub(super) fn tidy(connection: &Connection, texts: i64, all: i64, rows: i64) -> Result<bool, store::Error> {
    let stripped = connection.prepare_cached(sql::TIDY_TEXTS)?.execute((texts, rows))?;
    connection.prepare_cached(sql::TIDY_REPLIES)?.execute((all, rows))?;
    let removed = connection.prepare_cached(sql::TIDY_RECORDS)?.execute((all, rows))?;
    connection.prepare_cached(sql::TIDY_CONVERSATIONS)?.execute([all])?;
    Ok(stripped.max(removed) as i64 == rows)
}
