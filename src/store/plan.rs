//! How SQLite would go about a statement; for tests.

use rusqlite::Connection;

use super::Schema;

/// The plan of a statement over tables of that form, one step a line. The tables are empty and without statistics, as
/// SQLite sees ours too: nothing here runs `ANALYZE`.
pub(crate) fn of(schema: &Schema, statement: &str) -> String {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(schema.create).unwrap();
    let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    // Parameters are left unset: a plan does not depend on them.
    let mut rows = explained.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get::<_, String>(3).unwrap());
    }
    steps.join("\n")
}
