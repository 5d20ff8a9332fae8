//! The partitions are spread evenly over the nodes that live, and moved without a double reply when one joins or leaves.

use std::time::Duration;

use serde_json::Value;
use tidegate::simulate::{Customers, ai, customers::Plan};
use tokio::time::Instant;

use crate::support::{Daemon, Fleet, SOON, eventually, figure, rabbitmq, redis::Redis};

/// How long it may take until a change of the fleet has come to an end; 10 s where the machine has nothing else to do.
fn rebalanced_within() -> Duration {
    Duration::from_millis(figure("TIDEGATE_REBALANCED_MS", 30_000))
}

/// Deliveries that a node has taken, of each partition.
async fn taken(daemon: &Daemon) -> Vec<u64> {
    let tree = daemon.admin("/admin/actors?limit=1").await;
    let children = |tree: &Value| tree["children"].as_array().cloned().unwrap_or_default();
    let chat =
        children(&tree).into_iter().find(|child| child["path"] == "node/chat").expect("it answers conversations");
    let of = |partition: usize| {
        let path = format!("node/chat/{partition}");
        let consumer = children(&chat).into_iter().find(|child| child["path"] == path.as_str());
        consumer.and_then(|consumer| consumer["handled"].as_u64()).expect("each partition has its consumer")
    };
    (0..rabbitmq::PARTITIONS).map(of).collect()
}

/// How many partitions each node consumes from: what it takes while customers write to all.
async fn consumed(fleet: &Fleet) -> Vec<usize> {
    let mut before = Vec::new();
    for daemon in &fleet.daemons {
        before.push(taken(daemon).await);
    }
    let mut counts = Vec::new();
    eventually("something is taken from every partition", SOON, async || {
        counts.clear();
        let mut seen = [false; rabbitmq::PARTITIONS];
        for (daemon, before) in fleet.daemons.iter().zip(&before) {
            let now = taken(daemon).await;
            let more: Vec<bool> = now.iter().zip(before).map(|(now, before)| now > before).collect();
            seen.iter_mut().zip(&more).for_each(|(seen, more)| *seen |= *more);
            counts.push(more.iter().filter(|more| **more).count());
        }
        seen.iter().all(|seen| *seen)
    })
    .await;
    counts
}

/// Waits until all have as many as the others, give or take one, and tells how long that took.
async fn evens_out(fleet: &Fleet, what: &str) {
    let began = Instant::now();
    let (least, nodes) = (rabbitmq::PARTITIONS / fleet.daemons.len(), fleet.daemons.len());
    let most = rabbitmq::PARTITIONS.div_ceil(nodes);
    loop {
        let counts = consumed(fleet).await;
        // One that was moved meanwhile is counted twice.
        let even = counts.iter().sum::<usize>() == rabbitmq::PARTITIONS
            && counts.iter().all(|count| (least..=most).contains(count));
        if even {
            println!("{what}: {counts:?} after {:.1?}", began.elapsed());
            return;
        }
        let took = began.elapsed();
        assert!(took < rebalanced_within(), "{what}: {counts:?} after {took:.1?}\n{}", fleet.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_spread_evenly_and_move_when_a_node_joins_or_leaves() {
    let (address, prefix) = rabbitmq::shared();
    let redis = Redis::start();
    let place = format!("nodes = ['{}']\n", redis.address());
    let config = rabbitmq::config(&[address], &prefix);
    let mut fleet = Fleet::on(redis, &place, 3, &config).await;
    fleet.ai.behave(ai::Behaviour { latency_ms: 20, ..ai::Behaviour::default() });
    let plan = Plan { conversations: 200, per_second: 60.0, ..Plan::default() };
    let customers = Customers::start(&fleet.zendesk, plan);
    evens_out(&fleet, "three nodes").await;

    let shared = format!("[state]\nkind = 'redis'\n[state.redis]\n{place}{config}");
    fleet.daemons.push(Daemon::start(&shared, &fleet.zendesk, &fleet.ai).await);
    fleet.aim();
    evens_out(&fleet, "one has joined").await;

    let mut leaving = fleet.daemons.pop().expect("there are four");
    fleet.aim();
    leaving.terminate();
    let leaves = Instant::now();
    let ended = eventually("the node ends within its grace", SOON, async || leaving.ended().is_some());
    tokio::join!(evens_out(&fleet, "one leaves"), async {
        ended.await;
        println!("its process ended after {:.1?}", leaves.elapsed());
    });
    customers.stop().await;
    fleet.settles().await;
    fleet.assert_sound();
}
