//! The queue in RabbitMQ: one node and several, while nodes and the broker come and go.

use tidegate::simulate::{Customers, ai, customers::Plan};

use crate::support::{
    Fleet, SOON, Scene, eventually, figure,
    rabbitmq::{self, Rabbit},
    redis::Redis,
};

fn on(address: &str, prefix: &str) -> String {
    rabbitmq::config(&[address.to_owned()], prefix)
}

fn plan(conversations: usize, total: u64) -> Plan {
    Plan { conversations, per_second: 100.0, total: Some(total), ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_answers_from_rabbitmq_also_what_fails_or_was_in_hand_when_it_died() {
    let (address, prefix) = rabbitmq::shared();
    let faults = "[faults]\npanic = 0.02\n[retry]\nbase = '20ms'\n";
    let mut scene = Scene::with(&format!("{}{faults}", on(&address, &prefix))).await;
    scene.ai.behave(ai::Behaviour { latency_ms: 20, ..ai::Behaviour::default() });
    let total = figure("TIDEGATE_RABBITMQ_MESSAGES", 400);
    let customers = Customers::start(&scene.zendesk, plan(20, total));
    eventually("the work is under way", SOON, async || scene.zendesk.stats().judged.answered >= total / 4).await;
    scene.daemon.restart("").await;
    assert!(customers.finished(SOON).await);
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_goes_and_comes_back_and_every_webhook_is_answered_meanwhile() {
    let mut rabbit = Rabbit::start();
    let scene = Scene::with(&on(&rabbit.address(), "t")).await;
    let customers = Customers::start(&scene.zendesk, plan(20, 400));
    eventually("the work is under way", SOON, async || scene.zendesk.stats().judged.answered >= 50).await;
    rabbit.kill();
    eventually("messages are spooled", SOON, async || scene.daemon.metric("tidegate_spool_messages").await > 0.5).await;
    let health = scene.daemon.admin("/readyz").await;
    assert_eq!((&health["status"], &health["dependencies"]["broker"]["state"]), (&"degraded".into(), &"down".into()));
    tokio::task::block_in_place(|| rabbit.restart());
    assert!(customers.finished(SOON).await);
    scene.settles().await;
    scene.assert_sound();
    eventually("the spool is empty", SOON, async || scene.daemon.metric("tidegate_spool_messages").await < 0.5).await;
    assert_eq!(scene.zendesk.stats().webhook_failed_attempts, 0, "every webhook was answered 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_the_partitions_and_take_over_from_one_that_dies() {
    let (address, prefix) = rabbitmq::shared();
    let redis = Redis::start();
    let place = format!("nodes = ['{}']\n", redis.address());
    // What lies in the spool of a node that has died comes late, and that is nothing to be judged here.
    let patient = format!("{}[broker.spool]\nconfirm_within = '10s'\n", on(&address, &prefix));
    let mut fleet = Fleet::on(redis, &place, 3, &patient).await;
    let customers = Customers::start(&fleet.zendesk, plan(40, 900));
    eventually("the work is under way", SOON, async || fleet.zendesk.stats().judged.answered >= 200).await;
    fleet.daemons[0].kill();
    let answered = fleet.zendesk.stats().judged.answered;
    eventually("the others go on", SOON, async || fleet.zendesk.stats().judged.answered >= answered + 200).await;
    fleet.daemons[0].restart("").await;
    assert!(customers.finished(SOON).await);
    fleet.settles().await;
    fleet.assert_sound();
}
