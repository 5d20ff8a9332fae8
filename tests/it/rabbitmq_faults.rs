//! A daemon and a RabbitMQ between which something is wrong: it says what, loses nothing, and goes on when it is mended.

use tidegate::simulate::{Customers, customers::Plan};

use crate::support::{
    SOON, Scene, eventually,
    rabbitmq::{Rabbit, definitions},
};

fn on(rabbit: &Rabbit, more: &str) -> String {
    format!(
        "[broker]\nkind = 'rabbitmq'\n[broker.rabbitmq]\nnodes = ['{}']\npassword = 'guest'\npartitions = 4\n{more}\n",
        rabbit.address()
    )
}

fn plan() -> Plan {
    Plan { conversations: 10, per_second: 50.0, total: Some(60), ..Plan::default() }
}

/// The status, and why the broker is down.
async fn readiness(scene: &Scene) -> (String, String) {
    let report = scene.daemon.admin("/readyz").await;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&report["status"]), text(&report["dependencies"]["broker"]["reason"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_that_is_not_there_is_told_and_webhooks_wait_for_it() {
    let rabbit = Rabbit::start();
    let scene = Scene::with(&on(&rabbit, "vhost = 'later'")).await;
    let told = "has no virtual host `later`";
    eventually("it is told", SOON, async || readiness(&scene).await.1.contains(told)).await;
    assert_eq!(readiness(&scene).await.0, "degraded");
    let customers = Customers::start(&scene.zendesk, plan());
    assert!(customers.finished(SOON).await);
    eventually("all are spooled", SOON, async || scene.daemon.metric("tidegate_spool_messages").await > 59.0).await;
    tokio::task::block_in_place(|| {
        rabbit.ctl(&["add_vhost", "later"]);
        rabbit.ctl(&["set_permissions", "-p", "later", "guest", ".*", ".*", ".*"]);
    });
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.stats().judged.answered, 60);
    eventually("it is well", SOON, async || readiness(&scene).await.0 == "ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_are_missing_make_the_node_unready_until_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let rabbit = Rabbit::with(&definitions(folder.path()));
    let user = on(&rabbit, "username = 'reader'").replace("password = 'guest'", "password = 'reader'");
    let scene = Scene::with(&user).await;
    let told = "does not let this user declare what is needed";
    eventually("it is told", SOON, async || readiness(&scene).await.1.contains(told)).await;
    assert_eq!(readiness(&scene).await.0, "unready");
    scene.say("c", "hello").await;
    eventually("it is accepted all the same", SOON, async || scene.zendesk.tally().accepted == 1).await;
    tokio::task::block_in_place(|| rabbit.ctl(&["set_permissions", "reader", ".*", ".*", ".*"]));
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(readiness(&scene).await, ("ready".to_owned(), String::new()));
}

/// The webhook takes more than the server does.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_for_the_server_is_told_and_harms_nobody() {
    let mut rabbit = Rabbit::with("max_message_size = 3000\n");
    let scene = Scene::with(&on(&rabbit, "")).await;
    eventually("it is ready", SOON, async || readiness(&scene).await.0 == "ready").await;
    scene.say("large", &"x".repeat(3_500)).await;
    let customers = Customers::start(&scene.zendesk, plan());
    assert!(customers.finished(SOON).await);
    eventually("the others are answered", SOON, async || scene.zendesk.stats().judged.answered >= 60).await;
    let told = async || readiness(&scene).await.1.contains("larger than RabbitMQ's max_message_size");
    eventually("it is told", SOON, told).await;
    assert_eq!(scene.daemon.metric("tidegate_spool_oversized_messages").await, 1.0);
    let alone = async || scene.daemon.metric("tidegate_spool_messages").await < 1.5;
    eventually("it waits alone", SOON, alone).await;
    let log = scene.daemon.log();
    assert!(log.contains("until its max_message_size is raised") && !log.contains("xxxx"), "the operator is told");
    rabbit.configure("max_message_size = 1000000\n");
    tokio::task::block_in_place(|| rabbit.restart());
    scene.settles().await;
    scene.assert_sound();
    eventually("nothing stays", SOON, async || scene.daemon.metric("tidegate_spool_messages").await < 0.5).await;
}
