//! An AI service away for longer than RabbitMQ waits for an acknowledgement, while connections break and nodes are
//! restarted: the messages wait, and no try is spent (G5, design rule 8).

use std::time::Duration;

use tidegate::simulate::{Customers, ai, customers::Plan};
use tokio::{task::block_in_place, time::sleep};

use crate::support::{
    Fleet, Proxy, SOON, eventually, figure, metric,
    rabbitmq::{self, Rabbit},
    redis::Redis,
};

const NODES: usize = 2;

/// Messages whose timelines are read.
const READ_MAX: usize = 500;

/// What a failure would have counted, on all nodes.
async fn tries_spent(fleet: &Fleet) -> f64 {
    let mut spent = 0.0;
    for daemon in &fleet.daemons {
        let metrics = daemon.metrics().await;
        spent += metric(&metrics, "tidegate_dead_letters_total") + metric(&metrics, "tidegate_retries_total");
    }
    spent
}

/// One node after the other is stopped as an operator does it, and started again.
async fn rolling_restart(fleet: &mut Fleet) {
    for daemon in &mut fleet.daemons {
        daemon.terminate();
        eventually("the node ends within its grace", SOON, async || daemon.ended().is_some()).await;
        assert_eq!(daemon.ended().and_then(|status| status.code()), Some(0), "{}", daemon.log_tail());
        daemon.restart("").await;
    }
}

/// No timeline tells of a failure, or of a pause before another try.
async fn timelines_know_of_no_try(fleet: &Fleet, conversations: &[String]) {
    let messages = conversations.iter().flat_map(|conversation| fleet.zendesk.messages(conversation));
    let written = messages.filter(|message| message.author == "user").take(READ_MAX);
    for message in written {
        let shown = fleet.daemons[0].settled(&message.id).await;
        assert_eq!(shown["outcome"], "replied", "{shown}");
        let timeline = shown["timeline"].as_array().expect("an ended message has one");
        let failed = timeline.iter().any(|entry| entry["stage"] == "failed" || entry["on"] == "retry");
        assert!(!failed, "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ai_outage_longer_than_the_broker_waits_spends_no_try() {
    let consumer_timeout = figure("TIDEGATE_CONSUMER_TIMEOUT_MS", 6_000);
    // The server looks this often whether a consumer is over its time; by default once a minute.
    let looks = "{channel_tick_interval, 1000}";
    let server = format!("consumer_timeout = {consumer_timeout}");
    let (rabbit, redis) = block_in_place(|| (Rabbit::with_advanced(&server, looks), Redis::start()));
    let proxy = Proxy::to(&rabbit.address()).await;
    let config = rabbitmq::config(&[proxy.address()], "t");
    let config = format!("{config}consumer_timeout = '{consumer_timeout}ms'\n");
    let place = format!("nodes = ['{}']\n", redis.address());
    let mut fleet = Fleet::on(redis, &place, NODES, &config).await;
    let per_second = figure("TIDEGATE_OUTAGE_PER_SECOND", 20) as f64;
    // Fewer wait in each than a conversation may hold of its partition: whoever holds more sends the rest round, and where
    // that is, a node that takes over does not know.
    let conversations = usize::try_from(figure("TIDEGATE_OUTAGE_CONVERSATIONS", 40)).unwrap();
    let customers = Customers::start(&fleet.zendesk, Plan { conversations, per_second, ..Plan::default() });
    eventually("some are answered", SOON, async || fleet.zendesk.stats().judged.answered > 20).await;

    fleet.ai.behave(ai::Behaviour { status: 503, ..ai::Behaviour::default() });
    let cuts = u32::try_from(figure("TIDEGATE_CUTS", 5)).unwrap();
    let restarts = u32::try_from(figure("TIDEGATE_RESTARTS", 1)).unwrap();
    let between = Duration::from_millis(figure("TIDEGATE_OUTAGE_MS", 15_000)) / cuts;
    let mut spent = 0.0;
    for cut in 1..=cuts {
        sleep(between).await;
        proxy.cut();
        if cut % (cuts / restarts) == 0 {
            spent += tries_spent(&fleet).await;
            rolling_restart(&mut fleet).await;
        }
    }
    let waiting = fleet.zendesk.stats().judged.lost;
    println!("{waiting} messages wait at the end of the outage");
    assert!(waiting > 50, "there was no outage: {:?}", fleet.zendesk.stats());

    fleet.ai.behave(ai::Behaviour { latency_ms: 10, ..ai::Behaviour::default() });
    customers.stop().await;
    fleet.settles().await;
    fleet.assert_sound();
    spent += tries_spent(&fleet).await;
    assert!(spent < 0.5, "{spent} tries were spent\n{}", fleet.logs());
    let judged = fleet.zendesk.stats().judged;
    assert_eq!(judged.answered, judged.accepted, "{judged:?}");
    timelines_know_of_no_try(&fleet, &customers.conversations()).await;
    for daemon in &fleet.daemons {
        // The server says so when it closes a channel on which something was held for too long.
        assert!(!daemon.log().contains("consumer_timeout"), "{}", daemon.log_tail());
    }
    println!("{judged:?}");
}
