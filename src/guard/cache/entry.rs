//! An answer as it lies in Redis: sealed, so that nothing is served that no node of ours has put there under that name.
//!
//! ```text
//! version (1) | codec (1) | seal (32) | answer as JSON, compressed from COMPRESSED_FROM bytes on
//! ```
//! The seal is an HMAC-SHA256 over the name, the codec and the rest. The name is one as well: from the names in Redis
//! nobody can tell what was asked.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Key;
use crate::domain::{
    answer::{Answer, Tokens},
    hex::hex,
};

/// Of what entries look like; another version's are none.
const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
const HEADER: usize = 2;
const SEAL: usize = 32;
/// Shorter answers hardly shrink.
const COMPRESSED_FROM: usize = 1024;

/// What the nodes of an installation know and others do not.
pub struct Sealer([u8; 32]);

#[derive(Serialize, Deserialize)]
struct Kept {
    text: String,
    input: u64,
    output: u64,
}

impl Sealer {
    /// From what is the same on all nodes and secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(mac(b"tidegate answers", &[secret]))
    }

    /// The name of a question in Redis; `erased` tells apart what was kept before its tenant's answers were erased.
    pub(super) fn name(&self, key: &Key, erased: u64) -> String {
        hex(&mac(&self.0, &[&key.tenant.0, &erased.to_le_bytes(), &key.question]))
    }

    /// The name of a tenant in Redis.
    pub(super) fn tenant(&self, key: &super::Tenant) -> String {
        hex(&mac(&self.0, &[&key.0]))
    }

    /// Packs an answer.
    pub(super) fn seal(&self, name: &str, answer: &Answer) -> Vec<u8> {
        let kept = Kept { text: answer.text.clone(), input: answer.tokens.input, output: answer.tokens.output };
        let plain = serde_json::to_vec(&kept).expect("an answer is plain data");
        let (codec, body) = if plain.len() < COMPRESSED_FROM {
            (PLAIN, plain)
        } else {
            (LZ4, lz4_flex::block::compress_prepend_size(&plain))
        };
        let mut entry = vec![VERSION, codec];
        entry.extend(mac(&self.0, &[name.as_bytes(), &[codec], &body]));
        entry.extend(body);
        entry
    }

    /// Unpacks an answer, unless it is none, or not one that was kept under this name. `size_max` bounds what an entry
    /// may unpack to, in bytes.
    pub(super) fn open(&self, name: &str, entry: &[u8], size_max: u64) -> Option<Answer> {
        let (header, rest) = entry.split_at_checked(HEADER)?;
        let (seal, body) = rest.split_at_checked(SEAL)?;
        let &[VERSION, codec] = header else { return None };
        let mut check = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length is a key");
        for part in [name.as_bytes(), &[codec], body] {
            update(&mut check, part);
        }
        check.verify_slice(seal).ok()?;
        let plain = match codec {
            PLAIN => body.to_vec(),
            LZ4 => {
                let size = u32::from_le_bytes(body.get(..4)?.try_into().ok()?);
                let fits = u64::from(size) <= size_max.saturating_mul(2).saturating_add(1024);
                lz4_flex::block::decompress_size_prepended(fits.then_some(body)?).ok()?
            }
            _ => return None,
        };
        let Kept { text, input, output } = serde_json::from_slice(&plain).ok()?;
        Some(Answer { text, tokens: Tokens { input, output, ..Tokens::default() }, ..Answer::default() })
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    parts.iter().for_each(|part| update(&mut mac, part));
    mac.finalize().into_bytes().into()
}

fn update(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_le_bytes());
    mac.update(part);
}

#[cfg(test)]
mod tests {
    use super::{super::Tenant, *};
    use crate::domain::prompt::{History, Prompt};

    const ROOM: u64 = 1 << 20;

    fn key(tenant: &str) -> Key {
        Key::new(Tenant::new(tenant), "", "m", &Prompt::new("", &History::default(), &["hi"], Vec::new()))
    }

    fn answer(text: String) -> Answer {
        Answer { text, tokens: Tokens { input: 3, output: 4, ..Tokens::default() }, ..Answer::default() }
    }

    #[test]
    fn what_was_packed_comes_out_again_and_long_answers_shrink() {
        let sealer = Sealer::new(b"secret");
        for text in [String::new(), "hello".into(), "hello ünï ".repeat(500)] {
            let entry = sealer.seal("n", &answer(text.clone()));
            assert!(text.len() < COMPRESSED_FROM || entry.len() < text.len() / 4, "{}", entry.len());
            assert_eq!(sealer.open("n", &entry, ROOM), Some(answer(text)));
        }
    }

    #[test]
    fn whatever_else_lies_there_is_no_answer() {
        let sealer = Sealer::new(b"secret");
        let good = sealer.seal("n", &answer("hello ".repeat(300)));
        for bit in 0..good.len() * 8 {
            let mut spoiled = good.clone();
            spoiled[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sealer.open("n", &spoiled, ROOM), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(sealer.open("n", &good[..length], ROOM), None);
        }
        assert_eq!(sealer.open("another", &good, ROOM), None, "moved to another name");
        assert_eq!(Sealer::new(b"other").open("n", &good, ROOM), None, "of another installation");
        assert_eq!(sealer.open("n", &good, 10), None, "unpacks to more than is kept");
    }

    #[test]
    fn tenants_and_what_was_erased_have_names_of_their_own() {
        let sealer = Sealer::new(b"secret");
        let names = [sealer.name(&key("a"), 0), sealer.name(&key("b"), 0), sealer.name(&key("a"), 1)];
        assert!(names[0] != names[1] && names[0] != names[2]);
        assert_eq!(names[0], sealer.name(&key("a"), 0));
        assert_ne!(names[0], Sealer::new(b"other").name(&key("a"), 0));
    }
}
