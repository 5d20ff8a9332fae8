//! Server-sent events out of bytes that come in pieces (WHATWG HTML, 9.2.5 "Parsing an event stream" and 9.2.6
//! "Interpreting an event stream").
//!
//! Pure and without a clock. Bytes stay bytes: what is not UTF-8 is handed on as it came, for the reader of the data to
//! judge. `id` and `retry` mean nothing here, since nothing is ever asked for a second time.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

/// The longest event; OpenAI's largest, with all alternatives of a token, are some 10 KiB.
const EVENT_BYTES_MAX: usize = 1 << 20;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// An event that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub(super) struct TooLong;

/// One whole event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its `event` field; empty: none.
    pub name: Bytes,
    /// Its data, the lines of several `data` fields joined by line feeds.
    pub data: Bytes,
    /// The event as it came, if that is one line of data and a blank one.
    plain: Option<Bytes>,
}

/// Takes bytes and gives events.
#[derive(Default)]
pub(super) struct Parser {
    /// Begins where the present event does.
    buffer: BytesMut,
    /// Where the present line begins.
    line: usize,
    /// Up to here there is no end of the present line.
    scanned: usize,
    /// Whether a byte order mark has been looked for.
    begun: bool,
    /// Whether the last line ended with a carriage return, whose line feed may still come.
    after_return: bool,
    found: Found,
}

/// What the present event has in it so far; places are in the buffer.
#[derive(Default)]
struct Found {
    name: Option<(usize, usize)>,
    data: Option<(usize, usize)>,
    /// All lines of data, from the second on.
    joined: Option<BytesMut>,
    /// Whether there is anything but one line of data, or another end of a line than a line feed.
    odd: bool,
}

impl Parser {
    /// Takes further bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event; `None` when more bytes are needed. After an error it gives nothing else.
    pub(super) fn next(&mut self) -> Result<Option<Event>, TooLong> {
        if !self.begin() {
            return Ok(None);
        }
        loop {
            self.skip_line_feed();
            let end = memchr2(b'\n', b'\r', &self.buffer[self.scanned..]).map(|at| self.scanned + at);
            let length = end.map_or(self.buffer.len(), |end| end + 1);
            if length > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            let Some(end) = end else {
                self.scanned = self.buffer.len();
                return Ok(None);
            };
            let begin = std::mem::replace(&mut self.line, end + 1);
            self.scanned = self.line;
            self.after_return = self.buffer[end] == b'\r';
            self.found.odd |= self.after_return;
            if begin == end {
                if let Some(event) = self.dispatch() {
                    return Ok(Some(event));
                }
            } else {
                self.take(begin, end);
            }
        }
    }

    /// Leaves a byte order mark out; says whether it is known if there is one.
    fn begin(&mut self) -> bool {
        if !self.begun && self.buffer.len() < BOM.len() && BOM.starts_with(&self.buffer) {
            return false;
        }
        if !self.begun && self.buffer.starts_with(BOM) {
            self.buffer.advance(BOM.len());
        }
        self.begun = true;
        true
    }

    /// The second half of a CRLF, which may come long after the first.
    fn skip_line_feed(&mut self) {
        if !self.after_return || self.line == self.buffer.len() {
            return;
        }
        self.after_return = false;
        if self.buffer[self.line] != b'\n' {
            return;
        }
        if self.line == 0 {
            self.buffer.advance(1);
        } else {
            self.line += 1;
            self.scanned = self.line;
        }
    }

    /// Takes one line that is not blank.
    fn take(&mut self, begin: usize, end: usize) {
        let line = &self.buffer[begin..end];
        let colon = memchr(b':', line).unwrap_or(line.len());
        let value = match &line[colon..] {
            [] => end,
            [_, b' ', ..] => begin + colon + 2,
            _ => begin + colon + 1,
        };
        match &line[..colon] {
            b"data" => self.data(value, end),
            b"event" => {
                self.found.name = Some((value, end));
                self.found.odd = true;
            }
            // Nothing is kept of what comes before an event: comments may go on for hours.
            _ if self.found.name.is_none() && self.found.data.is_none() => self.forget(),
            _ => self.found.odd = true,
        }
    }

    fn data(&mut self, begin: usize, end: usize) {
        let Some((first, first_end)) = self.found.data else {
            self.found.data = Some((begin, end));
            return;
        };
        let buffer = &self.buffer;
        let joined = self.found.joined.get_or_insert_with(|| BytesMut::from(&buffer[first..first_end]));
        joined.extend_from_slice(b"\n");
        joined.extend_from_slice(&buffer[begin..end]);
        self.found.odd = true;
    }

    /// Ends the present event at a blank line; one without data is none.
    fn dispatch(&mut self) -> Option<Event> {
        let found = std::mem::take(&mut self.found);
        let Some((begin, end)) = found.data else {
            self.forget();
            return None;
        };
        let whole = self.buffer.split_to(self.line).freeze();
        (self.line, self.scanned) = (0, 0);
        Some(Event {
            name: found.name.map(|(begin, end)| whole.slice(begin..end)).unwrap_or_default(),
            data: found.joined.map_or_else(|| whole.slice(begin..end), BytesMut::freeze),
            plain: (!found.odd).then_some(whole),
        })
    }

    fn forget(&mut self) {
        self.buffer.advance(self.line);
        (self.line, self.scanned) = (0, 0);
        self.found = Found::default();
    }
}

impl Event {
    /// The event as it is sent on: its data and a blank line, in whatever form it came.
    pub(super) fn into_bytes(self) -> Bytes {
        if let Some(plain) = self.plain {
            return plain;
        }
        let mut bytes = Vec::with_capacity(self.data.len() + 8);
        for line in self.data.split(|byte| *byte == b'\n') {
            bytes.extend_from_slice(b"data: ");
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
        bytes.push(b'\n');
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The events of these pieces as name and data, and whether it ended in an error.
    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(String, String)>, bool) {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        for piece in pieces {
            parser.push(piece);
            loop {
                match parser.next() {
                    Ok(Some(event)) => events.push((text(&event.name), text(&event.data))),
                    Ok(None) => break,
                    Err(TooLong) => return (events, true),
                }
            }
        }
        (events, false)
    }

    fn data(stream: &str) -> Vec<String> {
        let (events, failed) = events([stream.as_bytes()]);
        assert!(!failed);
        events.into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn streams_are_read_as_the_standard_says() {
        let table: [(&str, &[&str]); 18] = [
            ("", &[]),
            ("data: a", &[]),
            ("data: a\n", &[]),
            ("data: a\n\n", &["a"]),
            ("data:a\n\ndata:  b\n\n", &["a", " b"]),
            ("data: a\r\rdata: b\r\n\r\ndata: c\n\n", &["a", "b", "c"]),
            ("data: a\r\n\ndata: b\n\r\n", &["a", "b"]),
            ("data: a\ndata: b\n\n", &["a\nb"]),
            ("data: a\r\ndata:\r\ndata: b\r\n\r\n", &["a\n\nb"]),
            ("data\n\ndata\ndata\n\ndata:", &["", "\n"]),
            ("data:\n\n", &[""]),
            (": comment\n\n:\n: data: x\n\ndata: a\n\n", &["a"]),
            ("data: a\n: within\nid: 7\nretry: 9\nother: x\n\n", &["a"]),
            ("event: ping\n\ndata: a\n\n", &["a"]),
            ("\u{feff}data: a\n\n", &["a"]),
            ("\u{feff}\u{feff}data: a\n\n", &[]),
            (" data: a\nDATA: b\ndatas: c\n\n", &[]),
            ("\n\n\r\n\rdata: ü\n\n", &["ü"]),
        ];
        for (stream, expected) in table {
            assert_eq!(data(stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn the_last_name_counts_and_only_for_its_event() {
        let stream = b"event: a\nevent: b\ndata: 1\n\ndata: 2\n\ndata: 3\nevent: c\n\n";
        let named = |name: &str, data: &str| (name.to_owned(), data.to_owned());
        assert_eq!(events([&stream[..]]).0, [named("b", "1"), named("", "2"), named("c", "3")]);
    }

    #[test]
    fn what_is_sent_on_is_the_same_event_in_its_plainest_form() {
        let table = [
            ("data: a\n\n", "data: a\n\n"),
            ("data:a\n\n", "data:a\n\n"),
            ("data: a\r\n\r\n", "data: a\n\n"),
            ("data: a\r\r", "data: a\n\n"),
            ("data: a\n\r", "data: a\n\n"),
            (": c\n\ndata: a\n\n", "data: a\n\n"),
            (": c\ndata: a\n\n", "data: a\n\n"),
            ("id: 1\ndata: a\n\n", "data: a\n\n"),
            ("data: a\nid: 1\n\n", "data: a\n\n"),
            ("event: x\ndata: a\n\n", "data: a\n\n"),
            ("data: a\ndata: b\n\n", "data: a\ndata: b\n\n"),
            ("data\n\n", "data\n\n"),
        ];
        for (came, expected) in table {
            let mut parser = Parser::default();
            parser.push(came.as_bytes());
            let sent = parser.next().unwrap().unwrap().into_bytes();
            assert_eq!(sent, expected, "{came:?}");
            parser.push(b"data: next\n\n");
            assert_eq!(parser.next().unwrap().unwrap().data, "next", "{came:?}");
        }
    }

    #[test]
    fn an_event_is_there_with_its_last_byte() {
        for stream in ["data: a\n\n", "data: a\r\n\r", "data: a\r\r"] {
            let (last, begin) = stream.as_bytes().split_last().unwrap();
            let mut parser = Parser::default();
            parser.push(begin);
            assert_eq!(parser.next(), Ok(None), "{stream:?}");
            parser.push(&[*last]);
            assert_eq!(parser.next().unwrap().unwrap().data, "a", "{stream:?}");
        }
    }

    #[test]
    fn an_event_has_a_greatest_length_and_a_stream_has_none() {
        let long = |length: usize| [b"data: ".to_vec(), vec![b'x'; length - 8], b"\n\n".to_vec()].concat();
        let largest = long(EVENT_BYTES_MAX);
        assert_eq!(events([&largest[..], &largest, b"data: a\n\n"]).0.len(), 3);
        let cases = [long(EVENT_BYTES_MAX + 1), vec![b'x'; EVENT_BYTES_MAX + 1], b"data: a\n".repeat(200_000)];
        for too_long in cases {
            assert_eq!(events([&b"data: a\n\n"[..], &too_long]), (vec![(String::new(), "a".into())], true));
            assert!(events(too_long.chunks(4096)).1);
        }
        let mut parser = Parser::default();
        for _ in 0..100_000 {
            parser.push(b": still there, as of now\n");
            assert_eq!(parser.next(), Ok(None));
        }
        assert!(parser.buffer.is_empty());
    }

    /// Pieces of streams, the odd ones more often than chance would have them.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just(b"data: ".to_vec()),
            Just(b"data:".to_vec()),
            Just(b"event: e".to_vec()),
            Just(b": c".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(BOM.to_vec()),
            Just("ü€🙂".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_events_are_the_same(
            stream in stream(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([stream.len()]);
            let pieces = ends.scan(0, |begin, end| Some(&stream[std::mem::replace(begin, end)..end]));
            let whole = events([&stream[..]]);
            prop_assert_eq!(&events(pieces), &whole);
            prop_assert_eq!(&events(stream.chunks(1)), &whole);
        }

        #[test]
        fn what_is_sent_on_is_read_as_what_came(stream in stream()) {
            let mut parser = Parser::default();
            parser.push(&stream);
            while let Ok(Some(event)) = parser.next() {
                let data = event.data.clone();
                let mut second = Parser::default();
                second.push(&event.into_bytes());
                prop_assert_eq!(second.next().unwrap().unwrap().data, data);
            }
        }

        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = events([&bytes[..]]);
        }
    }
}
