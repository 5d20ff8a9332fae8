//! The state of a node on its own: a SQLite file beside the queue's.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use moka::future::Cache;
use rusqlite::{Connection, OptionalExtension};

use super::{Away, Claim, Error, Keeping, Ledger, Memory, Presence, Recall, Record, Remembered, RetentionConfig};
use crate::{
    domain::{
        control::Control,
        ids::{ConversationId, MessageId, UserId},
        prompt::History,
        reply::{Purpose, Reply},
        time::Timestamp,
        timeline::Outcome,
    },
    store::{self, Database, Durability, Schema},
};

/// Conversations whose holder is kept in memory.
const CONTROLS_MAX: u64 = 100_000;

/// Rows thrown away at once, so that tidying never holds up a reply for long.
const TIDY_ROWS: usize = 2_000;

const SCHEMA: Schema = Schema {
    application_id: 0x7467_7374,
    version: 1,
    create: "
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
        CREATE INDEX record_by_event ON record (event) WHERE event IS NOT NULL AND event != message;
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
        CREATE INDEX conversation_touched ON conversation (touched);
    ",
};

/// The local state.
pub struct Local {
    database: Database,
    controls: Cache<ConversationId, Control>,
    retention: RetentionConfig,
    born: Timestamp,
}

impl Local {
    /// Opens the state in `folder`, whose lock the caller holds. A new one is born `now`.
    pub fn open(folder: &Path, retention: RetentionConfig, now: Timestamp) -> Result<Self, store::Error> {
        let path = folder.join("state.db");
        let database = Database::open(&path, &SCHEMA)?;
        let born = database.read_now(|c| meta(c, "born"))?;
        let state = Self { database, controls: Cache::new(CONTROLS_MAX), retention, born: born.unwrap_or(now) };
        if born.is_none() && !state.database.note(move |c| set_meta(c, "born", now)) {
            return Err(store::Error::Closed);
        }
        Ok(state)
    }

    /// Writes what is outstanding and closes the file.
    pub fn close(&self) {
        self.database.close();
    }

    async fn change<T, F>(&self, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, store::Error> + Send + 'static,
    {
        Ok(self.database.write(Durability::Written, run, |_| ()).await?)
    }
}

fn meta(connection: &Connection, key: &str) -> Result<Option<Timestamp>, store::Error> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?.map(Timestamp))
}

fn set_meta(connection: &Connection, key: &str, value: Timestamp) -> Result<(), store::Error> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute((key, value.0))?;
    Ok(())
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the state's types are plain data")
}

/// What cannot be read any more counts as not known.
fn parsed<T: serde::de::DeserializeOwned>(text: Option<String>) -> Option<T> {
    text.and_then(|text| serde_json::from_str(&text).ok())
}

/// How a message ended, and the name of the reply that covers it.
type Covering = (Option<String>, Option<String>);

fn covering(connection: &Connection, message: &str, replay: u32) -> Result<Option<Covering>, store::Error> {
    let mut statement =
        connection.prepare_cached("SELECT outcome, reply FROM record WHERE message = ?1 AND replay = ?2")?;
    Ok(statement.query_row((message, replay), |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

fn recall(connection: &Connection, message: &str, replay: u32) -> Result<Recall, store::Error> {
    let Some((outcome, reply)) = covering(connection, message, replay)? else { return Ok(Recall::Unknown) };
    if let Some(outcome) = parsed::<Outcome>(outcome) {
        return Ok(Recall::Ended(outcome));
    }
    let Some(key) = reply else { return Ok(Recall::Unknown) };
    let mut statement = connection.prepare_cached("SELECT body FROM reply WHERE key = ?1")?;
    let body: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(parsed::<Reply>(body.flatten()).map_or(Recall::Unknown, Recall::Intended))
}

fn intend(connection: &Connection, reply: &Reply, key: &str) -> Result<Claim, store::Error> {
    let now = reply.at;
    if reply.purpose != Purpose::Answer {
        let mut statement =
            connection.prepare_cached("INSERT OR IGNORE INTO reply (key, body, at, done) VALUES (?1, ?2, ?3, 1)")?;
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
    connection.prepare_cached("INSERT OR REPLACE INTO reply (key, body, at) VALUES (?1, ?2, ?3)")?.execute((
        key,
        json(reply),
        now.0,
    ))?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO record (message, replay, conversation, reply, at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (message, replay) DO UPDATE SET reply = excluded.reply",
    )?;
    for message in &reply.covers {
        statement.execute((message.as_str(), reply.replay, reply.conversation.as_str(), key, now.0))?;
    }
    Ok(Claim::Ours)
}

/// Whether a reply of that name was entered with other words: those may have been posted.
fn is_meant_otherwise(connection: &Connection, reply: &Reply, key: &str) -> Result<bool, store::Error> {
    let mut statement = connection.prepare_cached("SELECT body FROM reply WHERE key = ?1")?;
    let meant: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(meant.is_some_and(|body| parsed::<Reply>(body).is_none_or(|meant| meant.parts != reply.parts)))
}

fn conclude(connection: &Connection, record: &Record, replay: u32) -> Result<(), store::Error> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO record (message, replay, event, conversation, outcome, reply, at, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (message, replay) DO UPDATE
         SET event = excluded.event, outcome = excluded.outcome, at = excluded.at, body = excluded.body,
             reply = coalesce(excluded.reply, reply)",
    )?;
    statement.execute((
        record.message.as_str(),
        replay,
        record.id.as_str(),
        record.conversation.as_str(),
        json(&record.outcome),
        record.reply.as_deref(),
        record.at.0,
        json(record),
    ))?;
    if let Some(reply) = &record.reply {
        connection.prepare_cached("UPDATE reply SET done = 1 WHERE key = ?1 AND done = 0")?.execute([reply])?;
    }
    Ok(())
}

#[async_trait]
impl Ledger for Local {
    async fn recall(&self, message: &MessageId, replay: u32) -> Result<Recall, Error> {
        let message = message.clone();
        Ok(self.database.read(move |c| recall(c, message.as_str(), replay)).await?)
    }

    async fn intend(&self, reply: &Reply) -> Result<Claim, Error> {
        let (reply, key) = (reply.clone(), reply.key());
        let run = move |connection: &Connection| intend(connection, &reply, &key);
        Ok(self.database.write(Durability::Synced, run, |_| ()).await?)
    }

    async fn revoke(&self, reply: &Reply) -> Result<(), Error> {
        let (key, replay) = (reply.key(), reply.replay);
        self.change(move |connection| {
            connection
                .prepare_cached("DELETE FROM record WHERE reply = ?1 AND replay = ?2 AND outcome IS NULL")?
                .execute((&key, replay))?;
            connection.prepare_cached("DELETE FROM reply WHERE key = ?1")?.execute([&key])?;
            Ok(())
        })
        .await
    }

    async fn conclude(&self, records: Vec<Record>, said: Option<History>) -> Result<(), Error> {
        let Some(first) = records.first() else { return Ok(()) };
        let (conversation, at) = (first.conversation.clone(), first.at);
        let control = self.controls.get(&conversation).await;
        self.change(move |connection| {
            for record in &records {
                // A replay's own life is told apart by its reply's key; until then there is one life.
                conclude(connection, record, 0)?;
            }
            if let Some(said) = &said {
                connection
                    .prepare_cached(
                        "INSERT INTO conversation (id, history, control, touched) VALUES (?1, ?2, ?3, ?4)
                         ON CONFLICT (id) DO UPDATE SET history = excluded.history, touched = excluded.touched,
                             control = coalesce(excluded.control, control)",
                    )?
                    .execute((conversation.as_str(), json(said), control.as_ref().map(json), at.0))?;
            }
            Ok(())
        })
        .await
    }

    fn born(&self) -> Timestamp {
        self.born
    }
}

#[async_trait]
impl Memory for Local {
    async fn remembered(&self, conversation: &ConversationId) -> Result<Remembered, Error> {
        let id = conversation.clone();
        let query = move |connection: &Connection| {
            let mut statement =
                connection.prepare_cached("SELECT control, history, away, alias FROM conversation WHERE id = ?1")?;
            let row = statement.query_row([id.as_str()], |row| {
                Ok(Remembered {
                    control: parsed(row.get(0)?),
                    history: parsed(row.get(1)?),
                    away: parsed(row.get(2)?),
                    alias: row.get::<_, Option<String>>(3)?.and_then(|id| ConversationId::new(&id).ok()),
                })
            });
            Ok(row.optional()?.unwrap_or_default())
        };
        let mut remembered = self.database.read(query).await?;
        match (self.controls.get(conversation).await, remembered.control) {
            (Some(fresh), _) => remembered.control = Some(fresh),
            (None, Some(stored)) => self.controls.insert(conversation.clone(), stored).await,
            (None, None) => {}
        }
        Ok(remembered)
    }

    async fn control(&self, conversation: &ConversationId) -> Result<Option<Control>, Error> {
        match self.controls.get(conversation).await {
            Some(control) => Ok(Some(control)),
            None => Ok(self.remembered(conversation).await?.control),
        }
    }

    async fn note_control(&self, conversation: &ConversationId, control: Control) -> Result<bool, Error> {
        let known = self.control(conversation).await?;
        if known.is_some_and(|known| known.at > control.at) {
            return Ok(false);
        }
        self.controls.insert(conversation.clone(), control).await;
        if known.is_some_and(|known| known.holder == control.holder) {
            return Ok(false);
        }
        let (id, text) = (conversation.clone(), json(&control));
        let write = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT INTO conversation (id, control, touched) VALUES (?1, ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET control = excluded.control, history = NULL",
                )?
                .execute((id.as_str(), &text, control.at.0))?;
            Ok(())
        };
        // A holder heard of for the first time is in memory, and in the event's own queue; nobody waits for the disk.
        if known.is_some() || !self.database.note(write.clone()) {
            self.change(move |connection| write(connection)).await?;
        }
        Ok(known.is_some())
    }

    async fn note_away(&self, conversation: &ConversationId, away: Option<Away>) -> Result<(), Error> {
        let (id, away) = (conversation.clone(), away.as_ref().map(json));
        self.change(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO conversation (id, away) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET away = excluded.away",
                )?
                .execute((id.as_str(), &away))?;
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Keeping for Local {
    async fn record(&self, id: &str) -> Result<Option<Record>, Error> {
        let id = id.to_owned();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT record.body, reply.body FROM record LEFT JOIN reply ON reply.key = record.reply
                 WHERE record.message = ?1 OR record.event = ?1 ORDER BY replay DESC LIMIT 1",
            )?;
            let found = statement.query_row([&id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            Ok(found.and_then(|(body, reply)| {
                let mut record: Record = parsed(body)?;
                record.text = parsed::<Reply>(reply).map(|reply| reply.text());
                Some(record)
            }))
        };
        Ok(self.database.read(query).await?)
    }

    async fn note_user(&self, conversation: &ConversationId, user: &UserId) -> Result<(), Error> {
        let (id, user) = (conversation.clone(), user.clone());
        self.change(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO conversation (id, user) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET user = excluded.user",
                )?
                .execute((id.as_str(), user.as_str()))?;
            Ok(())
        })
        .await
    }

    async fn merge(&self, from: &ConversationId, into: &ConversationId) -> Result<(), Error> {
        let (old, new) = (from.clone(), into.clone());
        self.change(move |connection| {
            connection.execute(
                "INSERT INTO conversation (id, user, history, touched)
                 SELECT ?2, user, history, touched FROM conversation WHERE id = ?1
                 ON CONFLICT (id) DO UPDATE SET history = coalesce(history, excluded.history)",
                (old.as_str(), new.as_str()),
            )?;
            connection.execute(
                "INSERT INTO conversation (id, alias) VALUES (?1, ?2)
                 ON CONFLICT (id) DO UPDATE SET alias = excluded.alias, history = NULL, control = NULL, away = NULL",
                (old.as_str(), new.as_str()),
            )?;
            Ok(())
        })
        .await?;
        self.controls.invalidate(from).await;
        Ok(())
    }

    async fn forget_conversation(&self, conversation: &ConversationId) -> Result<(), Error> {
        let id = conversation.clone();
        self.change(move |connection| forget(connection, id.as_str())).await?;
        self.controls.invalidate(conversation).await;
        Ok(())
    }

    async fn forget_user(&self, user: &UserId) -> Result<Vec<ConversationId>, Error> {
        let user = user.clone();
        let forgotten: Vec<String> = self
            .change(move |connection| {
                let mut statement = connection.prepare("SELECT id FROM conversation WHERE user = ?1")?;
                let ids: Vec<String> =
                    statement.query_map([user.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?;
                ids.iter().try_for_each(|id| forget(connection, id))?;
                Ok(ids)
            })
            .await?;
        let forgotten: Vec<_> = forgotten.iter().filter_map(|id| ConversationId::new(id).ok()).collect();
        for conversation in &forgotten {
            self.controls.invalidate(conversation).await;
        }
        Ok(forgotten)
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        let before = |span: Duration| now.0 - i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let (texts, all) = (before(self.retention.results), before(self.retention.history));
        self.change(move |connection| {
            connection.execute(
                &format!(
                    "UPDATE reply SET body = NULL WHERE key IN
                     (SELECT key FROM reply WHERE done = 1 AND body IS NOT NULL AND at < ?1 LIMIT {TIDY_ROWS})"
                ),
                [texts],
            )?;
            // Rows are numbered by age, so the oldest are found without an index.
            let oldest = format!("SELECT row FROM record ORDER BY row LIMIT {TIDY_ROWS}");
            connection.execute(
                &format!(
                    "DELETE FROM reply WHERE key IN
                     (SELECT reply FROM record WHERE at < ?1 AND outcome IS NOT NULL AND row IN ({oldest}))"
                ),
                [all],
            )?;
            connection.execute(
                &format!("DELETE FROM record WHERE at < ?1 AND outcome IS NOT NULL AND row IN ({oldest})"),
                [all],
            )?;
            connection
                .execute("DELETE FROM conversation WHERE touched < ?1 AND touched > 0 AND away IS NULL", [all])?;
            Ok(())
        })
        .await
    }
}

/// Removes the words of a conversation; that its messages have ended stays known, without their story.
fn forget(connection: &Connection, id: &str) -> Result<(), store::Error> {
    connection.execute("DELETE FROM conversation WHERE id = ?1", [id])?;
    connection.execute(
        "UPDATE reply SET body = NULL WHERE key IN (SELECT reply FROM record WHERE conversation = ?1)",
        [id],
    )?;
    connection.execute("UPDATE record SET body = NULL WHERE conversation = ?1 AND outcome IS NOT NULL", [id])?;
    Ok(())
}

#[async_trait]
impl Presence for Local {
    async fn alive(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.change(move |connection| {
            let last = meta(connection, "alive")?;
            set_meta(connection, "alive", now)?;
            Ok(last)
        })
        .await
    }

    async fn open_since(&self, since: Timestamp, limit: usize) -> Result<Vec<ConversationId>, Error> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM conversation WHERE touched >= ?1 AND alias IS NULL
                 AND (control IS NULL OR json_extract(control, '$.holder') != 'other')
                 ORDER BY touched DESC LIMIT ?2",
            )?;
            let ids = statement.query_map((since.0, limit as i64), |row| row.get::<_, String>(0))?;
            Ok(ids.collect::<Result<Vec<_>, _>>()?)
        };
        let ids = self.database.read(query).await?;
        Ok(ids.iter().filter_map(|id| ConversationId::new(id).ok()).collect())
    }
}
