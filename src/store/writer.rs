//! The writer thread.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Error, Schema, file};

/// Operations that may wait for the writer; beyond it callers wait to hand theirs over.
const WAITING_MAX: usize = 8_192;

/// Operations of one transaction; bounds the time the first one waits for the last.
const GROUP_MAX: usize = 1_024;

/// Operations after which the log is folded into the file: some megabytes.
const FOLD_EVERY: usize = 2_000;

/// Connections for reading.
const READERS: usize = 2;

/// When an operation counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk.
    Synced,
    /// When it is written: it outlives the process, but not a power cut.
    Written,
}

/// One operation; run again by itself when its group failed.
type Run = Box<dyn FnMut(&Connection) -> Result<(), Error> + Send>;

struct Operation {
    run: Run,
    durability: Durability,
    /// Told the outcome, in the order of the operations and after the commit, on the writer's thread.
    done: Box<dyn FnOnce(Result<(), Error>) + Send>,
}

/// A database file with its writer.
pub struct Database {
    path: PathBuf,
    operations: Mutex<Option<mpsc::Sender<Operation>>>,
    readers: Arc<[Mutex<Connection>]>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Database {
    /// Opens the file, or creates it.
    pub fn open(path: &Path, schema: &Schema) -> Result<Self, Error> {
        let connection = file::open(path, schema)?;
        let readers = (0..READERS).map(|_| file::open_reader(path).map(Mutex::new)).collect::<Result<Vec<_>, _>>()?;
        let (operations, waiting) = mpsc::channel(WAITING_MAX);
        let name = path.file_stem().map_or_else(|| "store".into(), |stem| stem.to_string_lossy().into_owned());
        let (grown, folding) = std::sync::mpsc::sync_channel(1);
        let folder = file::open_folder(path)?;
        // Ends when the writer does, which holds the other end.
        std::thread::Builder::new().name(format!("{name}-folder")).spawn(move || fold(&folder, &folding))?;
        let writer = std::thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(move || write(connection, waiting, &grown))?;
        Ok(Self {
            path: path.to_owned(),
            operations: Mutex::new(Some(operations)),
            readers: readers.into(),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs an operation in the next transaction and returns when it is as durable as asked. `after` runs on the
    /// writer's thread right behind the commit, in commit order, before anybody is answered.
    pub async fn write<T, F, A>(&self, durability: Durability, mut run: F, after: A) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T, Error> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let value = Arc::new(Mutex::new(None));
        let kept = value.clone();
        let run: Run = Box::new(move |connection| {
            *kept.lock() = Some(run(connection)?);
            Ok(())
        });
        let done = Box::new(move |outcome: Result<(), Error>| {
            let outcome = outcome.and_then(|()| value.lock().take().ok_or(Error::Closed));
            if let Ok(value) = &outcome {
                after(value);
            }
            // The caller may have gone; what was written stays written.
            let _ = answer.send(outcome);
        });
        let operations = self.operations.lock().clone().ok_or(Error::Closed)?;
        operations.send(Operation { run, durability, done }).await.map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Hands an operation over without waiting for it; `false` when the writer is behind or gone, and the operation
    /// was not taken. Meant for notes whose loss costs work, never a message.
    pub fn note<F>(&self, mut run: F) -> bool
    where
        F: FnMut(&Connection) -> Result<(), Error> + Send + 'static,
    {
        let done = |outcome: Result<(), Error>| {
            if let Err(error) = outcome {
                tracing::warn!(%error, "a note could not be written");
            }
        };
        let operation =
            Operation { run: Box::new(move |c| run(c)), durability: Durability::Written, done: Box::new(done) };
        self.operations.lock().as_ref().is_some_and(|operations| operations.try_send(operation).is_ok())
    }

    /// Reads beside the writer, on a thread that may block; sees all that was committed before.
    pub async fn read<T, F>(&self, query: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let readers = self.readers.clone();
        let read = move || {
            let free = readers.iter().find_map(|reader| reader.try_lock());
            query(&free.unwrap_or_else(|| readers[0].lock()))
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| Error::Closed)?
    }

    /// Reads on the calling thread; for the start, before anything is served.
    pub fn read_now<T>(&self, query: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        query(&self.readers[0].lock())
    }

    /// Writes what has been handed over, then ends the writer.
    pub fn close(&self) {
        drop(self.operations.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            // A panicking writer has answered nobody; its callers see `Closed`.
            let _ = writer.join();
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

/// Folds the log into the file from time to time, on a thread of its own: the writer goes on meanwhile.
fn fold(connection: &Connection, grown: &std::sync::mpsc::Receiver<()>) {
    while grown.recv().is_ok() {
        // What cannot be folded now is folded next time, or by the writer.
        let _ = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
}

fn write(connection: Connection, mut waiting: mpsc::Receiver<Operation>, grown: &std::sync::mpsc::SyncSender<()>) {
    let mut unfolded = 0;
    let mut group = Vec::with_capacity(GROUP_MAX);
    let mut syncing = true;
    while let Some(first) = waiting.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_MAX {
            match waiting.try_recv() {
                Ok(next) => group.push(next),
                Err(_) => break,
            }
        }
        let sync = group.iter().any(|operation| operation.durability == Durability::Synced);
        if sync != syncing
            && connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" }).is_ok()
        {
            syncing = sync;
        }
        unfolded += group.len();
        commit(&connection, &mut group);
        if unfolded >= FOLD_EVERY {
            unfolded = 0;
            // If it is still folding, that will do.
            let _ = grown.try_send(());
        }
    }
    // Fold the log into the file, so that a clean stop leaves one file; a failure costs nothing but that.
    let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
}

/// Runs a group in one transaction; if that fails, each operation in one of its own, so that one cannot spoil others.
fn commit(connection: &Connection, group: &mut Vec<Operation>) {
    let together =
        in_transaction(connection, || group.iter_mut().try_for_each(|operation| (operation.run)(connection)));
    for mut operation in group.drain(..) {
        let outcome = match &together {
            Ok(()) => Ok(()),
            Err(Error::Full) => Err(Error::Full),
            Err(_) => in_transaction(connection, || (operation.run)(connection)),
        };
        (operation.done)(outcome);
    }
}

fn in_transaction(connection: &Connection, body: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let outcome = body().and_then(|()| {
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    });
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema {
        application_id: 0x7465_7374,
        version: 1,
        create: "CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT;",
        upgrades: &[],
    };

    fn insert(n: i64) -> impl FnMut(&Connection) -> Result<(), Error> {
        move |connection| {
            connection.execute("INSERT INTO t VALUES (?1)", [n])?;
            Ok(())
        }
    }

    async fn count(database: &Database) -> i64 {
        database.read(|c| Ok(c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)).await.unwrap()
    }

    #[tokio::test]
    async fn one_failing_operation_does_not_spoil_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&folder.path().join("t.db"), &SCHEMA).unwrap());
        let writes: Vec<_> = (0..200)
            .map(|n| {
                let database = database.clone();
                tokio::spawn(async move { database.write(Durability::Synced, insert(n / 2), |()| ()).await })
            })
            .collect();
        let mut failed = 0;
        for write in writes {
            failed += usize::from(write.await.unwrap().is_err());
        }
        assert_eq!((count(&database).await, failed), (100, 100));
    }

    #[tokio::test]
    async fn what_is_noted_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let database = Database::open(&path, &SCHEMA).unwrap();
        for n in 0..50 {
            assert!(database.note(insert(n)));
        }
        database.close();
        assert!(matches!(database.write(Durability::Synced, insert(99), |()| ()).await, Err(Error::Closed)));
        assert_eq!(count(&Database::open(&path, &SCHEMA).unwrap()).await, 50);
    }

    #[tokio::test]
    async fn a_damaged_foreign_or_newer_file_is_refused_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let database = Database::open(&path, &SCHEMA).unwrap();
        let fill = |connection: &Connection| {
            for n in 0..20_000 {
                connection.execute("INSERT INTO t VALUES (?1)", [n * 7])?;
            }
            Ok(())
        };
        database.write(Durability::Synced, fill, |()| ()).await.unwrap();
        drop(database);
        let sound = std::fs::read(&path).unwrap();
        let mut torn = sound.clone();
        torn[8_192..40_000].fill(0xA5);
        let newer = Schema { version: 0, ..SCHEMA };
        let foreign = Schema { application_id: 1, ..SCHEMA };
        for (bytes, schema) in
            [(torn, SCHEMA), (b"hello".to_vec(), SCHEMA), (sound.clone(), newer), (sound.clone(), foreign)]
        {
            std::fs::write(&path, &bytes).unwrap();
            let error = Database::open(&path, &schema).err().expect("refused");
            assert!(matches!(error, Error::Damaged { .. } | Error::Newer { .. }), "{error}");
            assert!(std::fs::read(&path).unwrap() == bytes, "the file was touched");
        }
        std::fs::write(&path, &sound).unwrap();
        assert!(Database::open(&path, &SCHEMA).is_ok());
    }

    #[tokio::test]
    async fn a_file_of_an_older_format_is_brought_to_the_present_one_with_all_that_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let first = Database::open(&path, &SCHEMA).unwrap();
        first.write(Durability::Synced, insert(7), |()| ()).await.unwrap();
        drop(first);
        let upgrades = ["CREATE TABLE u (n INTEGER) STRICT;", "ALTER TABLE t ADD COLUMN m INTEGER;"];
        for (version, known) in [(2, &upgrades[..1]), (3, &upgrades[..]), (3, &upgrades[..])] {
            let upgrades: &'static [&'static str] = Vec::leak(known.to_vec());
            let database = Database::open(&path, &Schema { version, upgrades, ..SCHEMA }).unwrap();
            assert_eq!(count(&database).await, 1, "format {version}");
            let added = |connection: &Connection| Ok(connection.execute("INSERT INTO u VALUES (1)", [])?);
            database.write(Durability::Synced, added, |_| ()).await.unwrap();
        }
        assert!(matches!(Database::open(&path, &SCHEMA).err(), Some(Error::Newer { found: 3, known: 1, .. })));
    }

    #[tokio::test]
    async fn an_upgrade_that_fails_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        drop(Database::open(&path, &SCHEMA).unwrap());
        let broken =
            Schema { version: 2, upgrades: &["CREATE TABLE u (n INTEGER); CREATE TABLE t (n INTEGER);"], ..SCHEMA };
        assert!(Database::open(&path, &broken).is_err());
        let database = Database::open(&path, &SCHEMA).unwrap();
        let tables = |connection: &Connection| {
            Ok(connection
                .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'u'", [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(database.read(tables).await.unwrap(), 0);
    }
}
