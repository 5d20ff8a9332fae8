//! What is published: who listens to which channel, over all connections.

use std::{collections::HashMap, sync::Arc};

use fred::{
    clients::Client,
    interfaces::{EventInterface, PubsubInterface},
    types::Message,
};
use parking_lot::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    client::PUBLISHED_MAX,
    line::{Line, Prepare},
};

/// The channels that are listened to.
#[derive(Clone, Default)]
pub(super) struct Published {
    channels: Arc<Mutex<HashMap<String, broadcast::Sender<Message>>>>,
}

impl Published {
    /// What comes on a channel.
    pub fn listen(&self, channel: &str) -> broadcast::Receiver<Message> {
        let mut channels = self.channels.lock();
        let sender = channels.entry(channel.to_owned()).or_insert_with(|| broadcast::Sender::new(PUBLISHED_MAX));
        sender.subscribe()
    }

    /// Subscribes on the connection of the moment; a connection that cannot is made anew, and subscribes then.
    pub async fn subscribe(&self, line: &Line, channel: &str) {
        let channel = channel.to_owned();
        if line.call(|client| async move { client.subscribe(channel).await }).await.is_err() {
            line.distrust();
        }
    }

    /// What a new connection does first: it subscribes to all channels, and hands on what comes.
    pub fn prepare(&self) -> Prepare {
        let all = self.clone();
        Arc::new(move |client: Client| {
            let all = all.clone();
            Box::pin(async move {
                let mut messages = client.message_rx();
                let names: Vec<String> = all.channels.lock().keys().cloned().collect();
                for name in names {
                    client.subscribe(name).await?;
                }
                Ok(Some(tokio::spawn(async move {
                    loop {
                        match messages.recv().await {
                            Ok(message) => all.hand_on(message),
                            // Too many came at once; whoever listens also asks from time to time.
                            Err(RecvError::Lagged(_)) => {}
                            Err(RecvError::Closed) => return,
                        }
                    }
                })))
            })
        })
    }

    fn hand_on(&self, message: Message) {
        if let Some(sender) = self.channels.lock().get(&*message.channel) {
            // Nobody may be listening any more.
            let _ = sender.send(message);
        }
    }
}
