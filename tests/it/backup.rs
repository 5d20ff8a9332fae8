//! `tidegate backup` under load and `tidegate restore`: nothing is lost, nothing is answered twice.

use std::{path::Path, process::Command};

use tidegate::simulate::ai;

use crate::support::{SOON, Scene, eventually};

async fn tidegate(action: &str, folder: &Path, scene: &Scene) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let config = scene.daemon.data().with_file_name("config.toml");
    command.arg(action).arg(folder).arg("--config").arg(config).env_clear();
    let ended = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (ended.status.code().unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restored_from_a_copy_loses_and_doubles_nothing() {
    let mut scene = Scene::with("").await;
    scene.ai.behave(ai::Behaviour { latency_ms: 600, ..ai::Behaviour::default() });
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    for n in 0..60 {
        scene.say(&format!("c{}", n % 20), "hello").await;
    }
    // Each conversation is known: of one that begins after the copy was taken nobody would know.
    eventually("each was answered once", SOON, async || scene.zendesk.stats().judged.answered >= 20).await;
    // The rest takes so long that the copy is made meanwhile.
    scene.ai.behave(ai::Behaviour { latency_ms: 4_000, ..ai::Behaviour::default() });
    let (code, said) = tidegate("backup", &copy, &scene).await;
    assert_eq!(code, 0, "{said}");
    let answered = scene.zendesk.stats().judged.answered;
    assert!(answered < 60, "taken while messages were under way");
    let (again, said) = tidegate("backup", &copy, &scene).await;
    assert_eq!(again, 1, "nothing is written over: {said}");
    scene.ai.behave(ai::Behaviour { latency_ms: 600, ..ai::Behaviour::default() });
    // Answered after the copy was taken: it knows nothing of that.
    scene.settles().await;
    for n in 0..10 {
        scene.say(&format!("c{n}"), "after the copy").await;
    }
    scene.settles().await;
    // Accepted after the copy was taken, and not answered when the disk is lost; one of them before our last reply.
    let (calls, replies) = (scene.ai.stats().calls, scene.replies("c15").len());
    scene.say("c15", "asked before the loss").await;
    eventually("it is in the AI's hands", SOON, async || scene.ai.stats().calls == calls + 1).await;
    scene.ai.behave(ai::Behaviour { down: true, ..ai::Behaviour::default() });
    scene.say("c15", "written meanwhile").await;
    eventually("the one before is answered", SOON, async || scene.replies("c15").len() == replies + 1).await;
    for n in 0..5 {
        scene.say(&format!("c{n}"), "before the loss").await;
    }
    eventually("all are stored", SOON, async || scene.zendesk.stats().judged.accepted == 77).await;
    scene.daemon.kill();
    let (refused, said) = tidegate("restore", &copy, &scene).await;
    assert!(refused == 1 && said.contains("move it away"), "{refused} {said}");
    let data = scene.daemon.data();
    std::fs::rename(&data, data.with_file_name("lost")).unwrap();
    let (code, said) = tidegate("restore", &copy, &scene).await;
    assert!(code == 0 && said.contains("restored"), "{code} {said}");
    scene.ai.behave(ai::Behaviour::default());
    scene.daemon.spawn_again();
    scene.daemon.serves().await;
    scene.settles().await;
    eventually("the absence is made up for", SOON, async || {
        scene.daemon.log().contains("the absence has been made up for")
    })
    .await;
    scene.settles().await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_copy_is_refused() {
    let mut scene = Scene::with("").await;
    scene.daemon.kill();
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = tidegate("restore", folder.path(), &scene).await;
    assert!(code == 1 && said.contains("is no backup"), "{code} {said}");
    let loose = scene.daemon.data().join("queue.db-wal");
    std::fs::create_dir_all(scene.daemon.data()).unwrap();
    for file in ["queue.db", "state.db"] {
        std::fs::remove_file(scene.daemon.data().join(file)).unwrap();
    }
    std::fs::write(&loose, "a log without its database").unwrap();
    std::fs::write(folder.path().join("backup.json"), r#"{"taken_at":"2026-01-01T00:00:00Z","version":"0.1.0"}"#)
        .unwrap();
    let (code, said) = tidegate("restore", folder.path(), &scene).await;
    assert!(code == 1 && said.contains("queue.db-wal is there"), "{code} {said}");
    scene.daemon.change("[state]\nkind = 'redis'\n");
    let (code, said) = tidegate("backup", folder.path(), &scene).await;
    assert!(code == 1 && said.contains("Redis's to back up"), "{code} {said}");
    scene.daemon.change("[broker]\nkind = 'rabbitmq'\n");
    let (code, said) = tidegate("backup", folder.path(), &scene).await;
    assert!(code == 1 && said.contains("RabbitMQ's to back up"), "{code} {said}");
}
