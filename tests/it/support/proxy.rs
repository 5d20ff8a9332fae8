//! A way between a client and a server that can be cut: what the network does to connections that are fine at both ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Passes connections on until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    connected: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Leads to a server, given as `host:port`.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let cuts = watch::Sender::new(0);
        let connected = Arc::<AtomicU64>::default();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server.to_owned(), cuts.subscribe(), connected.clone()));
        Self { address, cuts, connected, _accepting: accepting }
    }

    /// Where clients connect to, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// How many connections were made so far.
    pub fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// Breaks all connections off. New ones are passed on.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, server: String, cuts: watch::Receiver<u64>, connected: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (server, mut cuts, connected) = (server.clone(), cuts.clone(), connected.clone());
        cuts.mark_unchanged();
        connections.spawn(async move {
            // A server that is away: the client's connection is closed at once.
            let Ok(mut upstream) = TcpStream::connect(&server).await else { return };
            connected.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut upstream) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}
