//! What was entered here while the fleet's state was away, to be forwarded to it and then thrown away.

use rusqlite::Connection;

use super::{Local, schema};
use crate::{
    domain::{
        control::Control,
        ids::{ConversationId, UserId},
        prompt::History,
        reply::Reply,
        time::Timestamp,
    },
    state::{Away, Error, Record, audit::Entry},
    store,
};

/// Rows taken at once.
const ROWS: i64 = 200;

/// What was entered about a conversation.
pub(in crate::state) struct Kept {
    pub conversation: ConversationId,
    pub user: Option<UserId>,
    pub control: Option<Control>,
    pub history: Option<History>,
    pub away: Option<Away>,
    pub touched: Timestamp,
}

/// A portion of what was entered; replies come first, for records are told with their words.
pub(in crate::state) enum Portion {
    Replies(Vec<Reply>),
    Records(Vec<Record>),
    Conversations(Vec<Kept>),
    Entries(Vec<Entry>),
}

/// The rows of a portion, and what can be read of them. One that cannot be read is not kept for that.
pub(in crate::state) struct Outstanding {
    pub portion: Portion,
    table: &'static str,
    keys: Vec<rusqlite::types::Value>,
}

impl Local {
    /// The next portion; `None`: there is nothing left.
    pub(in crate::state) async fn outstanding(&self) -> Result<Option<Outstanding>, Error> {
        Ok(self.database.read(outstanding).await?)
    }

    /// Throws a portion away. Nobody writes between its reading and this.
    pub(in crate::state) async fn forwarded(&self, portion: Outstanding) -> Result<(), Error> {
        self.change(move |connection| {
            let column = match portion.table {
                "reply" => "key",
                "record" => "row",
                _ => "id",
            };
            let mut statement =
                connection.prepare_cached(&format!("DELETE FROM {} WHERE {column} = ?1", portion.table))?;
            for key in &portion.keys {
                statement.execute([key])?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Forgets the holders kept in memory: from now on the fleet's state knows better.
    pub(in crate::state) fn forget_controls(&self) {
        self.controls.invalidate_all();
    }

    /// Notes the number of this process; returns that of the one before it.
    pub(crate) fn boot(&self, boot: u64) -> Result<Option<u64>, store::Error> {
        let number = Timestamp(i64::from_ne_bytes(boot.to_ne_bytes()));
        let before = self.database.read_now(|connection| schema::meta(connection, "boot"))?;
        if !self.database.note(move |connection| schema::set_meta(connection, "boot", number)) {
            return Err(store::Error::Closed);
        }
        Ok(before.map(|before| u64::from_ne_bytes(before.0.to_ne_bytes())))
    }
}

fn outstanding(connection: &Connection) -> Result<Option<Outstanding>, store::Error> {
    let (keys, replies) =
        rows(connection, "SELECT key, body FROM reply LIMIT ?1", |row| Ok(schema::parsed::<Reply>(row.get(1)?)))?;
    if !keys.is_empty() {
        return Ok(Some(Outstanding { portion: Portion::Replies(replies), table: "reply", keys }));
    }
    let (keys, records) =
        rows(connection, "SELECT row, body FROM record WHERE row > 0 ORDER BY row LIMIT ?1", |row| {
            // What has not ended is known by the reply that covers it.
            Ok(schema::parsed::<Record>(row.get(1)?))
        })?;
    if !keys.is_empty() {
        return Ok(Some(Outstanding { portion: Portion::Records(records), table: "record", keys }));
    }
    let statement = "SELECT id, user, control, history, away, touched FROM conversation LIMIT ?1";
    let (keys, kept) = rows(connection, statement, |row| {
        let Ok(conversation) = ConversationId::new(&row.get::<_, String>(0)?) else { return Ok(None) };
        Ok(Some(Kept {
            conversation,
            user: row.get::<_, Option<String>>(1)?.and_then(|id| UserId::new(&id).ok()),
            control: schema::parsed(row.get(2)?),
            history: schema::parsed(row.get(3)?),
            away: schema::parsed(row.get(4)?),
            touched: Timestamp(row.get(5)?),
        }))
    })?;
    if !keys.is_empty() {
        return Ok(Some(Outstanding { portion: Portion::Conversations(kept), table: "conversation", keys }));
    }
    let (keys, entries) =
        rows(connection, "SELECT id, body FROM audit LIMIT ?1", |row| Ok(schema::parsed::<Entry>(row.get(1)?)))?;
    let portion = Outstanding { portion: Portion::Entries(entries), table: "audit", keys };
    Ok(Some(portion).filter(|portion| !portion.keys.is_empty()))
}

type Rows<T> = (Vec<rusqlite::types::Value>, Vec<T>);

fn rows<T>(
    connection: &Connection,
    statement: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Option<T>>,
) -> Result<Rows<T>, store::Error> {
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map([ROWS], |row| Ok((row.get(0)?, read(row)?)))?;
    let mut found = (Vec::new(), Vec::new());
    for row in rows {
        let (key, value) = row?;
        found.0.push(key);
        found.1.extend(value);
    }
    Ok(found)
}
