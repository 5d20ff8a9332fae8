//! A master and a replica, watched by Sentinels.

use super::{FLEETING, Redis, wait_for};

/// Three Sentinels and what they watch.
pub struct Sentinels {
    /// The server that began as master.
    pub master: Redis,
    /// Its replica.
    pub replica: Redis,
    /// The Sentinels.
    pub sentinels: Vec<Redis>,
}

impl Sentinels {
    /// What they call the master.
    pub const NAME: &str = "main";

    /// Starts them; a master that was silent for half a second is replaced.
    pub fn start() -> Self {
        let master = Redis::start();
        let of = master.address();
        let (host, port) = of.rsplit_once(':').expect("an address has a port");
        let follow = format!("{host} {port}");
        let replica = Redis::with(&[&FLEETING[..], &["--replicaof", &follow]].concat());
        wait_for("the replica follows", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
        let sentinels: Vec<Redis> = (0..3).map(|_| Redis::launch("redis-sentinel", &[], &[], None)).collect();
        for sentinel in &sentinels {
            let name = Self::NAME;
            let orders: [&[&str]; 3] = [
                &["SENTINEL", "MONITOR", name, host, port, "2"],
                &["SENTINEL", "SET", name, "down-after-milliseconds", "500"],
                &["SENTINEL", "SET", name, "failover-timeout", "3000"],
            ];
            orders.iter().for_each(|order| assert_eq!(sentinel.command(order), "OK", "{order:?}"));
        }
        let agree = |sentinel: &Redis| {
            let master = sentinel.command(&["SENTINEL", "MASTER", Self::NAME]);
            let told = |key: &str, value: &str| {
                let mut lines = master.lines().skip_while(|line| *line != key);
                lines.nth(1) == Some(value)
            };
            sentinel.command(&["SENTINEL", "CKQUORUM", Self::NAME]).starts_with("OK 3")
                && told("num-slaves", "1")
                && told("num-other-sentinels", "2")
        };
        wait_for("the Sentinels agree", || sentinels.iter().all(agree));
        Self { master, replica, sentinels }
    }

    /// The addresses of the Sentinels.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::address).collect()
    }
}
