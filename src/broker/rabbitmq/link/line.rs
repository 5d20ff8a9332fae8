//! One connection to RabbitMQ, kept up for ever.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{ErrorKind, Event, protocol::AMQPErrorKind};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{plan::Plan, trouble::Trouble, wire::Wire};
use crate::broker::rabbitmq::topology::Topology;

/// A look at a connection that works takes this long, so that who goes the rounds shows signs of life.
const LOOK_FOR: Duration = Duration::from_millis(500);

/// The pauses between attempts to connect: doubling from the first to the second, half of each left to chance.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long declaring may take: some fifty objects, each agreed upon by a majority when it is new.
const DECLARE_WITHIN: Duration = Duration::from_secs(30);

/// A connection that is up.
#[derive(Clone)]
pub struct Live {
    /// Counts connections; what belongs to an older one is void.
    pub generation: u64,
    /// The connection.
    pub connection: Arc<Wire>,
    /// When it was made.
    pub since: Instant,
}

impl Live {
    /// Whether the server takes messages.
    pub fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }
}

/// A connection that is kept up.
pub struct Line {
    name: &'static str,
    plan: Arc<Plan>,
    topology: Arc<Topology>,
    live: watch::Sender<Option<Live>>,
    trouble: Mutex<Option<Trouble>>,
    keeping: tokio::sync::Mutex<Keeping>,
    /// The last connection that somebody has found to be of no use.
    given_up: watch::Sender<u64>,
    goodbyes: TaskTracker,
}

#[derive(Default)]
struct Keeping {
    generation: u64,
    /// Whose turn it is.
    turn: usize,
    /// Since a connection last was good.
    attempts: u32,
    /// Whether everything was declared by this process, or found.
    declared: bool,
}

impl Keeping {
    /// How long to wait before a connection is made again: not at all after one that was good, nor before each host
    /// has been asked once.
    fn pause(&self, hosts: usize) -> Duration {
        let rounds = self.attempts / u32::try_from(hosts.max(1)).unwrap_or(1);
        let Some(doublings) = rounds.checked_sub(1) else { return Duration::ZERO };
        let pause = PAUSE_MIN.saturating_mul(1 << doublings.min(10)).min(PAUSE_MAX);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}

impl Line {
    pub(super) fn new(name: &'static str, plan: Arc<Plan>, topology: Arc<Topology>) -> Arc<Self> {
        // Nodes begin with different hosts.
        let keeping = Keeping { turn: rand::random_range(0..plan.len()), ..Keeping::default() };
        Arc::new(Self {
            name,
            plan,
            topology,
            live: watch::Sender::new(None),
            trouble: Mutex::default(),
            keeping: tokio::sync::Mutex::new(keeping),
            given_up: watch::Sender::new(0),
            goodbyes: TaskTracker::new(),
        })
    }

    /// The connection of the moment.
    pub fn live(&self) -> Option<Live> {
        self.live.borrow().clone().filter(|live| live.connection.status().connected())
    }

    /// Whether there are several servers to turn to.
    pub fn has_others(&self) -> bool {
        self.plan.len() > 1
    }

    /// Tells of each new connection, and of its end.
    pub fn watch(&self) -> watch::Receiver<Option<Live>> {
        self.live.subscribe()
    }

    /// Why there is no connection, or none that can be used; `None` while all is well.
    pub fn trouble(&self) -> Option<Trouble> {
        match self.live() {
            Some(live) if live.is_blocked() => Some(Trouble::Blocked { why: "an alarm (memory or disk)".into() }),
            Some(_) => None,
            None => Some(
                self.trouble
                    .lock()
                    .clone()
                    .unwrap_or(Trouble::Unreachable { node: "RabbitMQ".into(), why: "not connected yet".into() }),
            ),
        }
    }

    /// Looks after the connection for a while: makes it if there is none, notices its end. One who calls this again and
    /// again keeps it up.
    pub async fn attend(&self) {
        let mut keeping = self.keeping.lock().await;
        match self.live() {
            Some(live) => self.look(&live, &mut keeping).await,
            None => {
                self.live.send_replace(None);
                sleep(keeping.pause(self.plan.len())).await;
                self.connect(&mut keeping).await;
            }
        }
    }

    /// Throws the connection away if it is still this one: whoever uses it has found that it is of no use.
    pub fn give_up(&self, generation: u64) {
        self.given_up.send_if_modified(|given_up| std::mem::replace(given_up, generation.max(*given_up)) < generation);
    }

    /// Closes it and waits until the server has said so, or has had its time.
    pub async fn close(&self) {
        if let Some(live) = self.live.send_replace(None) {
            live.connection.goodbye().await;
        }
        self.goodbyes.close();
        self.goodbyes.wait().await;
    }

    async fn look(&self, live: &Live, keeping: &mut Keeping) {
        let mut given_up = self.given_up.subscribe();
        let why = tokio::select! {
            why = self.end_of(live) => why,
            // The sender lives as long as this does.
            _ = given_up.wait_for(|given_up| *given_up >= live.generation) => "it is of no use any more".to_owned(),
            () = sleep(LOOK_FOR) => return,
        };
        tracing::warn!(connection = self.name, why, "the connection to RabbitMQ is lost");
        self.live.send_replace(None);
        keeping.turn += 1;
        let connection = live.connection.clone();
        self.goodbyes.spawn(async move { connection.goodbye().await });
    }

    /// Waits until the connection ends, and says why. Errors of a channel are told here as well.
    async fn end_of(&self, live: &Live) -> String {
        let mut events = live.connection.events_listener();
        while let Some(event) = events.next().await {
            match event {
                // Whoever used the channel sees to it; the connection goes on.
                Event::Error(error) if is_of_a_channel(&error) => {
                    tracing::warn!(connection = self.name, %error, "a channel to RabbitMQ is lost");
                }
                Event::Error(error) => return error.to_string(),
                Event::ConnectionBlocked(why) => {
                    tracing::warn!(connection = self.name, why, "RabbitMQ takes no messages");
                }
                Event::ConnectionUnblocked => {
                    tracing::info!(connection = self.name, "RabbitMQ takes messages again");
                }
                _ => {}
            }
        }
        "it ended".to_owned()
    }

    async fn connect(&self, keeping: &mut Keeping) {
        let connected = self.plan.connect(keeping.turn, self.name).await;
        let prepared = match connected {
            Ok(connection) => self.prepare(connection, self.plan.node(keeping.turn), keeping.declared).await,
            Err(trouble) => Err(trouble),
        };
        match prepared {
            Ok(connection) => {
                keeping.attempts = 0;
                keeping.declared = true;
                keeping.generation += 1;
                *self.trouble.lock() = None;
                let live =
                    Live { generation: keeping.generation, connection: Arc::new(connection), since: Instant::now() };
                self.live.send_replace(Some(live));
                tracing::info!(connection = self.name, "connected to RabbitMQ");
            }
            Err(trouble) => {
                keeping.attempts = keeping.attempts.saturating_add(1);
                keeping.turn += 1;
                let before = self.trouble.lock().replace(trouble.clone());
                if before.as_ref() != Some(&trouble) {
                    tracing::warn!(connection = self.name, %trouble, remedy = trouble.remedy(), "no connection to RabbitMQ");
                }
            }
        }
    }

    async fn prepare(&self, connection: Wire, node: String, declared: bool) -> Result<Wire, Trouble> {
        let declaring = async {
            if declared && self.topology.is_there(&connection).await? {
                return Ok(());
            }
            self.topology.declare(&connection).await
        };
        let trouble = match timeout(DECLARE_WITHIN, declaring).await {
            Ok(Ok(())) => return Ok(connection),
            Ok(Err(error)) => Trouble::of_declaring(node, &error),
            Err(_) => Trouble::Silent { node },
        };
        connection.goodbye().await;
        Err(trouble)
    }
}

/// The server closes a channel for some errors and the connection for others (AMQP 0-9-1, section 1.5.1).
fn is_of_a_channel(error: &lapin::Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(error) => matches!(error.kind(), AMQPErrorKind::Soft(_)),
        // So a consumer is told that is dropped while its channel closes (lapin cancels it by itself).
        ErrorKind::InvalidChannelState(..) => true,
        _ => false,
    }
}
