//! Exchanges, queues and bindings, as they are declared and as they are looked at.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

/// One thing that is to be there.
#[derive(Debug, Clone)]
pub enum Object {
    /// A durable exchange.
    Exchange {
        /// Its name.
        name: String,
        /// How it routes.
        kind: ExchangeKind,
        /// Its arguments.
        arguments: FieldTable,
    },
    /// A durable queue.
    Queue {
        /// Its name.
        name: String,
        /// Its arguments.
        arguments: FieldTable,
    },
    /// A way from an exchange into a queue.
    Binding {
        /// Where it leads.
        queue: String,
        /// Where it begins.
        exchange: String,
        /// The routing key.
        key: String,
    },
}

impl Object {
    /// Makes it, if it is not there. The server closes the channel if it is there with other arguments.
    pub async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind, arguments } => {
                let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name.as_str().into(), kind.clone(), options, arguments.clone()).await
            }
            Self::Queue { name, arguments } => {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.as_str().into(), options, arguments.clone()).await.map(drop)
            }
            Self::Binding { queue, exchange, key } => {
                let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
                channel
                    .queue_bind(
                        queue.as_str().into(),
                        exchange.as_str().into(),
                        key.as_str().into(),
                        options,
                        arguments,
                    )
                    .await
            }
        }
    }

    /// Asks whether anything of this kind and name is there; makes nothing. The server closes the channel if there is
    /// not. Of a binding nobody can ask.
    pub async fn look(&self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Exchange { name, kind, .. } => {
                let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                channel.exchange_declare(name.as_str().into(), kind.clone(), options, FieldTable::default()).await
            }
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.map(drop)
            }
            Self::Binding { .. } => Ok(()),
        }
    }
}
