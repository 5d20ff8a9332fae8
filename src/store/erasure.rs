//! What is deleted is gone from the files, not only from the tables; for texts of every length.
//!
//! Nearly so: when SQLite moves rows from one page to its neighbour, a copy can be left in the part of the page that is
//! unused then, until the page is written to again. Only rewriting the whole file (`VACUUM`) is sure to remove it.

use std::collections::HashSet;

use super::{Database, Durability, Schema};

const SCHEMA: Schema = Schema {
    application_id: 0x7465_7374,
    version: 1,
    create: "CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT) STRICT;",
    upgrades: &[],
};

const ROWS: usize = 600;

const MARK: &[u8] = b"swordfish-";

/// From a word to several pages.
fn text(n: usize) -> String {
    format!("swordfish-{n:04}-{}", "x".repeat((n * 37) % 9_000))
}

#[tokio::test]
async fn what_was_deleted_lies_in_no_page_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let database = Database::open(&path, &SCHEMA).unwrap();
    let fill = |connection: &rusqlite::Connection| {
        for n in 0..ROWS {
            connection.execute("INSERT INTO t VALUES (?1, ?2)", (n as i64, text(n)))?;
        }
        Ok(())
    };
    database.write(Durability::Synced, fill, |()| ()).await.unwrap();
    // Every other one, then a long run, so that pages are emptied, merged and given back; and some are overwritten.
    for statement in [
        "DELETE FROM t WHERE n % 2 = 1",
        "DELETE FROM t WHERE n BETWEEN 100 AND 300",
        "UPDATE t SET text = NULL WHERE n % 4 = 0",
    ] {
        let run = move |connection: &rusqlite::Connection| {
            connection.execute(statement, [])?;
            Ok(())
        };
        database.write(Durability::Synced, run, |()| ()).await.unwrap();
    }
    database.close();
    drop(database);
    let bytes = std::fs::read(&path).unwrap();
    let marks = bytes.windows(MARK.len() + 4).filter(|window| window.starts_with(MARK));
    let found: HashSet<usize> =
        marks.filter_map(|mark| std::str::from_utf8(&mark[MARK.len()..]).ok()?.parse().ok()).collect();
    let stays = |n: &usize| n % 4 == 2 && !(100..=300).contains(n);
    let (kept, deleted): (Vec<usize>, Vec<usize>) = (0..ROWS).partition(stays);
    assert!(kept.iter().all(|n| found.contains(n)));
    let left: Vec<_> = deleted.iter().filter(|n| found.contains(n)).collect();
    assert!(left.len() * 100 <= deleted.len(), "{left:?} of {}", deleted.len());
    let log = path.with_extension("db-wal");
    assert!(!log.exists() || std::fs::metadata(&log).unwrap().len() == 0, "nor in the log");
}
