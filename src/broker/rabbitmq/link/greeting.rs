//! The first words of a server (`connection.start`, AMQP 0-9-1 section 1.4.2.1), which lapin reads and does not pass on:
//! they tell its version and the name of its cluster.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADER: &[u8] = b"AMQP\0\0\x09\x01";

/// Frame type, channel, class and method of `connection.start`.
const METHOD_FRAME: u8 = 1;
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];

/// RabbitMQ's has less than 1 KiB.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    /// What it is; of RabbitMQ `RabbitMQ`.
    pub product: String,
    /// Its version.
    pub version: String,
    /// The name of its cluster.
    pub cluster: String,
}

impl Greeting {
    /// Knocks, and listens. `None`: it says something else.
    pub(super) async fn hear(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Option<Self>> {
        stream.write_all(HEADER).await?;
        let mut head = [0; 7];
        stream.read_exact(&mut head).await?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        if head[0] != METHOD_FRAME || size > FRAME_BYTES_MAX {
            return Ok(None);
        }
        let mut payload = vec![0; size];
        stream.read_exact(&mut payload).await?;
        Ok(Self::read(&payload))
    }

    /// Reads the method: class and method, two bytes of the protocol's version, the table of properties.
    fn read(payload: &[u8]) -> Option<Self> {
        let rest = payload.strip_prefix(&CONNECTION_START)?.get(2..)?;
        let (mut table, _) = long(rest)?;
        let mut greeting = Self::default();
        while !table.is_empty() {
            let (name, rest) = short(table)?;
            let (kind, rest) = rest.split_first()?;
            let (value, rest) = match kind {
                b'S' | b'F' => long(rest)?,
                b't' => rest.split_at_checked(1)?,
                // What follows a value of unknown length cannot be read.
                _ => break,
            };
            table = rest;
            let text = || String::from_utf8_lossy(value).into_owned();
            match (name, kind) {
                (b"product", b'S') => greeting.product = text(),
                (b"version", b'S') => greeting.version = text(),
                (b"cluster_name", b'S') => greeting.cluster = text(),
                _ => {}
            }
        }
        Some(greeting)
    }
}

/// A value with its length in four bytes before it, and what follows.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// A name with its length in one byte before it, and what follows.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked((*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(table: &[u8]) -> Vec<u8> {
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        [&CONNECTION_START[..], &[0, 9], &length, table, b"\0\0\0\x05PLAIN\0\0\0\x05en_US"].concat()
    }

    #[test]
    fn version_and_cluster_are_read_among_other_things() {
        let table = b"\x0ccapabilitiesF\0\0\0\x04\x01at\x01\x02ont\x01\x0ccluster_nameS\0\0\0\x04a@b1\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8";
        let greeting = Greeting { product: "RabbitMQ".into(), version: "3.10.8".into(), cluster: "a@b1".into() };
        assert_eq!(Greeting::read(&start(table)), Some(greeting));
    }

    #[test]
    fn what_is_cut_short_or_strange_is_no_greeting_and_no_panic() {
        let whole = start(b"\x07versionS\0\0\0\x063.10.8");
        for end in 0..whole.len() {
            Greeting::read(&whole[..end]);
        }
        let strange = start(b"\x07versionS\0\0\0\x063.10.8\x01xZ\0\0");
        assert_eq!(Greeting::read(&strange).unwrap().version, "3.10.8");
        for bytes in [&b""[..], b"\0\x0a\0\x0b\0\x09\0\0\0\0", b"\0\x0a\0\x0a\0\x09\xff\xff\xff\xff"] {
            assert_eq!(Greeting::read(bytes), None);
        }
    }
}
