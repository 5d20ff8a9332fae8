//! A blocked actor that was replaced goes on some day with what it was about to do. Here it is held at the two worst
//! places, its message takes the road of failures and is answered by a successor, and then it is let go on. Nothing kills
//! it in between: what it must not do is prevented by its generation alone.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, body::Bytes, extract::State as Extract, http::Method, http::Uri};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

use super::*;
use crate::{
    broker::{self, Embedded, Lane, Publication, Queue},
    domain::{
        control::{Control, Holder},
        ids::{ConversationId, EventId, MessageId},
        job::{Job, Kind},
        timeline::{Outcome, Wait},
    },
    guard::{self, Cache, Gate, limiter::Limits},
    state::Local,
    store::calls::{Calls, Past},
};

const CONVERSATION: &str = "c";

/// The world outside: an AI service and Zendesk in one server.
#[derive(Default)]
struct Outside {
    asked: Mutex<usize>,
    /// Let the first and the second call be answered.
    may_go: [Notify; 2],
    posts: Mutex<Vec<Value>>,
}

async fn outside(Extract(outside): Extract<Arc<Outside>>, method: Method, uri: Uri, body: Bytes) -> Json<Value> {
    if uri.path().ends_with("/chat/completions") {
        let call = {
            let mut asked = outside.asked.lock();
            *asked += 1;
            *asked
        };
        outside.may_go[call - 1].notified().await;
        let message = json!({ "role": "assistant", "content": format!("answer {call}") });
        return Json(json!({ "choices": [{ "message": message, "finish_reason": "stop" }] }));
    }
    if method == Method::POST {
        let mut post: Value = serde_json::from_slice(&body).unwrap();
        post["id"] = json!("posted");
        outside.posts.lock().push(post);
    }
    Json(json!({ "messages": outside.posts.lock().clone() }))
}

struct Scene {
    parts: Arc<Parts>,
    outside: Arc<Outside>,
    message: MessageId,
    _server: JoinSet<()>,
    _folder: TempDir,
}

/// One service behind its guards, and the permits for posts.
fn guards(service: &Service, folder: &TempDir, clock: &Clock, registry: &mut Registry) -> (Stack, Arc<guard::Permits>) {
    let calls = Arc::new(Calls::open(&folder.path().join("calls"), Duration::ZERO, clock.now()).unwrap().0);
    let permits = |name| guard::Permits::new(name, Limits::NONE, clock.clone(), calls.clone(), &Past::default());
    let guarded = guard::Service {
        name: "primary",
        gate: Gate::new(service.breaker.clone(), service.timeout, clock.clone()),
        permits: permits("primary"),
        bulkhead: Bulkhead::new(4),
    };
    // Else the successor's question would be taken for the same as the zombie's, and wait for its answer.
    let no_cache = guard::CacheConfig { enabled: false, ..Default::default() };
    let metrics = guard::Metrics::register(registry, &["primary"]);
    let stack = Stack::new(vec![guarded], Cache::new(&no_cache, None), clock.clone(), metrics);
    (stack, permits("zendesk"))
}

fn parts(url: &str, folder: &TempDir) -> Parts {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (clock, registry, path) = (Clock::system(), &mut Registry::default(), folder.path());
    let service = Service { base_url: format!("{url}/v1"), ..Service::default() };
    let (stack, posts) = guards(&service, folder, &clock, registry);
    let zendesk = client::SunshineConfig {
        app_id: "app".into(),
        api_url: url.into(),
        timeout: Duration::from_millis(300),
        ..Default::default()
    };
    let chat = ChatConfig { merge_quiet: Duration::ZERO, history: 0, ..ChatConfig::default() };
    let keep = Duration::from_secs(3_600);
    let broker = Arc::new(Embedded::open(path, &broker::Config::default(), keep, clock.clone()).unwrap());
    Parts {
        broker: broker.clone(),
        upkeep: broker.clone(),
        letters: broker,
        state: Arc::new(Local::open(path, crate::state::RetentionConfig::default(), clock.now()).unwrap()),
        nodes: Arc::new(crate::state::nodes::Nodes::new(1, None, clock.clone())),
        redis: None,
        stack,
        ai: vec![client::Ai::new(&service, "").unwrap()],
        sunshine: Sunshine::new(&zendesk, clock.clone()).unwrap(),
        zendesk_up: true.into(),
        zendesk_refuses: false.into(),
        posts,
        // One slot: who holds it decides when a reply may be posted.
        posting: Bulkhead::new(1),
        key_limits: Vec::new(),
        allowances: Vec::new(),
        accounts: super::Accounts::default(),
        ours: Ours { integration: String::new() },
        handoff_to: String::new(),
        post_timeout: zendesk.timeout,
        typing: false,
        chat,
        retry: Policy::default(),
        directory: Directory::new(clock.clone()),
        conversations: ConversationStarter::default(),
        handoffs: Handoffs::default(),
        reconciler: Reconciler::default(),
        in_hand: InHand::open(&path.join("in-hand")).unwrap(),
        suspects: tokio::sync::Semaphore::new(1),
        settings: super::Settings::default(),
        deeds: super::Deeds::default(),
        bulks: super::Bulks::default(),
        pulse: super::Pulse::default(),
        courtesies: Courtesies::default(),
        faults: Faults::new(FaultsConfig::default()),
        actor_time_limit: keep,
        roster: Arc::new(Roster::new(clock.clone())),
        metrics: Metrics::register(registry),
        clock,
        draining: CancellationToken::new(),
        giving_up: CancellationToken::new(),
    }
}

impl Scene {
    /// One message is stored, and its conversation is ours.
    async fn with_one_message() -> Self {
        let outside = Arc::<Outside>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(self::outside).with_state(outside.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        let parts = Arc::new(parts(&url, &folder));
        let (now, message) = (parts.clock.now(), MessageId::new("m").unwrap());
        let (event, conversation) = (EventId::new("e").unwrap(), ConversationId::new(CONVERSATION).unwrap());
        let kind = Kind::Message { text: "hello".into(), user: None, image: None };
        let job = Job::new(event, message.clone(), conversation, kind, now);
        let control = Control { holder: Holder::Us, at: now };
        parts.state.note_control(&job.conversation, control).await.unwrap();
        let publication = Publication { lane: Lane::Chat, job: Arc::new(job), parked: None };
        parts.broker.publish(vec![publication]).await.unwrap();
        Self { parts, outside, message, _server: server, _folder: folder }
    }

    fn cell(&self) -> Arc<inbox::Cell> {
        self.parts.directory.find(&ConversationId::new(CONVERSATION).unwrap()).unwrap()
    }

    /// Takes what is in a queue to the conversation's inbox, and lets a new incarnation work on it.
    async fn incarnation(&self) -> JoinHandle<bool> {
        for delivery in self.parts.broker.take(Queue::Chat(0), 8).await.unwrap() {
            self.parts.directory.deliver(delivery, false);
        }
        let (parts, cell) = (self.parts.clone(), self.cell());
        let generation = cell.lock().begin_incarnation(parts.clock.now());
        let mut state = conversation::State {
            cell,
            generation,
            history: None,
            begins: None,
            recalled: false,
            alias: None,
            user: None,
            lease: super::lease::Lease::default(),
        };
        tokio::spawn(async move { turn::turn(&parts, &mut state).await.unwrap() })
    }

    /// What the watchdog and the supervisor do about a blocked actor, and the retry actor about its message.
    async fn outlived(&self) {
        let hand = self.cell().lock().bereave().expect("something is in hand");
        let head = hand.items.into_iter().next().unwrap();
        turn::bury(&self.parts, head, "time limit: it blocked its thread and was replaced").await.unwrap();
        for letter in self.parts.broker.take(Queue::Dead, 8).await.unwrap() {
            letter.retry(Duration::ZERO).await.unwrap();
        }
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }

    /// One post, one end, nothing left in the queue.
    async fn assert_answered_once(&self, answer: &str) {
        let posts = self.outside.posts.lock().clone();
        assert_eq!(posts.len(), 1, "{posts:?}");
        assert_eq!(posts[0]["content"]["text"], answer);
        let record = self.parts.state.record(self.message.as_str()).await.unwrap().unwrap();
        assert_eq!(record.outcome, Outcome::Replied);
        let left: u64 = self.parts.broker.counts().iter().map(|count| count.messages).sum();
        assert_eq!(left, 0, "{:?}", self.parts.broker.counts());
        let inner = self.cell();
        let inner = inner.lock();
        assert!(inner.hand.is_none() && inner.inbox.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_outlived_while_it_asked_the_ai_posts_and_acknowledges_nothing() {
    let scene = Scene::with_one_message().await;
    let zombie = scene.incarnation().await;
    scene.until("the AI is asked", || *scene.outside.asked.lock() == 1).await;
    scene.outlived().await;
    let successor = scene.incarnation().await;
    scene.until("the AI is asked again", || *scene.outside.asked.lock() == 2).await;
    // It goes on while its successor has the message in hand, and must not take it for its own.
    scene.outside.may_go[0].notify_one();
    zombie.await.unwrap();
    assert!(scene.outside.posts.lock().is_empty() && scene.cell().lock().hand.is_some());
    scene.outside.may_go[1].notify_one();
    successor.await.unwrap();
    scene.assert_answered_once("answer 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_outlived_right_before_its_post_does_not_post_beside_its_successor() {
    let scene = Scene::with_one_message().await;
    scene.outside.may_go[0].notify_one();
    let slot = scene.parts.posting.enter(0, guard::Class::Chat).await;
    let zombie = scene.incarnation().await;
    let waits =
        || scene.cell().lock().hand.as_ref().is_some_and(|it| it.phase == hand::Phase::Waiting(Wait::Slot, None));
    scene.until("the reply is meant and waits for its slot", waits).await;
    scene.outlived().await;
    let successor = scene.incarnation().await;
    // It looks for what may have been posted, finds nothing, and waits behind the other.
    scene.until("the successor waits as well", waits).await;
    drop(slot);
    zombie.await.unwrap();
    successor.await.unwrap();
    scene.assert_answered_once("answer 1").await;
    assert_eq!(*scene.outside.asked.lock(), 1, "the successor posts what was meant");
}
