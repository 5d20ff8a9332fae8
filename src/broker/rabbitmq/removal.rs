//! A customer's messages, as far as this node can get hold of them: what it holds itself in nobody's hand, what it has
//! spooled, and what lies in the queues that can be looked into.
//!
//! A work queue has one consumer at a time, so nobody else can look into it. What lies there of theirs comes to its
//! conversation in its turn.

use std::{ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use lapin::{Acker, message::Delivery as Message};

use super::{Inner, envelope::Envelope, lease::Lease, pass::Pass, spool::Spool};
use crate::broker::{Delivery, Error, Forgotten, Lane, Settle, Settlement, Whose};

/// Rows of the spool looked at with one reading.
const SEARCHED_AT_ONCE: usize = 1_000;

/// Takes in hand what lies here of a customer in nobody's hand.
pub(super) async fn take(inner: &Arc<Inner>, whose: &Whose) -> Result<Forgotten, Error> {
    let mut forgotten = in_windows(inner, whose);
    if let Some(spool) = inner.publishing.spool() {
        forgotten.deliveries.extend(in_spool(spool, whose).await?);
    }
    forgotten.deliveries.extend(in_queues(inner, whose).await?);
    Ok(forgotten)
}

fn in_windows(inner: &Arc<Inner>, whose: &Whose) -> Forgotten {
    let mut forgotten = Forgotten { deliveries: Vec::new(), in_hand: 0 };
    for source in inner.sources() {
        let (free, in_hand) = source.window().pop_all_of(|job| whose.owns(job));
        // The order to remove them travels in the events lane.
        forgotten.in_hand += if source.lane == Some(Lane::Events) { 0 } else { in_hand };
        forgotten.deliveries.extend(free.into_iter().map(|held| Lease::deliver(inner, source, held)));
    }
    forgotten
}

pub(super) async fn in_spool(spool: &Arc<Spool>, whose: &Whose) -> Result<Vec<Delivery>, Error> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let rows = spool.all(after, SEARCHED_AT_ONCE).await?;
        let Some(last) = rows.last() else { return Ok(found) };
        after = last.seq;
        for (seq, item) in rows.into_iter().filter_map(|row| Some((row.seq, row.item.ok()?))) {
            if whose.owns(&item.job) {
                let spooled = Spooled { spool: spool.clone(), seq };
                found.push(Delivery::new(item.job, item.lane, Box::new(spooled)));
            }
        }
    }
}

/// One pass through all of them; it ends with the last of what was found.
async fn in_queues(inner: &Arc<Inner>, whose: &Whose) -> Result<Vec<Delivery>, Error> {
    let mut pass = Pass::begin(inner).await?;
    let mut found = Vec::new();
    for queue in inner.topology.open_queues() {
        let each = |message: Message| {
            let envelope = Envelope::read(&message.properties, &message.data, None);
            found.extend(envelope.filter(|it| whose.owns(&it.job)).map(|it| (it, message.acker)));
            ControlFlow::Continue(())
        };
        pass.look(&queue, usize::MAX, each).await?;
    }
    let pass = Arc::new(tokio::sync::Mutex::new(pass));
    let deliver = |(envelope, acker): (Envelope, Acker)| {
        let seen = Seen { inner: inner.clone(), id: envelope.job.id.to_string(), pass: pass.clone(), acker };
        let mut delivery = Delivery::new(envelope.job, envelope.lane, Box::new(seen));
        (delivery.tries, delivery.replay, delivery.reason) = (envelope.tries, envelope.replay, envelope.reason);
        delivery.redelivered = true;
        delivery
    };
    Ok(found.into_iter().map(deliver).collect())
}

/// In the spool. RabbitMQ may be about to get it; then it comes as any other.
struct Spooled {
    spool: Arc<Spool>,
    seq: i64,
}

/// Seen by a pass that has not ended.
struct Seen {
    inner: Arc<Inner>,
    id: String,
    pass: Arc<tokio::sync::Mutex<Pass>>,
    acker: Acker,
}

/// Any other end than to be removed leaves it where it was.
#[async_trait]
impl Settle for Spooled {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), Error> {
        if how == Settlement::Ack { self.spool.remove(vec![self.seq]).await } else { Ok(()) }
    }

    fn give_back(self: Box<Self>) {}
}

#[async_trait]
impl Settle for Seen {
    async fn settle(self: Box<Self>, how: Settlement) -> Result<(), Error> {
        if how != Settlement::Ack {
            return Ok(());
        }
        let inner = self.inner.clone();
        let remove = async move {
            self.pass.lock().await.acknowledge(&self.acker).await?;
            self.inner.index.remove(&self.id);
            Ok(())
        };
        inner.publishing.whole(remove).await
    }

    fn give_back(self: Box<Self>) {}
}
