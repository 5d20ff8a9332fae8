//! `tidegate run` and `tidegate check`, as an operator starts them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate::simulate::{Ai, ai};

use crate::support::{
    ANYWHERE, SOON, Scene,
    command::{self, Said},
    eventually, webhooks,
};

/// The command, with a configuration.
async fn tidegate(arguments: &[&str], config: &Path) -> Said {
    let config = config.to_str().expect("the path is text");
    command::tidegate(&[arguments, &["--config", config]].concat(), &[]).await
}

fn written(folder: &tempfile::TempDir, config: &str) -> PathBuf {
    let path = folder.path().join("config.toml");
    std::fs::write(&path, config).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_effective_configuration_is_printed_without_secrets_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = format!(
        "[zendesk]\nwebhook_secrets = ['hunter2', 'hunter3']\nkey_secret = 'hunter4'\n[broker.embedded]\npath = '{}'\n\
         [admin]\ntokens = [{{ name = 'ada', token = 'hunter5' }}]\n[http]\nrequest_timeout = '7s'\n\
         [[ai.services]]\nname = 'a'\napi_key = 'hunter6'\n",
        data.display()
    );
    let path = written(&folder, &config);
    let said = tidegate(&["run", "--print-config", "--role", "chat", "--role", "retry"], &path).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);
    assert!(!said.out.contains("hunter") && said.out.contains("***"), "{}", said.out);
    let shown: toml::Table = said.out.parse().unwrap();
    assert_eq!(shown["node"]["roles"], toml::Value::from(vec!["chat", "retry"]), "the command line wins");
    assert_eq!(shown["http"]["request_timeout"].as_str(), Some("7s"), "the file is in it");
    assert_eq!(shown["http"]["connections"].as_integer(), Some(1024), "the defaults too");
    assert!(!data.exists(), "nothing was started");
    let said = tidegate(&["run", "--role", "dance"], &path).await;
    assert!(said.code == 64 && said.err.contains("roles"), "{}: {}", said.code, said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_listener_that_can_be_reached_from_outside_needs_tokens() {
    let folder = tempfile::tempdir().unwrap();
    for (tokens, code) in
        [("", 64), ("tokens = [{ name = 'ada', token = '' }]\n", 64), ("tokens = [{ name = 'ada', token = 'x' }]\n", 0)]
    {
        let path = written(&folder, &format!("[admin]\nlisten = '0.0.0.0:0'\n{tokens}"));
        let said = tidegate(&["run", "--print-config"], &path).await;
        assert_eq!(said.code, code, "{tokens}: {}", said.err);
        assert!(code == 0 || said.err.contains("admin.tokens"), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_does_what_its_roles_say_and_leaves_the_rest_to_others() {
    let mut scene = Scene::with("[node]\nroles = ['ingress', 'api']\n").await;
    scene.say("c", "hello").await;
    eventually("it is accepted", SOON, async || scene.zendesk.tally().accepted == 1).await;
    let tree = scene.daemon.admin("/admin/actors").await.to_string();
    assert!(tree.contains("node/ingress/0") && !tree.contains("node/chat") && !tree.contains("node/retry"), "{tree}");
    scene.daemon.restart("[node]\nroles = ['api']\n").await;
    let refused = scene.deliver(webhooks::delivery(&[])).await;
    assert_eq!((refused.status, refused.body["type"].as_str()), (404, Some("urn:tidegate:problem:no-such-route")));
    scene.daemon.restart("[node]\nroles = ['chat', 'events', 'retry']\n").await;
    assert!(reqwest::get(scene.daemon.url("/livez")).await.is_err(), "it has no public listener");
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.replies("c").len(), 1, "what one node took, the other answered");
}

/// The findings of `check --json` by what they are about: whether it is well, and what is said.
async fn check(config: &Path) -> (i32, Vec<(String, bool, String)>) {
    let said = tidegate(&["check", "--json"], config).await;
    let findings: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}{}", said.out, said.err));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let finding = |it: &Value| {
        let said = format!("{} -> {}", text(it, "detail"), text(it, "remedy"));
        (text(it, "what"), it["ok"].as_bool().unwrap(), said)
    };
    (said.code, findings.iter().map(finding).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_what_would_not_work_and_says_what_to_do() {
    let mut scene = Scene::with("[admin]\nfault_injection = false\n").await;
    let path = scene.daemon.data().with_file_name("config.toml");
    let (code, findings) = check(&path).await;
    let used = |(what, ok, said): &(String, bool, String)| what == "queue folder" && *ok && said.contains("in use");
    assert!(code == 0 && findings.iter().any(used), "beside a node that runs: {code} {findings:?}");
    scene.daemon.kill();
    let (code, findings) = check(&path).await;
    let about: Vec<&str> = findings.iter().map(|(what, ..)| what.as_str()).collect();
    assert_eq!((code, about), (0, vec!["queue folder", "zendesk", "ai/primary"]), "{findings:?}");
    let people = tidegate(&["check"], &path).await;
    assert!(people.code == 0 && people.out.contains("ok   zendesk"), "{}", people.out);
    let options = ai::Options { key: Some("another".to_owned()), ..ai::Options::default() };
    let locked = Ai::start(ANYWHERE, options).await.unwrap();
    let cases = [
        ("[zendesk]\nkey_secret = 'wrong'\n", "zendesk", "zendesk.key_secret"),
        ("[zendesk]\nwebhook_secrets = []\n", "configuration", "zendesk.webhook_secrets"),
        ("[[ai.services]]\nbase_url = 'http://127.0.0.1:9/v1'\n", "ai/primary", "base_url"),
        (&format!("[[ai.services]]\nbase_url = '{}/v1'\n", locked.url()), "ai/primary", "api_key"),
    ];
    let good = std::fs::read_to_string(&path).unwrap();
    for (change, about, remedy) in cases {
        scene.daemon.change(change);
        let (code, findings) = check(&path).await;
        let told = |(what, ok, said): &(String, bool, String)| what == about && !ok && said.contains(remedy);
        assert!(code == 1 && findings.iter().any(told), "{change}: {code} {findings:?}");
        std::fs::write(&path, &good).unwrap();
    }
    let base_url = format!("[[ai.services]]\nbase_url = '{}'\n", scene.ai.url());
    let azure = |path: &str| format!("[[ai.services]]\nprovider = 'azure'\nbase_url = '{}{path}'\n", scene.ai.url());
    for (change, about, remedy) in [
        (azure("").as_str(), "ai/primary", "takes the key"),
        (
            &azure("/openai"),
            "ai/primary",
            "/openai/openai/models answers 404 -> check base_url of this service: up to and without /openai,",
        ),
        ("[[ai.services]]\nmodel = 'simulatd'\n", "ai/primary", "lists no model simulatd -> it lists simulated;"),
        (&base_url, "ai/primary", "answers 404 -> check base_url"),
    ] {
        scene.daemon.change(change);
        let (code, findings) = check(&path).await;
        let told = |(what, ok, said): &(String, bool, String)| what == about && *ok && said.contains(remedy);
        assert!(code == 0 && findings.iter().any(told), "{change}: {code} {findings:?}");
        std::fs::write(&path, &good).unwrap();
    }
    // Who answers no conversations needs no Zendesk.
    scene.daemon.change("[node]\nroles = ['api']\n[zendesk]\napi_url = 'http://127.0.0.1:9'\n");
    let (code, findings) = check(&path).await;
    assert!(code == 0 && findings.iter().all(|(what, ..)| what != "zendesk"), "{code} {findings:?}");
    std::fs::write(&path, &good).unwrap();
    scene.daemon.change("[http]\nlisten = 'nowhere'\n");
    let said = tidegate(&["check"], &path).await;
    assert!(said.code == 64 && said.err.contains("http.listen"), "{}: {}", said.code, said.err);
}
