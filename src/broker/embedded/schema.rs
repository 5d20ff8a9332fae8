//! The tables of the embedded queue, and what is asked of them.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, named_params};

use super::{shelf::Row, sql};
use crate::{
    broker::{Lane, Published, Standing, Whose},
    domain::{
        ids::{ConversationId, EventId, MessageId},
        job::{Job, Kind},
        time::Timestamp,
    },
    store::{Error, Schema},
};

/// A message stands still (`standing` 0 ready, 1 delayed, 2 dead, 3 parked); who has it in hand is kept in memory, so
/// a lease ends with the process that holds it. Ids once seen are kept in two tables that take turns, so that old ones
/// are forgotten without searching for them.
pub(super) const SCHEMA: Schema = Schema {
    application_id: 0x7467_7175,
    version: 1,
    upgrades: &[],
    create: "
        CREATE TABLE job (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            lane INTEGER NOT NULL,
            standing INTEGER NOT NULL DEFAULT 0,
            due INTEGER NOT NULL DEFAULT 0,
            conversation TEXT NOT NULL,
            tries INTEGER NOT NULL DEFAULT 0,
            replay INTEGER NOT NULL DEFAULT 0,
            first_seen INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            reason TEXT,
            body BLOB NOT NULL
        ) STRICT;
        CREATE INDEX job_by_conversation ON job (lane, conversation, seq, bytes);
        CREATE INDEX job_set_aside ON job (standing, due, lane) WHERE standing > 0;
        CREATE TABLE seen_0 (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE seen_1 (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE turn (current INTEGER NOT NULL, since INTEGER NOT NULL) STRICT;
        INSERT INTO turn VALUES (0, 0);
    ",
};

/// The lane as stored.
pub(super) fn lane_code(lane: Lane) -> i64 {
    match lane {
        Lane::Chat => 0,
        Lane::Events => 1,
    }
}

fn lane_of(code: i64) -> Lane {
    if code == 0 { Lane::Chat } else { Lane::Events }
}

/// The standing as stored; a message in hand lies there as ready.
pub(super) fn standing_code(standing: Standing) -> i64 {
    match standing {
        Standing::Ready | Standing::InHand => 0,
        Standing::Delayed => 1,
        Standing::Dead => 2,
        Standing::Parked => 3,
    }
}

pub(super) fn standing_of(code: i64) -> Standing {
    match code {
        1 => Standing::Delayed,
        2 => Standing::Dead,
        3 => Standing::Parked,
        _ => Standing::Ready,
    }
}

/// A message to be inserted.
pub(super) struct Insert {
    pub lane: Lane,
    pub job: Arc<Job>,
    pub body: Vec<u8>,
    /// Why and when it was parked, if it goes straight there.
    pub parked: Option<(Cow<'static, str>, Timestamp)>,
}

impl Insert {
    /// The ids by which a second copy of the same thing is known. Replies to an event and to a message share one
    /// space with a prefix each, because the two kinds of id may be equal.
    fn ids(&self) -> [String; 2] {
        [format!("e:{}", self.job.id), format!("m:{}", self.job.message)]
    }
}

/// Which of the two tables of seen ids is written to now.
pub(super) fn turn(connection: &Connection) -> Result<(i64, Timestamp), Error> {
    let mut statement = connection.prepare_cached(sql::TURN)?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, Timestamp(row.get(1)?))))?)
}

pub(super) fn seen(connection: &Connection, id: &str) -> Result<Option<i64>, Error> {
    let mut statement = connection.prepare_cached(sql::SEEN)?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?)
}

/// Inserts a message unless its event or its message is known; the row number of a new one.
pub(super) fn insert(connection: &Connection, turn: i64, new: &Insert) -> Result<(Published, i64), Error> {
    let [event, message] = new.ids();
    if new.job.imported.is_none() {
        if seen(connection, &event)?.is_some() {
            return Ok((Published::DuplicateEvent, 0));
        }
        if seen(connection, &message)?.is_some() {
            return Ok((Published::DuplicateMessage, 0));
        }
    } else {
        // It may have been here before; its ids lead to this row from now on.
        for (forget, id) in sql::FORGET.iter().flat_map(|forget| [(forget, &event), (forget, &message)]) {
            connection.prepare_cached(forget)?.execute([id])?;
        }
    }
    let (standing, due, reason) = match &new.parked {
        Some((reason, at)) => (Standing::Parked, at.0, Some(&**reason)),
        None => (Standing::Ready, 0, None),
    };
    let mut statement = connection.prepare_cached(sql::INSERT)?;
    let seq = statement.insert((
        lane_code(new.lane),
        standing_code(standing),
        due,
        new.job.conversation.as_str(),
        new.job.imported.unwrap_or_default(),
        new.job.first_seen.0,
        new.body.len() as i64,
        reason,
        &new.body,
    ))?;
    let mut statement = connection.prepare_cached(sql::REMEMBER[usize::from(turn != 0)])?;
    statement.execute((&event, seq))?;
    statement.execute((&message, seq))?;
    Ok((Published::Stored, seq))
}

pub(super) fn row(stored: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let seq = stored.get(0)?;
    let job = serde_json::from_slice::<Job>(stored.get_ref(6)?.as_blob()?);
    Ok(Row {
        seq,
        lane: lane_of(stored.get(1)?),
        job: Arc::new(match job {
            Ok(job) => job,
            Err(_) => unreadable(seq, &stored.get::<_, String>(8)?, Timestamp(stored.get(9)?)),
        }),
        tries: stored.get(2)?,
        replay: stored.get(3)?,
        bytes: stored.get::<_, i64>(4)?.unsigned_abs(),
        redelivered: true,
        reason: stored.get(5)?,
    })
}

/// How a message is named that cannot be read.
pub(super) const UNREADABLE: &str = "unreadable:";

/// Stands for a message that was damaged, or written by a newer version. Whoever gets it parks it; its bytes stay.
fn unreadable(seq: i64, conversation: &str, first_seen: Timestamp) -> Job {
    let id = format!("{UNREADABLE}{seq}");
    let expect = "a number is a sound id";
    let (event, message) = (EventId::new(&id).expect(expect), MessageId::new(&id).expect(expect));
    let conversation = ConversationId::new(conversation).unwrap_or(ConversationId::new(&id).expect(expect));
    Job::new(event, message, conversation, Kind::Unusable { raw: String::new() }, first_seen)
}

fn rows(connection: &Connection, statement: &str, params: impl rusqlite::Params) -> Result<Vec<Row>, Error> {
    let mut statement = connection.prepare_cached(statement)?;
    let rows = statement.query_map(params, row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The next ready rows of a lane.
pub(super) fn backlog(connection: &Connection, lane: Lane, after: i64, limit: usize) -> Result<Vec<Row>, Error> {
    rows(connection, sql::BACKLOG, (after, lane_code(lane), limit as i64))
}

/// The next ready rows of one conversation.
pub(super) fn of_conversation(
    connection: &Connection,
    lane: Lane,
    conversation: &ConversationId,
    after: i64,
    limit: usize,
) -> Result<Vec<Row>, Error> {
    rows(connection, sql::OF_CONVERSATION, (lane_code(lane), conversation.as_str(), after, limit as i64))
}

/// The dead letters, oldest first.
pub(super) fn dead(connection: &Connection, limit: usize) -> Result<Vec<Row>, Error> {
    rows(connection, sql::DEAD, [limit as i64])
}

/// Makes the delayed rows whose time has come ready, and returns them.
pub(super) fn wake(connection: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Row>, Error> {
    let due = rows(connection, sql::DUE, (now.0, limit as i64))?;
    let mut statement = connection.prepare_cached(sql::WAKE)?;
    for row in &due {
        statement.execute([row.seq])?;
    }
    Ok(due)
}

/// When the next delayed row is due.
pub(super) fn next_due(connection: &Connection) -> Result<Option<Timestamp>, Error> {
    let mut statement = connection.prepare_cached(sql::NEXT_DUE)?;
    Ok(statement.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Timestamp))
}

/// Removes a row.
pub(super) fn delete(connection: &Connection, seq: i64) -> Result<(), Error> {
    connection.prepare_cached(sql::DELETE)?.execute([seq])?;
    Ok(())
}

/// Puts a row aside until `due`. `body`: the message, if it has been changed; what it counts for stays as it was.
pub(super) fn set_aside(
    connection: &Connection,
    seq: i64,
    (standing, due): (Standing, Timestamp),
    tries: u32,
    reason: Option<&str>,
    body: Option<&[u8]>,
) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(sql::SET_ASIDE)?;
    statement.execute(named_params! {
        ":standing": standing_code(standing), ":due": due.0, ":tries": tries, ":reason": reason, ":body": body,
        ":seq": seq,
    })?;
    Ok(())
}

/// A message by event id or message id.
pub(super) fn find(connection: &Connection, id: &str) -> Result<Option<(Row, Standing)>, Error> {
    for key in [format!("e:{id}"), format!("m:{id}")] {
        let Some(seq) = seen(connection, &key)? else { continue };
        let mut statement = connection.prepare_cached(sql::BY_NUMBER)?;
        let found = statement.query_row([seq], |stored| Ok((row(stored)?, standing_of(stored.get(7)?)))).optional()?;
        if let Some((row, standing)) = found {
            return Ok(Some((row, standing)));
        }
    }
    Ok(None)
}

/// The next rows, and whether each holds a customer's id.
pub(super) fn naming(connection: &Connection, user: &str, after: i64, limit: usize) -> Result<Vec<(i64, bool)>, Error> {
    let mut statement = connection.prepare_cached(sql::NAMING)?;
    let rows = statement.query_map((after, user.as_bytes(), limit as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The rows of a customer, among those of their conversations and those that hold their id.
pub(super) fn owned(connection: &Connection, whose: &Whose, naming: &[i64]) -> Result<Vec<(Row, Standing)>, Error> {
    let read = |stored: &SqlRow<'_>| Ok((row(stored)?, standing_of(stored.get(7)?)));
    let mut owned = BTreeMap::new();
    let mut statement = connection.prepare_cached(sql::ALL_OF_CONVERSATION)?;
    for conversation in &whose.conversations {
        for lane in [Lane::Chat, Lane::Events] {
            let rows = statement.query_map((lane_code(lane), conversation.as_str()), read)?;
            owned.extend(rows.collect::<Result<Vec<_>, _>>()?.into_iter().map(|found| (found.0.seq, found)));
        }
    }
    let mut statement = connection.prepare_cached(sql::BY_NUMBER)?;
    for seq in naming {
        let found = statement.query_row([seq], read).optional()?;
        owned.extend(found.filter(|(row, _)| whose.owns(&row.job)).map(|found| (*seq, found)));
    }
    Ok(owned.into_values().collect())
}

/// Which of these rows are there.
pub(super) fn present(connection: &Connection, rows: &[i64]) -> Result<HashSet<i64>, Error> {
    let mut statement = connection.prepare_cached(sql::IS_PRESENT)?;
    let mut present = HashSet::new();
    for seq in rows {
        if statement.exists([seq])? {
            present.insert(*seq);
        }
    }
    Ok(present)
}

/// Removes a row; its size, if it was there.
pub(super) fn remove(connection: &Connection, seq: i64) -> Result<Option<u64>, Error> {
    let mut statement = connection.prepare_cached(sql::REMOVE)?;
    Ok(statement.query_row([seq], |row| row.get::<_, i64>(0)).optional()?.map(i64::unsigned_abs))
}

/// Messages and bytes by lane, and messages by lane and standing for those set aside.
pub(super) struct Census {
    pub lanes: Vec<(Lane, u64, u64)>,
    pub aside: Vec<(Lane, Standing, u64)>,
    pub newest: i64,
}

/// Counts what lies there; reads indexes only.
pub(super) fn census(connection: &Connection) -> Result<Census, Error> {
    let unsigned = |n: i64| n.unsigned_abs();
    let mut statement = connection.prepare("SELECT lane, count(*), sum(bytes) FROM job GROUP BY lane")?;
    let lanes = statement
        .query_map([], |row| Ok((lane_of(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?))))?
        .collect::<Result<_, _>>()?;
    let mut statement =
        connection.prepare("SELECT lane, standing, count(*) FROM job WHERE standing > 0 GROUP BY standing, lane")?;
    let aside = statement
        .query_map([], |row| Ok((lane_of(row.get(0)?), standing_of(row.get(1)?), unsigned(row.get(2)?))))?
        .collect::<Result<_, _>>()?;
    let newest = connection.query_row("SELECT coalesce(max(seq), 0) FROM job", [], |row| row.get(0))?;
    Ok(Census { lanes, aside, newest })
}

/// When the oldest ready row of a lane behind `after` was taken in.
pub(super) fn oldest(connection: &Connection, lane: Lane, after: i64) -> Result<Option<Timestamp>, Error> {
    let mut statement = connection.prepare_cached(sql::OLDEST)?;
    Ok(statement.query_row((after, lane_code(lane)), |row| row.get(0)).optional()?.map(Timestamp))
}

/// Lets the tables of seen ids change turns when the current one is older than `horizon`.
pub(super) fn change_turns(connection: &Connection, now: Timestamp, horizon: std::time::Duration) -> Result<(), Error> {
    let (current, since) = turn(connection)?;
    if since == Timestamp(0) {
        connection.execute("UPDATE turn SET since = ?1", [now.0])?;
    } else if now.since(since) > horizon {
        let next = 1 - current;
        // What still lies there stays known, however old it is.
        for (prefix, field) in [("e:", "$.id"), ("m:", "$.message")] {
            let remember = format!(
                "INSERT OR IGNORE INTO seen_{current} (id, seq)
                 SELECT ?1 || json_extract(CAST(body AS TEXT), ?2), seq FROM job WHERE json_valid(CAST(body AS TEXT))"
            );
            connection.execute(&remember, [prefix, field])?;
        }
        connection.execute(&format!("DELETE FROM seen_{next}"), [])?;
        connection.execute("UPDATE turn SET current = ?1, since = ?2", [next, now.0])?;
    }
    Ok(())
}

/// Removes parked rows older than `before`; the lanes of those removed.
pub(super) fn purge_parked(connection: &Connection, before: Timestamp) -> Result<Vec<(Lane, u64)>, Error> {
    let mut statement = connection.prepare_cached(sql::PURGE_PARKED)?;
    let purged =
        statement.query_map([before.0], |row| Ok((lane_of(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs())))?;
    Ok(purged.collect::<Result<_, _>>()?)
}
