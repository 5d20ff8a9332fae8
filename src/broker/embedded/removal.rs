//! A customer's messages, withheld from everybody until their end is recorded, then removed.
//!
//! An acknowledgement lets go of a message in memory before the writer has deleted it. So what is found on the disk is
//! withheld first and looked for again then: by that time the writer has deleted what had been acknowledged before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::{Inner, State, schema, shelf::Row};
use crate::{
    broker::{Delivery, Error, Forgotten, Lane, Settle, Settlement, Standing, Whose},
    store::Durability,
};

/// Rows looked at with one reading for the customer's id in them; there is no index by customer, because every webhook
/// would pay for it and customers are removed rarely.
const SEARCHED_AT_ONCE: usize = 5_000;

/// What is withheld, with the standing it has on the disk.
pub(super) type Withheld = HashMap<i64, Standing>;

/// One message withheld. Given back when it is dropped.
pub(super) struct Withholding {
    pub inner: Arc<Inner>,
    pub row: Row,
    over: bool,
}

/// Takes in hand what lies here of a customer in nobody's hand.
pub(super) async fn take(inner: &Arc<Inner>, whose: &Whose) -> Result<Forgotten, Error> {
    let naming = naming(inner, whose).await?;
    let (withheld, in_hand) = withhold(inner, whose, naming).await?;
    let numbers: Vec<i64> = withheld.iter().map(|withholding| withholding.row.seq).collect();
    let look = move |connection: &Connection| schema::present(connection, &numbers);
    let present = inner.database.write(Durability::Written, look, |_| ()).await?;
    let (present, gone): (Vec<_>, Vec<_>) = withheld.into_iter().partition(|it| present.contains(&it.row.seq));
    // They were acknowledged: whoever had them has recorded their end, and they are counted no more.
    gone.into_iter().for_each(Withholding::end);
    Ok(Forgotten { deliveries: present.into_iter().map(Withholding::deliver).collect(), in_hand })
}

/// Searches the disk for what names the customer, beside the writer.
async fn naming(inner: &Arc<Inner>, whose: &Whose) -> Result<Vec<i64>, Error> {
    let mut naming = Vec::new();
    let mut after = 0;
    loop {
        let user = whose.user.clone();
        let search = move |connection: &Connection| schema::naming(connection, user.as_str(), after, SEARCHED_AT_ONCE);
        let rows = inner.database.read(search).await?;
        let Some((last, _)) = rows.last() else { return Ok(naming) };
        after = *last;
        naming.extend(rows.into_iter().filter(|(_, names)| *names).map(|(seq, _)| seq));
    }
}

/// Withholds what is theirs and in nobody's hand; how much is in somebody's.
async fn withhold(inner: &Arc<Inner>, whose: &Whose, naming: Vec<i64>) -> Result<(Vec<Withholding>, usize), Error> {
    let (whose, holder) = (whose.clone(), inner.clone());
    let find = move |connection: &Connection| schema::owned(connection, &whose, &naming);
    // Filled on the writer's thread; given back if the caller has gone by then.
    let withheld = Arc::new(Mutex::new((Vec::new(), 0)));
    let filled = withheld.clone();
    // In commit order, so that what is known of each row in memory is as old as what was read of it.
    let after = move |found: &Vec<(Row, Standing)>| *filled.lock() = holder.withhold(found);
    inner.database.write(Durability::Written, find, after).await?;
    Ok(std::mem::take(&mut *withheld.lock()))
}

impl Inner {
    pub(super) fn withhold(self: &Arc<Self>, found: &[(Row, Standing)]) -> (Vec<Withholding>, usize) {
        let mut state = self.state.lock();
        let mut withheld = HashSet::new();
        let (mut free, mut in_hand) = (Vec::new(), 0);
        for (row, standing) in found {
            if state.shelf(row.lane).holds(row.seq) || state.dead.holds(row.seq) {
                // The order to remove them travels in the other lane.
                in_hand += usize::from(row.lane == Lane::Chat);
                continue;
            }
            state.shelf(row.lane).withhold(row);
            state.withheld.insert(row.seq, *standing);
            withheld.insert(row.seq);
            free.push(row.clone());
        }
        state.chat.leave_out(&withheld);
        state.events.leave_out(&withheld);
        state.dead.leave_out(&withheld);
        drop(state);
        (free.into_iter().map(|row| Withholding { inner: self.clone(), row, over: false }).collect(), in_hand)
    }
}

impl Withholding {
    fn deliver(self) -> Delivery {
        let row = self.row.clone();
        let mut delivery = Delivery::new(row.job, row.lane, Box::new(self));
        (delivery.tries, delivery.replay, delivery.reason) = (row.tries, row.replay, row.reason);
        delivery.redelivered = true;
        delivery
    }

    /// Nobody withholds it any more; the standing it had at last.
    pub fn release(&mut self, state: &mut State) -> Option<Standing> {
        self.over = true;
        state.shelf(self.row.lane).let_go(self.row.seq);
        state.dead.released(self.row.seq);
        state.withheld.remove(&self.row.seq)
    }

    /// It is not there any more.
    pub fn end(mut self) {
        let inner = self.inner.clone();
        self.release(&mut inner.state.lock());
    }

    pub fn removed(mut self, bytes: Option<u64>) {
        let inner = self.inner.clone();
        let mut state = inner.state.lock();
        let standing = self.release(&mut state);
        // Gone already: thrown away as too old meanwhile, and counted there.
        if let (Some(standing), Some(bytes)) = (standing, bytes) {
            state.tally.removed(self.row.lane, standing, bytes);
        }
    }
}

#[async_trait]
impl Settle for Withholding {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), Error> {
        // Any other end than to be removed leaves it where it was.
        if how != Settlement::Ack {
            return Ok(());
        }
        let (inner, seq) = (self.inner.clone(), self.row.seq);
        let remove = move |connection: &Connection| schema::remove(connection, seq);
        inner.database.write(Durability::Written, remove, move |bytes| self.removed(*bytes)).await?;
        Ok(())
    }

    fn give_back(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for Withholding {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let inner = self.inner.clone();
        let row = self.row.clone();
        let mut state = inner.state.lock();
        match self.release(&mut state) {
            Some(Standing::Ready) => state.shelf(row.lane).returned(row),
            Some(Standing::Dead) => state.dead.returned(row),
            _ => {}
        }
        drop(state);
        inner.ring(self.row.lane);
        inner.dead_bell.notify_one();
    }
}
