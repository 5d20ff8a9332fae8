//! The statements that run while messages flow. `tests/plans.rs` has each of them explained by SQLite and refuses
//! those that would read a whole table or sort.

macro_rules! columns {
    () => {
        "seq, lane, tries, replay, bytes, reason, body, standing, conversation, first_seen"
    };
}

pub(super) const TURN: &str = "SELECT current, since FROM turn";

pub(super) const SEEN: &str =
    "SELECT seq FROM seen_0 WHERE id = ?1 UNION ALL SELECT seq FROM seen_1 WHERE id = ?1 LIMIT 1";

/// By the table whose turn it is.
pub(super) const REMEMBER: [&str; 2] = [
    "INSERT OR IGNORE INTO seen_0 (id, seq) VALUES (?1, ?2)",
    "INSERT OR IGNORE INTO seen_1 (id, seq) VALUES (?1, ?2)",
];

/// From both tables. By id.
pub(super) const FORGET: [&str; 2] = ["DELETE FROM seen_0 WHERE id = ?1", "DELETE FROM seen_1 WHERE id = ?1"];

pub(super) const INSERT: &str =
    "INSERT INTO job (lane, standing, due, conversation, replay, first_seen, bytes, reason, body)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

/// The plus keeps the lane out of the choice of an index: by conversation the rows would have to be sorted, by number
/// they come as they are wanted.
pub(super) const BACKLOG: &str =
    concat!("SELECT ", columns!(), " FROM job WHERE seq > ?1 AND +lane = ?2 AND standing = 0 ORDER BY seq LIMIT ?3");

pub(super) const OF_CONVERSATION: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM job INDEXED BY job_by_conversation
      WHERE lane = ?1 AND conversation = ?2 AND seq > ?3 AND standing = 0 ORDER BY seq LIMIT ?4"
);

/// What is set aside has an index of its own, `WHERE standing > 0`; SQLite takes it only if the query says the same.
pub(super) const DEAD: &str =
    concat!("SELECT ", columns!(), " FROM job WHERE standing = 2 AND standing > 0 ORDER BY due LIMIT ?1");

/// The dead or the parked ones behind a place in the order of that index.
pub(super) const LETTERS: &str = concat!(
    "SELECT ",
    columns!(),
    ", due FROM job WHERE standing = ?1 AND standing > 0 AND (due, lane, seq) > (?2, ?3, ?4)
      ORDER BY due, lane, seq LIMIT ?5"
);

pub(super) const LETTER: &str = concat!("SELECT ", columns!(), ", due FROM job WHERE seq = ?1 AND standing > 1");

pub(super) const REPLAY: &str =
    "UPDATE job SET standing = 0, due = 0, tries = 0, replay = ?2, reason = NULL, body = ?3, bytes = length(?3)
     WHERE seq = ?1 AND standing > 1";

pub(super) const DUE: &str =
    concat!("SELECT ", columns!(), " FROM job WHERE standing = 1 AND standing > 0 AND due <= ?1 ORDER BY due LIMIT ?2");

pub(super) const NEXT_DUE: &str = "SELECT min(due) FROM job WHERE standing = 1 AND standing > 0";

pub(super) const WAKE: &str = "UPDATE job SET standing = 0, due = 0 WHERE seq = ?1";

pub(super) const DELETE: &str = "DELETE FROM job WHERE seq = ?1";

pub(super) const SET_ASIDE: &str =
    "UPDATE job SET standing = :standing, due = :due, tries = :tries, reason = coalesce(:reason, reason),
     body = coalesce(:body, body) WHERE seq = :seq";

pub(super) const BY_NUMBER: &str = concat!("SELECT ", columns!(), " FROM job WHERE seq = ?1");

pub(super) const OLDEST: &str =
    "SELECT first_seen FROM job WHERE seq > ?1 AND +lane = ?2 AND standing = 0 ORDER BY seq LIMIT 1";

pub(super) const ALL_OF_CONVERSATION: &str =
    concat!("SELECT ", columns!(), " FROM job INDEXED BY job_by_conversation WHERE lane = ?1 AND conversation = ?2");

/// Whether rows hold some bytes: the next `?3` of them.
pub(super) const NAMING: &str = "SELECT seq, instr(body, ?2) > 0 FROM job WHERE seq > ?1 ORDER BY seq LIMIT ?3";

pub(super) const IS_PRESENT: &str = "SELECT 1 FROM job WHERE seq = ?1";

pub(super) const REMOVE: &str = "DELETE FROM job WHERE seq = ?1 RETURNING bytes";

pub(super) const PURGE_PARKED: &str =
    "DELETE FROM job WHERE standing = 3 AND standing > 0 AND due < ?1 RETURNING lane, bytes";

/// Every one of them.
#[cfg(test)]
pub(super) const HOT: &[&str] = &[
    SEEN,
    REMEMBER[0],
    REMEMBER[1],
    FORGET[0],
    FORGET[1],
    INSERT,
    BACKLOG,
    OF_CONVERSATION,
    DEAD,
    LETTERS,
    LETTER,
    REPLAY,
    DUE,
    NEXT_DUE,
    WAKE,
    DELETE,
    SET_ASIDE,
    BY_NUMBER,
    OLDEST,
    ALL_OF_CONVERSATION,
    NAMING,
    IS_PRESENT,
    REMOVE,
    PURGE_PARKED,
];
