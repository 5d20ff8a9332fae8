//! G4: however many nodes ask, an AI service sees no more calls than its windows allow.

use tidegate::simulate::{Ai, Customers, Zendesk, ai, customers::Plan, quota::Quota, zendesk};

use tokio::time::Instant;

use crate::support::{ANYWHERE, Daemon, SOON, eventually, figure, redis::Redis, settle_within};

const NODES: u64 = 3;

/// Nodes with one Redis before one AI service; each answers customers of its own.
struct Fleet {
    nodes: Vec<(Daemon, Zendesk)>,
    ai: Ai,
    _redis: Redis,
}

impl Fleet {
    /// `configured` requests in the window of a service that really allows `allowed`.
    async fn start(configured: u64, allowed: u32, per_ms: u64) -> Self {
        let redis = Redis::start();
        let ai = Ai::start(ANYWHERE, ai::Options::default()).await.unwrap();
        ai.behave(ai::Behaviour { quota: vec![Quota { requests: allowed, per_ms }], ..ai::Behaviour::default() });
        let config = format!(
            "[cache]\nenabled = false\n[state]\nkind = 'redis'\n[state.redis]\nnodes = ['{}']\n[[ai.services]]\n\
             limits = {{ windows = [{{ requests = {configured}, per = '{per_ms}ms' }}] }}\n",
            redis.address()
        );
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let zendesk = Zendesk::start(ANYWHERE, zendesk::Options::default()).await.unwrap();
            let daemon = Daemon::start(&config, &zendesk, &ai).await;
            zendesk.aim(Some(&daemon.url("/webhooks/sunshine"))).unwrap();
            nodes.push((daemon, zendesk));
        }
        Self { nodes, ai, _redis: redis }
    }

    /// Customers write so many messages, a third to each node, faster than they can be answered.
    async fn are_written_to(&self, messages: u64) {
        let total = messages / NODES;
        let conversations = usize::try_from(total).unwrap();
        let plan = Plan { conversations, per_second: 100.0, total: Some(total), ..Plan::default() };
        let writing: Vec<_> = self.nodes.iter().map(|(_, zendesk)| Customers::start(zendesk, plan.clone())).collect();
        for customers in writing {
            assert!(customers.finished(settle_within()).await);
        }
    }

    async fn settles(&self) {
        for (daemon, zendesk) in &self.nodes {
            let settled = tidegate::simulate::customers::settled(zendesk, settle_within()).await;
            assert!(settled, "{:?}\n{}", zendesk.stats(), daemon.log_tail());
            let judged = zendesk.stats().judged;
            assert_eq!((judged.lost, judged.duplicates, judged.out_of_order), (0, 0, 0), "{judged:?}");
        }
    }

    async fn calls(&self) -> Vec<f64> {
        let mut calls = Vec::new();
        for (daemon, _) in &self.nodes {
            calls.push(daemon.metric("tidegate_ai_requests_total{service=\"primary\",outcome=\"ok\"").await);
        }
        calls
    }
}

fn window() -> (u64, u64, u64) {
    (figure("TIDEGATE_LIMIT_REQUESTS", 20), figure("TIDEGATE_LIMIT_MS", 1_000), figure("TIDEGATE_LIMIT_MESSAGES", 300))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_share_a_limit_evenly_and_the_service_never_refuses() {
    let (requests, per_ms, messages) = window();
    let fleet = Fleet::start(requests, u32::try_from(requests).unwrap(), per_ms).await;
    let (began, began_at) = (fleet.calls().await, Instant::now());
    fleet.are_written_to(messages).await;
    let half = (messages / 2) as f64;
    let done = async || fleet.calls().await.iter().sum::<f64>() >= half;
    eventually("half are answered", settle_within().max(SOON), done).await;
    let calls: Vec<f64> = fleet.calls().await.iter().zip(began).map(|(now, then)| now - then).collect();
    let fair = calls.iter().sum::<f64>() / NODES as f64;
    assert!(calls.iter().all(|calls| (calls - fair).abs() <= fair * 0.2), "{calls:?}");
    fleet.settles().await;
    let stats = fleet.ai.stats();
    // The first window is full at once; from then on each call has to wait for its place.
    let windows = 1.0 + began_at.elapsed().as_millis() as f64 / per_ms as f64;
    let used = 100.0 * stats.calls as f64 / (windows * requests as f64);
    println!("{used:.1} % of the quota used");
    // A window is longer by 300 ms, in which a permit may be on its way: of a second that leaves 77 %, of ten 97 %.
    assert!(used >= figure("TIDEGATE_LIMIT_USED_PERCENT", 65) as f64, "{used:.1} %, {stats:?}");
    println!("halfway {calls:?}; {stats:?}");
    assert!(stats.max_in_window.iter().all(|peak| peak.max_in_window <= u64::from(peak.requests)), "{stats:?}");
    assert_eq!((stats.status_429, stats.calls_before_retry_after), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_told_twice_the_real_limit_learn_it_from_a_few_refusals() {
    let (requests, per_ms, messages) = window();
    let fleet = Fleet::start(2 * requests, u32::try_from(requests).unwrap(), per_ms).await;
    fleet.are_written_to(messages).await;
    fleet.settles().await;
    let stats = fleet.ai.stats();
    let permille = stats.status_429 * 1_000 / stats.calls;
    println!("{permille} of a thousand calls refused; {stats:?}");
    // With a window of a second the limit is tried anew every few seconds.
    assert!(permille < figure("TIDEGATE_LIMIT_REFUSED_PERMILLE", 100), "{stats:?}");
}
