//! Several nodes with one Redis: a message is answered once, whoever gets it and whatever happens to Redis meanwhile.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tidegate::simulate::{Ai, Zendesk, ai};

use crate::support::{
    self, Daemon, SOON, eventually,
    redis::Redis,
    webhooks::{delivery, message, post},
};

/// Two nodes, one Redis, one Zendesk. Webhooks go where the test says.
struct Fleet {
    redis: Redis,
    zendesk: Zendesk,
    ai: Ai,
    one: Daemon,
    other: Daemon,
}

impl Fleet {
    /// `first`: what the first node is told beside.
    async fn with(first: &str) -> Self {
        let redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        let place = format!("nodes = ['{}']\n", redis.address());
        let support::Fleet { redis, zendesk, ai, daemons } = support::Fleet::of(redis, &place, &[first, ""]).await;
        let [one, other] = daemons.try_into().ok().expect("two were started");
        zendesk.aim(None).unwrap();
        Self { redis, zendesk, ai, one, other }
    }

    /// A customer writes; nobody is told yet. The message's id and the webhook that tells of it.
    async fn say(&self, conversation: &str) -> (String, String) {
        let reference = self.zendesk.next_reference();
        let text = format!("where is my parcel? {reference}");
        let id = self.zendesk.say(conversation, &text).await;
        let webhook = delivery(&[message(&format!("event-{id}"), &id, conversation, &text)]);
        (id, webhook)
    }

    async fn deliver(&self, to: &Daemon, webhook: &str) {
        let secret = &self.zendesk.options().webhook_secret;
        let headers = [("x-api-key", secret.as_str()), ("content-type", "application/json")];
        let answer = post(to, "/webhooks/sunshine", &headers, webhook.to_owned()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Posts what another node that the ledger has forgotten would post.
    async fn post_as_another(&self, conversation: &str, message: &str) {
        let of = self.zendesk.options();
        let url = format!("{}/v2/apps/{}/conversations/{conversation}/messages", self.zendesk.url(), of.app_id);
        let mark = serde_json::json!({
            "tidegate_key": message, "tidegate_part": "1/1", "tidegate_ids": message, "tidegate_kind": "answer",
        });
        let content = serde_json::json!({ "type": "text", "text": "it is on its way" });
        let body = serde_json::json!({ "author": { "type": "business" }, "content": content, "metadata": mark });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let sent = client.post(url).basic_auth(&of.key_id, Some(&of.key_secret)).body(body.to_string()).send().await;
        assert_eq!(sent.unwrap().status(), 201);
    }

    fn replies(&self, conversation: &str) -> usize {
        self.zendesk.messages(conversation).iter().filter(|message| message.author == "business").count()
    }

    /// One command without arguments, over a connection of its own.
    fn order(&self, command: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.redis.address()).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut answer).unwrap();
        assert!(answer.starts_with("+OK"), "{command}: {answer}");
        stream
    }
}

async fn outcome(daemon: &Daemon, id: &str) -> String {
    let told = daemon.admin(&format!("/admin/messages/{id}")).await;
    told["outcome"].as_str().unwrap_or_default().to_owned()
}

/// A node has nothing left to do.
async fn is_idle(daemon: &Daemon) -> bool {
    let queues = daemon.admin("/admin/actors?limit=100").await;
    let all = queues["children"].as_array().cloned().unwrap_or_default();
    let conversations = all.iter().find(|child| child["path"] == "node/conversations").cloned().unwrap_or_default();
    let children = conversations["children"].as_array().cloned().unwrap_or_default();
    children.iter().all(|one| one["in_hand"].is_null() && one["waiting"] == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_between_a_post_and_its_acknowledgement_does_not_answer_again() {
    let mut fleet = Fleet::with("[faults]\nkill_at = 'after_post'\n").await;
    let (id, webhook) = fleet.say("c").await;
    fleet.deliver(&fleet.one, &webhook).await;
    eventually("it dies after its post", SOON, async || fleet.one.ended().is_some()).await;
    assert_eq!(fleet.replies("c"), 1);
    fleet.order("FLUSHALL");
    fleet.deliver(&fleet.other, &webhook).await;
    eventually("the other node finds the reply", SOON, async || fleet.other.log().contains("had ended before")).await;
    fleet.one.restart("[faults]\nkill_at = ''\n").await;
    eventually("so does the first one", SOON, async || fleet.one.log().contains("had ended before")).await;
    assert_eq!(fleet.replies("c"), 1, "{id}");
    assert_eq!(fleet.ai.stats().calls, 1, "and the AI is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_lands_while_the_ai_is_asked_is_found_although_the_ledger_knows_nothing_of_it() {
    let fleet = Fleet::with("").await;
    fleet.ai.behave(ai::Behaviour { latency_ms: 1_500, ..ai::Behaviour::default() });
    let (id, webhook) = fleet.say("c").await;
    // The ledger has only just begun: that it knows nothing proves nothing.
    fleet.deliver(&fleet.one, &webhook).await;
    eventually("the AI is asked", SOON, async || fleet.ai.stats().in_flight == 1).await;
    fleet.post_as_another("c", &id).await;
    eventually("it finds the reply", SOON, async || fleet.one.log().contains("had ended before")).await;
    assert_eq!(fleet.replies("c"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_stopped_between_intent_and_post_finds_its_conversation_taken_over() {
    let fleet = Fleet::with("[zendesk]\nposts_per_second = 1\n").await;
    let (_, before) = fleet.say("before").await;
    fleet.deliver(&fleet.one, &before).await;
    eventually("the posts' limiter is used up", SOON, async || fleet.replies("before") == 1).await;
    let (id, webhook) = fleet.say("c").await;
    fleet.deliver(&fleet.one, &webhook).await;
    eventually("the reply is meant and waits", SOON, async || {
        fleet.one.admin("/admin/actors/node/conversations/c").await["in_hand"]["phase"] == "waiting:limiter"
    })
    .await;
    fleet.one.freeze(true);
    assert_eq!(fleet.replies("c"), 0, "it was stopped too late");
    fleet.deliver(&fleet.other, &webhook).await;
    eventually("another node takes over and posts", SOON, async || fleet.replies("c") == 1).await;
    eventually("and ends it", SOON, async || outcome(&fleet.other, &id).await == "replied").await;
    assert!(fleet.other.log().contains("taken over from a node that has ended"), "{}", fleet.other.log_tail());
    fleet.one.freeze(false);
    eventually("the first one sees that it has ended", SOON, async || fleet.one.log().contains("had ended before"))
        .await;
    assert_eq!(fleet.replies("c"), 1);
    assert_eq!(fleet.ai.stats().calls, 2, "what was meant is posted; the AI is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_two_nodes_get_at_once_is_answered_once_and_known_to_both() {
    let fleet = Fleet::with("").await;
    fleet.ai.behave(ai::Behaviour { latency_ms: 200, ..ai::Behaviour::default() });
    let mut ids = Vec::new();
    for n in 0..10 {
        let (id, webhook) = fleet.say(&format!("c{n}")).await;
        tokio::join!(fleet.deliver(&fleet.one, &webhook), fleet.deliver(&fleet.other, &webhook));
        ids.push(id);
    }
    for (n, id) in ids.iter().enumerate() {
        for daemon in [&fleet.one, &fleet.other] {
            eventually("it is answered", SOON, async || outcome(daemon, id).await == "replied").await;
            let (status, task) = daemon.task(&format!("event-{id}")).await;
            assert_eq!(status, 200, "by the event's id, from any node: {task}");
        }
        assert_eq!(fleet.replies(&format!("c{n}")), 1);
    }
    for daemon in [&fleet.one, &fleet.other] {
        eventually("nothing is left to do", SOON, async || is_idle(daemon).await).await;
    }
    assert_eq!(fleet.ai.stats().calls, 10);
    assert!((0..10).all(|n| fleet.replies(&format!("c{n}")) == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_messages_are_answered_once_and_it_learns_of_their_ends() {
    let mut fleet = Fleet::with("").await;
    let mut said = Vec::new();
    for n in 0..30 {
        let conversation = format!("c{}", n % 5);
        if n == 10 {
            fleet.redis.kill();
        }
        let (id, webhook) = fleet.say(&conversation).await;
        fleet.deliver(&fleet.one, &webhook).await;
        said.push(id);
        if n == 20 {
            let answered = async || (0..5).map(|n| fleet.replies(&format!("c{n}"))).sum::<usize>() >= 20;
            eventually("they are answered without Redis", SOON, answered).await;
            fleet.redis.restart();
        }
    }
    for id in &said {
        // Asked from the node that had nothing to do with them: Redis knows.
        eventually("Redis knows the end", SOON, async || outcome(&fleet.other, id).await == "replied").await;
    }
    for n in 0..5 {
        assert_eq!(fleet.replies(&format!("c{n}")), 6, "c{n}");
    }
    let log = fleet.one.log();
    let told = |what: &str| log.matches(what).count();
    assert!(told("Redis is away") >= 1 && told("Redis is back") >= 1, "{}", fleet.one.log_tail());
    assert!(told("Redis is away") <= 3, "said when it changes, not for each message");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_costs_three_round_trips() {
    const MESSAGES: usize = 100;
    let fleet = Fleet::with("").await;
    let seen = fleet.order("MONITOR");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let watching = std::thread::spawn(move || {
        for line in BufReader::new(seen).lines().map_while(Result::ok) {
            let is_asked = line.to_lowercase().contains("\"evalsha\"") && line.contains(":born\"");
            // What keeps the house, and not a message, in order.
            let is_housework = line.contains("\"tidy\"") || line.contains("\"open\"");
            if is_asked && !is_housework {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut last = String::new();
    for n in 0..MESSAGES {
        let (id, webhook) = fleet.say(&format!("c{}", n % 20)).await;
        fleet.deliver(&fleet.one, &webhook).await;
        last = id;
    }
    let answered = async || (0..20).map(|n| fleet.replies(&format!("c{n}"))).sum::<usize>() == MESSAGES;
    eventually("all are answered", SOON, answered).await;
    eventually("and ended", SOON, async || outcome(&fleet.one, &last).await == "replied").await;
    let asked = asked.load(Ordering::Relaxed);
    // Asking how the last one ended is a question of its own.
    assert!(asked <= 3 * MESSAGES + 20, "{asked} questions about {MESSAGES} messages");
    assert!(asked >= 3 * MESSAGES - 20, "{asked}: is the state on Redis?");
    drop(fleet);
    tokio::task::spawn_blocking(move || watching.join().unwrap()).await.unwrap();
}
