//! A short connection to one server, to ask what it is: with what goes wrong told apart, which fred does not do.

use std::{io, time::Duration};

use futures_util::future::BoxFuture;
use rustls::{AlertDescription, CertificateError, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{plan::Plan, trouble::Trouble};
use crate::tls;

/// How long a server may take for each step: to be connected to, to shake hands, to answer.
const STEP_WITHIN: Duration = Duration::from_secs(1);

/// The longest text a server may send.
const TEXT_MAX: i64 = 1 << 20;

/// The most members a list may have.
const LIST_MAX: i64 = 10_000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The connection.
pub struct Probe {
    node: String,
    stream: BufReader<Box<dyn Stream>>,
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// A list.
    List(Vec<Reply>),
    /// Nothing.
    Nothing,
    /// A refusal.
    Error(String),
}

impl Reply {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members, if it is a list.
    pub fn list(&self) -> &[Reply] {
        match self {
            Self::List(members) => members,
            _ => &[],
        }
    }
}

/// What a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its version.
    pub version: String,
    /// A server, a Sentinel, a member of a Cluster.
    pub kind: ServerKind,
    /// Whether it is a replica.
    pub replica: bool,
}

/// What a server can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// One server.
    Single,
    /// A Sentinel.
    Sentinel,
    /// A member of a Cluster.
    Cluster,
}

impl Probe {
    /// Connects, shakes hands, says the password.
    pub async fn open(plan: &Plan, node: &str) -> Result<Self, Trouble> {
        let socket = connect(node).await?;
        let stream: Box<dyn Stream> = match &plan.tls {
            None => Box::new(socket),
            Some(config) => shake(TlsConnector::from(config.clone()), node, socket).await?,
        };
        let mut probe = Self { node: node.to_owned(), stream: BufReader::new(stream) };
        probe.first_words(plan).await?;
        Ok(probe)
    }

    /// Says the password if there is one, and looks whether that was enough.
    async fn first_words(&mut self, plan: &Plan) -> Result<(), Trouble> {
        let node = self.node.clone();
        let credentials = plan.credentials();
        let said = match credentials.as_slice() {
            [] => Reply::Nothing,
            words => self.spoken(plan, &[&["AUTH"], words].concat()).await?,
        };
        match said {
            // A Sentinel or a server without passwords: it lets everybody in.
            Reply::Error(said) if said.contains("without any password configured") => {}
            Reply::Error(said) if said.starts_with("WRONGPASS") || said.contains("invalid password") => {
                return Err(Trouble::WrongPassword { node });
            }
            Reply::Error(said) => return Err(Trouble::Refused { node, said: plan.scrubbed(&said) }),
            _ => {}
        }
        match self.spoken(plan, &["PING"]).await? {
            Reply::Error(said) if said.starts_with("NOAUTH") => Err(Trouble::NoPassword { node }),
            Reply::Error(said) if said.starts_with("NOPERM") => Err(Trouble::NotAllowed { node, said }),
            // A server that cannot save takes no writes, and says so to PING already.
            Reply::Error(said) if ["LOADING", "MISCONF"].iter().any(|word| said.starts_with(word)) => {
                Err(Trouble::Refused { node, said })
            }
            _ => Ok(()),
        }
    }

    /// The first answer also tells whether the other side speaks TLS.
    async fn spoken(&mut self, plan: &Plan, words: &[&str]) -> Result<Reply, Trouble> {
        match self.ask(words).await {
            Err(trouble) if plan.tls.is_none() && speaks_tls(&self.node).await => {
                drop(trouble);
                Err(Trouble::NeedsTls { node: self.node.clone() })
            }
            answered => answered,
        }
    }

    /// Asks one thing.
    pub async fn ask(&mut self, words: &[&str]) -> Result<Reply, Trouble> {
        let mut sent = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            sent.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        let stream = &mut self.stream;
        let answered = timeout(STEP_WITHIN, async {
            stream.write_all(&sent).await?;
            stream.flush().await?;
            read(stream).await
        });
        match answered.await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(Trouble::Refused { node: self.node.clone(), said: error.to_string() }),
            Err(_) => Err(Trouble::Silent { node: self.node.clone() }),
        }
    }

    /// Asks what it is.
    pub async fn facts(&mut self) -> Result<Facts, Trouble> {
        let node = self.node.clone();
        let reply = match self.ask(&["HELLO", "2"]).await? {
            Reply::Error(said) if said.contains("unknown command") => {
                return Err(Trouble::Old {
                    node,
                    version: self.info("server", "redis_version").await?.unwrap_or_default(),
                });
            }
            Reply::Error(said) if said.starts_with("NOPERM") => return Err(Trouble::NotAllowed { node, said }),
            Reply::Error(said) => return Err(Trouble::Refused { node, said }),
            reply => reply,
        };
        let told = |key: &str| {
            let mut pairs = reply.list().chunks_exact(2);
            pairs
                .find(|pair| pair[0].text() == Some(key))
                .and_then(|pair| pair[1].text())
                .unwrap_or_default()
                .to_owned()
        };
        let kind = match told("mode").as_str() {
            "cluster" => ServerKind::Cluster,
            "sentinel" => ServerKind::Sentinel,
            _ => ServerKind::Single,
        };
        Ok(Facts { version: told("version"), kind, replica: !["master", ""].contains(&told("role").as_str()) })
    }

    /// One line of a section of INFO.
    pub async fn info(&mut self, section: &str, key: &str) -> Result<Option<String>, Trouble> {
        let reply = self.ask(&["INFO", section]).await?;
        let mut lines = reply.text().unwrap_or_default().lines().filter_map(|line| line.split_once(':'));
        Ok(lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim().to_owned()))
    }
}

async fn connect(node: &str) -> Result<TcpStream, Trouble> {
    let unreachable = |why: String| Trouble::Unreachable { node: node.to_owned(), why };
    match timeout(STEP_WITHIN, TcpStream::connect(node)).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer in time".into())),
    }
}

async fn shake(connector: TlsConnector, node: &str, socket: TcpStream) -> Result<Box<dyn Stream>, Trouble> {
    let owned = node.to_owned();
    let host = super::plan::host(node);
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return Err(Trouble::WrongName { node: owned });
    };
    let error = match timeout(STEP_WITHIN, connector.connect(name, socket)).await {
        Ok(Ok(stream)) => return Ok(Box::new(stream)),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let said = error.as_ref().map_or_else(|| "no answer in time".to_owned(), ToString::to_string);
    match error.as_ref().and_then(tls_error) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Err(Trouble::WrongName { node: owned }),
        Some(rustls::Error::InvalidCertificate(why)) => Err(Trouble::Untrusted { node: owned, why: why.to_string() }),
        Some(rustls::Error::AlertReceived(alert)) if *alert != AlertDescription::CloseNotify => {
            Err(Trouble::Refused { node: owned, said })
        }
        _ if speaks_plainly(node).await => Err(Trouble::NoTls { node: owned }),
        _ if error.is_none() => Err(Trouble::Silent { node: owned }),
        _ => Err(Trouble::Refused { node: owned, said }),
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Whether a server shakes hands; whom it claims to be does not matter here.
async fn speaks_tls(node: &str) -> bool {
    let Ok(socket) = connect(node).await else { return false };
    let Ok(name) = ServerName::try_from(super::plan::host(node).to_owned()) else { return false };
    let connector = TlsConnector::from(tls::distrustful());
    match timeout(STEP_WITHIN, connector.connect(name, socket)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            matches!(tls_error(&error), Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)))
        }
        Err(_) => false,
    }
}

/// Whether a server answers without TLS.
async fn speaks_plainly(node: &str) -> bool {
    let Ok(socket) = connect(node).await else { return false };
    let mut probe = Probe { node: node.to_owned(), stream: BufReader::new(Box::new(socket)) };
    probe.ask(&["PING"]).await.is_ok()
}

fn read(stream: &mut BufReader<Box<dyn Stream>>) -> BoxFuture<'_, io::Result<Reply>> {
    Box::pin(async move {
        let mut line = String::new();
        let mut limited = (&mut *stream).take(TEXT_MAX.unsigned_abs());
        if limited.read_line(&mut line).await? == 0 {
            return Err(io::Error::other("it hangs up"));
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(|_| io::Error::other("it does not speak Redis"));
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Number(number()?)),
            "$" => match number()? {
                length @ 0..=TEXT_MAX => {
                    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default() + 2];
                    stream.read_exact(&mut bytes).await?;
                    bytes.truncate(bytes.len() - 2);
                    Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
                }
                _ => Ok(Reply::Nothing),
            },
            "*" => match number()? {
                count @ 0..=LIST_MAX => {
                    let mut members = Vec::new();
                    for _ in 0..count {
                        members.push(read(stream).await?);
                    }
                    Ok(Reply::List(members))
                }
                _ => Ok(Reply::Nothing),
            },
            _ => Err(io::Error::other("it does not speak Redis")),
        }
    })
}
