//! What API keys have used, as a node on its own counts it.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{Local, sql};
use crate::{
    domain::{month::Month, time::Timestamp},
    state::{Budgets, Error, budgets::TOKENS_MAX},
    store,
};

/// The present month and so many before it are kept.
const MONTHS_KEPT: i32 = 13;

#[async_trait]
impl Budgets for Local {
    async fn spend(&self, key: &str, month: &str, tokens: u64) -> Result<u64, Error> {
        let (key, month) = (key.to_owned(), month.to_owned());
        let total = if tokens == 0 {
            self.database.read(move |connection| used(connection, &month, &key)).await?
        } else {
            self.change(move |connection| spend(connection, &month, &key, tokens.min(TOKENS_MAX))).await?
        };
        Ok(total)
    }
}

fn used(connection: &Connection, month: &str, key: &str) -> Result<u64, store::Error> {
    let mut statement = connection.prepare_cached(sql::USED)?;
    let total = statement.query_row((month, key), |row| row.get::<_, i64>(0)).optional()?;
    Ok(total.map_or(0, i64::unsigned_abs))
}

fn spend(connection: &Connection, month: &str, key: &str, tokens: u64) -> Result<u64, store::Error> {
    let (tokens, most) = (i64::try_from(tokens).unwrap_or(i64::MAX), i64::try_from(TOKENS_MAX).unwrap_or(i64::MAX));
    let mut statement = connection.prepare_cached(sql::SPEND)?;
    let total = statement.query_row((month, key, tokens, most), |row| row.get::<_, i64>(0))?;
    Ok(total.unsigned_abs())
}

/// Throws away the months that are over for long.
pub(super) fn tidy(connection: &Connection, now: Timestamp) -> Result<(), store::Error> {
    let oldest = Month::of(now).before(MONTHS_KEPT).to_string();
    connection.prepare_cached(sql::TIDY_BUDGETS)?.execute([oldest])?;
    Ok(())
}
