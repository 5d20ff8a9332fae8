//! The simulated AI service (`tidegate simulate ai`) in a process of its own, and its dial.

use std::{net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::process::Process;
use crate::ports::free_address;

/// A running simulator.
pub struct Simulator {
    pub address: SocketAddr,
    client: reqwest::Client,
    _process: Process,
}

impl Simulator {
    /// Starts one; its answers are `reply_chars` long.
    pub async fn start(reply_chars: usize) -> Self {
        let address = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["simulate", "ai", "--listen", &address.to_string()]);
        let process = Process::start(command).expect("the simulator can be started");
        tidegate::cli::tls();
        let simulator = Self { address, client: reqwest::Client::new(), _process: process };
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        simulator.behave(&json!({ "reply_chars": reply_chars })).await;
        simulator
    }

    /// The address up to `/chat/completions`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Changes some of its behaviour.
    pub async fn behave(&self, changes: &Value) {
        let url = format!("http://{}/sim/behaviour", self.address);
        let changed = self.client.patch(url).json(changes).send().await.expect("the simulator answers");
        changed.error_for_status().expect("the simulator knows these keys");
    }

    /// Calls that have arrived so far.
    pub async fn calls(&self) -> u64 {
        let url = format!("http://{}/sim/stats", self.address);
        let stats = self.client.get(url).send().await.expect("the simulator answers");
        stats.json::<Value>().await.expect("the simulator tells its counts")["calls"].as_u64().unwrap_or_default()
    }
}
