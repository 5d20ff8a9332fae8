//! What a service manager hears (systemd, `sd_notify(3)`), and what checks of containers ask.

use std::os::unix::net::UnixDatagram;

use crate::support::{SOON, Scene, command::tidegate_at, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_that_it_runs_lives_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let heard = std::cell::RefCell::new(String::new());
    let hears = async |what: &str| {
        let mut text = [0; 4096];
        while let Ok(length) = socket.recv(&mut text) {
            heard.borrow_mut().push_str(&String::from_utf8_lossy(&text[..length]));
        }
        heard.borrow().contains(what)
    };
    let mut scene = Scene::with("").await;
    assert!(!hears("READY=1").await, "there is no manager");
    scene.daemon.set_environment(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")]);
    scene.daemon.restart("").await;
    eventually("it says that it runs", SOON, async || hears("READY=1").await).await;
    heard.borrow_mut().clear();
    eventually("it says that it lives", SOON, async || hears("WATCHDOG=1").await).await;
    scene.daemon.terminate();
    eventually("it says that it ends", SOON, async || hears("STOPPING=1").await).await;
    scene.daemon.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_a_node_that_serves_from_one_that_does_not() {
    let mut scene = Scene::with("").await;
    let admin = scene.daemon.admin_url("");
    let health = async || tidegate_at(&admin, &["health"]).await;
    let well = health().await;
    assert_eq!((well.code, well.out.trim()), (0, "ready"), "{}", well.err);
    scene.ai.behave(tidegate::simulate::ai::Behaviour { latency_ms: 1_500, ..Default::default() });
    scene.say("c1", "hello").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().calls == 1).await;
    scene.say("c1", "are you there?").await;
    let waits = async || scene.daemon.admin("/admin/conversations/c1").await["waiting"].as_array().map(Vec::len);
    eventually("another one waits behind it", SOON, async || waits().await == Some(2)).await;
    let drained = tidegate_at(&admin, &["drain", "--wait", "20s"]).await;
    assert_eq!(drained.code, 0, "{}", drained.err);
    assert_eq!(scene.replies("c1").len(), 1, "it waits for what is in hand");
    let resumed = tidegate_at(&admin, &["resume"]).await;
    assert_eq!(resumed.code, 0, "{}", resumed.err);
    scene.settles().await;
    assert_eq!(scene.replies("c1").len(), 2, "what waited was given back, and is answered once the node works again");
    assert_eq!(tidegate_at(&admin, &["drain", "--wait", "20s"]).await.code, 0);
    let audited = scene.daemon.admin("/admin/audit").await;
    let drains = audited["entries"].as_array().into_iter().flatten().filter(|entry| entry["action"] == "node.drain");
    assert_eq!(drains.count(), 2, "however often it looks: {audited}");
    let other = tidegate_at(&admin, &["drain", "somebody", "--wait", "1s"]).await;
    assert!(other.code == 1 && other.err.contains("--admin"), "{}", other.err);
    let unready = health().await;
    assert!(unready.code == 1 && unready.err.contains("drained by an operator"), "{} {}", unready.code, unready.err);
    let strange = tidegate_at(&scene.ai.url(), &["health"]).await;
    assert!(strange.code == 1 && strange.err.contains("does not answer like"), "{} {}", strange.out, strange.err);
    scene.daemon.kill();
    let gone = health().await;
    assert!(gone.code == 1 && gone.err.contains("no node answers"), "{} {}", gone.code, gone.err);
}
