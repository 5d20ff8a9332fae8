//! What a node shares with others through Redis, put together once; a node on its own has none of it.

use std::sync::Arc;

use anyhow::Context;

use crate::{
    config::Config,
    guard::{CacheFleet, Sealer, Sharing},
    state::{
        self, Bridge, Local, Shared,
        board::Boards,
        nodes::{Nodes, Roll},
        redis::{Link, Redis, RedisAnswers, RedisBoards, RedisNodes, RedisQuotas},
    },
    telemetry::Clock,
};

/// The state, and the parts of the guards that all nodes share.
pub(super) struct Fleet {
    pub state: Shared,
    pub nodes: Arc<Nodes>,
    pub redis: Option<Arc<Link>>,
    /// How the limits are shared.
    pub limits: Option<Sharing>,
    /// On which the breakers are.
    pub boards: Option<Arc<dyn Boards>>,
    /// The tier of the cache.
    pub answers: Option<CacheFleet>,
}

impl Fleet {
    /// As `state.kind` says. `local` is the node's own file: the state, or what takes its place while Redis is away.
    pub fn new(config: &Config, clock: &Clock, local: &Arc<Local>) -> anyhow::Result<Self> {
        match config.state.kind {
            state::Kind::Local => Ok(Self::of_one(clock, local)),
            state::Kind::Redis => Self::of_many(config, clock, local),
        }
    }

    fn of_one(clock: &Clock, local: &Arc<Local>) -> Self {
        Self {
            state: local.clone(),
            nodes: Arc::new(Nodes::new(rand::random(), None, clock.clone())),
            redis: None,
            limits: None,
            boards: None,
            answers: None,
        }
    }

    fn of_many(config: &Config, clock: &Clock, local: &Arc<Local>) -> anyhow::Result<Self> {
        let link = Link::unattended(&config.state.redis)?;
        let boot = rand::random();
        let before = local.boot(boot).context("the state's own file")?.map(Nodes::id_of);
        let roll = Arc::new(RedisNodes::new(link.clone())) as Arc<dyn Roll>;
        let nodes = Arc::new(Nodes::new(boot, Some(roll), clock.clone()));
        let retention = config.retention.clone();
        let redis = Redis::open(link.clone(), retention, clock.clone(), nodes.id().to_owned(), before);
        let counted = nodes.clone();
        let limits = Sharing {
            quotas: Arc::new(RedisQuotas::new(link.clone())),
            on_loss: config.state.redis.on_loss,
            live_nodes: Arc::new(move || counted.live()),
        };
        // What all nodes of an installation know and nobody else.
        let secret = format!("{}\n{}", config.zendesk.key_secret.expose(), config.state.redis.password.expose());
        let answers = Arc::new(RedisAnswers::new(link.clone(), nodes.id().to_owned()));
        Ok(Self {
            state: Bridge::new(redis, local.clone()),
            nodes,
            limits: Some(limits),
            boards: Some(Arc::new(RedisBoards::new(link.clone()))),
            answers: Some(CacheFleet::new(answers, Sealer::new(secret.as_bytes()), clock.clone())),
            redis: Some(link),
        })
    }
}
