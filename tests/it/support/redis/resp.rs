//! The protocol, as far as a test needs it.

use std::{
    io::{BufRead, BufReader, Error, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Says AUTH if there are credentials, then the command.
pub(super) fn ask(address: SocketAddr, credentials: &[&str], command: &[&str]) -> std::io::Result<String> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    if !credentials.is_empty() {
        send(reader.get_mut(), &[&["AUTH"], credentials].concat())?;
        read(&mut reader)?;
    }
    send(reader.get_mut(), command)?;
    read(&mut reader)
}

fn send(stream: &mut TcpStream, command: &[&str]) -> std::io::Result<()> {
    let mut text = format!("*{}\r\n", command.len());
    for word in command {
        text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(text.as_bytes())
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(Error::other("the server hung up"));
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    let count = || rest.parse::<i64>().map_err(Error::other);
    match kind {
        "-" => Ok(line.to_owned()),
        "$" => {
            let Ok(length) = usize::try_from(count()?) else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => Ok((0..count()?).map(|_| read(reader)).collect::<Result<Vec<_>, _>>()?.join("\n")),
        _ => Ok(rest.to_owned()),
    }
}
