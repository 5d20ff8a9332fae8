//! Duplicates against a model of what is known: events and messages, in batches, over restarts and over the days.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::runtime::Handle;

use super::{DiskFactory, Setup, tools::*};
use crate::{
    broker::{Broker, Lane, Publication, Published, Standing},
    domain::ids::{EventId, MessageId},
};

const HOUR: Duration = Duration::from_secs(3_600);

/// Ids are remembered for three days; not to the hour, because tidying is not done by the minute.
const SURELY_KNOWN_HOURS: u64 = 70;

#[derive(Debug, Clone)]
enum Step {
    /// Events about messages, both by number, in either lane.
    Publish(Vec<(u8, u8, bool)>),
    /// Takes what is ready, ends it or gives it up for good.
    Work {
        ack: bool,
    },
    /// So many hours pass, and what is old is thrown away.
    Pass(u8),
    Reopen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    Known,
    Unknown,
    /// Seen so long ago that it may have been forgotten.
    Perhaps,
}

/// When which id was seen last, and which still lie in the queue.
#[derive(Default)]
struct Model {
    seen: HashMap<String, u64>,
    kept: Vec<[String; 2]>,
    hour: u64,
}

impl Model {
    fn knows(&self, id: &str) -> Knowledge {
        if self.kept.iter().flatten().any(|kept| kept == id) {
            return Knowledge::Known;
        }
        match self.seen.get(id) {
            None => Knowledge::Unknown,
            Some(hour) if self.hour - hour <= SURELY_KNOWN_HOURS => Knowledge::Known,
            Some(_) => Knowledge::Perhaps,
        }
    }

    /// What may be answered to an event about a message.
    fn allowed(&self, ids: &[String; 2]) -> Vec<Published> {
        let mut allowed = Vec::new();
        for (id, duplicate) in ids.iter().zip([Published::DuplicateEvent, Published::DuplicateMessage]) {
            let knowledge = self.knows(id);
            if knowledge != Knowledge::Unknown {
                allowed.push(duplicate);
            }
            if knowledge == Knowledge::Known {
                return allowed;
            }
        }
        allowed.push(Published::Stored);
        allowed
    }

    fn stored(&mut self, ids: [String; 2]) {
        self.seen.extend(ids.iter().map(|id| (id.clone(), self.hour)));
        self.kept.push(ids);
    }
}

fn publication(script: usize, (event, message, chat_lane): (u8, u8, bool)) -> Publication {
    let mut job = job(event, "c");
    job.id = EventId::new(&format!("e{script}-{event}")).unwrap();
    job.message = MessageId::new(&format!("m{script}-{message}")).unwrap();
    Publication { lane: if chat_lane { Lane::Chat } else { Lane::Events }, job: Arc::new(job), parked: None }
}

async fn publish_against(model: &mut Model, broker: &dyn Broker, batch: Vec<Publication>) {
    let ids: Vec<_> = batch.iter().map(|it| [it.job.id.to_string(), it.job.message.to_string()]).collect();
    let outcomes = broker.publish(batch).await.unwrap();
    assert_eq!(outcomes.len(), ids.len());
    for (ids, outcome) in ids.into_iter().zip(outcomes) {
        let allowed = model.allowed(&ids);
        assert!(allowed.contains(&outcome), "hour {}: {ids:?} was {outcome:?}, not {allowed:?}", model.hour);
        if outcome == Published::Stored {
            model.stored(ids);
        }
    }
}

async fn work(model: &mut Model, broker: &dyn Broker, ack: bool) {
    for lane in [Lane::Chat, Lane::Events] {
        let ready = broker.counts().into_iter().find(|it| it.lane == lane && it.standing == Standing::Ready);
        let queue = if lane == Lane::Chat { CHAT } else { crate::broker::Queue::Events };
        for delivery in take_many(broker, queue, ready.map_or(0, |it| it.messages as usize)).await {
            if ack {
                model.kept.retain(|[event, _]| event != delivery.job.id.as_str());
                delivery.ack().await.unwrap();
            } else {
                delivery.park("why").await.unwrap();
            }
        }
    }
}

async fn follow(factory: &dyn DiskFactory, script: usize, steps: Vec<Step>) {
    // Parked messages are kept longer than any script lasts: what lies there stays known.
    let setup = Setup { parked_for: 10_000 * HOUR, ..Setup::default() };
    let mut model = Model::default();
    let mut broker = factory.open(setup).await;
    for step in steps {
        match step {
            Step::Publish(batch) => {
                let batch = batch.into_iter().map(|numbers| publication(script, numbers)).collect();
                publish_against(&mut model, &*broker, batch).await;
            }
            Step::Work { ack } => work(&mut model, &*broker, ack).await,
            Step::Pass(hours) => {
                model.hour += u64::from(hours);
                factory.pass(HOUR * u32::from(hours));
                broker.tidy().await.unwrap();
            }
            Step::Reopen => broker = factory.open(setup).await,
        }
    }
    // The next script finds an empty queue.
    work(&mut model, &*broker, true).await;
}

/// G2 begins here: whatever is known is known in each of its forms, and what is new is never taken for known.
pub(in crate::broker) async fn what_is_known_is_never_stored_again_and_what_is_new_always(factory: &dyn DiskFactory) {
    let numbers = (0_u8..8, 0_u8..8, any::<bool>());
    let step = prop_oneof![
        6 => prop::collection::vec(numbers, 1..6).prop_map(Step::Publish),
        2 => any::<bool>().prop_map(|ack| Step::Work { ack }),
        2 => (1_u8..60).prop_map(Step::Pass),
        1 => Just(Step::Reopen),
    ];
    let scripts = AtomicUsize::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(&prop::collection::vec(step, 1..30), |steps| {
            let script = scripts.fetch_add(1, Ordering::Relaxed);
            Handle::current().block_on(follow(factory, script, steps));
            Ok(())
        })
    });
    outcome.unwrap();
}
