//! One breaker for the fleet: three daemons, one Redis, real processes.

use tidegate::simulate::{Ai, ai};

use crate::support::{ANYWHERE, Fleet, SOON, eventually, redis::Redis};

impl Fleet {
    /// Three daemons; the last one has the AI service to itself that is given.
    async fn with_breakers(recovery: &str, apart: Option<&Ai>) -> Self {
        let config = format!(
            "[retry]\nbase = '20ms'\n[[ai.services]]\ntimeout = '1s'\nbreaker = {{ recovery_timeout = '{recovery}' }}\n"
        );
        let last = apart.map_or(config.clone(), |ai| format!("{config}base_url = '{}/v1'\n", ai.url()));
        let redis = Redis::start();
        let place = format!("nodes = ['{}']\n", redis.address());
        Self::of(redis, &place, &[&config, &config, &last]).await
    }

    /// Customers write to one node.
    async fn say_to(&self, node: usize, conversations: &[&str]) {
        self.zendesk.aim(Some(&self.daemons[node].url("/webhooks/sunshine"))).unwrap();
        for conversation in conversations {
            let reference = self.zendesk.next_reference();
            self.zendesk.say(conversation, &format!("hello? {reference}")).await;
        }
        eventually("the node has the messages", SOON, async || self.zendesk.stats().webhooks_queued == 0).await;
    }

    async fn is(&self, node: usize, state: &str) -> bool {
        let shown = self.daemons[node].admin("/admin/breakers").await;
        shown["primary"]["state"] == state
    }

    async fn all_are(&self, state: &str) {
        for node in 0..self.daemons.len() {
            eventually(&format!("node {node} is {state}"), SOON, async || self.is(node, state).await).await;
        }
    }
}

fn failing() -> ai::Behaviour {
    ai::Behaviour { status: 503, ..ai::Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_opens_all_nodes_and_costs_one_probe_for_the_fleet() {
    let fleet = Fleet::with_breakers("1s", None).await;
    fleet.ai.behave(failing());
    fleet.say_to(0, &["a1", "a2", "a3"]).await;
    fleet.say_to(1, &["b1", "b2", "b3"]).await;
    fleet.all_are("open").await;
    fleet.say_to(2, &["c1", "c2", "c3"]).await;
    let before = fleet.ai.stats().calls;
    let trips = async || fleet.daemons[0].admin("/admin/breakers").await["primary"]["trips"].as_u64().unwrap();
    let trips_before = trips().await;
    eventually("it was probed twice", SOON, async || trips().await >= trips_before + 2).await;
    let probes = fleet.ai.stats().calls - before;
    let openings = trips().await - trips_before;
    println!("{probes} calls for {openings} openings");
    assert!(probes <= openings + 1, "{probes} calls for {openings} openings of the whole fleet");
    fleet.ai.behave(ai::Behaviour::default());
    fleet.all_are("closed").await;
    eventually("all are answered", SOON, async || fleet.zendesk.stats().judged.answered == 9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prober_that_is_killed_does_not_wedge_the_others() {
    let mut fleet = Fleet::with_breakers("1s", None).await;
    fleet.ai.behave(failing());
    fleet.say_to(0, &["a1", "a2", "a3", "a4", "a5", "a6"]).await;
    fleet.all_are("open").await;
    fleet.ai.behave(ai::Behaviour { hang: true, ..ai::Behaviour::default() });
    // Only this node has somebody who waits.
    eventually("it probes", SOON, async || fleet.ai.stats().in_flight == 1).await;
    fleet.daemons[0].kill();
    fleet.daemons.remove(0);
    fleet.ai.behave(ai::Behaviour::default());
    fleet.say_to(0, &["b1"]).await;
    fleet.all_are("closed").await;
    eventually("the others answer", SOON, async || fleet.zendesk.stats().judged.answered >= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_alone_cannot_reach_the_service_is_open_alone() {
    let broken = Ai::start(ANYWHERE, ai::Options::default()).await.unwrap();
    broken.behave(failing());
    let fleet = Fleet::with_breakers("30s", Some(&broken)).await;
    fleet.say_to(0, &["a1", "a2"]).await;
    eventually("the well node answers", SOON, async || fleet.zendesk.stats().judged.answered == 2).await;
    fleet.say_to(2, &["c1", "c2", "c3", "c4", "c5", "c6"]).await;
    eventually("the broken node is open", SOON, async || fleet.is(2, "open").await).await;
    fleet.say_to(1, &["b1", "b2"]).await;
    eventually("the others go on", SOON, async || fleet.zendesk.stats().judged.answered == 4).await;
    assert!(fleet.is(0, "closed").await && fleet.is(1, "closed").await);
    let shown = fleet.daemons[2].admin("/admin/breakers").await;
    assert_eq!(shown["primary"]["scope"], "node");
}
