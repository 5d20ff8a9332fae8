//! A real Prometheus with the shipped rules and alerts, that scrapes a daemon every half second.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Daemon, eventually};
use crate::ports::free_address;

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// Scrapes until it is dropped.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    client: reqwest::Client,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes this daemon.
    pub async fn scraping(daemon: &Daemon) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let address = free_address();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
        let config = format!(
            "global: {{ scrape_interval: 500ms, evaluation_interval: 500ms }}\n\
             rule_files: [{0}/rules.yml, {0}/alerts.yml]\n\
             scrape_configs:\n- job_name: tidegate\n  static_configs: [{{ targets: ['{1}'] }}]\n",
            shipped.display(),
            daemon.admin_address()
        );
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, config).expect("it can be written");
        let log = fs::File::create(folder.path().join("log")).expect("a log can be written");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("prometheus cannot be started ({error}); install prometheus (scripts/test does)")
            });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
        let prometheus = Self { child, address, client, _folder: folder };
        eventually("Prometheus is ready", STARTS_WITHIN, async || prometheus.ask("/-/ready", &[]).await.is_some())
            .await;
        prometheus
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<String> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}{path}", self.address), query).ok()?;
        let answer = self.client.get(url).send().await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    }

    /// What its API says.
    pub async fn api(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let text = self.ask(&format!("/api/v1/{path}"), query).await;
        let text = text.unwrap_or_else(|| panic!("Prometheus refuses {path} {query:?}"));
        serde_json::from_str::<Value>(&text).expect("it is JSON")["data"].clone()
    }

    /// Whether a query has any result.
    pub async fn has(&self, query: &str) -> bool {
        let told = self.api("query", &[("query", query)]).await;
        told["result"].as_array().is_some_and(|result| !result.is_empty())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
