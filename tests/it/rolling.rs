//! A rolling restart of three nodes behind NGINX, with RabbitMQ and Redis, while customers write.

use std::time::Duration;

use tidegate::simulate::{Customers, ai, customers::Plan};

use crate::{
    nginx::starts_again,
    support::{Fleet, figure, in_rabbitmq, nginx::Nginx},
};

const NODES: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_refuses_loses_and_doubles_nothing() {
    let mut fleet = Fleet::with(NODES, &in_rabbitmq()).await;
    let nginx = Nginx::before(&fleet.daemons.iter().collect::<Vec<_>>()).await;
    fleet.zendesk.aim(Some(&nginx.url("/webhooks/sunshine"))).expect("the address is sound");
    fleet.ai.behave(ai::Behaviour { latency_ms: 50, latency_jitter_ms: 50, ..ai::Behaviour::default() });
    let plan = Plan { conversations: 60, per_second: 60.0, ..Plan::default() };
    let customers = Customers::start(&fleet.zendesk, plan);
    for _ in 0..figure("TIDEGATE_ROLLS", 1) {
        for node in 0..NODES {
            tokio::time::sleep(Duration::from_millis(500)).await;
            starts_again(&mut fleet.daemons[node]).await;
        }
    }
    customers.stop().await;
    fleet.settles().await;
    let stats = fleet.zendesk.stats();
    println!("{stats:?}");
    // One that is handed back while a later one is being answered elsewhere is answered then, and told to be late (G3).
    let judged = &stats.judged;
    assert_eq!((judged.lost, judged.duplicates, judged.misdirected), (0, 0, 0), "{judged:?}\n{}", fleet.logs());
    let refused = (stats.webhook_failed_attempts, stats.webhook_failures_final);
    assert_eq!(refused, (0, 0), "{stats:?}\n{}\n{}", nginx.complaints(), fleet.logs());
    assert!(stats.judged.answered > 100, "{stats:?}");
}
