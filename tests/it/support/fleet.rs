//! Several daemons, each with a queue of its own, that share one Redis.

use std::time::Duration;

use tidegate::simulate::{Ai, Zendesk, ai, zendesk};

use super::{ANYWHERE, Daemon, SOON, eventually, redis::Redis, settle_within};

/// The scene with several nodes; `R` is what they share.
pub struct Fleet<R = Redis> {
    /// The conversations' side; sends the webhooks of a conversation to one node, and to the next after a failure.
    pub zendesk: Zendesk,
    /// The AI service.
    pub ai: Ai,
    /// The nodes.
    pub daemons: Vec<Daemon>,
    /// What they share.
    pub redis: R,
}

impl Fleet {
    /// Raises the curtain with so many nodes and a Redis that keeps nothing on disk.
    pub async fn with(nodes: usize, config: &str) -> Self {
        let redis = Redis::start();
        let place = format!("nodes = ['{}']\n", redis.address());
        Self::on(redis, &place, nodes, config).await
    }
}

impl<R> Fleet<R> {
    /// The same on another Redis; `place` are the lines of `[state.redis]` that lead there.
    pub async fn on(redis: R, place: &str, nodes: usize, config: &str) -> Self {
        Self::of(redis, place, &vec![config; nodes]).await
    }

    /// The same with a configuration of its own for each node.
    pub async fn of(redis: R, place: &str, configs: &[&str]) -> Self {
        let options = zendesk::Options { webhook_retry_base: Duration::from_millis(50), ..Default::default() };
        Self::set(redis, place, configs, options).await
    }

    /// The same with a Zendesk of one's own.
    pub async fn set(redis: R, place: &str, configs: &[&str], options: zendesk::Options) -> Self {
        let zendesk = Zendesk::start(ANYWHERE, options).await.expect("a port is free");
        let ai = Ai::start(ANYWHERE, ai::Options::default()).await.expect("a port is free");
        let mut daemons = Vec::new();
        for config in configs {
            let shared = format!("[state]\nkind = 'redis'\n[state.redis]\n{place}{config}");
            daemons.push(Daemon::start(&shared, &zendesk, &ai).await);
        }
        let fleet = Self { zendesk, ai, daemons, redis };
        fleet.aim();
        fleet.agrees().await;
        fleet
    }

    /// Sends the webhooks to all nodes.
    pub fn aim(&self) {
        self.aim_at(&self.daemons.iter().collect::<Vec<_>>());
    }

    /// Sends the webhooks to all nodes but one, as a balancer does that finds it hung.
    pub fn aim_past(&self, hung: usize) {
        let others = self.daemons.iter().enumerate().filter(|(n, _)| *n != hung);
        self.aim_at(&others.map(|(_, daemon)| daemon).collect::<Vec<_>>());
    }

    fn aim_at(&self, daemons: &[&Daemon]) {
        let urls: Vec<String> = daemons.iter().map(|daemon| daemon.url("/webhooks/sunshine")).collect();
        self.zendesk.aim_at(&urls.iter().map(String::as_str).collect::<Vec<_>>()).expect("the addresses are sound");
    }

    /// Waits until every node says that it reaches the shared state.
    pub async fn agrees(&self) {
        for daemon in &self.daemons {
            eventually("the shared state is reached", SOON, async || {
                daemon.admin("/readyz").await["dependencies"]["state"]["state"] == "up"
            })
            .await;
        }
    }

    /// Waits until every accepted message is answered or handed over.
    pub async fn settles(&self) {
        let settled = tidegate::simulate::customers::settled(&self.zendesk, settle_within()).await;
        if !settled {
            let where_they_are = self.unsettled().await;
            panic!("not everything was settled: {:?}\n{where_they_are}\n{}", self.zendesk.stats(), self.logs());
        }
    }

    /// What the nodes know of some messages that are not settled, and of their queues; for failures.
    async fn unsettled(&self) -> String {
        let mut told = String::new();
        for offence in self.zendesk.report().offences.iter().take(3) {
            told += &format!("{offence:?}\n");
            for (n, daemon) in self.daemons.iter().enumerate() {
                told += &format!(
                    "  node {n}: {}\n",
                    daemon.admin(&format!("/admin/messages/{}", offence.message_id)).await
                );
            }
        }
        for (n, daemon) in self.daemons.iter().enumerate() {
            told += &format!("node {n}: {}\n", daemon.admin("/admin/queues").await);
        }
        told
    }

    /// Nothing lost, nothing twice, everything in order.
    pub fn assert_sound(&self) {
        let report = self.zendesk.report();
        let judged = &report.stats.judged;
        let sound = judged.lost == 0 && judged.duplicates == 0 && judged.out_of_order == 0 && judged.misdirected == 0;
        assert!(sound, "{judged:?}\n{:?}\n{}", report.offences, self.logs());
    }

    /// The ends of all logs, for failures.
    pub fn logs(&self) -> String {
        let logs = self.daemons.iter().enumerate().map(|(n, daemon)| format!("node {n}:\n{}\n", daemon.log_tail()));
        logs.collect()
    }
}
