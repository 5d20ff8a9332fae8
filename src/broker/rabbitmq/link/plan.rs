//! How RabbitMQ is reached, as the configuration says, with everything that can be checked without asking.

use std::{io, sync::Arc, time::Duration};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::RustlsConnector,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    greeting::Greeting,
    trouble::Trouble,
    wire::{Socket, Wire},
};
use crate::{
    broker::{Error, RabbitmqConfig},
    domain::secret::Secret,
    tls,
};

/// The longest time for which one host is waited for: TCP, TLS and AMQP together.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How RabbitMQ is reached.
pub struct Plan {
    nodes: Vec<(String, u16)>,
    username: String,
    password: Secret,
    vhost: String,
    heartbeat: Duration,
    tls: Option<Arc<ClientConfig>>,
}

impl Plan {
    /// Reads the configuration.
    pub fn new(config: &RabbitmqConfig) -> Result<Self, Error> {
        let nodes: Option<Vec<_>> = config.nodes.iter().map(|node| host_and_port(node)).collect();
        let Some(nodes) = nodes.filter(|nodes| !nodes.is_empty()) else {
            return Err(Error::Store("broker.rabbitmq.nodes must name hosts as host:port".into()));
        };
        let files = tls::Files {
            section: "broker.rabbitmq",
            ca_file: &config.ca_file,
            client_cert: &config.client_cert,
            client_key: &config.client_key,
        };
        Ok(Self {
            nodes,
            username: config.username.clone(),
            password: config.password.clone(),
            vhost: config.vhost.clone(),
            heartbeat: config.heartbeat,
            tls: config.tls.then(|| tls::config(&files)).transpose().map_err(Error::Store)?,
        })
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The host with this number, counted round and round.
    pub fn node(&self, turn: usize) -> String {
        let (host, port) = &self.nodes[turn % self.nodes.len()];
        format!("{host}:{port}")
    }

    /// Connects to the host with this number, counted round and round.
    pub async fn connect(&self, turn: usize, name: &str) -> Result<Wire, Trouble> {
        let (host, port) = &self.nodes[turn % self.nodes.len()];
        let node = self.node(turn);
        let socket = Socket::default();
        match timeout(CONNECT_WITHIN, self.open(host, *port, name, socket.clone())).await {
            Ok(Ok(connection)) => Ok(Wire::new(connection, socket)),
            Ok(Err(error)) => Err(Trouble::of_connecting(node, &error, &self.vhost, self.tls.is_some())),
            Err(_) => {
                socket.cut();
                Err(Trouble::Silent { node })
            }
        }
    }

    /// What the host with this number says of itself to whoever knocks, also to one without a password; `None`: it does
    /// not say it, or not in words that are known.
    pub async fn greeting(&self, turn: usize) -> Option<Greeting> {
        let (host, port) = &self.nodes[turn % self.nodes.len()];
        let heard = async {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            match &self.tls {
                Some(tls) => {
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    Greeting::hear(TlsConnector::from(tls.clone()).connect(name, stream).await?).await
                }
                None => Greeting::hear(stream).await,
            }
        };
        timeout(CONNECT_WITHIN, heard).await.ok()?.ok().flatten()
    }

    async fn open(&self, host: &str, port: u16, name: &str, socket: Socket) -> lapin::Result<Connection> {
        let userinfo = AMQPUserInfo { username: self.username.clone(), password: self.password.expose().to_owned() };
        let heartbeat = u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX);
        let uri = AMQPUri {
            scheme: if self.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority { userinfo, host: host.to_owned(), port },
            vhost: self.vhost.clone(),
            query: AMQPQueryString { heartbeat: Some(heartbeat), ..AMQPQueryString::default() },
        };
        let properties = ConnectionProperties::default().with_connection_name(format!("tidegate {name}").into());
        let (host, tls) = (host.to_owned(), self.tls.clone());
        Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            // Connected here: lapin's own takes IPv6 literals for names, and adds the system's authorities to one's own.
            async move |_, runtime| {
                let addresses: Vec<_> = tokio::net::lookup_host((&*host, port)).await?.collect();
                let stream = AsyncTcpStream::connect(&runtime, &addresses[..]).await?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    socket.keep(stream.get_ref())?;
                }
                match &tls {
                    Some(tls) => Ok(stream.into_rustls(&RustlsConnector::from(tls.clone()), &host).await?),
                    None => Ok(stream),
                }
            },
            properties,
        )
        .await
    }
}

/// `host:port`; of IPv6 the literal in brackets.
fn host_and_port(node: &str) -> Option<(String, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}
