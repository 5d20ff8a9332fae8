//! Opens a database file, and refuses one that is damaged, newer than this build or not ours, without touching it.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, ffi};

/// Files up to this size are checked from beginning to end when opened; the time for that stays under a second.
/// In larger ones damage shows when the damaged page is read.
const CHECKED_BYTES_MAX: u64 = 256 << 20;

const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What went wrong with a database.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file is not what this build wrote.
    #[error("{path} is damaged ({detail}); it was left untouched: restore a backup or move it away")]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        detail: String,
    },
    /// The file was written by a newer version.
    #[error("{path} has format {found}, this build knows up to {known}; it was left untouched: use the newer version")]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// Another process uses the folder.
    #[error("{0} is in use by another process; give each node a folder of its own")]
    InUse(String),
    /// The disk is full, or takes nothing more: a quota, a limit on the size of files, a failing device.
    #[error("the disk is full or cannot be written")]
    Full,
    /// The writer has ended.
    #[error("the store is closed")]
    Closed,
    /// Anything else the disk or SQLite reports.
    #[error("store: {0}")]
    Other(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        // SQLite reports a limit on the size of files and a quota as an I/O error.
        let cannot_grow = error.sqlite_error().is_some_and(|error| {
            [ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMSIZE].contains(&error.extended_code)
        });
        if cannot_grow { Self::Full } else { Self::Other(error.to_string()) }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What a file of one kind looks like.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Tells our kinds of file apart (`PRAGMA application_id`).
    pub application_id: i64,
    /// The format this build writes (`PRAGMA user_version`).
    pub version: i64,
    /// Creates the tables of that format.
    pub create: &'static str,
    /// Turns format 1 into 2, 2 into 3 and so on up to that one, each without losing what is there.
    pub upgrades: &'static [&'static str],
}

/// Opens the file for writing, creating it if there is none.
pub(super) fn open(path: &Path, schema: &Schema) -> Result<Connection, Error> {
    let exists = fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
    if exists {
        examine(path, schema)?;
    }
    let connection = Connection::open(path)?;
    configure(&connection)?;
    if !exists {
        connection.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {}; PRAGMA user_version = {}; {} COMMIT;",
            schema.application_id, schema.version, schema.create
        ))?;
    } else {
        upgrade(&connection, schema)?;
    }
    Ok(connection)
}

/// Brings a file of an older format to the present one, in one transaction.
fn upgrade(connection: &Connection, schema: &Schema) -> Result<(), Error> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found >= schema.version {
        return Ok(());
    }
    let done = usize::try_from(found - 1).unwrap_or(0);
    let steps: String = schema.upgrades.iter().skip(done).copied().collect();
    Ok(connection.execute_batch(&format!("BEGIN; {steps} PRAGMA user_version = {}; COMMIT;", schema.version))?)
}

/// Writes a page without changing anything, to see whether the file can be written.
pub fn touch(connection: &Connection) -> Result<(), Error> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // SQLite writes the first page also when the number stays the same.
    Ok(connection.pragma_update(None, "user_version", version)?)
}

/// Opens the file for folding the log into it beside the writer.
pub(super) fn open_folder(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// Opens the file for reading beside the writer.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), Error> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 6 MiB of pages: the hot part of the queue and of the dedupe index.
    connection.pragma_update(None, "cache_size", -6_144)?;
    // The writer folds the log into the file itself only when it has grown to 64 MiB: a checkpoint holds up whoever
    // waits for a sync. As a rule another thread has done so by then (`writer::fold`).
    connection.pragma_update(None, "wal_autocheckpoint", 16_384)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // What is deleted is overwritten: a removed customer's words must not lie on in free pages of the file. In the log
    // they lie until it is folded into the file and begun anew; and a copy may be left in the unused part of a page
    // whose rows were moved to another (`erasure.rs`).
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Looks at an existing file through a read-only connection.
fn examine(path: &Path, schema: &Schema) -> Result<(), Error> {
    let damaged = |detail: String| Error::Damaged { path: path.display().to_string(), detail };
    let mut magic = [0; 16];
    fs::File::open(path)?.read_exact(&mut magic).map_err(|_| damaged("the file is too short".into()))?;
    if &magic != SQLITE_MAGIC {
        return Err(damaged("the file is no SQLite database".into()));
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application_id = pragma("application_id").map_err(|error| damaged(error.to_string()))?;
    if application_id != schema.application_id {
        return Err(damaged("it is another kind of file".into()));
    }
    let found = pragma("user_version").map_err(|error| damaged(error.to_string()))?;
    if found > schema.version {
        return Err(Error::Newer { path: path.display().to_string(), found, known: schema.version });
    }
    if fs::metadata(path)?.len() <= CHECKED_BYTES_MAX {
        let verdict: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| damaged(error.to_string()))?;
        if verdict != "ok" {
            return Err(damaged(verdict));
        }
    }
    Ok(())
}
