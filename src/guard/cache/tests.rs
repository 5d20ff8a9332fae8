//! The cache of one process, and of several that share a Redis.

use std::sync::atomic::{AtomicUsize, Ordering};

use fred::types::scripts::Script;

use super::*;
use crate::{
    domain::prompt::{History, Prompt},
    state::{
        RedisConfig,
        redis::{Link, RedisAnswers, opened, private::Redis},
    },
    telemetry::Clock,
};

fn key(tenant: &str) -> Key {
    Key::new(Tenant::new(tenant), "", "m", &prompt("hi"))
}

fn prompt(text: &str) -> Prompt {
    Prompt::new("", &History::default(), &[text], Vec::new())
}

fn answer(text: &str) -> Answer {
    Answer { text: text.into(), ..Answer::default() }
}

/// Every failure is shared.
fn never<E>(_: &E) -> bool {
    false
}

type Said = Result<Answer, &'static str>;

/// A failure of the caller's own.
const OWN: &str = "no more time";

/// What so many are told who ask the same at once, and how many calls that takes; `says` answers each by its number.
async fn at_once(askers: usize, says: fn(usize) -> Said) -> (Vec<Said>, usize) {
    let cache = Arc::new(Cache::new(&CacheConfig::default(), None));
    let calls = Arc::new(AtomicUsize::new(0));
    let key = key("app");
    let asking = (0..askers).map(|_| {
        let (cache, calls) = (cache.clone(), calls.clone());
        tokio::spawn(async move {
            let ask = || async {
                let number = calls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                says(number)
            };
            cache.get_or(Some(key), |error| *error == OWN, ask).await.map(|(answer, _)| answer)
        })
    });
    let told = futures_util::future::join_all(asking).await.into_iter().map(Result::unwrap).collect();
    (told, calls.load(Ordering::Relaxed))
}

#[tokio::test]
async fn the_same_question_asked_at_once_is_one_call() {
    let (told, calls) = at_once(50, |_| Ok(answer("hello"))).await;
    assert_eq!((told, calls), (vec![Ok(answer("hello")); 50], 1));
}

#[tokio::test]
async fn a_failure_of_the_callers_own_is_not_that_of_those_who_wait_for_his_call() {
    let (told, calls) = at_once(10, |call| if call < 3 { Err(OWN) } else { Ok(answer("hello")) }).await;
    let failed = told.iter().filter(|told| told.is_err()).count();
    assert_eq!((failed, calls), (3, 4));
}

#[tokio::test]
async fn what_another_model_said_is_not_kept_for_those_who_come_later() {
    let cache = Cache::new(&CacheConfig::default(), None);
    for (stands_in, expected) in [(true, Source::Asked), (false, Source::Asked), (true, Source::Process)] {
        let ask = || async { Ok::<_, ()>(Answer { stands_in, ..answer("hello") }) };
        assert_eq!(cache.get_or(Some(key("app")), never, ask).await.unwrap().1, expected);
    }
}

#[tokio::test]
async fn a_wish_for_a_human_is_no_other_customers() {
    let (told, _) = at_once(10, |call| Ok(Answer { handoff: call == 0, ..answer("hello") })).await;
    let handed_over = told.into_iter().filter(|told| told.as_ref().unwrap().handoff).count();
    assert_eq!(handed_over, 1);
}

#[tokio::test]
async fn failures_long_answers_and_other_tenants_are_not_served() {
    let cache = Cache::new(&CacheConfig { max_value: 10, ..CacheConfig::default() }, None);
    assert_eq!(cache.get_or(Some(key("a")), never, || async { Err("down") }).await, Err("down"));
    let says = async |tenant: &str, text: &str| {
        let ask = || async { Ok::<_, ()>(answer(text)) };
        let (said, source) = cache.get_or(Some(key(tenant)), never, ask).await.unwrap();
        (said.text, source)
    };
    assert_eq!(says("a", "a long answer").await.1, Source::Asked);
    assert_eq!(says("a", "short").await, ("short".to_owned(), Source::Asked));
    assert_eq!(says("a", "x").await, ("short".to_owned(), Source::Process));
    assert_eq!(says("b", "x").await, ("x".to_owned(), Source::Asked));
    cache.erase(Tenant::new("a")).await.unwrap();
    assert_eq!(says("a", "y").await, ("y".to_owned(), Source::Asked));
    assert_eq!(says("b", "y").await, ("x".to_owned(), Source::Process));
    let branded = |brand, model| Key::new(Tenant::new("a"), brand, model, &prompt("hi"));
    assert_ne!(branded("ab", "c"), branded("a", "bc"));
}

/// Nodes with caches of their own on one Redis.
struct Nodes {
    server: Redis,
    caches: Vec<Arc<Cache>>,
    links: Vec<Arc<Link>>,
    calls: AtomicUsize,
}

impl Nodes {
    async fn start(count: usize) -> Self {
        let (server, caches, links) = (Redis::start(), Vec::new(), Vec::new());
        let mut nodes = Self { server, caches, links, calls: AtomicUsize::new(0) };
        for _ in 0..count {
            nodes.join().await;
        }
        nodes
    }

    async fn join(&mut self) {
        let nodes = vec![self.server.address()];
        let link = opened(&RedisConfig { nodes, ..RedisConfig::default() }).await;
        link.cache().connections().wait_for(|count| *count > 0).await.unwrap();
        let answers = Arc::new(RedisAnswers::new(link.clone(), self.caches.len().to_string()));
        let fleet = Fleet::new(answers, Sealer::new(b"secret"), Clock::system());
        self.caches.push(Arc::new(Cache::new(&CacheConfig::default(), Some(fleet))));
        self.links.push(link);
    }

    /// Asks on one node; the AI counts its calls in what it says.
    async fn ask(&self, node: usize, tenant: &str, takes: Duration) -> (String, Source) {
        let ask = || async {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(takes).await;
            Ok::<_, ()>(answer(&format!("answer {call}")))
        };
        let (answer, source) = self.caches[node].get_or(Some(key(tenant)), never, ask).await.unwrap();
        (answer.text, source)
    }

    /// Puts something under every entry's name.
    async fn spoil(&self, bytes: &str) -> i64 {
        let script = Script::from_lua(
            "local spoiled = 0\n\
             for _, key in ipairs(redis.call('KEYS', '*:entry')) do redis.call('SET', key, ARGV[1]); spoiled = spoiled + 1 end\n\
             return spoiled",
        );
        self.links[0].run(&script, Vec::new(), vec![bytes.to_owned()]).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_question_asked_at_once_on_three_nodes_is_one_call() {
    let nodes = Arc::new(Nodes::start(3).await);
    let asking: Vec<_> = (0..200)
        .map(|n| {
            let nodes = nodes.clone();
            // Longer than a turn, so that the one who asks has to renew his.
            tokio::spawn(async move { nodes.ask(n % 3, "a", Duration::from_secs(4)).await.0 })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), "answer 0");
    }
    assert_eq!(nodes.calls.load(Ordering::Relaxed), 1);
    assert_eq!(nodes.ask(1, "b", Duration::ZERO).await.0, "answer 1", "another tenant's question is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_was_told_the_others_know_until_it_is_erased() {
    let nodes = Nodes::start(2).await;
    assert_eq!(nodes.ask(0, "a", Duration::ZERO).await, ("answer 0".to_owned(), Source::Asked));
    assert_eq!(nodes.ask(1, "a", Duration::ZERO).await, ("answer 0".to_owned(), Source::Fleet));
    assert_eq!(nodes.ask(1, "a", Duration::ZERO).await, ("answer 0".to_owned(), Source::Process));
    nodes.caches[0].erase(Tenant::new("a")).await.unwrap();
    assert_eq!(nodes.ask(0, "a", Duration::ZERO).await.1, Source::Asked);
    let within = tokio::time::timeout(Duration::from_secs(20), async {
        while nodes.ask(1, "a", Duration::ZERO).await.0 == "answer 0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    within.await.expect("the other node hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_no_node_has_made_is_a_miss() {
    let nodes = Nodes::start(2).await;
    nodes.ask(0, "a", Duration::ZERO).await;
    assert_eq!(nodes.spoil("{\"text\":\"give me your card number\"}").await, 1);
    assert_eq!(nodes.ask(1, "a", Duration::ZERO).await, ("answer 1".to_owned(), Source::Asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_dies_while_he_asks_holds_up_nobody_for_long_and_without_redis_all_ask() {
    let mut nodes = Nodes::start(2).await;
    let dies = tokio::time::timeout(Duration::from_millis(300), nodes.ask(0, "a", Duration::from_secs(60)));
    dies.await.expect_err("it asks for a minute");
    let asked = tokio::time::timeout(Duration::from_secs(30), nodes.ask(1, "a", Duration::ZERO)).await;
    assert_eq!(asked.expect("the turn runs out").1, Source::Asked);
    nodes.server.kill();
    assert_eq!(nodes.ask(1, "a", Duration::ZERO).await.1, Source::Process);
    assert_eq!(nodes.ask(1, "b", Duration::ZERO).await.1, Source::Asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_stays_erased_when_redis_loses_count() {
    let mut nodes = Nodes::start(1).await;
    assert_eq!(nodes.ask(0, "a", Duration::ZERO).await, ("answer 0".to_owned(), Source::Asked));
    nodes.caches[0].erase(Tenant::new("a")).await.unwrap();
    let lose = Script::from_lua("return redis.call('DEL', unpack(redis.call('KEYS', '*:erased')))");
    assert_eq!(nodes.links[0].run::<i64, _>(&lose, Vec::new(), Vec::<String>::new()).await.unwrap(), 1);
    nodes.join().await;
    assert_eq!(nodes.ask(1, "a", Duration::ZERO).await.1, Source::Asked, "a node that knows nothing finds nothing");
}

/// Answers that another node makes for ever.
#[derive(Default)]
struct Theirs {
    looks: AtomicUsize,
}

#[async_trait::async_trait]
impl state::cache::Answers for Theirs {
    async fn look(&self, _: &str, _: Duration, _: bool) -> Result<state::cache::Look, state::Error> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        Ok(state::cache::Look::Theirs)
    }

    async fn keep(&self, _: &str, _: Option<(Vec<u8>, Duration)>) -> Result<(), state::Error> {
        Ok(())
    }

    async fn erased(&self, _: &str) -> Result<u64, state::Error> {
        Ok(1)
    }

    async fn erase(&self, _: &str) -> Result<u64, state::Error> {
        Ok(2)
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_long_for_one_who_only_waits_himself() {
    let theirs = Arc::new(Theirs::default());
    let fleet = Fleet::new(theirs.clone(), Sealer::new(b"secret"), Clock::system());
    let cache = Cache::new(&CacheConfig::default(), Some(fleet));
    let began = tokio::time::Instant::now();
    let asking = cache.get_or(Some(key("a")), never, || async { Ok::<_, ()>(answer("mine")) });
    let (said, source) = tokio::time::timeout(Duration::from_secs(60), asking).await.expect("it asks itself").unwrap();
    assert_eq!((said.text.as_str(), source), ("mine", Source::Asked));
    let (waited, looks) = (began.elapsed(), theirs.looks.load(Ordering::Relaxed));
    assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
    assert!((5..40).contains(&looks), "{looks} looks");
}
