//! The state of a node on its own: a SQLite file beside the queue's.

use std::path::Path;

use async_trait::async_trait;
use moka::future::Cache;
use rusqlite::{Connection, OptionalExtension};

mod budgets;
mod operations;
mod outstanding;
mod schema;
mod sql;
#[cfg(test)]
mod tests;

pub(super) use outstanding::{Kept, Portion};

use super::{
    Away, Claim, Claimed, Error, Fence, Keeping, Ledger, Life, Memory, Ours, Presence, Recall, Record, Remembered,
    RetentionConfig, Turn,
};
use crate::{
    domain::{
        control::Control,
        ids::{ConversationId, UserId},
        job::Job,
        prompt::History,
        reply::{Purpose, Reply},
        time::Timestamp,
        timeline::Timeline,
    },
    store::{self, Database, Durability},
};

/// Conversations whose holder is kept in memory.
const CONTROLS_MAX: u64 = 100_000;

/// Rows thrown away at once, so that tidying never holds up a reply for long.
const TIDY_ROWS: i64 = 2_000;

/// Such portions in one go at the most, with replies in between; more than comes in until the next.
const TIDY_ROUNDS: usize = 200;

/// The local state.
pub struct Local {
    database: Database,
    controls: Cache<ConversationId, Control>,
    retention: RetentionConfig,
    born: Timestamp,
    copies: bool,
}

impl Local {
    /// Opens the state in `folder`, whose lock the caller holds. A new one is born `now`.
    pub fn open(folder: &Path, retention: RetentionConfig, now: Timestamp) -> Result<Self, store::Error> {
        let path = folder.join("state.db");
        let database = Database::open(&path, &schema::SCHEMA)?;
        let born = database.read_now(|c| schema::meta(c, "born"))?;
        let controls = Cache::new(CONTROLS_MAX);
        let state = Self { database, controls, retention, born: born.unwrap_or(now), copies: false };
        if born.is_none() && !state.database.note(move |c| schema::set_meta(c, "born", now)) {
            return Err(store::Error::Closed);
        }
        Ok(state)
    }

    /// It was brought back from a copy: it counts as born `now`, so that absence proves nothing of what is older, and as
    /// last alive `then`.
    pub fn restored(&self, now: Timestamp, then: Timestamp) -> Result<(), store::Error> {
        self.database.note(move |connection| {
            schema::set_meta(connection, "born", now)?;
            schema::set_meta(connection, "alive", then)
        });
        self.close();
        let born = self.database.read_now(|connection| schema::meta(connection, "born"))?;
        if born == Some(now) { Ok(()) } else { Err(store::Error::Closed) }
    }

    /// The queue may bring a message twice and call both new: each is looked up.
    pub fn expect_copies(self) -> Self {
        Self { copies: true, ..self }
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

#[async_trait]
impl Ledger for Local {
    /// There is no other node; and what this one has not worked on before needs no look at the disk.
    async fn claim(&self, turn: &Turn) -> Result<Claimed, Error> {
        if let Some(user) = &turn.user {
            self.note_user(&turn.conversation, user, turn.now).await?;
        }
        let remembered = if turn.recalled { None } else { Some(self.remembered(&turn.conversation).await?) };
        let mut recalls = Vec::with_capacity(turn.lives.len());
        for life in &turn.lives {
            let is_new = !self.copies && !life.redelivered && life.first_seen >= self.born;
            recalls.push(if is_new { Recall::New } else { self.recall(&turn.conversation, life).await? });
        }
        Ok(Claimed::Ours(Ours { fence: Fence(0), inherited: false, remembered, recalls }))
    }

    async fn is_ours(&self, _: &ConversationId, _: Fence) -> Result<bool, Error> {
        Ok(true)
    }

    async fn release(&self, _: &ConversationId, _: Option<Fence>) -> Result<(), Error> {
        Ok(())
    }

    async fn recall(&self, _: &ConversationId, life: &Life) -> Result<Recall, Error> {
        let (message, replay) = (life.message.clone(), life.replay);
        let known = self.database.read(move |c| schema::recall(c, message.as_str(), replay)).await?;
        let nothing = if life.first_seen < self.born { Recall::Unknown } else { Recall::New };
        Ok(known.unwrap_or(nothing))
    }

    async fn intend(&self, reply: &Reply, _: Option<Fence>) -> Result<Claim, Error> {
        if reply.purpose == Purpose::Answer
            && let Some(control) = self.controls.get(&reply.conversation).await
            && !control.holder.lets_us_answer()
        {
            return Ok(Claim::Human(control));
        }
        let (reply, key) = (reply.clone(), reply.key());
        let run = move |connection: &Connection| schema::intend(connection, &reply, &key);
        Ok(self.database.write(Durability::Synced, run, |_| ()).await?)
    }

    async fn revoke(&self, reply: &Reply) -> Result<(), Error> {
        let (reply, key) = (reply.clone(), reply.key());
        self.change(move |connection| schema::revoke(connection, &reply, &key)).await
    }

    async fn conclude(&self, records: Vec<Record>, said: Option<History>, _: Option<Fence>) -> Result<(), Error> {
        let Some(first) = records.first() else { return Ok(()) };
        let (conversation, at) = (first.conversation.clone(), first.at);
        let control = self.controls.get(&conversation).await;
        self.change(move |connection| {
            for record in &records {
                schema::conclude(connection, record)?;
            }
            if let Some(said) = &said {
                connection.prepare_cached(sql::SAID)?.execute((
                    conversation.as_str(),
                    schema::json(said),
                    control.as_ref().map(schema::json),
                    at.0,
                ))?;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Memory for Local {
    async fn remembered(&self, conversation: &ConversationId) -> Result<Remembered, Error> {
        let id = conversation.clone();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::REMEMBERED)?;
            let row = statement.query_row([id.as_str()], |row| {
                Ok(Remembered {
                    control: schema::parsed(row.get(0)?),
                    history: schema::parsed(row.get(1)?),
                    away: schema::parsed(row.get(2)?),
                    alias: row.get::<_, Option<String>>(3)?.and_then(|id| ConversationId::new(&id).ok()),
                    user: row.get::<_, Option<String>>(4)?.and_then(|id| UserId::new(&id).ok()),
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
        // Two events may be noted at once; the newer one stays, whichever comes second.
        let newer = |before: Option<moka::Entry<ConversationId, Control>>| {
            let before = before.map(moka::Entry::into_value);
            std::future::ready(before.filter(|before| before.at > control.at).unwrap_or(control))
        };
        let noted = self.controls.entry_by_ref(conversation).and_upsert_with(newer).await.into_value();
        if noted != control {
            return Ok(false);
        }
        if known.is_some_and(|known| known.holder == control.holder) {
            return Ok(false);
        }
        let (id, text) = (conversation.clone(), schema::json(&control));
        let write = move |connection: &Connection| {
            connection.prepare_cached(sql::NOTE_CONTROL)?.execute((id.as_str(), &text, control.at.0))?;
            Ok(())
        };
        // A holder heard of for the first time is in memory, and in the event's own queue; nobody waits for the disk.
        if known.is_some() || !self.database.note(write.clone()) {
            self.change(move |connection| write(connection)).await?;
        }
        Ok(known.is_some())
    }

    async fn note_away(&self, conversation: &ConversationId, away: Option<Away>) -> Result<(), Error> {
        let (id, away) = (conversation.clone(), away.as_ref().map(schema::json));
        self.change(move |connection| {
            connection.prepare_cached(sql::NOTE_AWAY)?.execute((id.as_str(), &away))?;
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
            for statement in sql::RECORD {
                if let Some(record) = schema::record(connection, statement, &id)? {
                    return Ok(Some(record));
                }
            }
            Ok(None)
        };
        Ok(self.database.read(query).await?)
    }

    async fn messages_of(&self, conversation: &ConversationId, limit: usize) -> Result<Vec<Record>, Error> {
        let id = conversation.clone();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::MESSAGES_OF)?;
            let bodies = statement.query_map((id.as_str(), limit as i64), |row| row.get::<_, Option<String>>(0))?;
            let bodies: Vec<Option<String>> = bodies.collect::<Result<_, _>>()?;
            Ok(bodies.into_iter().filter_map(schema::parsed).collect())
        };
        Ok(self.database.read(query).await?)
    }

    async fn note_story(&self, job: &Job, replay: u32, story: &Timeline) -> Result<(), Error> {
        let (job, story) = (job.clone(), schema::json(story));
        self.change(move |connection| schema::note_story(connection, &job, replay, &story)).await
    }

    async fn story(&self, message: &str) -> Result<Option<Timeline>, Error> {
        let message = message.to_owned();
        Ok(self.database.read(move |connection| schema::story(connection, &message)).await?)
    }

    async fn note_user(&self, conversation: &ConversationId, user: &UserId, at: Timestamp) -> Result<(), Error> {
        let (id, user) = (conversation.clone(), user.clone());
        self.change(move |connection| {
            connection.prepare_cached(sql::NOTE_USER)?.execute((id.as_str(), user.as_str(), at.0))?;
            Ok(())
        })
        .await
    }

    async fn merge(&self, from: &ConversationId, into: &ConversationId) -> Result<(), Error> {
        let (old, new) = (from.clone(), into.clone());
        self.change(move |connection| {
            for statement in [sql::MERGE_INTO, sql::MERGED, sql::FOLLOW] {
                connection.prepare_cached(statement)?.execute((old.as_str(), new.as_str()))?;
            }
            Ok(())
        })
        .await?;
        self.controls.invalidate(from).await;
        Ok(())
    }

    async fn forget_conversation(&self, conversation: &ConversationId) -> Result<(), Error> {
        let id = conversation.clone();
        self.change(move |connection| schema::forget(connection, id.as_str())).await?;
        self.controls.invalidate(conversation).await;
        Ok(())
    }

    async fn conversations_of(&self, user: &UserId) -> Result<Vec<ConversationId>, Error> {
        let user = user.clone();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::OF_USER)?;
            let ids = statement.query_map([user.as_str()], |row| row.get::<_, String>(0))?;
            Ok(ids.collect::<Result<Vec<_>, _>>()?)
        };
        let ids = self.database.read(query).await?;
        Ok(ids.iter().filter_map(|id| ConversationId::new(id).ok()).collect())
    }

    async fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        let (texts, all) = (now.before(self.retention.results).0, now.before(self.retention.history).0);
        // As much as there is: what comes in all day has to go out again.
        for _ in 0..TIDY_ROUNDS {
            if !self.change(move |connection| schema::tidy(connection, texts, all, TIDY_ROWS)).await? {
                break;
            }
        }
        let deeds = now.before(self.retention.audit);
        self.change(move |connection| {
            operations::tidy(connection, deeds)?;
            budgets::tidy(connection, now)
        })
        .await
    }
}

#[async_trait]
impl Presence for Local {
    async fn last_alive(&self) -> Result<Option<Timestamp>, Error> {
        Ok(self.database.read(|connection| schema::meta(connection, "alive")).await?)
    }

    async fn alive(&self, now: Timestamp) -> Result<Option<Timestamp>, Error> {
        self.change(move |connection| {
            let last = schema::meta(connection, "alive")?;
            schema::set_meta(connection, "alive", now)?;
            Ok(last)
        })
        .await
    }

    async fn open_since(&self, since: Timestamp, limit: usize) -> Result<Vec<ConversationId>, Error> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::OPEN_SINCE)?;
            let ids = statement.query_map((since.0, limit as i64), |row| row.get::<_, String>(0))?;
            Ok(ids.collect::<Result<Vec<_>, _>>()?)
        };
        let ids = self.database.read(query).await?;
        Ok(ids.iter().filter_map(|id| ConversationId::new(id).ok()).collect())
    }
}
