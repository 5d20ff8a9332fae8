//! Looks at RabbitMQ without making or changing anything, for `tidegate check`.

use futures_util::future::join_all;
use lapin::{
    Connection,
    options::{QueueBindOptions, QueueDeleteOptions},
    types::FieldTable,
};
use tokio::time::{Duration, timeout};

pub use super::link::Greeting;
use super::{
    link::{NOT_FOUND, Plan, Trouble, code},
    object::Object,
    topology::Topology,
};
use crate::broker::{Error, RabbitmqConfig};

/// How long a server may take to tell of all objects.
const LOOK_WITHIN: Duration = Duration::from_secs(15);

/// One that looks.
pub struct Probe {
    plan: Plan,
    topology: Topology,
}

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In words, without the password.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Nobody answered; another host of the cluster may do.
    pub away: bool,
}

/// What is there of the exchanges and queues a node needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// As they should be.
    pub there: usize,
    /// Not there yet: the first node makes them.
    pub missing: usize,
    /// There, and not as they should be: no node can work with them.
    pub differing: Vec<Fault>,
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        let away = matches!(trouble, Trouble::Unreachable { .. } | Trouble::Silent { .. });
        Self { what: trouble.to_string(), remedy: trouble.remedy().to_owned(), away }
    }
}

impl Probe {
    /// Reads the configuration.
    pub fn new(config: &RabbitmqConfig) -> Result<Self, Error> {
        Ok(Self { plan: Plan::new(config)?, topology: Topology::new(config) })
    }

    /// Asks every host: whether it lets us in, and whether we may make, write and read what we need. What it says of
    /// itself, if it does.
    pub async fn hosts(&self) -> Vec<(String, Result<Option<Greeting>, Fault>)> {
        let asked = (0..self.plan.len()).map(|turn| async move {
            let may = async {
                let connection = self.plan.connect(turn, "check").await?;
                let may = within(self.plan.node(turn), rights(&connection, &self.topology.name("check.rights"))).await;
                connection.goodbye().await;
                may
            };
            let (may, greeting) = tokio::join!(may, self.plan.greeting(turn));
            (self.plan.node(turn), may.map(|()| greeting).map_err(Fault::from))
        });
        join_all(asked).await
    }

    /// Looks at all exchanges and queues through the host with this number. An object that is there is declared as a node
    /// would do it, for the server compares then and makes nothing; one that is not there is only asked for.
    pub async fn look(&self, turn: usize) -> Result<Looked, Fault> {
        let node = self.plan.node(turn);
        let connection = self.plan.connect(turn, "check").await?;
        let looked = within(node.clone(), self.compare(&connection, &node)).await;
        connection.goodbye().await;
        Ok(looked?)
    }

    async fn compare(&self, connection: &Connection, node: &str) -> lapin::Result<Looked> {
        let mut looked = Looked::default();
        let mut channel = connection.create_channel().await?;
        for object in self.topology.objects() {
            if matches!(object, Object::Binding { .. }) {
                continue;
            }
            // The server closes the channel with each answer that is no yes.
            if !channel.status().connected() {
                channel = connection.create_channel().await?;
            }
            match object.look(&channel).await {
                Ok(()) => {}
                Err(error) if code(&error) == Some(NOT_FOUND) => {
                    looked.missing += 1;
                    continue;
                }
                // Another kind of exchange is told by the next question, in better words.
                Err(error) if code(&error).is_some() => channel = connection.create_channel().await?,
                Err(error) => return Err(error),
            }
            match object.declare(&channel).await {
                Ok(()) => looked.there += 1,
                Err(error) if code(&error).is_some() => {
                    looked.differing.push(Trouble::of_declaring(node.to_owned(), &error).into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(looked)
    }
}

/// Whether we may configure, write and read what has this name, which nothing has. RabbitMQ looks at the rights first and
/// then for the object: deleting what is not there is no fault, and binding it is one of another kind (measured, 3.10 and
/// 4.0).
async fn rights(connection: &Connection, name: &str) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let only_unused = QueueDeleteOptions { if_unused: true, if_empty: true, ..QueueDeleteOptions::default() };
    channel.queue_delete(name.into(), only_unused).await?;
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    match channel.queue_bind(name.into(), name.into(), "".into(), options, arguments).await {
        Err(error) if code(&error) == Some(NOT_FOUND) => Ok(()),
        other => other,
    }
}

async fn within<T>(node: String, asked: impl Future<Output = lapin::Result<T>>) -> Result<T, Trouble> {
    match timeout(LOOK_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::of_declaring(node, &error)),
        Err(_) => Err(Trouble::Silent { node }),
    }
}
