//! The chain of services behind their guards, on a paused clock.

mod failures;

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use super::*;
use crate::{
    guard::{
        breaker::Caller,
        limiter::{Limits, WindowLimit},
    },
    store::calls::{Calls, Past},
};

const NO_LIMITS: Limits = Limits::NONE;

/// A chain of services, and a folder for the journal.
struct Chain {
    stack: Stack,
    clock: Clock,
    asked: Mutex<Vec<&'static str>>,
    waits: Mutex<Vec<Wait>>,
    _folder: tempfile::TempDir,
}

impl Chain {
    fn new(limits: &[(&'static str, Limits)]) -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
        let (calls, _) = Calls::open(&folder.path().join("calls"), Duration::ZERO, clock.now()).unwrap();
        let calls = Arc::new(calls);
        let service = |(name, limits): &(&'static str, Limits)| Service {
            name,
            gate: Gate::new(breaker::Config::default(), Duration::from_secs(30), clock.clone()),
            permits: Permits::new(name, limits.clone(), clock.clone(), calls.clone(), &Past::default()),
            bulkhead: Bulkhead::new(4),
        };
        let names: Vec<&'static str> = limits.iter().map(|(name, _)| *name).collect();
        let metrics = Metrics::register(&mut Registry::default(), &names);
        let cache = Cache::new(&CacheConfig { enabled: false, ..CacheConfig::default() }, None);
        let stack = Stack::new(limits.iter().map(service).collect(), cache, clock.clone(), metrics);
        Self { stack, clock, asked: Mutex::default(), waits: Mutex::default(), _folder: folder }
    }

    /// Serves the limiters' lines, as their actors do.
    async fn serve(&self) {
        loop {
            for service in self.stack.services() {
                service.permits.serve();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn question<'a>(&self, conversation: &'a str) -> Question<'a> {
        Question {
            caller: Caller { conversation, message: conversation },
            class: Class::Chat,
            received: self.clock.now(),
            tokens: 1,
            key: None,
            chain: None,
            stand_ins: &[],
            begun: None,
            patience: None,
            until: None,
        }
    }

    /// Asks those of `services` and waits no longer than `patience`.
    async fn ask_within<T: Brought + Send>(
        &self,
        services: &[usize],
        patience: Duration,
        answers: impl Fn(usize) -> Result<T, Failure> + Sync,
    ) -> Result<T, Refused> {
        let until = Some(self.clock.monotonic() + patience);
        let question = Question { chain: Some(services), until, ..self.question("hurried") };
        let asking = self.stack.ask_anew(question, self, |index| std::future::ready(answers(index)));
        tokio::select! {
            asked = asking => asked,
            () = self.serve() => unreachable!("it serves for ever"),
        }
    }

    /// Asks once; `answers` says what each service does.
    async fn ask(
        &self,
        conversation: &str,
        answers: impl Fn(usize) -> Result<Answer, Failure> + Sync,
    ) -> Result<Answer, Failed> {
        self.put(self.question(conversation), answers).await
    }

    /// The same with any question.
    async fn put(
        &self,
        question: Question<'_>,
        answers: impl Fn(usize) -> Result<Answer, Failure> + Sync,
    ) -> Result<Answer, Failed> {
        let asking = self.stack.ask(question, self, |index| std::future::ready(answers(index)));
        tokio::select! {
            asked = asking => asked,
            () = self.serve() => unreachable!("it serves for ever"),
        }
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl Progress for Chain {
    fn waiting(&self, on: Wait, _: Option<Duration>) {
        self.waits.lock().push(on);
    }

    fn asking(&self, service: &'static str, _: Duration) {
        self.asked.lock().push(service);
    }

    fn answered(&self, _: &'static str, _: Duration, _: &'static str) {}
}

fn fine() -> Result<Answer, Failure> {
    Ok(Answer { text: "hello".into(), ..Answer::default() })
}

fn one_in(per: Duration) -> Limits {
    Limits { windows: vec![WindowLimit { requests: 1, per }], ..NO_LIMITS }
}

#[tokio::test(start_paused = true)]
async fn the_next_service_answers_when_the_first_fails_and_is_asked_first_once_the_breaker_is_open() {
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    let first_is_down = |index| if index == 0 { Err(Failure::Connect) } else { fine() };
    for n in 0..5 {
        assert!(chain.ask(&format!("c{n}"), first_is_down).await.is_ok());
    }
    assert_eq!(chain.asked(), ["first", "second"].repeat(5));
    assert!(!chain.stack.services()[0].gate.is_closed());
    assert!(chain.ask("c6", first_is_down).await.is_ok());
    assert_eq!(chain.asked(), ["second"], "nobody waits for an open breaker while another service answers");
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_quota_is_passed_over_at_once_and_a_short_wait_is_waited() {
    let chain = Chain::new(&[("first", one_in(Duration::from_secs(3600))), ("second", NO_LIMITS)]);
    let began = chain.clock.monotonic();
    for n in 0..3 {
        assert!(chain.ask(&format!("c{n}"), |_| fine()).await.is_ok());
    }
    assert_eq!(chain.asked(), ["first", "second", "second"]);
    assert!(chain.clock.monotonic() - began < Duration::from_millis(100), "nobody has waited");
    let soon = Chain::new(&[("first", one_in(Duration::from_secs(1))), ("second", NO_LIMITS)]);
    for n in 0..2 {
        assert!(soon.ask(&format!("c{n}"), |_| fine()).await.is_ok());
    }
    assert_eq!(soon.asked(), ["first", "first"]);
}

#[tokio::test(start_paused = true)]
async fn with_every_quota_exhausted_the_first_to_be_free_again_is_asked() {
    let seconds = Duration::from_secs;
    let chain = Chain::new(&[("first", one_in(seconds(30))), ("second", one_in(seconds(600)))]);
    let began = chain.clock.monotonic();
    for n in 0..3 {
        assert!(chain.ask(&format!("c{n}"), |_| fine()).await.is_ok());
    }
    assert_eq!(chain.asked(), ["first", "second", "first"]);
    let waited = chain.clock.monotonic() - began;
    assert!(waited >= seconds(30) && waited < seconds(36), "{waited:?}");
    assert!(chain.waits.lock().contains(&Wait::Limiter));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_leaves_nothing_behind() {
    let chain = Arc::new(Chain::new(&[("only", one_in(Duration::from_secs(60)))]));
    let begun = Arc::new(AtomicUsize::new(0));
    let question = |name| chain.question(name);
    let hangs = |_| {
        begun.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<Answer, Failure>>()
    };
    let given_up = tokio::time::timeout(Duration::from_secs(1), chain.stack.ask(question("a"), &*chain, hangs)).await;
    assert!(given_up.is_err() && begun.load(Ordering::Relaxed) == 1);
    let in_line = tokio::time::timeout(Duration::from_secs(1), chain.stack.ask(question("b"), &*chain, hangs)).await;
    assert!(in_line.is_err() && begun.load(Ordering::Relaxed) == 1, "the limit holds although the first was given up");
    let service = &chain.stack.services()[0];
    assert_eq!(
        (service.bulkhead.usage().in_use, service.bulkhead.usage().waiting, service.permits.waiting()),
        (0, 0, 0)
    );
    assert!(chain.ask("c", |_| fine()).await.is_ok(), "and goes on");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_a_service_asked_for_outlives_the_process() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let path = folder.path().join("calls");
    let permits = || {
        let (calls, past) = Calls::open(&path, Duration::ZERO, clock.now()).unwrap();
        Permits::new("only", one_in(Duration::from_secs(1)), clock.clone(), Arc::new(calls), &past)
    };
    permits().throttled(Some(Duration::from_secs(20)));
    let again = permits();
    let left = again.free_at(1).saturating_sub(clock.monotonic());
    assert!(left > Duration::from_secs(18) && left <= Duration::from_secs(21), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_used_early_enough_for_the_call_to_arrive_in_time() {
    let chain = Chain::new(&[("only", Limits { per_minute: 10, ..NO_LIMITS })]);
    let permits = &chain.stack.services()[0].permits;
    for (waited_ms, usable) in [(0, true), (199, true), (201, false), (299, false)] {
        let permit = permits.at_once(1).unwrap();
        tokio::time::advance(Duration::from_millis(waited_ms)).await;
        assert_eq!(permit.used_now().is_some(), usable, "after {waited_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn looking_at_a_half_open_breaker_wakes_nobody() {
    let chain = Chain::new(&[("only", NO_LIMITS)]);
    for n in 0..5 {
        let _ = chain.ask(&format!("c{n}"), |_| Err(Failure::Connect)).await;
    }
    let gate = &chain.stack.services()[0].gate;
    tokio::time::advance(Duration::from_secs(120)).await;
    gate.poll();
    let version = gate.version();
    for _ in 0..3 {
        assert!(gate.look(Caller { conversation: "other", message: "m" }).is_ok(), "one may probe");
    }
    assert_eq!(gate.version(), version, "those who wait would look again without end");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_closes_between_the_look_and_the_wait_is_not_slept_through() {
    let chain = Chain::new(&[("only", NO_LIMITS)]);
    let gate = &chain.stack.services()[0].gate;
    let version = gate.version();
    gate.force(breaker::Mode::Open);
    gate.force(breaker::Mode::Closed);
    let began = chain.clock.monotonic();
    gate.wait(version, began + Duration::from_secs(600)).await;
    assert!(chain.clock.monotonic() - began < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_wait_is_told_when_to_come_again() {
    let seconds = Duration::from_secs;
    let chain = Chain::new(&[("first", one_in(seconds(60))), ("second", one_in(seconds(30)))]);
    for n in 0..2 {
        assert!(chain.ask(&format!("c{n}"), |_| fine()).await.is_ok());
    }
    let began = chain.clock.monotonic();
    let refused = chain.ask_within(&[0, 1], seconds(5), |_| fine()).await.unwrap_err();
    let Refused::Busy(Busy { on, until }) = refused else { panic!("{refused:?}") };
    assert_eq!((on, chain.clock.monotonic() - began), (Wait::Limiter, Duration::ZERO), "a wait in vain is not begun");
    let told = until - began;
    assert!(told > seconds(29) && told < seconds(31), "{told:?}");
    tokio::time::advance(told).await;
    assert!(chain.ask_within(&[0, 1], Duration::ZERO, |_| fine()).await.is_ok(), "and then there is one");

    let soon = Chain::new(&[("first", one_in(seconds(3)))]);
    assert!(soon.ask("c", |_| fine()).await.is_ok());
    assert!(soon.ask_within(&[0], seconds(5), |_| fine()).await.is_ok(), "what comes in time is waited for");
}

#[tokio::test(start_paused = true)]
async fn who_waited_in_vain_in_a_line_does_not_come_back_at_once() {
    let chain = Chain::new(&[("only", one_in(Duration::from_millis(100)))]);
    let patience = Duration::from_secs(1);
    let began = chain.clock.monotonic();
    let asked = (0..30).map(async |_| {
        let answer = chain.ask_within(&[0], patience, |_| fine()).await;
        (chain.clock.monotonic(), answer)
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut waited = answers.into_iter().filter(|(ended, _)| *ended >= began + patience).peekable();
    assert!(waited.peek().is_some());
    for (ended, answer) in waited {
        let Err(Refused::Busy(Busy { until, .. })) = answer else { panic!("{answer:?}") };
        assert_eq!(until, ended + Duration::from_secs(1), "another one is free before, and for others");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_waited_for_as_long_as_there_is_time() {
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    let gate = &chain.stack.services()[0].gate;
    gate.force(breaker::Mode::Open);
    let began = chain.clock.monotonic();
    let refused = chain.ask_within(&[0], Duration::from_secs(5), |_| fine()).await.unwrap_err();
    assert!(matches!(refused, Refused::Busy(Busy { on: Wait::Breaker, .. })), "{refused:?}");
    assert!(chain.clock.monotonic() - began <= Duration::from_secs(5));
    assert!(chain.asked().is_empty(), "the second is none of those to be asked");
}

/// An answer that broke off after its first part.
struct Half;

impl Brought for Half {
    fn tokens(&self) -> crate::domain::answer::Tokens {
        crate::domain::answer::Tokens::default()
    }

    fn limit_requests(&self) -> Option<u64> {
        None
    }

    fn broke_off(&self) -> Option<&Failure> {
        Some(&Failure::Connect)
    }
}

#[tokio::test(start_paused = true)]
async fn half_an_answer_is_the_end_of_the_question_and_a_failure_of_the_service() {
    let chain = Chain::new(&[("first", NO_LIMITS), ("second", NO_LIMITS)]);
    assert!(chain.ask_within(&[0, 1], Duration::from_secs(5), |_| Ok(Half)).await.is_ok());
    assert_eq!(chain.asked(), ["first"], "a second answer would follow the first half");
    assert_eq!(chain.stack.services()[0].gate.snapshot().window.failures, 1);
    assert_eq!(chain.stack.services()[0].bulkhead.usage().in_use, 0);
}
