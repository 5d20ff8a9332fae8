//! What runs while messages flow reads what it needs by an index and nothing else, however long the backlog is.

use super::super::{schema::SCHEMA, sql};
use crate::store::plan;

#[test]
fn nothing_that_runs_while_messages_flow_reads_a_whole_table_or_sorts() {
    for statement in sql::HOT {
        let plan = plan::of(&SCHEMA, statement);
        for forbidden in ["SCAN", "USE TEMP B-TREE"] {
            assert!(!plan.contains(forbidden), "{statement}\n{plan}");
        }
    }
}
