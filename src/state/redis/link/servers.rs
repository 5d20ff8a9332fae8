//! Finds the servers: asks all nodes that are configured what they are, each time a connection is made.
//!
//! So a name that points elsewhere by now, a new master and a Cluster that has moved are found without a restart, and
//! no node that hangs or is gone stands in the way of the others.

use std::collections::{BTreeMap, BTreeSet};

use fred::types::config::{ClusterDiscoveryPolicy, ServerConfig};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};

use super::{
    plan::{self, Plan},
    probe::{Facts, Probe, Reply, ServerKind},
    trouble::Trouble,
};
use crate::state::RedisMode;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// One server, which is a master.
    Server(String),
    /// A Cluster, by a member of it that sees it whole, and all members that this one knows.
    Cluster(String, Vec<String>),
}

impl Way {
    /// The node that was found.
    pub fn node(&self) -> &str {
        match self {
            Self::Server(node) | Self::Cluster(node, _) => node,
        }
    }

    /// The same in fred's words; `None` if the node is not `host:port`.
    pub(super) fn server_config(&self) -> Option<ServerConfig> {
        let server = plan::server(self.node())?;
        Some(match self {
            Self::Server(_) => ServerConfig::Centralized { server },
            // Beside this member all that it names are asked later.
            Self::Cluster(..) => {
                ServerConfig::Clustered { hosts: vec![server], policy: ClusterDiscoveryPolicy::UseCache }
            }
        })
    }
}

/// What asking one node came to.
enum Found {
    /// The way.
    Way(Way),
    /// A server on its own; it is taken when nothing better is found.
    Single(String),
}

/// Finds the way, or what is in it. `known`: members of the Cluster that was found before; those who were configured
/// may all be gone by now.
pub async fn find(plan: &Plan, known: &[String]) -> Result<Way, Trouble> {
    let ask = |(index, node): (usize, &'_ String)| {
        let node = node.clone();
        async move { (index, look_at(plan, &node).await) }
    };
    let nodes = plan.nodes.iter().chain(known.iter().filter(|node| !plan.nodes.contains(node)));
    let mut asked: FuturesUnordered<_> = nodes.enumerate().map(ask).collect();
    let mut singles = BTreeMap::new();
    let mut trouble: Option<Trouble> = None;
    while let Some((index, found)) = asked.next().await {
        match found {
            Ok(Found::Way(way)) => return Ok(way),
            Ok(Found::Single(node)) => drop(singles.insert(index, node)),
            Err(other) => {
                if trouble.as_ref().is_none_or(|known| known.weight() < other.weight()) {
                    trouble = Some(other);
                }
            }
        }
    }
    // Of servers on their own the first that is a master, so that all nodes choose the same.
    if let Some((_, node)) = singles.pop_first() {
        return Ok(Way::Server(node));
    }
    Err(trouble.unwrap_or(Trouble::Unreachable { node: "state.redis.nodes".into(), why: "none is named".into() }))
}

async fn look_at(plan: &Plan, node: &str) -> Result<Found, Trouble> {
    let mut probe = Probe::open(plan, node).await?;
    let facts = probe.facts().await?;
    let node = node.to_owned();
    let wrong = |mode, is| Trouble::WrongMode { node: node.clone(), mode, is };
    match (plan.mode, facts.kind) {
        (RedisMode::Auto | RedisMode::Cluster, ServerKind::Cluster) => whole(&mut probe, node).await,
        (RedisMode::Auto | RedisMode::Sentinel, ServerKind::Sentinel) => master(plan, &mut probe, node).await,
        (RedisMode::Auto | RedisMode::Single, ServerKind::Single) => {
            new_enough(&node, &facts)?;
            if facts.replica { Err(Trouble::Replica { node }) } else { Ok(Found::Single(node)) }
        }
        (RedisMode::Single, ServerKind::Cluster) => Err(wrong("\"single\"", "a member of a Cluster")),
        (RedisMode::Single, ServerKind::Sentinel) => Err(wrong("\"single\"", "a Sentinel")),
        (RedisMode::Sentinel, ServerKind::Cluster) => Err(wrong("\"sentinel\"", "a member of a Cluster")),
        (RedisMode::Sentinel, ServerKind::Single) => Err(wrong("\"sentinel\"", "a server, not a Sentinel")),
        (RedisMode::Cluster, ServerKind::Single) => Err(wrong("\"cluster\"", "a server on its own")),
        (RedisMode::Cluster, ServerKind::Sentinel) => Err(wrong("\"cluster\"", "a Sentinel")),
    }
}

/// A member that does not see its Cluster whole is no way in.
async fn whole(probe: &mut Probe, node: String) -> Result<Found, Trouble> {
    match probe.ask(&["CLUSTER", "INFO"]).await? {
        Reply::Text(text) if text.contains("cluster_state:ok") => {
            let slots = probe.ask(&["CLUSTER", "SLOTS"]).await?;
            Ok(Found::Way(Way::Cluster(node, members(&slots))))
        }
        Reply::Error(said) => Err(Trouble::NotAllowed { node, said }),
        _ => Err(Trouble::ClusterDown { node }),
    }
}

/// Everybody named in CLUSTER SLOTS: of each range its ends, then its nodes as address, port, and more.
fn members(slots: &Reply) -> Vec<String> {
    let nodes = slots.list().iter().flat_map(|range| range.list().get(2..).unwrap_or_default());
    let named = nodes.filter_map(|node| match node.list() {
        [Reply::Text(host), Reply::Number(port), ..] if !host.is_empty() && host != "?" => Some(address(host, *port)),
        _ => None,
    });
    named.collect::<BTreeSet<_>>().into_iter().collect()
}

fn address(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Asks a Sentinel for the master, and the master whether it is one.
async fn master(plan: &Plan, probe: &mut Probe, node: String) -> Result<Found, Trouble> {
    let name = match plan.master.as_str() {
        "" => only_master(probe).await?,
        name => name.to_owned(),
    };
    let reply = probe.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &name]).await?;
    let [host, port] = reply.list() else { return Err(Trouble::UnknownMaster { node, name }) };
    let (Some(host), Some(port)) = (host.text(), port.text()) else {
        return Err(Trouble::UnknownMaster { node, name });
    };
    let address = address(host, port);
    let facts = Probe::open(plan, &address).await?.facts().await?;
    new_enough(&address, &facts)?;
    if facts.replica { Err(Trouble::Replica { node: address }) } else { Ok(Found::Way(Way::Server(address))) }
}

/// The name of the only master that a Sentinel watches; empty if there are several.
async fn only_master(probe: &mut Probe) -> Result<String, Trouble> {
    let reply = probe.ask(&["SENTINEL", "MASTERS"]).await?;
    let [master] = reply.list() else { return Ok(String::new()) };
    let mut pairs = master.list().chunks_exact(2);
    let name = pairs.find(|pair| pair[0].text() == Some("name")).and_then(|pair| pair[1].text());
    Ok(name.unwrap_or_default().to_owned())
}

/// RESP3 and users came with Redis 6.
fn new_enough(node: &str, facts: &Facts) -> Result<(), Trouble> {
    let major = facts.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(0..6) => Err(Trouble::Old { node: node.to_owned(), version: facts.version.clone() }),
        _ => Ok(()),
    }
}

/// What each of these nodes is; for those who look, not connect.
pub async fn survey(plan: &Plan, nodes: &[String]) -> Vec<(String, Result<Facts, Trouble>)> {
    let ask = |node: &String| {
        let node = node.clone();
        async move {
            let facts = match Probe::open(plan, &node).await {
                Ok(mut probe) => probe.facts().await,
                Err(trouble) => Err(trouble),
            };
            (node, facts)
        }
    };
    join_all(nodes.iter().map(ask)).await
}
