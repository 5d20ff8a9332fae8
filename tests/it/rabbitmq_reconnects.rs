//! Connections that break again and again leave nothing behind in the node.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::support::{Proxy, SOON, Scene, eventually, figure, rabbitmq};

/// A node has one connection to publish with and one to consume with.
const CONNECTIONS: u64 = 2;

/// Files that come and go: those of the stores.
const FILES_VARY_BY: usize = 2;

/// Memory that the allocator keeps for later.
const MEMORY_VARIES_BY_KIB: usize = 12 * 1024;

/// What a node uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    memory_kib: usize,
    files: usize,
    /// But for those of the runtime, which keeps as many for what blocks as there was of it at once.
    threads: usize,
    actors: usize,
}

impl Usage {
    async fn of(Scene { daemon, zendesk, ai, .. }: &Scene) -> Self {
        let port = |url: &str| url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
        let http = [port(&zendesk.url()), port(&ai.url()), port(&daemon.url("")), port(&daemon.admin_url(""))];
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("the process lives");
        let read = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("it is a number")
        };
        Self {
            memory_kib: read("VmRSS:"),
            files: files(daemon.pid(), http),
            threads: threads(daemon.pid()),
            actors: actors(&daemon.admin("/admin/actors").await),
        }
    }

    /// The most of each.
    fn most(&self, other: &Self) -> Self {
        Self {
            memory_kib: self.memory_kib.max(other.memory_kib),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
            actors: self.actors.max(other.actors),
        }
    }

    /// Whether a node that used `before` can be said to use no more now.
    fn is_no_more_than(&self, before: &Self) -> bool {
        self.files <= before.files + FILES_VARY_BY
            && self.threads <= before.threads
            && self.actors <= before.actors
            && self.memory_kib <= before.memory_kib + before.memory_kib / 10 + MEMORY_VARIES_BY_KIB
    }
}

/// The open files of a process, but for connections of these ports: as many of them are kept as there was work at once.
fn files(pid: u32, but: [u16; 4]) -> usize {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the process lives");
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let left_out: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, remote) = (port(columns.get(1)?)?, port(columns.get(2)?)?);
            (but.contains(&local) || but.contains(&remote)).then(|| format!("socket:[{}]", columns[9]))
        })
        .collect();
    let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let links = all.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.filter(|link| left_out.iter().all(|socket| link.as_os_str() != socket.as_str())).count()
}

/// The threads of a process, but for those of the runtime.
fn threads(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let names = all.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() != "tokio-rt-worker").count()
}

/// How many there are in a tree.
fn actors(tree: &Value) -> usize {
    1 + tree["children"].as_array().map_or(0, |children| children.iter().map(actors).sum())
}

/// A node behind a way that can be cut, and a customer for each partition.
struct Scenery {
    scene: Scene,
    proxy: Proxy,
    said: usize,
}

impl Scenery {
    /// Cuts all connections, and waits until they are there again and every partition is answered.
    async fn reconnects(&mut self) {
        let connected = self.proxy.connected() + CONNECTIONS;
        self.proxy.cut();
        eventually("it is connected again", SOON, async || self.proxy.connected() >= connected).await;
        self.said += 1;
        for conversation in 0..rabbitmq::PARTITIONS {
            self.scene.say(&format!("c{conversation}"), "are you there?").await;
        }
        for conversation in 0..rabbitmq::PARTITIONS {
            let conversation = format!("c{conversation}");
            eventually("all are answered", SOON, async || self.scene.replies(&conversation).len() >= self.said).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_leave_nothing_behind() {
    let (address, prefix) = rabbitmq::shared();
    let proxy = Proxy::to(&address).await;
    let scene = Scene::with(&rabbitmq::config(&[proxy.address()], &prefix)).await;
    let mut scenery = Scenery { scene, proxy, said: 0 };
    let (few, all) = (figure("TIDEGATE_RECONNECTS_FEW", 4), figure("TIDEGATE_RECONNECTS", 12));
    scenery.reconnects().await;
    let mut before = Usage::of(&scenery.scene).await;
    for _ in 1..few {
        scenery.reconnects().await;
        // At a single moment something may just not be there.
        before = before.most(&Usage::of(&scenery.scene).await);
    }
    println!("after {few}: {before:?}");
    for _ in few..all {
        scenery.reconnects().await;
    }
    let mut after = Usage::of(&scenery.scene).await;
    // A closed connection's thread takes a moment to end.
    for _ in 0..SOON.as_secs() {
        if after.is_no_more_than(&before) {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        after = Usage::of(&scenery.scene).await;
    }
    println!("after {all}: {after:?}");
    assert!(after.is_no_more_than(&before), "{before:?} after {few} reconnects, {after:?} after {all}");
    scenery.scene.settles().await;
    scenery.scene.assert_sound();
    assert!(scenery.scene.daemon.metric("tidegate_dead_letters_total").await < 0.5);
    let queues = scenery.scene.daemon.admin("/admin/queues").await;
    assert_eq!((&queues["chat"]["dead"], &queues["chat"]["parked"]), (&0.into(), &0.into()), "{queues}");
}
