//! The daemon under load, and what the system says of it.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{client::SECRET, ports::free_address};

/// A running daemon; ended with its handle.
pub struct Daemon {
    child: Child,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    _folder: TempDir,
}

/// A folder on the disk on which the project lies; a temporary file system would not sync.
pub fn folder() -> TempDir {
    let target = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().expect("a program lies in a folder");
    tempfile::tempdir_in(target).expect("a folder can be made")
}

impl Daemon {
    /// Starts it and waits until it takes connections.
    pub async fn start(role: Option<&str>, settings: &[(&str, String)]) -> Self {
        let [public, admin] = [(); 2].map(|()| free_address());
        let folder = folder();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(role) = role {
            command.args(["--role", role]);
        }
        let within = |name: &str| folder.path().join(name).display().to_string();
        command
            .env("TIDEGATE__HTTP__LISTEN", public.to_string())
            .env("TIDEGATE__ADMIN__LISTEN", admin.to_string())
            .env("TIDEGATE__BROKER__EMBEDDED__PATH", within("data"))
            .env("TIDEGATE__BROKER__SPOOL__PATH", within("spool"))
            .env("TIDEGATE__ZENDESK__WEBHOOK_SECRETS", SECRET)
            .env("TIDEGATE__CHAT__MERGE_QUIET", "0s")
            .env("TIDEGATE__TELEMETRY__LOG_LEVEL", "error");
        for (key, value) in settings {
            command.env(format!("TIDEGATE__{key}"), value);
        }
        let child = command.spawn().expect("the daemon can be started");
        let daemon = Self { child, public, admin, _folder: folder };
        while tokio::net::TcpStream::connect(public).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon
    }

    /// CPU seconds used so far.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }

    /// Memory in RAM, in MiB.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
