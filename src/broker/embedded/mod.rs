//! The queue on the local disk: SQLite, one writer, group commit.
//!
//! Who holds what is kept in memory only. When the process dies, all it held is ready again at the next start; there
//! is no lease to wait out.

mod lease;
mod letters;
mod operators;
mod place;
mod removal;
mod schema;
mod shelf;
mod sql;
mod tally;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::{
    lease::Lease,
    letters::Letters,
    removal::Withheld,
    schema::Insert,
    shelf::{Row, Shelf, Wish},
    tally::Tally,
};
use super::{
    Broker, Config, Count, Delivery, Error, Forgotten, Found, Lane, Peer, Publication, Published, Queue, Round, Shape,
    Standing, Trouble, Upkeep, Whose,
};
use crate::{
    domain::time::Timestamp,
    store::{self, Database, Durability},
    telemetry::Clock,
};

/// Messages the chat consumer may hold at once.
pub const WINDOW: usize = 2_048;

/// Rows read from the disk at once.
const READ_MAX: usize = 512;

/// Delayed rows made ready at once.
const WAKE_MAX: usize = 256;

/// Ids are remembered at least this long: Zendesk repeats a delivery for 15 minutes, operators replay for days.
const SEEN_HORIZON: Duration = Duration::from_secs(72 * 3600);

/// The longest sleep before the disk is asked again for delayed rows; a wall clock that was set is noticed by then.
const DUE_POLL: Duration = Duration::from_secs(5);

/// The embedded broker.
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    clock: Clock,
    limits: Limits,
    parked_for: Duration,
    state: Mutex<State>,
    chat_bell: Notify,
    events_bell: Notify,
    dead_bell: Notify,
}

#[derive(Clone, Copy)]
struct Limits {
    messages: u64,
    bytes: u64,
}

struct State {
    chat: Shelf,
    events: Shelf,
    dead: Letters,
    next_due: Option<Timestamp>,
    tally: Tally,
    withheld: Withheld,
}

impl State {
    fn shelf(&mut self, lane: Lane) -> &mut Shelf {
        match lane {
            Lane::Chat => &mut self.chat,
            Lane::Events => &mut self.events,
        }
    }
}

impl Embedded {
    /// Opens the queue in `folder`, whose lock the caller holds. `parked_for`: how long parked messages are kept.
    pub fn open(folder: &Path, config: &Config, parked_for: Duration, clock: Clock) -> Result<Self, store::Error> {
        let database = Database::open(&folder.join("queue.db"), &schema::SCHEMA)?;
        let census = database.read_now(schema::census)?;
        let next_due = database.read_now(schema::next_due)?;
        let dead_behind = census.aside.iter().any(|(_, standing, count)| *standing == Standing::Dead && *count > 0);
        let share = WINDOW / 4;
        let state = State {
            chat: Shelf::new(share, census.newest),
            events: Shelf::new(share, census.newest),
            dead: Letters::new(dead_behind),
            next_due,
            tally: Tally::new(&census),
            withheld: Withheld::default(),
        };
        let embedded = &config.embedded;
        let inner = Inner {
            database,
            clock,
            limits: Limits { messages: embedded.max_messages, bytes: embedded.max_bytes },
            parked_for,
            state: Mutex::new(state),
            chat_bell: Notify::new(),
            events_bell: Notify::new(),
            dead_bell: Notify::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// One process, one file: there is nobody to keep up with.
#[async_trait]
impl Upkeep for Embedded {
    fn shape(&self) -> Shape {
        Shape { system: "tidegate", partitions: 1, window: WINDOW }
    }

    fn rounds(&self) -> Vec<Round> {
        Vec::new()
    }

    fn trouble(&self) -> Option<Trouble> {
        None
    }

    fn spread(&self, _: &str, _: &[Peer]) {}

    async fn close(&self) {
        self.inner.database.close();
    }
}

impl Inner {
    fn bell(&self, queue: Queue) -> &Notify {
        match queue {
            Queue::Chat(_) => &self.chat_bell,
            Queue::Events => &self.events_bell,
            Queue::Dead => &self.dead_bell,
        }
    }

    fn ring(&self, lane: Lane) {
        self.bell(if lane == Lane::Chat { Queue::Chat(0) } else { Queue::Events }).notify_one();
    }

    /// Takes new rows into memory; runs on the writer's thread, in the order of commits.
    fn committed(&self, rows: &[Row], parked: &[(Lane, u64)]) {
        let mut state = self.state.lock();
        for row in rows {
            state.tally.added(row.lane, Standing::Ready, row.bytes);
            state.shelf(row.lane).published(row);
        }
        for (lane, bytes) in parked {
            state.tally.added(*lane, Standing::Parked, *bytes);
        }
        drop(state);
        for lane in [Lane::Chat, Lane::Events] {
            if rows.iter().any(|row| row.lane == lane) {
                self.ring(lane);
            }
        }
    }

    fn room_for(&self, messages: u64, bytes: u64) -> Result<(), Error> {
        let state = self.state.lock();
        if state.tally.messages() + messages > self.limits.messages {
            return Err(Error::Full("broker.embedded.max_messages"));
        }
        if state.tally.bytes() + bytes > self.limits.bytes {
            return Err(Error::Full("broker.embedded.max_bytes"));
        }
        Ok(())
    }

    /// Gives out what is in memory.
    fn take_now(self: &Arc<Self>, queue: Queue, room: usize) -> Vec<Delivery> {
        let mut state = self.state.lock();
        let rows = match queue {
            Queue::Chat(_) => state.chat.pop(room),
            Queue::Events => state.events.pop(room),
            Queue::Dead => state.dead.pop(room),
        };
        for row in &rows {
            state.tally.taken(row.lane, queue == Queue::Dead);
        }
        drop(state);
        rows.into_iter().map(|row| Lease::deliver(self, row, queue == Queue::Dead)).collect()
    }

    /// Reads from the disk what memory lacks; `false` when there is nothing to read.
    async fn refill(self: &Arc<Self>, queue: Queue) -> Result<bool, Error> {
        let lane = match queue {
            Queue::Chat(_) => Lane::Chat,
            Queue::Events => Lane::Events,
            Queue::Dead => return self.refill_dead().await,
        };
        if self.wake_due().await? {
            return Ok(true);
        }
        let Some(wish) = self.state.lock().shelf(lane).wish() else { return Ok(false) };
        match wish {
            Wish::Backlog { after, committed } => {
                let rows = self.database.read(move |c| schema::backlog(c, lane, after, READ_MAX)).await?;
                self.state.lock().shelf(lane).backlog(rows, READ_MAX, committed);
            }
            Wish::Conversation { id, after, passed_to, limit } => {
                let of = id.clone();
                let rows = self.database.read(move |c| schema::of_conversation(c, lane, &of, after, limit)).await?;
                self.state.lock().shelf(lane).conversation(&id, rows, limit, passed_to);
            }
        }
        Ok(true)
    }

    async fn refill_dead(&self) -> Result<bool, Error> {
        let Some(reading) = self.state.lock().dead.wish() else { return Ok(false) };
        let rows = self.database.read(|c| schema::dead(c, READ_MAX)).await?;
        Ok(self.state.lock().dead.read(rows, READ_MAX, reading))
    }

    /// Makes delayed rows ready whose time has come.
    async fn wake_due(self: &Arc<Self>) -> Result<bool, Error> {
        let now = self.clock.now();
        if self.state.lock().next_due.is_none_or(|due| due > now) {
            return Ok(false);
        }
        let wake = move |connection: &rusqlite::Connection| {
            let woken = schema::wake(connection, now, WAKE_MAX)?;
            Ok((woken, schema::next_due(connection)?))
        };
        let inner = self.clone();
        // On the writer's thread: it happens also when the caller stops waiting, and in the order of what is set aside.
        let after = move |(woken, next_due): &(Vec<Row>, Option<Timestamp>)| {
            let mut state = inner.state.lock();
            state.next_due = *next_due;
            for row in woken {
                state.tally.moved(row.lane, Standing::Delayed, Standing::Ready);
                match state.withheld.get_mut(&row.seq) {
                    Some(standing) => *standing = Standing::Ready,
                    None => state.shelf(row.lane).returned(row.clone()),
                }
            }
            drop(state);
            // The other lane's consumer may be asleep.
            inner.ring(Lane::Chat);
            inner.ring(Lane::Events);
        };
        let (woken, _) = self.database.write(Durability::Written, wake, after).await?;
        Ok(!woken.is_empty())
    }

    /// When the oldest of a lane's messages was taken in. The disk is asked only while none of them is in memory and
    /// some may not have been read.
    fn oldest(&self, lane: Lane) -> Option<Timestamp> {
        let known = {
            let mut state = self.state.lock();
            let ready = state.tally.of(lane, Standing::Ready);
            match state.shelf(lane).oldest() {
                Err(Some(_)) if ready == 0 => return None,
                known => known,
            }
        };
        match known {
            Ok(first_seen) => Some(first_seen),
            Err(None) => None,
            Err(Some(after)) => self.database.read_now(|c| schema::oldest(c, lane, after)).ok().flatten(),
        }
    }

    fn sleep_for(&self) -> Duration {
        let next_due = self.state.lock().next_due;
        let now = self.clock.now();
        next_due.map_or(DUE_POLL, |due| due.since(now).min(DUE_POLL))
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, messages: Vec<Publication>) -> Result<Vec<Published>, Error> {
        let now = self.inner.clock.now();
        let inserts: Vec<Insert> = messages
            .iter()
            .map(|message| Insert {
                lane: message.lane,
                job: message.job.clone(),
                body: serde_json::to_vec(&*message.job).expect("a job is plain data"),
                parked: message.parked.clone().map(|reason| (reason, now)),
            })
            .collect();
        let bytes = inserts.iter().map(|insert| insert.body.len() as u64).sum();
        self.inner.room_for(messages.len() as u64, bytes)?;
        let inner = self.inner.clone();
        let run = move |connection: &rusqlite::Connection| {
            let (turn, _) = schema::turn(connection)?;
            let mut published = Vec::with_capacity(inserts.len());
            let (mut rows, mut parked) = (Vec::new(), Vec::new());
            for insert in &inserts {
                let (outcome, seq) = schema::insert(connection, turn, insert)?;
                published.push(outcome);
                let bytes = insert.body.len() as u64;
                match (outcome, &insert.parked) {
                    (Published::Stored, None) => rows.push(Row {
                        seq,
                        lane: insert.lane,
                        job: insert.job.clone(),
                        tries: 0,
                        replay: 0,
                        bytes,
                        redelivered: false,
                        reason: None,
                    }),
                    (Published::Stored, Some(_)) => parked.push((insert.lane, bytes)),
                    _ => {}
                }
            }
            Ok((published, rows, parked))
        };
        let after =
            move |(_, rows, parked): &(Vec<Published>, Vec<Row>, Vec<(Lane, u64)>)| inner.committed(rows, parked);
        let (published, ..) = self.inner.database.write(Durability::Synced, run, after).await?;
        Ok(published)
    }

    async fn take(&self, queue: Queue, room: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            let taken = self.inner.take_now(queue, room);
            if !taken.is_empty() {
                return Ok(taken);
            }
            if !self.inner.refill(queue).await? {
                let bell = self.inner.bell(queue).notified();
                // Either way the shelf is looked at again.
                let _ = tokio::time::timeout(self.inner.sleep_for(), bell).await;
            }
        }
    }

    async fn find(&self, id: &str) -> Result<Option<Found>, Error> {
        let id = id.to_owned();
        let Some((row, standing)) = self.inner.database.read(move |c| schema::find(c, &id)).await? else {
            return Ok(None);
        };
        // On the disk, what is in hand is ready.
        let in_hand = standing == Standing::Ready && self.inner.state.lock().shelf(row.lane).holds(row.seq);
        let standing = if in_hand { Standing::InHand } else { standing };
        Ok(Some(Found { job: row.job, lane: row.lane, standing, tries: row.tries, reason: row.reason }))
    }

    async fn can_store(&self) -> Result<(), Error> {
        self.inner.room_for(1, 1)?;
        self.inner.database.write(Durability::Synced, store::touch, |()| ()).await?;
        Ok(())
    }

    fn counts(&self) -> Vec<Count> {
        let mut counts = self.inner.state.lock().tally.counts();
        for count in counts.iter_mut().filter(|count| count.standing == Standing::Ready) {
            count.oldest = self.inner.oldest(count.lane);
        }
        counts
    }

    async fn forget(&self, whose: &Whose) -> Result<Forgotten, Error> {
        removal::take(&self.inner, whose).await
    }

    async fn tidy(&self) -> Result<(), Error> {
        let now = self.inner.clock.now();
        let before = now.before(self.inner.parked_for);
        let inner = self.inner.clone();
        let run = move |connection: &rusqlite::Connection| {
            schema::change_turns(connection, now, SEEN_HORIZON)?;
            schema::purge_parked(connection, before)
        };
        let after = move |purged: &Vec<(Lane, u64)>| {
            let mut state = inner.state.lock();
            purged.iter().for_each(|(lane, bytes)| state.tally.removed(*lane, Standing::Parked, *bytes));
        };
        self.inner.database.write(Durability::Written, run, after).await?;
        Ok(())
    }
}
