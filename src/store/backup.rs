//! A copy of a database file, taken while its writer goes on.

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::Error;

/// Copies the database as it is at one moment into a new file, which is synced when this returns. The writer is not held
/// up; its log grows meanwhile. (`VACUUM INTO`: the backup API of SQLite begins anew with each write of another process.)
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    source.busy_timeout(std::time::Duration::from_secs(30))?;
    source.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    let file = fs::File::open(to)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Database, Durability, Schema};

    const SCHEMA: Schema = Schema {
        application_id: 7,
        version: 1,
        create: "CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT;",
        upgrades: &[],
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_copy_is_of_one_moment_although_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copied) = (folder.path().join("t.db"), folder.path().join("copy.db"));
        let database = Database::open(&path, &SCHEMA).unwrap();
        let insert = |n: i64| {
            move |connection: &Connection| {
                // Always two at once: half of that is no moment that ever was.
                connection.execute("INSERT INTO t VALUES (?1), (?2)", [2 * n, 2 * n + 1])?;
                Ok(())
            }
        };
        for n in 0..500 {
            database.write(Durability::Written, insert(n), |()| ()).await.unwrap();
        }
        let copying = tokio::task::spawn_blocking({
            let (path, copied) = (path.clone(), copied.clone());
            move || copy(&path, &copied)
        });
        let mut n = 500;
        while !copying.is_finished() {
            database.write(Durability::Written, insert(n), |()| ()).await.unwrap();
            n += 1;
        }
        copying.await.unwrap().unwrap();
        let copy = Database::open(&copied, &SCHEMA).unwrap();
        let count = |connection: &Connection| {
            Ok(connection.query_row("SELECT count(*), max(n) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?)))?)
        };
        let (rows, last): (i64, i64) = copy.read(count).await.unwrap();
        assert!(rows >= 1_000 && rows % 2 == 0 && last + 1 == rows, "{rows} rows up to {last}");
        assert!(super::copy(&path, &copied).is_err(), "a file that is there is not written over");
    }
}
