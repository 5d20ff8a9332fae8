//! Each role in a process of its own: together they are one system.

use serde_json::json;
use tidegate::simulate::{Ai, Customers, Zendesk, ai, customers::Plan, zendesk};

use crate::support::{
    ANYWHERE, Daemon, Fleet, SOON, eventually, figure, rabbitmq,
    redis::Redis,
    webhooks::{delivery, event, post},
};

const ROLES: [&str; 5] = ["ingress", "api", "chat", "events", "retry"];

async fn one_for_each_role() -> Fleet {
    let (address, prefix) = rabbitmq::shared();
    let redis = Redis::start();
    let faults = "[faults]\npanic = 0.03\n[retry]\nbase = '20ms'\n";
    let state = format!("[state]\nkind = 'redis'\n[state.redis]\nnodes = ['{}']\n", redis.address());
    let config = format!("{state}{}{faults}", rabbitmq::config(&[address], &prefix));
    let zendesk = Zendesk::start(ANYWHERE, zendesk::Options::default()).await.expect("a port is free");
    let ai = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
    let mut daemons = Vec::new();
    for role in ROLES {
        daemons.push(Daemon::start_with(&["--role", role], &config, &zendesk, &ai).await);
    }
    let fleet = Fleet { zendesk, ai, daemons, redis };
    fleet.zendesk.aim(Some(&fleet.daemons[0].url("/webhooks/sunshine"))).expect("the address is sound");
    fleet.agrees().await;
    fleet
}

fn with<'a>(fleet: &'a Fleet, role: &str) -> &'a Daemon {
    &fleet.daemons[ROLES.iter().position(|one| *one == role).expect("it is a role")]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_in_a_process_of_its_own_settles_everything_together() {
    let fleet = one_for_each_role().await;
    let total = figure("TIDEGATE_RABBITMQ_MESSAGES", 400);
    let plan = Plan { conversations: 20, per_second: 100.0, total: Some(total), ..Plan::default() };
    let customers = Customers::start(&fleet.zendesk, plan);
    let reference = fleet.zendesk.next_reference();
    let refused = fleet.zendesk.say("refused", &format!("[[ai:refuse]] {reference}")).await;
    assert!(customers.finished(SOON).await);
    fleet.settles().await;
    fleet.assert_sound();

    let retried = with(&fleet, "retry").metric("tidegate_retries_total").await;
    assert!(retried > 0.5, "messages fail in one process and are tried again by another: {retried}");
    assert_eq!(fleet.zendesk.stats().judged.handed_off, 1, "{:?}", fleet.zendesk.stats());
    let told = async || with(&fleet, "retry").admin(&format!("/admin/messages/{refused}")).await;
    eventually("what the AI refuses is parked", SOON, async || told().await["outcome"] == "parked").await;

    let answered = &fleet.zendesk.messages(&customers.conversations()[0])[0];
    let shown = with(&fleet, "chat").settled(&answered.id).await;
    let (status, task) = with(&fleet, "api").task(shown["id"].as_str().expect("it has an id")).await;
    assert_eq!((status, &task["state"], &task["outcome"]), (200, &json!("done"), &json!("replied")), "{task}");

    let report =
        json!({ "conversation": { "id": "c" }, "message": { "id": "ours" }, "error": null, "isFinalEvent": true });
    let body = delivery(&[event("e-report", "conversation:message:delivery:failure", &report)]);
    let headers =
        [("x-api-key", fleet.zendesk.options().webhook_secret.as_str()), ("content-type", "application/json")];
    assert_eq!(post(with(&fleet, "ingress"), "/webhooks/sunshine", &headers, body).await.status, 200);
    eventually("a report of a delivery is counted where events are worked on", SOON, async || {
        with(&fleet, "events").metric("tidegate_delivery_reports_total{outcome=\"failed\"}").await > 0.5
    })
    .await;
}
