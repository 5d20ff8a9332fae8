//! What operators have set and done, as a node on its own keeps it; in a fleet the copy it knows Redis's settings by.

use async_trait::async_trait;
use rusqlite::Connection;

use super::{Local, schema, sql};
use crate::{
    domain::time::Timestamp,
    state::{
        Audit, Error, Settings,
        audit::Entry,
        settings::{All, Setting},
    },
    store::{self, Durability},
};

/// The row of `meta` that counts the changes.
const VERSION: &str = "settings";

/// Sorts behind every id: these begin with digits.
const BEHIND_ALL: &str = "~";

#[async_trait]
impl Settings for Local {
    async fn settings(&self, known: Option<u64>) -> Result<Option<All>, Error> {
        let query = move |connection: &Connection| {
            let version = version(connection)?;
            if known == Some(version) {
                return Ok(None);
            }
            let mut statement = connection.prepare_cached(sql::SETTINGS)?;
            let bodies = statement.query_map([], |row| row.get::<_, Option<String>>(0))?;
            let bodies: Vec<Option<String>> = bodies.collect::<Result<_, _>>()?;
            Ok(Some(All { version, settings: bodies.into_iter().filter_map(schema::parsed).collect() }))
        };
        Ok(self.database.read(query).await?)
    }

    async fn set(&self, setting: &Setting) -> Result<(), Error> {
        let setting = setting.clone();
        let set = move |connection: &Connection| {
            connection.prepare_cached(sql::SET)?.execute((&setting.name, schema::json(&setting)))?;
            changed(connection)
        };
        Ok(self.database.write(Durability::Synced, set, |()| ()).await?)
    }

    async fn unset(&self, name: &str) -> Result<bool, Error> {
        let name = name.to_owned();
        let unset = move |connection: &Connection| {
            let was_set = connection.prepare_cached(sql::UNSET)?.execute([&name])? > 0;
            if was_set {
                changed(connection)?;
            }
            Ok(was_set)
        };
        Ok(self.database.write(Durability::Synced, unset, |_| ()).await?)
    }

    async fn end(&self, name: &str, ends_with: &str) -> Result<(), Error> {
        let (name, ends_with) = (name.to_owned(), ends_with.to_owned());
        self.change(move |connection| {
            if connection.prepare_cached(sql::END)?.execute((&name, &ends_with))? > 0 {
                changed(connection)?;
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Audit for Local {
    async fn note(&self, entry: &Entry) -> Result<(), Error> {
        let entry = entry.clone();
        let note = move |connection: &Connection| {
            connection.prepare_cached(sql::NOTE)?.execute((&entry.id, schema::json(&entry)))?;
            Ok(())
        };
        Ok(self.database.write(Durability::Synced, note, |()| ()).await?)
    }

    async fn audit(&self, before: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let before = before.unwrap_or(BEHIND_ALL).to_owned();
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(sql::AUDIT)?;
            let bodies = statement.query_map((&before, limit as i64), |row| row.get::<_, Option<String>>(0))?;
            let bodies: Vec<Option<String>> = bodies.collect::<Result<_, _>>()?;
            Ok(bodies.into_iter().filter_map(schema::parsed).collect())
        };
        Ok(self.database.read(query).await?)
    }
}

impl Local {
    /// Keeps a copy of what is set in Redis, for the time when that is away.
    pub(in crate::state) async fn copy_settings(&self, all: &All) -> Result<(), Error> {
        let all = all.clone();
        self.change(move |connection| {
            connection.execute("DELETE FROM setting", [])?;
            let mut set = connection.prepare_cached(sql::SET)?;
            for setting in &all.settings {
                set.execute((&setting.name, schema::json(setting)))?;
            }
            schema::set_meta(connection, VERSION, Timestamp(i64::try_from(all.version).unwrap_or(i64::MAX)))
        })
        .await
    }
}

fn version(connection: &Connection) -> Result<u64, store::Error> {
    Ok(schema::meta(connection, VERSION)?.map_or(0, |version| version.0.unsigned_abs()))
}

fn changed(connection: &Connection) -> Result<(), store::Error> {
    let next = version(connection)? + 1;
    schema::set_meta(connection, VERSION, Timestamp(i64::try_from(next).unwrap_or(i64::MAX)))
}

/// Throws away what was done before that.
pub(super) fn tidy(connection: &Connection, before: Timestamp) -> Result<(), store::Error> {
    connection.prepare_cached(sql::TIDY_AUDIT)?.execute([Entry::from(before)])?;
    Ok(())
}
