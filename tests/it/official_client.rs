//! Proves the simulators with foreign clients: the Python packages of Zendesk, OpenAI and Anthropic.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::simulate::{Ai, Zendesk, ai, zendesk};

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Where `scripts/test` installs what only tests need.
pub fn tools() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var_os("TIDEGATE_TEST_TOOLS").map_or_else(|| root.join("target/test-tools"), PathBuf::from);
    root.join(tools)
}

/// The interpreter of the virtual environment that `scripts/test` creates.
pub fn python() -> PathBuf {
    let venv = tools().join("python");
    let python = venv.join("bin/python");
    assert!(
        python.exists(),
        "{} is missing; run scripts/test, or: python3 -m venv {venv} && {venv}/bin/pip install \
         sunshine-conversations-client==17.0.1 anthropic openai prometheus-client schemathesis",
        python.display(),
        venv = venv.display(),
    );
    python
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_clients_work_against_the_simulators() {
    let python = python();
    let zendesk = Zendesk::start(LOOPBACK, zendesk::Options::default()).await.unwrap();
    let key = Some("simulated-ai-key".to_owned());
    let ai = Ai::start(LOOPBACK, ai::Options { key: key.clone(), ..ai::Options::default() }).await.unwrap();
    let options = zendesk.options();
    let mut command = Command::new(python);
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/official_client.py"))
        .args([&zendesk.url(), &options.app_id, &options.key_id, &options.key_secret, &ai.url()])
        .args(key)
        .envs([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the script ended with {}:\n{said}", output.status);
    assert!(zendesk.stats().posts > 0 && ai.stats().ok > 0, "the script has really used the simulators");
}
