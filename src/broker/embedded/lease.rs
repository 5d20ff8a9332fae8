//! A message in somebody's hand.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Inner, schema, shelf::Row};
use crate::{
    broker::{Delivery, Error, Settle, Settlement, Standing},
    domain::time::Timestamp,
    store::Durability,
};

/// The longest cause kept, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// Settled once; one that is dropped, or whose settlement fails, comes back.
pub(super) struct Lease {
    inner: Arc<Inner>,
    row: Row,
    /// Taken from the dead letters rather than from its lane.
    dead: bool,
    settled: bool,
    /// The message is not as it is stored.
    rewritten: bool,
}

impl Lease {
    pub fn deliver(inner: &Arc<Inner>, row: Row, dead: bool) -> Delivery {
        let lease = Self { inner: inner.clone(), row: row.clone(), dead, settled: false, rewritten: false };
        let mut delivery = Delivery::new(row.job, row.lane, Box::new(lease));
        delivery.tries = row.tries;
        delivery.replay = row.replay;
        delivery.redelivered = row.redelivered;
        delivery.reason = row.reason;
        delivery
    }

    fn standing(&self) -> Standing {
        if self.dead { Standing::Dead } else { Standing::InHand }
    }

    /// Nobody has it in hand any more.
    fn release(&mut self, state: &mut super::State) {
        self.settled = true;
        if self.dead {
            state.dead.released(self.row.seq);
        } else {
            state.shelf(self.row.lane).released(&self.row);
        }
    }

    async fn done(self) -> Result<(), Error> {
        let seq = self.row.seq;
        if self.inner.database.note(move |connection| schema::delete(connection, seq)) {
            self.deleted();
            return Ok(());
        }
        let inner = self.inner.clone();
        let delete = move |connection: &rusqlite::Connection| schema::delete(connection, seq);
        inner.database.write(Durability::Written, delete, |()| self.deleted()).await?;
        Ok(())
    }

    fn deleted(mut self) {
        let inner = self.inner.clone();
        let mut state = inner.state.lock();
        state.tally.removed(self.row.lane, self.standing(), self.row.bytes);
        self.release(&mut state);
        drop(state);
        inner.ring(self.row.lane);
    }

    async fn set_aside(self, standing: Standing, pause: Duration, reason: Option<String>) -> Result<(), Error> {
        let due = self.inner.clock.now().after(pause);
        let tries = self.row.tries + u32::from(standing == Standing::Dead);
        let seq = self.row.seq;
        let reason = reason.map(shortened);
        let stored = reason.clone();
        let body = self.rewritten.then(|| serde_json::to_vec(&*self.row.job).expect("a job is plain data"));
        let run = move |connection: &rusqlite::Connection| {
            schema::set_aside(connection, seq, (standing, due), tries, stored.as_deref(), body.as_deref())
        };
        let inner = self.inner.clone();
        // On the writer's thread, so that it happens also when the caller stops waiting.
        let after = move |(): &()| self.now_aside(standing, due, tries, reason);
        inner.database.write(Durability::Written, run, after).await?;
        Ok(())
    }

    fn now_aside(mut self, standing: Standing, due: Timestamp, tries: u32, reason: Option<String>) {
        let inner = self.inner.clone();
        let mut state = inner.state.lock();
        state.tally.moved(self.row.lane, self.standing(), standing);
        self.release(&mut state);
        match standing {
            Standing::Delayed => state.next_due = Some(state.next_due.map_or(due, |known| known.min(due))),
            Standing::Dead => state.dead.died(Row { tries, redelivered: true, reason, ..self.row.clone() }),
            _ => {}
        }
        drop(state);
        inner.ring(self.row.lane);
        inner.dead_bell.notify_one();
    }
}

#[async_trait]
impl Settle for Lease {
    async fn settle(mut self: Box<Self>, how: Settlement) -> Result<(), Error> {
        match how {
            Settlement::Ack => self.done().await,
            Settlement::Retry(after) => self.set_aside(Standing::Delayed, after, None).await,
            Settlement::Bury { why, attempt } => {
                let job = self.row.job.attempted(attempt);
                if !Arc::ptr_eq(&job, &self.row.job) {
                    self.row.job = job;
                    self.rewritten = true;
                }
                self.set_aside(Standing::Dead, Duration::ZERO, Some(why)).await
            }
            Settlement::Park(reason) => self.set_aside(Standing::Parked, Duration::ZERO, Some(reason)).await,
        }
    }

    fn give_back(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let inner = self.inner.clone();
        let row = Row { redelivered: true, ..self.row.clone() };
        let mut state = inner.state.lock();
        self.release(&mut state);
        if self.dead {
            state.dead.returned(row);
        } else {
            state.tally.moved(row.lane, Standing::InHand, Standing::Ready);
            state.shelf(row.lane).returned(row);
        }
        drop(state);
        inner.ring(self.row.lane);
        inner.dead_bell.notify_one();
    }
}

fn shortened(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0);
        reason.truncate(end);
    }
    reason
}
