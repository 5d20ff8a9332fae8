//! A reply: the text, the parts it is posted in, and the mark by which it is found again.

use serde::{Deserialize, Serialize};

use super::{
    ids::{ConversationId, MessageId},
    time::Timestamp,
};

/// The longest text of one message, in UTF-16 code units (Zendesk: 4096 characters, not saying which kind;
/// UTF-16 is the strictest reading for text outside the basic plane).
pub const PART_UNITS_MAX: usize = 4096;

/// The most parts of one reply; a model that runs away is cut here rather than flooding the customer.
pub const PARTS_MAX: usize = 16;

/// Why we post.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To answer.
    Answer,
    /// To say that the answer takes longer.
    Holding,
    /// To say that no answer could be made.
    Failure,
    /// To say that a human takes over.
    Handoff,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 4] = [Self::Answer, Self::Holding, Self::Failure, Self::Handoff];

    /// The purpose as it stands in a post's metadata (`tidegate_kind`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Holding => "holding",
            Self::Failure => "failure",
            Self::Handoff => "handoff",
        }
    }
}

/// A reply as the ledger keeps it: frozen before the first post.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The conversation.
    pub conversation: ConversationId,
    /// The messages it answers, in order; the first is the head.
    pub covers: Vec<MessageId>,
    /// Why it is posted.
    pub purpose: Purpose,
    /// Its parts, each short enough for one post.
    pub parts: Vec<String>,
    /// Which life of the message it belongs to: 0, and one more with each replay.
    pub replay: u32,
    /// When it was meant; a post of it may turn up at Zendesk until some time after.
    pub at: Timestamp,
}

impl Reply {
    /// The name under which the ledger keeps it.
    pub fn key(&self) -> String {
        key(&self.covers[0], self.purpose, self.replay)
    }

    /// The mark of its part `part`, counted from zero.
    pub fn mark(&self, part: usize) -> Mark {
        Mark {
            key: self.key(),
            part: format!("{}/{}", part + 1, self.parts.len()),
            ids: self.covers.iter().map(MessageId::as_str).collect::<Vec<_>>().join(","),
            kind: self.purpose.as_str(),
        }
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.parts.concat()
    }
}

/// The ledger's name for what is posted about the message `head`.
pub fn key(head: &MessageId, purpose: Purpose, replay: u32) -> String {
    match (purpose, replay) {
        (Purpose::Answer, 0) => head.to_string(),
        _ => format!("{head}#{}{replay}", purpose.as_str()),
    }
}

/// What a post carries in its metadata, so that it can be found again. Flat, as Zendesk requires, and under 4 kB:
/// a burst has at most 64 fragments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// The ledger's name for the reply.
    #[serde(rename = "tidegate_key")]
    pub key: String,
    /// Part number and count, as `1/3`.
    #[serde(rename = "tidegate_part")]
    pub part: String,
    /// The messages answered, comma separated.
    #[serde(rename = "tidegate_ids")]
    pub ids: String,
    /// The purpose.
    #[serde(rename = "tidegate_kind")]
    pub kind: &'static str,
}

/// Cuts a text into parts that each fit one post: at a paragraph, a line or a word where one ends in the last quarter
/// of the part, and never inside a character or between a character and what is joined to it.
pub fn split(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() && parts.len() < PARTS_MAX {
        let (part, left) = rest.split_at(cut(rest, PART_UNITS_MAX));
        parts.push(part.trim_end().to_owned());
        rest = left.trim_start();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Where to cut so that the first piece has at most `units` UTF-16 units; a byte index on a character boundary.
fn cut(text: &str, units: usize) -> usize {
    let mut used = 0;
    let mut end = text.len();
    for (index, char) in text.char_indices() {
        used += char.len_utf16();
        if used > units {
            end = index;
            break;
        }
    }
    if end == text.len() {
        return end;
    }
    let floor = end - end / 4;
    let nice = ["\n\n", "\n", ". ", " "].into_iter().find_map(|mark| {
        text[..end].rfind(mark).map(|at| at + mark.len()).filter(|at| *at > floor && text.is_char_boundary(*at))
    });
    nice.unwrap_or_else(|| before_joined(text, end))
}

/// Moves a cut back to before a character that others are joined to (emoji sequences, accents, flags).
fn before_joined(text: &str, mut end: usize) -> usize {
    const STEPS_MAX: usize = 64;
    for _ in 0..STEPS_MAX {
        let joined_behind = text[end..].chars().next().is_some_and(joins);
        let joined_before = text[..end].ends_with('\u{200d}');
        if !joined_behind && !joined_before {
            return end;
        }
        match text[..end].char_indices().next_back() {
            Some((index, _)) if index > 0 => end = index,
            _ => return end,
        }
    }
    end
}

/// Characters that belong to the one before them.
fn joins(char: char) -> bool {
    matches!(char,
        '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{0300}'..='\u{036f}' | '\u{1ab0}'..='\u{1aff}'
        | '\u{20d0}'..='\u{20ff}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_text_is_one_part_and_nothing_is_none() {
        assert_eq!(split("hello"), ["hello"]);
        assert!(split("  \n ").is_empty());
    }

    #[test]
    fn a_long_text_is_cut_between_words_and_never_inside_an_emoji() {
        let words = "word ".repeat(2_000);
        assert!(split(&words).iter().all(|part| !part.starts_with(' ') && part.ends_with("word")));
        let family = "👩‍👩‍👧".repeat(1_000);
        let parts = split(&family);
        assert!(parts.len() > 1 && parts.iter().all(|part| part.starts_with('👩') && part.ends_with('👧')));
    }

    #[test]
    fn the_head_names_a_reply_and_each_part_has_its_own_mark() {
        let id = |text: &str| MessageId::new(text).unwrap();
        let reply = Reply {
            conversation: ConversationId::new("c").unwrap(),
            covers: vec![id("m1"), id("m2")],
            purpose: Purpose::Answer,
            parts: vec!["a".into(), "b".into()],
            replay: 0,
            at: Timestamp(0),
        };
        assert_eq!(reply.key(), "m1");
        assert_eq!(reply.mark(1).part, "2/2");
        assert_eq!(reply.mark(0).ids, "m1,m2");
        assert_ne!(key(&id("m1"), Purpose::Failure, 0), reply.key());
        assert_ne!(key(&id("m1"), Purpose::Answer, 1), reply.key());
    }

    proptest! {
        #[test]
        fn parts_fit_and_lose_nothing_but_white_space(text in "(\\PC|\n){0,9000}") {
            let parts = split(&text);
            prop_assert!(parts.iter().all(|part| part.encode_utf16().count() <= PART_UNITS_MAX));
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(squeeze(&parts.concat()), squeeze(&text));
        }
    }
}
