//! What RabbitMQ has not confirmed lies on this node's disk until it has: one file, in the order of arrival.
//!
//! How much lies there is known in memory, a message from before it is written until after it is deleted: while a place
//! has anything here, what follows for the same place comes here as well, so that the order is kept.

use std::{collections::HashMap, path::Path, sync::Arc};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Notify;

use crate::{
    broker::{Error, Lane, SpoolConfig},
    domain::job::Job,
    store::{self, Database, Durability, FolderLock, Schema},
};

const FILE: &str = "spool.db";

/// Read at once; one that is larger comes alone.
const BATCH_BYTES_MAX: i64 = 4 << 20;

/// What a message takes beside its body: its row, and its entries in the indexes.
const BYTES_BESIDE: u64 = 256;

const SCHEMA: Schema = Schema {
    application_id: 0x7467_7370,
    version: 1,
    upgrades: &[],
    create: "
        CREATE TABLE spooled (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            place INTEGER NOT NULL,
            lane INTEGER NOT NULL,
            event TEXT NOT NULL,
            message TEXT NOT NULL,
            unusable TEXT,
            bytes INTEGER NOT NULL,
            body BLOB NOT NULL
        ) STRICT;
        CREATE INDEX spooled_by_place ON spooled (place, seq, lane, bytes);
        CREATE INDEX spooled_by_event ON spooled (event);
        CREATE INDEX spooled_by_message ON spooled (message);
    ",
};

const INSERT: &str = "INSERT INTO spooled (place, lane, event, message, unusable, bytes, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const NEXT: &str = "SELECT seq, place, lane, unusable, body, bytes FROM spooled WHERE place = ?1 AND seq > ?2
    ORDER BY seq LIMIT ?3";
const ALL: &str = "SELECT seq, place, lane, unusable, body FROM spooled WHERE seq > ?1 ORDER BY seq LIMIT ?2";
const LAST_IDS: &str = "SELECT event, message FROM spooled ORDER BY seq DESC LIMIT ?1";
const DELETE: &str = "DELETE FROM spooled WHERE seq = ?1 RETURNING place, lane, bytes";
const FIND: &str = "SELECT seq, place, lane, unusable, body FROM spooled WHERE event = ?1 OR message = ?1 LIMIT 1";
const CENSUS: &str = "SELECT place, lane, count(*), sum(bytes) FROM spooled GROUP BY place, lane";

/// The part of the queue within which the order counts: a partition, or the events lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(pub i64);

impl Place {
    /// The events lane.
    pub const EVENTS: Self = Self(-1);
}

/// A message to be spooled.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it belongs.
    pub place: Place,
    /// Its lane.
    pub lane: Lane,
    /// The message.
    pub job: Arc<Job>,
    /// Why it goes straight to the parked letters, if it does.
    pub parked: Option<String>,
}

/// A message that lies in the spool.
#[derive(Debug, Clone)]
pub struct Spooled {
    /// Its number, in the order of arrival.
    pub seq: i64,
    /// The message; of one that cannot be read (a damaged disk, a newer version) what is there.
    pub item: Result<Item, Vec<u8>>,
}

/// How much of one place and lane.
struct Portion {
    place: Place,
    lane: Lane,
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Held {
    messages: u64,
    bytes: u64,
    events: u64,
    places: HashMap<Place, u64>,
}

impl Held {
    fn add(&mut self, portion: &Portion) {
        self.messages += portion.messages;
        self.bytes += portion.bytes;
        self.events += if portion.lane == Lane::Events { portion.messages } else { 0 };
        *self.places.entry(portion.place).or_default() += portion.messages;
    }

    fn remove(&mut self, portion: &Portion) {
        self.messages -= portion.messages;
        self.bytes -= portion.bytes;
        self.events -= if portion.lane == Lane::Events { portion.messages } else { 0 };
        let left = self.places.entry(portion.place).or_default();
        *left -= portion.messages;
        if *left == 0 {
            self.places.remove(&portion.place);
        }
    }
}

/// The spool of a node.
pub struct Spool {
    database: Database,
    lock: Mutex<Option<FolderLock>>,
    max_messages: u64,
    max_bytes: u64,
    held: Arc<Mutex<Held>>,
    bell: Notify,
}

impl Spool {
    /// Whether there is one from an earlier time.
    pub fn exists(config: &SpoolConfig) -> bool {
        Path::new(&config.path).join(FILE).exists()
    }

    /// Opens it, or creates it.
    pub fn open(config: &SpoolConfig) -> Result<Self, Error> {
        let folder = Path::new(&config.path);
        let lock = FolderLock::take(folder)?;
        let database = Database::open(&folder.join(FILE), &SCHEMA)?;
        let mut held = Held::default();
        database.read_now(census)?.iter().for_each(|portion| held.add(portion));
        Ok(Self {
            database,
            lock: Mutex::new(Some(lock)),
            max_messages: config.max_messages,
            max_bytes: config.max_bytes,
            held: Arc::new(Mutex::new(held)),
            bell: Notify::new(),
        })
    }

    /// How many messages lie here.
    pub fn messages(&self) -> u64 {
        self.held.lock().messages
    }

    /// How many of a lane.
    pub fn of_lane(&self, lane: Lane) -> u64 {
        let held = self.held.lock();
        if lane == Lane::Events { held.events } else { held.messages - held.events }
    }

    /// Whether anything of that place lies here, or is about to.
    pub fn holds(&self, place: Place) -> bool {
        self.held.lock().places.contains_key(&place)
    }

    /// Waits until something is here.
    pub async fn filled(&self) {
        while self.messages() == 0 {
            self.bell.notified().await;
        }
    }

    /// Whether one more could be spooled; writes to find out.
    pub async fn can_store(&self) -> Result<(), Error> {
        self.room_for(&self.held.lock(), 1, 0)?;
        Ok(self.database.write(Durability::Synced, store::touch, |()| ()).await?)
    }

    /// Spools all of them, in order, and returns their numbers when they are on the disk.
    pub async fn append(&self, items: Vec<Item>) -> Result<Vec<i64>, Error> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<(Item, Vec<u8>)> = items.into_iter().map(|item| (item.clone(), body(&item.job))).collect();
        let portions: Vec<Portion> = rows.iter().map(|(item, body)| portion(item, body)).collect();
        {
            let mut held = self.held.lock();
            self.room_for(&held, portions.len() as u64, portions.iter().map(|portion| portion.bytes).sum())?;
            portions.iter().for_each(|portion| held.add(portion));
        }
        let insert = move |connection: &Connection| rows.iter().map(|row| insert(connection, row)).collect();
        let written = self.database.write(Durability::Synced, insert, |_: &Vec<i64>| ()).await;
        if written.is_err() {
            let mut held = self.held.lock();
            portions.iter().for_each(|portion| held.remove(portion));
        }
        self.bell.notify_one();
        Ok(written?)
    }

    /// The places of which something lies here.
    pub fn places(&self) -> Vec<Place> {
        self.held.lock().places.keys().copied().collect()
    }

    /// The first ones of a place behind that number, in order: at most so many, and no more than fits into memory.
    pub async fn next(&self, place: Place, after: i64, many: usize) -> Result<Vec<Spooled>, Error> {
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(NEXT)?;
            let mut rows = statement.query(params![place.0, after, many as i64])?;
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH_BYTES_MAX
                && let Some(row) = rows.next()?
            {
                bytes += row.get::<_, i64>(5)?;
                batch.push(spooled(row)?);
            }
            Ok(batch)
        };
        Ok(self.database.read(read).await?)
    }

    /// Whatever lies here behind that number, of all places.
    pub async fn all(&self, after: i64, many: usize) -> Result<Vec<Spooled>, Error> {
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(ALL)?;
            let rows = statement.query_map(params![after, many as i64], spooled)?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(self.database.read(read).await?)
    }

    /// Deletes what is safe elsewhere; what is gone already is none of its business.
    pub async fn remove(&self, seqs: Vec<i64>) -> Result<(), Error> {
        if seqs.is_empty() {
            return Ok(());
        }
        let delete = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(DELETE)?;
            let mut gone = Vec::new();
            for seq in &seqs {
                gone.extend(statement.query_row([seq], |row| portion_of(row, 1, row.get(2)?)).optional()?);
            }
            Ok(gone)
        };
        let held = self.held.clone();
        let after = move |gone: &Vec<Portion>| gone.iter().for_each(|portion| held.lock().remove(portion));
        self.database.write(Durability::Written, delete, after).await?;
        Ok(())
    }

    /// The event ids and message ids of the last ones that lie here.
    pub fn last_ids(&self, many: usize) -> Result<Vec<[String; 2]>, Error> {
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare(LAST_IDS)?;
            let rows = statement.query_map([many as i64], |row| Ok([row.get(0)?, row.get(1)?]))?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        };
        Ok(self.database.read_now(read)?)
    }

    /// A message by its event id or message id.
    pub async fn find(&self, id: &str) -> Result<Option<Item>, Error> {
        if self.messages() == 0 {
            return Ok(None);
        }
        let id = id.to_owned();
        let read = move |connection: &Connection| {
            let found = connection.prepare_cached(FIND)?.query_row([id], spooled).optional()?;
            Ok(found.and_then(|spooled| spooled.item.ok()))
        };
        Ok(self.database.read(read).await?)
    }

    /// Ends it: what was spooled is on the disk, and another may open it.
    pub fn close(&self) {
        self.database.close();
        self.lock.lock().take();
    }

    fn room_for(&self, held: &Held, messages: u64, bytes: u64) -> Result<(), Error> {
        if held.messages + messages > self.max_messages {
            return Err(Error::Full("broker.spool.max_messages"));
        }
        if held.bytes + bytes > self.max_bytes {
            return Err(Error::Full("broker.spool.max_bytes"));
        }
        Ok(())
    }
}

fn body(job: &Job) -> Vec<u8> {
    serde_json::to_vec(job).expect("a job is plain data")
}

fn portion(item: &Item, body: &[u8]) -> Portion {
    Portion { place: item.place, lane: item.lane, messages: 1, bytes: body.len() as u64 + BYTES_BESIDE }
}

fn portion_of(row: &Row<'_>, messages: i64, bytes: i64) -> rusqlite::Result<Portion> {
    Ok(Portion {
        place: Place(row.get(0)?),
        lane: lane(row.get(1)?),
        messages: messages.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
    })
}

fn lane(code: i64) -> Lane {
    if code == 0 { Lane::Chat } else { Lane::Events }
}

fn insert(connection: &Connection, (item, body): &(Item, Vec<u8>)) -> Result<i64, store::Error> {
    let code = i64::from(item.lane == Lane::Events);
    let (event, message) = (item.job.id.as_str(), item.job.message.as_str());
    let bytes = portion(item, body).bytes as i64;
    let mut statement = connection.prepare_cached(INSERT)?;
    Ok(statement.insert(params![item.place.0, code, event, message, item.parked, bytes, body])?)
}

fn spooled(row: &Row<'_>) -> rusqlite::Result<Spooled> {
    let body: Vec<u8> = row.get(4)?;
    let (seq, place, parked) = (row.get(0)?, Place(row.get(1)?), row.get(3)?);
    let item = match serde_json::from_slice(&body) {
        Ok(job) => Ok(Item { place, lane: lane(row.get(2)?), job: Arc::new(job), parked }),
        Err(_) => Err(body),
    };
    Ok(Spooled { seq, item })
}

fn census(connection: &Connection) -> Result<Vec<Portion>, store::Error> {
    let mut statement = connection.prepare(CENSUS)?;
    let rows = statement.query_map([], |row| portion_of(row, row.get(2)?, row.get(3)?))?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?)
}
