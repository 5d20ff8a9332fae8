//! One queue that this node consumes from, and what it holds of it.
//!
//! Whoever takes from it keeps the subscription. Whoever takes may give up at any moment; what must not be left half done
//! (a subscription, messages on their way round) is a step that runs to its end, and whoever takes next waits for it.
//! When the connection breaks, or something was held too long (design rule 8), the channel is closed and opened anew; all
//! that was held comes again, in order.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    message::Delivery as Message,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedMutexGuard, watch},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    Inner,
    arrivals::Aside,
    lease::Lease,
    link::{Live, NOT_FOUND, code},
    overflow::Overflow,
    window::{Epoch, Window},
};
use crate::broker::{Delivery, Error, Lane};

/// How long a server may take to open or to close a channel; after a loss all are opened at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// The pause before what was refused is tried again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Messages in hand are waited for so long before their partition is left to another node; what is not settled by then
/// it finds settled in the ledger, or waits for its claim.
const YIELDS_WITHIN: Duration = Duration::from_secs(5);

/// One queue.
pub struct Source {
    /// Its name.
    pub queue: String,
    /// The lane of what lies in it; the dead letters of both lanes lie in one.
    pub lane: Option<Lane>,
    prefetch: u16,
    /// Messages of one conversation that may be held; the rest makes a detour.
    pub(super) share: usize,
    window: Mutex<Window>,
    overflow: Mutex<Overflow>,
    bell: Notify,
    /// Whether this node is to consume from it.
    wanted: watch::Sender<bool>,
    subscribed: Arc<tokio::sync::Mutex<Option<Subscription>>>,
    steps: TaskTracker,
}

/// The subscription, if there is one, in the hands of whoever takes.
pub(super) type Subscribed = OwnedMutexGuard<Option<Subscription>>;

/// A channel, and what comes through it.
pub(super) struct Subscription {
    generation: u64,
    channel: Channel,
    pub consumer: Consumer,
    pub epoch: Arc<Epoch>,
    /// What came and is neither held nor gone.
    pub aside: Vec<Aside>,
    /// When that is tried again (monotonic).
    pub aside_until: Duration,
}

impl Source {
    /// Of a queue, from which at most `prefetch` messages are held at once.
    pub fn new(queue: String, lane: Option<Lane>, prefetch: u16, wanted: bool) -> Arc<Self> {
        let share = if lane == Some(Lane::Chat) { (prefetch / 4).max(1).into() } else { usize::MAX };
        Arc::new(Self {
            queue,
            lane,
            prefetch,
            share,
            window: Mutex::default(),
            overflow: Mutex::default(),
            bell: Notify::new(),
            wanted: watch::Sender::new(wanted),
            subscribed: Arc::default(),
            steps: TaskTracker::new(),
        })
    }

    /// Says whether this node is to consume from it; `true`: that is new.
    pub fn want(&self, wanted: bool) -> bool {
        self.wanted.send_if_modified(|now| std::mem::replace(now, wanted) != wanted)
    }

    /// What is held.
    pub fn window(&self) -> parking_lot::MutexGuard<'_, Window> {
        self.window.lock()
    }

    /// What is away.
    pub fn overflow(&self) -> parking_lot::MutexGuard<'_, Overflow> {
        self.overflow.lock()
    }

    /// What runs to its end although whoever began it may be gone.
    pub fn steps(&self) -> &TaskTracker {
        &self.steps
    }

    /// Something may be ready.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits for messages and takes at most `room`.
    pub(super) async fn take(self: &Arc<Self>, inner: &Arc<Inner>, room: usize) -> Result<Vec<Delivery>, Error> {
        let mut wanted = self.wanted.subscribe();
        let mut subscribed = self.subscribed.clone().lock_owned().await;
        loop {
            if !*wanted.borrow_and_update() {
                drop(self.whole(inner, |source, _| source.leave(subscribed)).await);
                // The sender lives as long as this does.
                let _ = wanted.changed().await;
                subscribed = self.subscribed.clone().lock_owned().await;
                continue;
            }
            let given = self.window.lock().pop(room, inner.clock.monotonic());
            if !given.is_empty() {
                return Ok(given.into_iter().map(|held| Lease::deliver(inner, self, held)).collect());
            }
            subscribed = match &mut *subscribed {
                Some(subscription) if !self.is_sound(inner, subscription) => {
                    self.whole(inner, |source, _| source.close(subscribed)).await
                }
                Some(subscription) if subscription.has_to_move(inner) => {
                    self.whole(inner, |source, inner| source.move_aside(inner, subscribed)).await
                }
                Some(subscription) => match self.wait(inner, subscription, &mut wanted).await {
                    Some(first) => self.whole(inner, |source, inner| source.arrived(inner, subscribed, first)).await,
                    None => subscribed,
                },
                None => match inner.link.consume().live() {
                    Some(live) => self.whole(inner, |source, inner| source.subscribe(inner, subscribed, live)).await,
                    None => {
                        self.connected(inner, &mut wanted).await;
                        subscribed
                    }
                },
            }
        }
    }

    /// Does what has to be done also while nobody takes: leaves what is another node's, lets go of what is held too long,
    /// and looks whether something came, for until then it is counted nowhere.
    pub(super) async fn attend(self: &Arc<Self>, inner: &Arc<Inner>) {
        let Ok(mut subscribed) = self.subscribed.clone().try_lock_owned() else { return };
        let Some(subscription) = &mut *subscribed else { return };
        if !*self.wanted.borrow() {
            drop(self.whole(inner, |source, _| source.leave(subscribed)).await);
        } else if !self.is_sound(inner, subscription) {
            drop(self.whole(inner, |source, _| source.close(subscribed)).await);
        } else if let Some(said) = subscription.consumer.next().now_or_never()
            && let Some(first) = self.heard(inner, &subscription.epoch, said)
        {
            drop(self.whole(inner, |source, inner| source.arrived(inner, subscribed, first)).await);
        }
    }

    /// Lets go of everything and closes the channel, so that what was acknowledged before is.
    pub async fn end(self: &Arc<Self>) {
        self.want(false);
        // Whoever takes at the moment lets go by itself.
        if let Ok(subscribed) = timeout(YIELDS_WITHIN * 2, self.subscribed.clone().lock_owned()).await {
            self.steps.close();
            let _ = timeout(YIELDS_WITHIN, self.steps.wait()).await;
            drop(self.clone().close(subscribed).await);
        }
    }

    /// Runs a step to its end although whoever takes may be gone.
    async fn whole<F: Future<Output = Subscribed> + Send + 'static>(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        step: impl FnOnce(Arc<Self>, Arc<Inner>) -> F,
    ) -> Subscribed {
        match self.steps.spawn(step(self.clone(), inner.clone())).await {
            Ok(subscribed) => subscribed,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and whoever takes with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Whether the subscription can still bring something.
    fn is_sound(&self, inner: &Inner, subscription: &Subscription) -> bool {
        let is_current = inner.link.consume().live().is_some_and(|live| live.generation == subscription.generation);
        is_current
            && !subscription.epoch.is_over()
            && subscription.channel.status().connected()
            && !self.holds_too_long(inner, subscription)
    }

    fn holds_too_long(&self, inner: &Inner, subscription: &Subscription) -> bool {
        let aside = subscription.aside.first().map(|aside| aside.came);
        let oldest = self.window.lock().oldest().into_iter().chain(aside).min();
        oldest.is_some_and(|oldest| inner.clock.monotonic().saturating_sub(oldest) > inner.held_for())
    }

    /// Waits until there is something to look at; a message, if that is what came.
    async fn wait(
        &self,
        inner: &Inner,
        subscription: &mut Subscription,
        wanted: &mut watch::Receiver<bool>,
    ) -> Option<Message> {
        let now = inner.clock.monotonic();
        let (due, oldest) = {
            let window = self.window.lock();
            (window.next_due(), window.oldest())
        };
        let too_old = oldest.map(|oldest| oldest + inner.held_for() + Duration::from_millis(1));
        let wake = due.into_iter().chain(too_old).min().map_or(TRY_AGAIN, |at| at.saturating_sub(now).min(TRY_AGAIN));
        tokio::select! {
            said = subscription.consumer.next() => return self.heard(inner, &subscription.epoch, said),
            () = self.bell.notified() => {}
            _ = wanted.changed() => wanted.mark_changed(),
            () = sleep(wake) => {}
        }
        None
    }

    /// Waits a while for a connection.
    async fn connected(&self, inner: &Inner, wanted: &mut watch::Receiver<bool>) {
        let mut lines = inner.link.consume().watch();
        if inner.link.consume().live().is_some() {
            return;
        }
        tokio::select! {
            // Both live as long as this does.
            _ = lines.changed() => {}
            _ = wanted.changed() => wanted.mark_changed(),
            () = sleep(TRY_AGAIN) => {}
        }
    }

    async fn subscribe(self: Arc<Self>, inner: Arc<Inner>, mut subscribed: Subscribed, live: Live) -> Subscribed {
        match timeout(ANSWERS_WITHIN, self.open(&live)).await {
            Ok(Ok((channel, consumer))) => {
                let epoch = self.window.lock().begin();
                let (generation, aside, aside_until) = (live.generation, Vec::new(), Duration::ZERO);
                *subscribed = Some(Subscription { generation, channel, consumer, epoch, aside, aside_until });
            }
            Ok(Err(error)) => {
                if code(&error) == Some(NOT_FOUND) {
                    // The next connection declares it.
                    inner.link.consume().give_up(live.generation);
                }
                tracing::warn!(queue = self.queue, %error, "a queue cannot be consumed from; it is tried again");
                sleep(TRY_AGAIN).await;
            }
            Err(_) => inner.link.consume().give_up(live.generation),
        }
        subscribed
    }

    async fn open(&self, live: &Live) -> lapin::Result<(Channel, Consumer)> {
        let channel = live.connection.create_channel().await?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(self.queue.as_str().into(), "".into(), options, FieldTable::default());
        let consumer = consumer.await?;
        Ok((channel, consumer))
    }

    /// Leaves the queue to another node: nothing more is begun, what is in hand has a while to be settled.
    async fn leave(self: Arc<Self>, subscribed: Subscribed) -> Subscribed {
        let Some(subscription) = &*subscribed else {
            self.overflow().clear();
            return subscribed;
        };
        self.window.lock().withdraw();
        let channel = subscription.channel.clone();
        let settled = async {
            while self.window.lock().out() > 0 && channel.status().connected() {
                self.bell.notified().await;
            }
        };
        // What is not settled by then is another node's.
        let _ = timeout(YIELDS_WITHIN, settled).await;
        let subscribed = self.clone().close(subscribed).await;
        self.overflow().clear();
        subscribed
    }

    async fn close(self: Arc<Self>, mut subscribed: Subscribed) -> Subscribed {
        let Some(subscription) = subscribed.take() else { return subscribed };
        if subscription.channel.status().connected() {
            // With its answer all acknowledgements have arrived. One that does not come: the connection is on its way out.
            let _ = timeout(ANSWERS_WITHIN, subscription.channel.close(200, "bye".into())).await;
        }
        let mut window = self.window.lock();
        self.overflow().come_again(window.came());
        window.end();
        drop(window);
        subscribed
    }
}

impl Subscription {
    /// Whether what was set aside is to be tried again.
    fn has_to_move(&self, inner: &Inner) -> bool {
        !self.aside.is_empty() && self.aside_until <= inner.clock.monotonic()
    }
}
