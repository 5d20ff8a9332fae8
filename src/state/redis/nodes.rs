//! The roll of nodes in Redis: a sorted set by expiry, in Redis's time, and a hash of what they tell.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use fred::types::scripts::Script;

use super::Link;
use crate::{
    domain::time::Timestamp,
    state::{
        Error,
        nodes::{Called, Node, Roll},
    },
};

static BEAT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/nodes_beat.lua")));

/// Whether a node is on the roll and has not expired.
static LIVES: LazyLock<Script> = LazyLock::new(|| {
    Script::from_lua(
        "local time = redis.call('TIME')\n\
         local expires = redis.call('ZSCORE', KEYS[1], ARGV[1])\n\
         return expires and tonumber(expires) > time[1] * 1000 + time[2] / 1000 and 1 or 0",
    )
});

/// Whether a run of a process has said lately that it lives; whoever has not loses the conversations it works on.
pub(super) async fn lives(link: &Link, id: &str) -> Result<bool, Error> {
    link.run::<i64, _>(&LIVES, vec![link.key("nodes", "expiry")], id.to_owned()).await.map(|lives| lives > 0)
}

/// The roll.
pub struct RedisNodes {
    link: Arc<Link>,
}

impl RedisNodes {
    /// The roll behind a link.
    pub fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    pub(super) async fn beat(&self, id: &str, told: &str, expires: Duration) -> Result<Vec<String>, Error> {
        let keys = ["expiry", "told", "gone", "left"].map(|name| self.link.key("nodes", name)).to_vec();
        let args = vec![id.to_owned(), told.to_owned(), expires.as_millis().to_string()];
        self.link.run(&BEAT, keys, args).await
    }
}

#[async_trait]
impl Roll for RedisNodes {
    async fn enter(&self, node: &Node, expires: Duration) -> Result<Called, Error> {
        let told = serde_json::to_string(node).map_err(|error| Error::Failed(error.to_string()))?;
        let mut reply = self.beat(&node.id, &told, expires).await?.into_iter();
        let now = reply.next().and_then(|now| now.parse().ok());
        let now = now.ok_or_else(|| Error::Failed("the roll of nodes tells no time".into()))?;
        let mut counted = || {
            let count = reply.next().and_then(|count| count.parse().ok()).unwrap_or_default();
            reply.by_ref().take(count).collect()
        };
        let (gone, left) = (counted(), counted());
        // One that a newer version wrote and this one cannot read counts all the same.
        let unread = |told: String| Node { id: id_in(&told).unwrap_or(told), ..nobody() };
        let nodes = reply.map(|told| serde_json::from_str(&told).unwrap_or_else(|_| unread(told)));
        Ok(Called { nodes: nodes.collect(), gone, left, now: Timestamp(now) })
    }

    async fn strike(&self, id: &str) -> Result<(), Error> {
        self.beat(id, "", Duration::ZERO).await.map(drop)
    }
}

fn id_in(told: &str) -> Option<String> {
    let told: serde_json::Value = serde_json::from_str(told).ok()?;
    Some(told.get("id")?.as_str()?.to_owned())
}

fn nobody() -> Node {
    Node {
        id: String::new(),
        name: "unknown".into(),
        version: String::new(),
        roles: Vec::new(),
        started_at: Timestamp(0),
        addresses: Vec::new(),
        in_hand: 0,
        consumes: true,
        clock_skew_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{opened_to, private::Redis},
        *,
    };
    use crate::{state::nodes::Nodes, telemetry::Clock};

    async fn node(link: &Arc<Link>, name: &str) -> Nodes {
        let nodes = Nodes::new(rand::random(), Some(Arc::new(RedisNodes::new(link.clone()))), Clock::system());
        assert_eq!(nodes.live(), 0, "nothing was seen yet");
        nodes.introduce(Node { name: name.into(), ..nobody() });
        nodes.beat(3, true).await.unwrap();
        nodes
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nodes_see_each_other_and_who_has_gone() {
        let server = Redis::start();
        let link = opened_to(&server).await;
        let (ada, bob) = (node(&link, "ada").await, node(&link, "bob").await);
        ada.beat(0, true).await.unwrap();
        let names = |nodes: &Nodes| nodes.all().into_iter().map(|node| node.name).collect::<Vec<_>>();
        let is_alive = async |node: &Nodes| lives(&link, node.id()).await.unwrap();
        assert_eq!((names(&ada), ada.live()), (vec!["ada".into(), "bob".into()], 2));
        assert!(is_alive(&bob).await && !lives(&link, "x").await.unwrap());
        let skew = ada.all()[0].clock_skew_ms.unwrap();
        assert!(skew.abs() < 500, "one machine, one clock: {skew} ms");
        bob.leave().await.unwrap();
        ada.beat(0, true).await.unwrap();
        assert_eq!((ada.live(), is_alive(&bob).await, is_alive(&ada).await), (1, false, true));
        // When Redis has lost the roll, nobody has gone for that.
        let eve = node(&link, "eve").await;
        ada.beat(0, true).await.unwrap();
        assert_eq!((ada.live(), eve.live()), (2, 2));
        assert_eq!(server.command(&["FLUSHALL"]), "OK");
        ada.beat(0, true).await.unwrap();
        assert_eq!((ada.live(), ada.all().len()), (2, 1), "the roll knows nobody else, but eve was there just now");
        eve.beat(0, true).await.unwrap();
        eve.leave().await.unwrap();
        ada.beat(0, true).await.unwrap();
        assert_eq!(ada.live(), 1, "who says goodbye is gone at once");
        // One that ended without a word expires.
        let told = r#"{"id":"eve"}"#;
        RedisNodes::new(link.clone()).beat("eve", told, Duration::from_millis(300)).await.unwrap();
        ada.beat(0, true).await.unwrap();
        assert_eq!(ada.live(), 2);
        tokio::time::sleep(Duration::from_millis(400)).await;
        ada.beat(0, true).await.unwrap();
        assert_eq!((ada.live(), server.command(&["HLEN", &link.key("nodes", "told")])), (1, "1".into()));
        assert_eq!((ada.has_ended("eve"), ada.has_ended(eve.id())), (false, true), "only a goodbye is certain at once");
    }
}
