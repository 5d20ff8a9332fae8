//! Other gateways, as `scripts/bench` installs them: LiteLLM's proxy and Portkey's gateway. Each is set up to pass on to
//! the same service with a key, without a database, a cache, retries or reports to its maker.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    process::Process,
    target::{KEY, MODEL, Target},
};
use crate::ports::free_address;

/// LiteLLM imports for half a minute on a cold disk.
const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// The running ones, and the folder of their settings.
pub struct Peers {
    pub targets: Vec<Target>,
    _folder: TempDir,
}

/// Starts all that are installed; says of each other why it is left out.
pub async fn start(service: &str) -> Peers {
    let tools = tools();
    let folder = crate::daemon::folder();
    let mut peers = Peers { targets: Vec::new(), _folder: folder };
    let folder = peers._folder.path().to_owned();
    let started = [
        ("LiteLLM, 1 worker", litellm(&tools, &folder, service, 1)),
        ("LiteLLM, 2 workers", litellm(&tools, &folder, service, 2)),
        ("Portkey", portkey(&tools, service)),
    ];
    for (name, started) in started {
        let ready = match started {
            Ok(mut target) => target.ready(STARTS_WITHIN).await.map(|()| target),
            Err(why) => Err(why),
        };
        match ready {
            Ok(target) => peers.targets.push(target),
            Err(why) => println!("{name} is left out: {why}"),
        }
    }
    peers
}

fn tools() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").unwrap_or_default().join(".cache"));
    set("TIDEGATE_TEST_TOOLS").unwrap_or_else(|| cache().join("tidegate/tools"))
}

fn litellm(tools: &Path, folder: &Path, service: &str, workers: usize) -> Result<Target, String> {
    let bin = tools.join("litellm/bin");
    let program = bin.join("litellm");
    if !program.exists() {
        return Err(format!("{} is not there (scripts/bench installs it)", program.display()));
    }
    let asked = "import importlib.metadata as m; print(m.version('litellm'))";
    let told = Command::new(bin.join("python")).args(["-c", asked]).output().map_err(|error| error.to_string())?;
    let version = String::from_utf8_lossy(&told.stdout).trim().to_owned();
    let config = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      api_base: {service}\n      api_key: none\nlitellm_settings:\n  num_retries: 0\ngeneral_settings:\n  master_key: {KEY}\n"
    );
    let path = folder.join("litellm.yaml");
    fs::write(&path, config).map_err(|error| error.to_string())?;
    let address = free_address();
    let mut command = Command::new(&program);
    command
        .arg("--config")
        .arg(&path)
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--num_workers", &workers.to_string(), "--telemetry", "False"])
        // Its list of prices lies in the package too.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_MODE", "PRODUCTION")
        .env("LITELLM_LOG", "ERROR")
        .current_dir(folder);
    if workers > 1 {
        // Its usual server ends workers that import for longer than 5 s, and begins again, for ever.
        command.arg("--run_gunicorn");
    }
    let process = Process::start(command).map_err(|error| error.to_string())?;
    let plural = if workers == 1 { "worker" } else { "workers" };
    Ok(Target::process(&format!("LiteLLM {version}, {workers} {plural}"), address, "", process))
}

fn portkey(tools: &Path, service: &str) -> Result<Target, String> {
    let package = tools.join("portkey/node_modules/@portkey-ai/gateway");
    let told = fs::read(package.join("package.json"))
        .map_err(|_| format!("{} is not there (scripts/bench installs it)", package.display()))?;
    let told: Value = serde_json::from_slice(&told).map_err(|error| error.to_string())?;
    let version = told["version"].as_str().unwrap_or_default();
    let address = free_address();
    let mut command = Command::new("node");
    command.arg(package.join("build/start-server.js")).arg(format!("--port={}", address.port())).arg("--headless");
    let process = Process::start(command).map_err(|error| format!("node: {error}"))?;
    let more = format!("x-portkey-provider: openai\r\nx-portkey-custom-host: {service}\r\n");
    Ok(Target::process(&format!("Portkey {version}"), address, &more, process))
}
