//! One connection to Redis (to all masters of a Cluster), kept up for ever.
//!
//! fred's own reconnecting is off: it does not notice a server that hangs, and a Cluster whose seeds are gone is lost
//! to it. Here a connection that breaks, or whose server misses two PINGs in a row, is thrown away, the servers are
//! looked for anew, and a new client takes its place. Whoever calls has the client of the moment or none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use fred::{
    clients::Client,
    error::Error as FredError,
    interfaces::ClientLike,
    types::{ConnectHandle, FromValue, MultipleValues, scripts::Script},
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    client::{WITHIN, client, ping, run},
    plan::Plan,
    servers::{self, Way},
    trouble::{Trouble, judge},
};
use crate::state::Error;

/// How often a connection that works is looked at. A server that hangs is noticed within this and twice the time of a
/// PING.
const PING_EVERY: Duration = Duration::from_millis(250);

/// One PING may be lost to a busy moment, of the server or of ours.
const MISSES_MAX: u32 = 2;

/// Calls that fail make a connection be looked at at once, but not more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The longest time for which a connection is being made: to find the servers takes up to three steps of a second.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The pauses between attempts to connect: doubling from the first to the second, half of each left to chance.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is done with a client before anybody gets it; the task it returns lives as long as the client.
pub(super) type Prepare =
    Arc<dyn Fn(Client) -> BoxFuture<'static, Result<Option<JoinHandle<()>>, FredError>> + Send + Sync>;

/// A connection that is kept up.
pub struct Line {
    name: &'static str,
    plan: Plan,
    prepare: Option<Prepare>,
    live: ArcSwapOption<Live>,
    up: AtomicBool,
    latency_us: AtomicU64,
    trouble: Mutex<Option<String>>,
    connections: watch::Sender<u64>,
    watched: tokio::sync::Mutex<Watched>,
    look_now: Notify,
    lost: AtomicBool,
}

/// What the one who looks keeps.
#[derive(Default)]
struct Watched {
    misses: u32,
    /// Since a connection last proved good.
    attempts: u32,
    /// The members of the Cluster, as it last named them.
    members: Vec<String>,
}

impl Watched {
    /// How long to wait before a connection is made again: not at all after one that was good.
    fn pause(&self) -> Duration {
        let Some(doublings) = self.attempts.checked_sub(1) else { return Duration::ZERO };
        let pause = PAUSE_MIN.saturating_mul(1 << doublings.min(10)).min(PAUSE_MAX);
        pause.mul_f64(rand::random_range(0.5..1.0))
    }
}

/// A client that is connected, with the tasks that belong to it.
struct Live {
    client: Client,
    way: Way,
    /// Ends with the connection.
    driver: ConnectHandle,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Line {
    /// One that is not connected yet; [`Line::attend`] does that.
    pub(super) fn new(name: &'static str, plan: Plan, prepare: Option<Prepare>) -> Arc<Self> {
        Arc::new(Self {
            name,
            plan,
            prepare,
            live: ArcSwapOption::empty(),
            up: AtomicBool::new(false),
            latency_us: AtomicU64::new(0),
            trouble: Mutex::new(Some("not connected yet".into())),
            connections: watch::Sender::new(0),
            watched: tokio::sync::Mutex::default(),
            look_now: Notify::new(),
            lost: AtomicBool::new(false),
        })
    }

    /// What it is for.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether Redis answers, as far as the last look tells.
    pub fn is_up(&self) -> bool {
        let connected = self.live.load().as_ref().is_some_and(|live| !live.driver.is_finished());
        connected && self.up.load(Ordering::Acquire)
    }

    /// How long the last PING took; of a Cluster the slowest.
    pub fn latency(&self) -> Option<Duration> {
        self.is_up().then(|| Duration::from_micros(self.latency_us.load(Ordering::Relaxed)))
    }

    /// Why it is down.
    pub fn trouble(&self) -> Option<String> {
        let told = self.trouble.lock().clone();
        told.or_else(|| (!self.is_up()).then(|| "the connection broke".to_owned()))
    }

    /// Counts the connections made.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Keeps it up until the future is dropped.
    pub async fn attend(&self) {
        loop {
            self.look().await;
        }
    }

    /// Looks at it once, does what is needed, and rests until it should be looked at again. One at a time may look.
    pub async fn look(&self) {
        let mut watched = self.watched.lock().await;
        let pause = match self.live.load_full() {
            Some(live) if !live.driver.is_finished() && !self.lost.swap(false, Ordering::AcqRel) => {
                self.check(&live, &mut watched).await
            }
            Some(live) => {
                self.drop_connection(&format!("the connection to {} broke", live.way.node()));
                watched.pause()
            }
            None => self.connect(&mut watched).await,
        };
        self.rest(pause).await;
    }

    /// The connection is to be made anew.
    pub(super) fn distrust(&self) {
        self.lost.store(true, Ordering::Release);
        self.look_now.notify_one();
    }

    /// Throws the connection away, if there is one.
    pub(super) fn end(&self) {
        self.up.store(false, Ordering::Release);
        self.live.store(None);
    }

    async fn check(&self, live: &Live, watched: &mut Watched) -> Duration {
        let began = Instant::now();
        let Err(trouble) = ping(&live.client).await else {
            (watched.misses, watched.attempts) = (0, 0);
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.latency_us.store(took, Ordering::Relaxed);
            return PING_EVERY;
        };
        watched.misses += 1;
        if watched.misses >= MISSES_MAX {
            watched.misses = 0;
            self.drop_connection(&trouble.to_string());
            return watched.pause();
        }
        Duration::ZERO
    }

    fn drop_connection(&self, why: &str) {
        self.end();
        self.is_down(why);
    }

    async fn connect(&self, watched: &mut Watched) -> Duration {
        let made = timeout(CONNECT_WITHIN, self.make(&watched.members)).await;
        let made = made.unwrap_or_else(|_| {
            Err(Trouble::Refused { node: self.plan.nodes.join(", "), said: "no connection in time".into() })
        });
        watched.attempts = watched.attempts.saturating_add(1);
        match made {
            Ok(live) => {
                let node = live.way.node().to_owned();
                if let Way::Cluster(_, members) = &live.way {
                    watched.members.clone_from(members);
                }
                self.live.store(Some(Arc::new(live)));
                self.lost.store(false, Ordering::Release);
                self.is_up_again(&node);
                Duration::ZERO
            }
            Err(trouble) => {
                self.is_down(&trouble.to_string());
                watched.pause()
            }
        }
    }

    async fn make(&self, members: &[String]) -> Result<Live, Trouble> {
        let way = servers::find(&self.plan, members).await?;
        let refused = |error: &FredError| Trouble::Refused {
            node: way.node().to_owned(),
            said: self.plan.scrubbed(error.details()),
        };
        let client = client(&self.plan, &way).map_err(|error| refused(&error))?;
        let driver = client.connect();
        let mut live = Live { client: client.clone(), way: way.clone(), driver, reader: None };
        client.wait_for_connect().await.map_err(|error| refused(&error))?;
        ping(&client).await?;
        if let Some(prepare) = &self.prepare {
            live.reader = prepare(client).await.map_err(|error| refused(&error))?;
        }
        Ok(live)
    }

    fn is_up_again(&self, node: &str) {
        *self.trouble.lock() = None;
        self.up.store(true, Ordering::Release);
        self.connections.send_modify(|count| *count += 1);
        tracing::info!(connection = self.name, node, "connected to redis");
    }

    /// Says so once for each reason.
    fn is_down(&self, why: &str) {
        let mut trouble = self.trouble.lock();
        if trouble.as_deref() != Some(why) {
            tracing::warn!(connection = self.name, reason = why, "redis is away; connecting goes on for ever");
            *trouble = Some(why.to_owned());
        }
    }

    /// Until the pause is over, the connection breaks, or a call fails.
    async fn rest(&self, pause: Duration) {
        let live = self.live.load_full();
        let broken = async {
            match &live {
                // Polled instead of awaited: the handle is shared.
                Some(live) => {
                    while !live.driver.is_finished() {
                        sleep(LOOK_PAUSE).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let called = async {
            sleep(LOOK_PAUSE).await;
            match &live {
                Some(_) => self.look_now.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = broken => {}
            () = called => {}
        }
    }

    /// The client of the moment.
    fn client(&self) -> Result<Arc<Live>, Error> {
        let away = || Error::Away(self.trouble().unwrap_or_else(|| "the connection is being made".into()));
        self.live.load_full().filter(|_| self.is_up()).ok_or_else(away)
    }

    /// Makes a call of one's own; it ends in time.
    pub async fn call<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, FredError>>,
    {
        let live = self.client()?;
        match timeout(WITHIN, call(live.client.clone())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => {
                self.look_now.notify_one();
                Err(Error::Away("no answer in time".into()))
            }
        }
    }

    /// Runs a script whose keys all lie in one slot.
    pub async fn run<R, V>(&self, script: &Script, keys: Vec<String>, args: V) -> Result<R, Error>
    where
        R: FromValue,
        V: TryInto<MultipleValues> + Send,
        V::Error: Into<FredError> + Send,
    {
        let args: MultipleValues = args.try_into().map_err(|error| Error::Failed(error.into().details().to_owned()))?;
        // Another master answers for the slot: it may have been made one a moment ago, without the last writes.
        let moved = || self.connections.send_modify(|count| *count += 1);
        self.call(|client| async move { run(&client, script, keys, args, &moved).await?.convert() }).await
    }

    fn failed(&self, error: &FredError) -> Error {
        let judged = judge(error);
        if judged.lost {
            self.lost.store(true, Ordering::Release);
        }
        if judged.suspect {
            self.look_now.notify_one();
        }
        judged.error
    }
}
