//! The quota of a fleet as a subject of the same properties, on a server of its own and in virtual time.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::{subject::Subject, *};
use crate::state::{
    quota::{Ask, Note, Policy, Told, micros},
    redis::{RedisQuotas, opened_to, private::Redis},
};

/// A Redis for the tests of this file, and a runtime to ask it.
pub(super) struct Server {
    _redis: Redis,
    runtime: Runtime,
    quotas: Arc<RedisQuotas>,
    made: AtomicU64,
}

/// One quota.
pub(super) struct Quota {
    server: Arc<Server>,
    name: String,
    policy: Policy,
    seen: Duration,
    told: Told,
}

/// Virtual time begins in this century, so that numbers are as long as they are in production.
const ORIGIN: Duration = Duration::from_secs(1_700_000_000);

impl Server {
    /// One for all tests at work; the last one ends it.
    pub fn shared() -> Arc<Self> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut server = SERVER.lock();
        let here = server.upgrade().unwrap_or_else(|| {
            let redis = Redis::start();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let link = runtime.block_on(opened_to(&redis));
            let (quotas, made) = (Arc::new(RedisQuotas::new(link)), AtomicU64::new(0));
            Arc::new(Server { _redis: redis, runtime, quotas, made })
        });
        *server = Arc::downgrade(&here);
        here
    }

    pub fn quota(self: &Arc<Self>, limits: &Limits, validity: Duration) -> Quota {
        let name = format!("q{}", self.made.fetch_add(1, Ordering::Relaxed));
        let policy = limits.policy(validity);
        // It is born the day before, for in its first seconds it gives nothing.
        let at = u64::try_from((ORIGIN - Duration::from_secs(86_400)).as_micros()).ok();
        self.runtime.block_on(self.quotas.turn_at(at, &name, &policy, &Ask::default())).unwrap();
        Quota { server: self.clone(), name, policy, seen: Duration::ZERO, told: Told::default() }
    }
}

impl Quota {
    pub fn turn(&mut self, now: Duration, ask: &Ask) -> &Told {
        self.seen = self.seen.max(now);
        let at = u64::try_from((ORIGIN + now).as_micros()).ok();
        let turn = self.server.quotas.turn_at(at, &self.name, &self.policy, ask);
        self.told = self.server.runtime.block_on(turn).unwrap();
        &self.told
    }

    fn note(&mut self, now: Duration, note: Note) {
        self.turn(now, &Ask { notes: vec![note], ..Ask::default() });
    }
}

impl Subject for Quota {
    fn reserve(&mut self, now: Duration, tokens: u64, max_wait: Duration) -> Reservation {
        let told = self.turn(now, &Ask { want: 1, tokens, max_wait: micros(max_wait), ..Ask::default() }).clone();
        match told.grants.first() {
            Some((wait, seq)) => {
                let at = self.seen + Duration::from_micros(*wait);
                let until = at + Duration::from_micros(self.policy.validity);
                Reservation::Granted { at, until, seq: *seq, epoch: told.epoch }
            }
            None => Reservation::Refused { at: self.seen + Duration::from_micros(told.free) },
        }
    }

    fn booked(&self, _: u64) -> u64 {
        self.told.tokens
    }

    fn void(&mut self, now: Duration, seq: u64) {
        self.note(now, Note::Void(seq));
    }

    fn settle(&mut self, now: Duration, seq: u64, tokens: u64) {
        self.note(now, Note::Settle(seq, tokens));
    }

    fn is_valid(&self, epoch: u64) -> bool {
        epoch == self.told.epoch
    }

    fn look(&mut self, now: Duration) {
        self.turn(now, &Ask::default());
    }

    fn pause(&mut self, now: Duration, until: Duration) {
        self.note(now, Note::Pause(micros(until.saturating_sub(now))));
    }

    fn throttled(&mut self, now: Duration, retry_after: Option<Duration>, unit_random: f64) {
        self.note(now, Note::Throttled(micros(retry_after.unwrap_or_default()), unit_random));
    }

    fn succeeded(&mut self, now: Duration) {
        self.note(now, Note::Succeeded(1));
    }

    fn limit_header(&mut self, now: Duration, requests_per_minute: u64) {
        self.note(now, Note::LimitHeader(requests_per_minute));
    }
}
