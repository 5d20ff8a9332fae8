//! Three nodes on a cluster of three RabbitMQ servers, while nodes, servers and the ways between them fail one after
//! another: nothing lost, nothing twice, in order, and every partition is answered again in time.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tidegate::simulate::{Customers, Zendesk, ai, customers::Plan, zendesk};
use tokio::{task::block_in_place, time::Instant};

use crate::support::{
    Fleet, Proxy, SOON, eventually, figure,
    rabbitmq::{self, Cluster},
    redis::Redis,
};

const NODES: usize = 3;

/// A node that is silent for so long is gone; only then the others take its partitions over.
const EXPIRES_AFTER: Duration = Duration::from_secs(6);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NodeKilled,
    NodeStopped,
    NodeHung,
    ServerKilled,
    ServerStopped,
    ServerHung,
    ClientsCut,
    /// From both others: these have a majority.
    ServerCutOff,
    /// From one other: both pause until they meet again, and nobody has a majority meanwhile.
    ServersParted,
}

/// What the normal suite has time for.
const SOME: [Fault; 4] = [Fault::NodeKilled, Fault::ServerKilled, Fault::ClientsCut, Fault::ServerCutOff];

const ALL: [Fault; 9] = [
    Fault::NodeKilled,
    Fault::NodeStopped,
    Fault::NodeHung,
    Fault::ServerKilled,
    Fault::ServerStopped,
    Fault::ServerHung,
    Fault::ClientsCut,
    Fault::ServerCutOff,
    Fault::ServersParted,
];

/// A customer for each partition, who writes again when he has been answered.
struct Probes {
    zendesk: Zendesk,
    conversations: Vec<String>,
}

impl Probes {
    fn new(zendesk: &Zendesk) -> Self {
        let in_partition = |partition: usize| {
            let all = (0..).map(|n| format!("probe{n}"));
            let mut of_it = all.filter(|conversation| rabbitmq::partition_of(conversation) == partition);
            of_it.next().expect("there is one for each partition")
        };
        Self { zendesk: zendesk.clone(), conversations: (0..rabbitmq::PARTITIONS).map(in_partition).collect() }
    }

    fn answered(&self, conversation: &str) -> usize {
        let messages = self.zendesk.messages(conversation);
        messages.iter().filter(|message| message.author == "business").count()
    }

    async fn say(&self, conversation: &str) {
        let reference = self.zendesk.next_reference();
        self.zendesk.say(conversation, &format!("are you there? {reference}")).await;
    }

    /// Writes for a while and waits until all is answered; the longest anybody waited for an answer, or who waits too long.
    async fn longest_wait(&self, for_a_while: Duration) -> Result<Duration, String> {
        let allowed = Duration::from_millis(figure("TIDEGATE_RECOVERS_MS", 60_000));
        let began = Instant::now();
        let mut asked = Vec::new();
        for conversation in &self.conversations {
            asked.push((self.answered(conversation) + 1, Some(Instant::now())));
            self.say(conversation).await;
        }
        let mut longest = Duration::ZERO;
        while asked.iter().any(|(_, since)| since.is_some()) {
            for (conversation, (number, since)) in self.conversations.iter().zip(&mut asked) {
                let Some(said) = *since else { continue };
                let waits = said.elapsed();
                if waits > allowed {
                    return Err(format!("{conversation} waits for {waits:.1?}: {:?}", self.zendesk.stats()));
                }
                if self.answered(conversation) < *number {
                    continue;
                }
                longest = longest.max(waits);
                *since = (began.elapsed() < for_a_while).then(Instant::now);
                if since.is_some() {
                    *number += 1;
                    self.say(conversation).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(longest)
    }
}

struct Trial {
    fleet: Fleet,
    rabbit: Cluster,
    proxies: Vec<Proxy>,
    probes: Probes,
    random: StdRng,
}

impl Trial {
    async fn begins(seed: u64) -> Self {
        let began = Instant::now();
        // Until its net_ticktime is over the others wait for a server that hangs, whatever a client does; a minute by default.
        let (rabbit, redis) = block_in_place(|| (Cluster::with("net_ticktime = 5"), Redis::start()));
        println!("the cluster was there after {:.1?}", began.elapsed());
        let mut proxies = Vec::new();
        for address in rabbit.addresses() {
            proxies.push(Proxy::to(&address).await);
        }
        let nodes: Vec<String> = proxies.iter().map(Proxy::address).collect();
        let config = rabbitmq::config(&nodes, "t");
        let place = format!("nodes = ['{}']\n", redis.address());
        let options = zendesk::Options {
            webhook_retry_base: Duration::from_millis(50),
            // What a hung node has taken is sent to another one.
            webhook_timeout: Duration::from_secs(3),
            ..Default::default()
        };
        let fleet = Fleet::set(redis, &place, &[config.as_str(); NODES], options).await;
        fleet.ai.behave(ai::Behaviour { latency_ms: 20, latency_jitter_ms: 20, ..ai::Behaviour::default() });
        let probes = Probes::new(&fleet.zendesk);
        let random = StdRng::seed_from_u64(seed);
        Self { fleet, rabbit, proxies, probes, random }
    }

    async fn recovers(&self, what: &str, for_a_while: Duration) -> Duration {
        match self.probes.longest_wait(for_a_while).await {
            Ok(waited) => waited,
            Err(why) => panic!("{what}: {why}\n{}\n{}", self.where_things_stand().await, self.fleet.logs()),
        }
    }

    /// What the servers and the nodes know of the queues; for failures.
    async fn where_things_stand(&self) -> String {
        let queues = ["list_queues", "name", "leader", "online", "messages_ready", "messages_unacknowledged"];
        let consumers = ["list_consumers", "queue_name", "channel_pid", "active", "activity_status", "prefetch_count"];
        let mut told = String::new();
        for n in 0..NODES {
            let connected = ["eval", "nodes()."];
            for question in [&connected[..], &queues[..], &consumers[..]] {
                told += &format!("server {n}:\n{}\n", block_in_place(|| self.rabbit.told(n, question)));
            }
        }
        for (n, daemon) in self.fleet.daemons.iter().enumerate() {
            let asked = async || (daemon.admin("/admin/queues").await, daemon.admin("/admin/nodes").await);
            told += &match tokio::time::timeout(SOON, asked()).await {
                Ok((queues, nodes)) => format!("node {n}: {queues}\n{nodes}\n"),
                Err(_) => format!("node {n} does not answer\n"),
            };
        }
        told
    }

    async fn strikes(&mut self, fault: Fault) {
        let n = self.random.random_range(0..NODES);
        let for_a_while = Duration::from_millis(figure("TIDEGATE_CALM_MS", 1_500));
        self.begins_to(fault, n).await;
        let without = if fault == Fault::ServersParted {
            tokio::time::sleep(for_a_while).await;
            None
        } else {
            Some(self.recovers(&format!("{fault:?} ({n})"), for_a_while).await)
        };
        if fault == Fault::NodeHung {
            // Until the others take it for gone.
            tokio::time::sleep(EXPIRES_AFTER).await;
        }
        self.ends(fault, n).await;
        let afterwards = self.recovers(&format!("{fault:?} ({n}) is over"), for_a_while).await;
        println!("{fault:?} ({n}): answered after {without:.1?}; when it was over after {afterwards:.1?}");
    }

    async fn begins_to(&mut self, fault: Fault, n: usize) {
        match fault {
            Fault::NodeKilled => self.fleet.daemons[n].kill(),
            Fault::NodeStopped => self.fleet.daemons[n].terminate(),
            Fault::NodeHung => {
                self.fleet.daemons[n].freeze(true);
                self.fleet.aim_past(n);
            }
            Fault::ServerKilled => self.rabbit.kill(n),
            Fault::ServerStopped => block_in_place(|| self.rabbit.stop(n)),
            Fault::ServerHung => self.rabbit.freeze(n, true),
            Fault::ClientsCut => self.proxies.iter().for_each(Proxy::cut),
            Fault::ServerCutOff | Fault::ServersParted => self.part(fault, n, true),
        }
    }

    async fn ends(&mut self, fault: Fault, n: usize) {
        let daemon = &mut self.fleet.daemons[n];
        match fault {
            Fault::NodeKilled => daemon.restart("").await,
            Fault::NodeStopped => {
                eventually("the node ends within its grace", SOON, async || daemon.ended().is_some()).await;
                daemon.restart("").await;
            }
            Fault::NodeHung => {
                daemon.freeze(false);
                self.fleet.aim();
            }
            Fault::ServerKilled | Fault::ServerStopped => {
                self.rabbit.boot(n);
                block_in_place(|| self.rabbit.await_answer(n));
            }
            Fault::ServerHung => self.rabbit.freeze(n, false),
            Fault::ClientsCut => {}
            Fault::ServerCutOff | Fault::ServersParted => self.part(fault, n, false),
        }
    }

    fn part(&self, fault: Fault, n: usize, parted: bool) {
        let peers = [(n + 1) % NODES, (n + 2) % NODES];
        let from = if fault == Fault::ServerCutOff { &peers[..] } else { &peers[..1] };
        block_in_place(|| self.rabbit.part(n, from, parted));
    }

    async fn ends_well(&self) {
        self.fleet.settles().await;
        self.fleet.assert_sound();
        for daemon in &self.fleet.daemons {
            eventually("the spool is empty", SOON, async || daemon.metric("tidegate_spool_messages").await < 0.5).await;
        }
        let stats = self.fleet.zendesk.stats();
        assert_eq!(stats.webhook_failures_final, 0, "a webhook was given up: {stats:?}");
        assert_eq!(stats.judged.handed_off, 0, "a message failed: {stats:?}");
        println!("{stats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_servers_and_the_ways_between_them_fail_one_after_another() {
    let seed = figure("TIDEGATE_SEED", rand::random::<u32>().into());
    println!("seed {seed}");
    let mut trial = Trial::begins(seed).await;
    let total = figure("TIDEGATE_CLUSTER_MESSAGES", 600);
    let conversations = usize::try_from(figure("TIDEGATE_CLUSTER_CONVERSATIONS", 100)).unwrap();
    let per_second = figure("TIDEGATE_CLUSTER_PER_SECOND", 20) as f64;
    let customers = Customers::start(
        &trial.fleet.zendesk,
        Plan { conversations, per_second, total: Some(total), ..Plan::default() },
    );
    let usual = trial.recovers("before anything", Duration::from_secs(1)).await;
    println!("usually answered after {usual:.1?}");
    let wanted = std::env::var("TIDEGATE_FAULTS").unwrap_or_default();
    let mut faults = match wanted.as_str() {
        "" => SOME.to_vec(),
        "all" => ALL.to_vec(),
        names => ALL.into_iter().filter(|fault| names.contains(&format!("{fault:?}"))).collect(),
    };
    assert!(!faults.is_empty(), "TIDEGATE_FAULTS = {wanted} names none of {ALL:?}");
    loop {
        faults.shuffle(&mut trial.random);
        for fault in &faults {
            trial.strikes(*fault).await;
        }
        if wanted.is_empty() || customers.written() >= total {
            break;
        }
    }
    assert!(customers.finished(SOON * 2).await);
    trial.ends_well().await;
}
