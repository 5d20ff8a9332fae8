//! Reads the answer to one request as its bytes come, whichever way its length is told (RFC 9112, sections 6 and 7).

use crate::client::find;

/// An answer that is being read; used again for the next one, so that its buffers are.
#[derive(Default)]
pub struct Answer {
    pub status: u16,
    /// What has come of the body, without its framing.
    pub body: Vec<u8>,
    /// The beginning of a head or of a line.
    begun: Vec<u8>,
    place: Place,
}

/// Where in the answer we are.
#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Head,
    Body(usize),
    Size,
    Chunk(usize),
    Trailer,
    End,
}

impl Answer {
    /// Forgets it; the next one may come.
    pub fn clear(&mut self) {
        self.status = 0;
        self.body.clear();
        self.begun.clear();
        self.place = Place::Head;
    }

    /// Takes what was read; says whether the answer is whole.
    pub fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() && self.place != Place::End {
            let used = match self.place {
                Place::Head => self.head(bytes),
                Place::Body(left) | Place::Chunk(left) => self.part(left, bytes),
                Place::Size | Place::Trailer | Place::End => self.line(bytes),
            };
            bytes = &bytes[used..];
        }
        self.place == Place::End
    }

    /// Whether it is what was asked for: 200 with a body; a stream's to its last event.
    pub fn is_well(&self, is_stream: bool) -> bool {
        let is_whole = if is_stream { self.body.trim_ascii_end().ends_with(b"[DONE]") } else { !self.body.is_empty() };
        self.status == 200 && is_whole
    }

    fn head(&mut self, bytes: &[u8]) -> usize {
        let before = self.begun.len();
        self.begun.extend_from_slice(bytes);
        let Some(end) = find(&self.begun, b"\r\n\r\n") else { return bytes.len() };
        let head = String::from_utf8_lossy(&self.begun[..end]).to_ascii_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let length = || field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        self.status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        self.place = match field("transfer-encoding") {
            Some(coding) if coding.ends_with("chunked") => Place::Size,
            _ => Some(length()).filter(|length| *length > 0).map_or(Place::End, Place::Body),
        };
        self.begun.clear();
        end + 4 - before
    }

    fn part(&mut self, left: usize, bytes: &[u8]) -> usize {
        let used = left.min(bytes.len());
        self.body.extend_from_slice(&bytes[..used]);
        self.place = match (self.place, left - used) {
            (Place::Chunk(_), 0) => Place::Size,
            (Place::Chunk(_), left) => Place::Chunk(left),
            (_, 0) => Place::End,
            (_, left) => Place::Body(left),
        };
        used
    }

    /// A chunk's size, the line break after a chunk, or what follows the last one.
    fn line(&mut self, bytes: &[u8]) -> usize {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.begun.extend_from_slice(bytes);
            return bytes.len();
        };
        self.begun.extend_from_slice(&bytes[..end]);
        let line = String::from_utf8_lossy(&self.begun).trim().to_owned();
        self.begun.clear();
        self.place = match (self.place, line.as_str()) {
            (Place::Trailer, "") => Place::End,
            (place, "") => place,
            (Place::Trailer, _) => Place::Trailer,
            (_, size) => match usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) {
                Ok(0) => Place::Trailer,
                Ok(size) => Place::Chunk(size),
                Err(_) => {
                    self.status = 0;
                    Place::End
                }
            },
        };
        end + 1
    }
}
