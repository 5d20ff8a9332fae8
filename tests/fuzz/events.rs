//! Whatever a service streams, in whatever pieces it comes: the events are the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sse::{Event, Parser, TooLong};

#[allow(dead_code, reason = "the targets need a part of it")]
#[path = "../../src/client/ai/sse.rs"]
mod sse;

fuzz_target!(|input: (u8, &[u8])| {
    let (length, bytes) = input;
    let whole = events(std::iter::once(bytes));
    let in_pieces = events(bytes.chunks(usize::from(length).max(1)));
    assert_eq!(in_pieces, whole);
});

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Option<TooLong>) {
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(too_long) => return (events, Some(too_long)),
            }
        }
    }
    (events, None)
}
