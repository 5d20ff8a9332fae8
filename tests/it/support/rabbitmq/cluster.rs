//! Three servers that form a cluster, as in production: `pause_minority`.

use std::fmt::Write as _;

use super::{Epmd, Server};

/// Three servers.
pub struct Cluster {
    servers: Vec<Server>,
    _epmd: Epmd,
}

impl Cluster {
    /// Starts three, at once: they find each other.
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same, with more lines in each one's `rabbitmq.conf`.
    pub fn with(config: &str) -> Self {
        let epmd = Epmd::start();
        let mut servers: Vec<Server> = (0..3).map(|n| Server::prepare(&format!("n{n}-"), epmd.port, "")).collect();
        let mut common = format!(
            "cluster_partition_handling = pause_minority\ncluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.discovery_retry_limit = 60\ncluster_formation.discovery_retry_interval = 1000\n{config}\n"
        );
        for (n, server) in servers.iter().enumerate() {
            writeln!(common, "cluster_formation.classic_config.nodes.{} = {}", n + 1, server.name).expect("it is text");
        }
        for server in &mut servers {
            server.configure(&common);
            server.boot();
        }
        for server in &mut servers {
            server.await_answer();
        }
        Self { servers, _epmd: epmd }
    }

    /// Their addresses as `host:port`.
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(Server::address).collect()
    }

    /// kill -9.
    pub fn kill(&mut self, n: usize) {
        self.servers[n].kill();
    }

    /// Stops one as an operator does, and waits for that.
    pub fn stop(&mut self, n: usize) {
        self.servers[n].stop();
    }

    /// Starts one again, without waiting for it to answer.
    pub fn boot(&mut self, n: usize) {
        self.servers[n].kill();
        self.servers[n].boot();
    }

    /// Waits until one answers.
    pub fn await_answer(&mut self, n: usize) {
        self.servers[n].await_answer();
    }

    /// Stops a process where it is, or lets it go on.
    pub fn freeze(&self, n: usize, frozen: bool) {
        self.servers[n].freeze(frozen);
    }

    /// Breaks a server's links to these others off, or lets them meet again; clients still reach all. One that knows
    /// another cookie for its peer speaks with it no more.
    pub fn part(&self, n: usize, from: &[usize], parted: bool) {
        let mut asked = String::new();
        for peer in from {
            let peer = &self.servers[*peer].name;
            let step = if parted {
                format!("erlang:set_cookie('{peer}', parted), erlang:disconnect_node('{peer}'), ")
            } else {
                format!("erlang:set_cookie('{peer}', erlang:get_cookie()), ")
            };
            asked.push_str(&step);
        }
        self.ctl(n, &["eval", &format!("{asked} ok.")]);
    }

    /// Runs `rabbitmqctl` against one, which takes seconds; what it prints.
    pub fn ctl(&self, n: usize, arguments: &[&str]) -> String {
        self.servers[n].ctl(arguments)
    }

    /// The same, whether it succeeds or not; one that hangs is not waited for.
    pub fn told(&self, n: usize, arguments: &[&str]) -> String {
        let mut command = self.servers[n].command("rabbitmqctl");
        let ended = command.args(arguments).args(["--timeout", "20"]).output().expect("rabbitmqctl can be started");
        String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned()
    }
}
