//! Proves the gateway with OpenAI's own clients, in Python and in JavaScript.

use std::{path::Path, process::Command};

use crate::{
    official_client::{python, tools},
    support::{KEY, Scene},
};

async fn runs(mut client: Command, scene: &Scene) {
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().expect("it can be started");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{out}{err}\n{}", scene.daemon.log_tail());
}

fn script(program: impl AsRef<std::ffi::OsStr>, name: &str, scene: &Scene) -> Command {
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(name));
    command.args([&scene.daemon.url("/v1"), KEY, &scene.ai.url()]);
    command
}

/// The same whoever answers.
async fn python_client(provider: &str, service: &str) {
    let mut scene = Scene::with("[api]\nmax_retries = 0\nwait = '100ms'\n").await;
    let base_url = scene.ai.url();
    scene.daemon.restart(&service.replace("BASE", &base_url)).await;
    let mut client = script(python(), "gateway_client.py", &scene);
    client.arg(provider);
    runs(client, &scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_python_client_works_against_the_gateway() {
    python_client("openai", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_python_client_works_where_anthropic_answers() {
    python_client("anthropic", "[[ai.services]]\nprovider = 'anthropic'\nbase_url = 'BASE'\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_python_client_works_where_azure_answers() {
    python_client("azure", "[[ai.services]]\nprovider = 'azure'\nbase_url = 'BASE'\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_javascript_client_works_against_the_gateway() {
    let scene = Scene::with("[api]\nmax_retries = 0\nwait = '100ms'\n").await;
    let folder = tools().join("node");
    let installed = folder.join("node_modules/openai").exists();
    assert!(installed, "run scripts/test, or: npm install --prefix {} openai", folder.display());
    let mut client = script("node", "gateway_client.mjs", &scene);
    client.arg(folder);
    runs(client, &scene).await;
}
