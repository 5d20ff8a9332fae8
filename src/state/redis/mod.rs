//! The state of a fleet, in Redis.
//!
//! All keys of one script lie in one slot: those of a service are tagged `{service}`, those of a conversation with
//! the bucket it falls into. Nothing here is the only copy of a message.

mod answers;
mod board;
mod budgets;
mod controls;
mod keeping;
mod ledger;
mod link;
mod memory;
mod nodes;
mod operations;
#[cfg(test)]
#[allow(dead_code, reason = "the integration tests use what these do not")]
#[path = "../../../tests/it/support/redis.rs"]
pub(crate) mod private;
mod quota;
#[cfg(test)]
mod quota_tests;
mod shared;
#[cfg(test)]
mod shared_tests;

pub use answers::RedisAnswers;
pub use board::RedisBoards;
#[cfg(test)]
pub(crate) use link::tests::{opened, opened_to};
pub use link::{Facts, Line, Link, Plan, Probe, Reply, ServerKind, Trouble, Way, find, survey};
pub use nodes::RedisNodes;
pub use quota::RedisQuotas;
pub use shared::Redis;

#[cfg(test)]
mod tests {
    use std::{sync::LazyLock, time::Duration};

    use fred::types::scripts::Script;

    use super::{Link, private::Redis};
    use crate::state::RedisConfig;

    static ECHO: LazyLock<Script> = LazyLock::new(|| Script::from_lua("return {KEYS[1], ARGV[1]}"));

    #[test]
    fn groups_of_servers_start() {
        let cluster = super::private::Cluster::start();
        let home = &cluster.nodes[cluster.master_of("k")];
        assert_eq!(home.command(&["SET", "k", "v"]), "OK");
        let sentinels = super::private::Sentinels::start();
        assert_eq!(sentinels.master.command(&["SET", "k", "v"]), "OK");
        let certificates = super::private::Certificates::for_localhost();
        let secured = Redis::with_tls(&certificates);
        assert_eq!(secured.command(&["PING"]), "PONG");
        assert_eq!(Redis::with_user("ada", "pw").command(&["PING"]), "PONG");
        assert_eq!(Redis::with_password("pw").command(&["PING"]), "PONG");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_script_runs_and_runs_again_when_the_server_has_come_back() {
        let mut server = Redis::start();
        let link = Link::open(&RedisConfig { nodes: vec![server.address()], ..RedisConfig::default() }).unwrap();
        let mut connections = link.connections();
        connections.wait_for(|count| *count == 1).await.unwrap();
        let asked: (String, String) = link.run(&ECHO, vec![link.key("a", "b")], "c").await.unwrap();
        assert_eq!(asked, ("tidegate:{a}:b".to_owned(), "c".to_owned()));
        server.restart();
        let back = tokio::time::timeout(Duration::from_secs(20), connections.wait_for(|count| *count == 2)).await;
        back.expect("it connects again").unwrap();
        let asked: (String, String) = link.run(&ECHO, vec![link.key("a", "b")], "d").await.unwrap();
        assert_eq!(asked.1, "d");
        link.close().await;
    }
}
