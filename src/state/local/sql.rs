//! The statements of the local state. A test has each of them explained by SQLite and refuses those that would read a
//! whole table or sort.

pub(super) const META: &str = "SELECT value FROM meta WHERE key = ?1";

pub(super) const SET_META: &str = "INSERT OR REPLACE INTO meta VALUES (?1, ?2)";

pub(super) const COVERING: &str = "SELECT outcome, reply FROM record WHERE message = ?1 AND replay = ?2";

pub(super) const REPLY: &str = "SELECT body FROM reply WHERE key = ?1";

pub(super) const SAY_ONCE: &str = "INSERT OR IGNORE INTO reply (key, body, at, done) VALUES (?1, ?2, ?3, 1)";

pub(super) const INTEND: &str = "INSERT OR REPLACE INTO reply (key, body, at) VALUES (?1, ?2, ?3)";

pub(super) const COVER: &str =
    "INSERT INTO record (message, replay, conversation, reply, at) VALUES (?1, ?2, ?3, ?4, ?5)
     ON CONFLICT (message, replay) DO UPDATE SET reply = excluded.reply";

pub(super) const UNCOVER: &str =
    "DELETE FROM record WHERE message = ?1 AND replay = ?2 AND reply = ?3 AND outcome IS NULL";

pub(super) const REVOKE: &str = "DELETE FROM reply WHERE key = ?1 AND done = 0";

pub(super) const CONCLUDE: &str = "INSERT INTO record (message, replay, event, conversation, outcome, reply, at, body)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
     ON CONFLICT (message, replay) DO UPDATE
     SET event = excluded.event, outcome = excluded.outcome, at = excluded.at, body = excluded.body,
         reply = coalesce(excluded.reply, reply)";

pub(super) const DONE: &str = "UPDATE reply SET done = 1 WHERE key = ?1 AND done = 0";

pub(super) const SAID: &str = "INSERT INTO conversation (id, history, control, touched) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT (id) DO UPDATE SET history = excluded.history, touched = excluded.touched,
         control = coalesce(excluded.control, control)";

pub(super) const REMEMBERED: &str = "SELECT control, history, away, alias, user FROM conversation WHERE id = ?1";

pub(super) const NOTE_CONTROL: &str = "INSERT INTO conversation (id, control, touched) VALUES (?1, ?2, ?3)
     ON CONFLICT (id) DO UPDATE SET control = excluded.control, history = NULL
     WHERE control IS NULL OR json_extract(control, '$.at') <= json_extract(excluded.control, '$.at')";

pub(super) const NOTE_AWAY: &str =
    "INSERT INTO conversation (id, away) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET away = excluded.away";

pub(super) const NOTE_USER: &str = "INSERT INTO conversation (id, user, touched) VALUES (?1, ?2, ?3)
     ON CONFLICT (id) DO UPDATE SET user = excluded.user, touched = max(touched, excluded.touched)";

macro_rules! record {
    () => {
        "SELECT record.body, reply.body, message, event, conversation, outcome, record.at, replay
         FROM record LEFT JOIN reply ON reply.key = record.reply "
    };
}

/// By message id and by event id in turn: asked with OR, SQLite reads every record. The index by event leaves out the
/// events that are named like their message, and is taken only if the query says so.
pub(super) const RECORD: [&str; 2] = [
    concat!(record!(), "WHERE message = ?1 ORDER BY replay DESC LIMIT 1"),
    concat!(record!(), "WHERE event = ?1 AND event IS NOT NULL AND event != message ORDER BY replay DESC LIMIT 1"),
];

pub(super) const MESSAGES_OF: &str = "SELECT body FROM record
     WHERE conversation = ?1 AND outcome IS NOT NULL AND body IS NOT NULL ORDER BY row DESC LIMIT ?2";

pub(super) const NOTE_STORY: &str = "INSERT INTO record (message, replay, event, conversation, at, body)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (message, replay) DO UPDATE SET event = excluded.event, body = excluded.body WHERE outcome IS NULL";

pub(super) const STORY: &str =
    "SELECT body FROM record WHERE message = ?1 AND outcome IS NULL ORDER BY replay DESC LIMIT 1";

pub(super) const MERGE_INTO: &str = "INSERT INTO conversation (id, user, history, touched)
     SELECT ?2, user, history, touched FROM conversation WHERE id = ?1
     ON CONFLICT (id) DO UPDATE SET history = coalesce(history, excluded.history), user = coalesce(user, excluded.user),
         touched = max(touched, excluded.touched)";

pub(super) const MERGED: &str = "INSERT INTO conversation (id, alias) VALUES (?1, ?2)
     ON CONFLICT (id) DO UPDATE SET alias = excluded.alias, history = NULL, control = NULL, away = NULL";

/// Those merged into it before go along.
pub(super) const FOLLOW: &str = "UPDATE conversation SET alias = ?2 WHERE alias = ?1 AND alias IS NOT NULL";

pub(super) const OF_USER: &str = "SELECT id FROM conversation WHERE user = ?1 AND user IS NOT NULL";

pub(super) const FORGET_CONVERSATION: &str = "DELETE FROM conversation WHERE id = ?1";

pub(super) const LIVES: &str = "SELECT message, replay FROM record WHERE conversation = ?1";

pub(super) const FORGET_REPLY: &str = "UPDATE reply SET body = NULL WHERE key = ?1";

/// What was meant and has not ended is not meant any more. Whoever has it in hand records how it ended after all.
pub(super) const FORGET_STORIES: &str =
    "UPDATE record SET body = NULL, outcome = coalesce(outcome, ?2) WHERE conversation = ?1";

pub(super) const TIDY_TEXTS: &str = "UPDATE reply SET body = NULL WHERE key IN
     (SELECT key FROM reply WHERE done = 1 AND body IS NOT NULL AND at < ?1 LIMIT ?2)";

macro_rules! oldest_ended {
    () => {
        "row IN (SELECT row FROM record WHERE row > 0 AND outcome IS NOT NULL ORDER BY row LIMIT ?2) AND at < ?1"
    };
}

/// Rows are numbered by age, so the oldest are found without an index by time. What has not ended is passed over: it
/// is kept, and must not be in the way; nor is a reply taken that covers some of it.
pub(super) const TIDY_REPLIES: &str = concat!(
    "DELETE FROM reply WHERE key IN (SELECT reply FROM record WHERE ",
    oldest_ended!(),
    ") AND NOT EXISTS (
         SELECT 1 FROM json_each(reply.body, '$.covers')
         CROSS JOIN record ON record.message = json_each.value AND record.replay = json_extract(reply.body, '$.replay')
         WHERE record.outcome IS NULL)"
);

pub(super) const TIDY_RECORDS: &str = concat!("DELETE FROM record WHERE ", oldest_ended!());

pub(super) const TIDY_CONVERSATIONS: &str =
    "DELETE FROM conversation WHERE touched < ?1 AND touched > 0 AND away IS NULL";

pub(super) const OPEN_SINCE: &str = "SELECT id FROM conversation WHERE touched >= ?1 AND alias IS NULL
     AND (control IS NULL OR json_extract(control, '$.holder') != 'other')
     ORDER BY touched DESC LIMIT ?2";

pub(super) const USED: &str = "SELECT tokens FROM budget WHERE month = ?1 AND key = ?2";

pub(super) const SPEND: &str = "INSERT INTO budget (month, key, tokens) VALUES (?1, ?2, ?3)
     ON CONFLICT (month, key) DO UPDATE SET tokens = min(tokens + excluded.tokens, ?4) RETURNING tokens";

pub(super) const TIDY_BUDGETS: &str = "DELETE FROM budget WHERE month < ?1";

pub(super) const SETTINGS: &str = "SELECT body FROM setting ORDER BY name";

pub(super) const SET: &str = "INSERT OR REPLACE INTO setting (name, body) VALUES (?1, ?2)";

pub(super) const UNSET: &str = "DELETE FROM setting WHERE name = ?1";

/// Takes back what ends with a run of a process. By name and that run's.
pub(super) const END: &str = "DELETE FROM setting WHERE name = ?1 AND body ->> 'ends_with' = ?2";

pub(super) const NOTE: &str = "INSERT OR REPLACE INTO audit (id, body) VALUES (?1, ?2)";

pub(super) const AUDIT: &str = "SELECT body FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";

pub(super) const TIDY_AUDIT: &str = "DELETE FROM audit WHERE id < ?1";

/// Every statement.
#[cfg(test)]
const ALL: &[&str] = &[
    META,
    SET_META,
    COVERING,
    REPLY,
    SAY_ONCE,
    INTEND,
    COVER,
    UNCOVER,
    REVOKE,
    CONCLUDE,
    DONE,
    SAID,
    REMEMBERED,
    NOTE_CONTROL,
    NOTE_AWAY,
    NOTE_USER,
    RECORD[0],
    RECORD[1],
    MESSAGES_OF,
    NOTE_STORY,
    STORY,
    MERGE_INTO,
    MERGED,
    FOLLOW,
    OF_USER,
    FORGET_CONVERSATION,
    LIVES,
    FORGET_REPLY,
    FORGET_STORIES,
    TIDY_TEXTS,
    TIDY_REPLIES,
    TIDY_RECORDS,
    TIDY_CONVERSATIONS,
    OPEN_SINCE,
    USED,
    SPEND,
    TIDY_BUDGETS,
    SETTINGS,
    SET,
    UNSET,
    END,
    NOTE,
    AUDIT,
    TIDY_AUDIT,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{state::local::schema::SCHEMA, store::plan};

    #[test]
    fn no_statement_reads_a_whole_table_or_sorts() {
        for statement in ALL {
            let plan = plan::of(&SCHEMA, statement);
            let tables =
                ["meta", "reply", "record", "conversation", "budget", "audit"].map(|table| format!("SCAN {table}"));
            for forbidden in tables.iter().map(String::as_str).chain(["USE TEMP B-TREE"]) {
                assert!(!plan.contains(forbidden), "{statement}\n{plan}");
            }
        }
    }
}
