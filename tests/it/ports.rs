//! Ports of loopback for the servers that tests start.
//!
//! A port that the kernel hands out (`bind` to 0) may be another one's a moment later: any connection that anybody
//! opens is given one out of the same range. These lie outside it, and are given out in turn.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The ports that the kernel gives to connections: the first and the last (ip(7)).
const OF_CONNECTIONS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Below are ports that services of the machine are known by.
const FIRST: u16 = 10_000;

/// A port that nobody listens on. No connection gets it, and this process gives it out again only after all others; who
/// stops listening on it can listen on it again.
pub fn free_port() -> u16 {
    static RANGE: OnceLock<(Range<u16>, AtomicUsize)> = OnceLock::new();
    // Two suites that run at once begin at different places.
    let (range, turn) = RANGE.get_or_init(|| (range(), AtomicUsize::new(rand::random::<u16>().into())));
    for _ in range.clone() {
        let place = turn.fetch_add(1, Ordering::Relaxed) % range.len();
        let port = range.clone().nth(place).expect("it is one of them");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free in {range:?}, outside of {OF_CONNECTIONS}");
}

/// The same as an address.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Below or above those of connections, where there are more.
fn range() -> Range<u16> {
    let text = fs::read_to_string(OF_CONNECTIONS).expect("Linux tells its range of ports");
    let ends: Vec<u16> = text.split_whitespace().map(|end| end.parse().expect("a port is a number")).collect();
    let (below, above) = (FIRST..ends[0].max(FIRST), ends[1]..u16::MAX);
    if below.len() >= above.len() { below } else { above.start + 1..above.end }
}
