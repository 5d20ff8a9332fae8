//! A Redis Cluster.

use super::{FLEETING, Redis, wait_for};
use crate::ports::free_port;

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;

/// Three masters, then a replica of each.
pub struct Cluster {
    /// The servers; the first three began as masters, number 3 is a replica of number 0.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts one that holds no elections by itself on a busy machine.
    pub fn start() -> Self {
        Self::with_node_timeout(5_000)
    }

    /// Starts one that replaces a master that was silent for so long, in milliseconds.
    pub fn with_node_timeout(ms: u32) -> Self {
        let timeout = ms.to_string();
        let nodes: Vec<Redis> = (0..2 * MASTERS)
            .map(|_| {
                let bus = free_port().to_string();
                let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", &timeout];
                Redis::with(&[&FLEETING[..], &cluster].concat())
            })
            .collect();
        let cluster = Self { nodes };
        cluster.join();
        cluster
    }

    /// The addresses of all nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::address).collect()
    }

    /// The node that has the key: its number.
    pub fn master_of(&self, key: &str) -> usize {
        let slot: usize = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot is a number");
        slot * MASTERS / SLOTS
    }

    fn join(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            said_ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            if index < MASTERS {
                let from = (index * SLOTS).div_ceil(MASTERS).to_string();
                let to = (((index + 1) * SLOTS).div_ceil(MASTERS) - 1).to_string();
                said_ok(node, &["CLUSTER", "ADDSLOTSRANGE", &from, &to]);
            }
        }
        let ports: Vec<(String, String)> = self.nodes.iter().map(|node| (node.port(), bus_port(node))).collect();
        for (port, bus) in &ports[1..] {
            said_ok(&self.nodes[0], &["CLUSTER", "MEET", "127.0.0.1", port, bus]);
        }
        let knows_all = |node: &Redis| node.command(&["CLUSTER", "NODES"]).lines().count() == 2 * MASTERS;
        wait_for("the nodes know each other", || self.nodes.iter().all(knows_all));
        for index in MASTERS..2 * MASTERS {
            let master = self.nodes[index - MASTERS].command(&["CLUSTER", "MYID"]);
            let follow = ["CLUSTER", "REPLICATE", &master];
            wait_for("a replica follows", || self.nodes[index].command(&follow) == "OK");
        }
        // A replica is not told to clients before it has gossiped how far it is.
        let tells_all = |node: &Redis| {
            let told = node.command(&["CLUSTER", "SLOTS"]);
            ports.iter().all(|(port, _)| told.lines().any(|line| line == port))
        };
        wait_for("the cluster is sound", || self.nodes.iter().all(|node| is_sound(node) && tells_all(node)));
    }
}

impl Redis {
    fn port(&self) -> String {
        self.address.port().to_string()
    }
}

fn bus_port(node: &Redis) -> String {
    let at = node.args.iter().position(|arg| arg == "--cluster-port").expect("it was told");
    node.args[at + 1].clone()
}

/// It serves all slots, and every master has its replica, in its own eyes.
fn is_sound(node: &Redis) -> bool {
    let replicas = |text: String| text.lines().filter(|line| line.contains("slave")).count();
    let linked = node.command(&["ROLE"]).lines().next() == Some("master")
        || node.command(&["INFO", "replication"]).contains("master_link_status:up");
    linked
        && node.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        && replicas(node.command(&["CLUSTER", "NODES"])) == MASTERS
}

fn said_ok(node: &Redis, command: &[&str]) {
    assert_eq!(node.command(command), "OK", "{command:?}");
}
