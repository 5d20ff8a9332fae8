//! What operators have set and done, for the whole fleet.
//!
//! ```text
//! <prefix>:{settings}:version   :all      a hash by name
//! <prefix>:{audit}:entries                a sorted set by text; each entry begins with its id, which begins with the time
//! ```

use std::sync::LazyLock;

use async_trait::async_trait;
use fred::types::scripts::Script;

use super::shared::{Redis, args, field, json, parsed};
use crate::state::{
    Audit, Error, Settings,
    audit::Entry,
    settings::{All, Setting},
};

static SETTINGS: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/settings.lua")));
static AUDIT: LazyLock<Script> = LazyLock::new(|| Script::from_lua(include_str!("scripts/audit.lua")));

/// Entries kept at the most, whatever their age: some 50 MB.
const ENTRIES_MAX: usize = 100_000;

impl Redis {
    async fn on_settings(&self, args: Vec<String>) -> Result<Vec<String>, Error> {
        let keys = ["version", "all"].map(|name| self.link.key("settings", name)).to_vec();
        self.link.run(&SETTINGS, keys, args).await
    }

    async fn on_audit(&self, args: Vec<String>) -> Result<Vec<String>, Error> {
        self.link.run(&AUDIT, vec![self.link.key("audit", "entries")], args).await
    }

    /// Sets again what a node remembers, if Redis has lost it: nobody has set anything since.
    pub(in crate::state) async fn restore_settings(&self, settings: &[Setting]) -> Result<(), Error> {
        let pairs = settings.iter().flat_map(|setting| [setting.name.clone(), json(setting)]);
        self.on_settings(["restore".to_owned()].into_iter().chain(pairs).collect()).await.map(drop)
    }

    /// Throws away what was done too long ago.
    pub(super) async fn tidy_audit(&self, now: crate::domain::time::Timestamp) -> Result<(), Error> {
        let oldest = beginning(&Entry::from(now.before(self.retention.audit)));
        self.on_audit(args!["tidy", oldest, ENTRIES_MAX]).await.map(drop)
    }
}

#[async_trait]
impl Settings for Redis {
    async fn settings(&self, known: Option<u64>) -> Result<Option<All>, Error> {
        let known = known.map_or_else(String::new, |known| known.to_string());
        let told = self.on_settings(args!["read", known]).await?;
        let version = field(&told, 0);
        if version == known {
            return Ok(None);
        }
        let version = version.parse().map_err(|_| Error::Failed("the settings have no version".into()))?;
        let mut settings: Vec<Setting> = told[1..].iter().filter_map(|body| parsed(body)).collect();
        settings.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(All { version, settings }))
    }

    async fn set(&self, setting: &Setting) -> Result<(), Error> {
        self.on_settings(args!["set", setting.name, json(setting)]).await.map(drop)
    }

    async fn unset(&self, name: &str) -> Result<bool, Error> {
        let told = self.on_settings(args!["unset", name]).await?;
        Ok(field(&told, 0) == "1")
    }

    async fn end(&self, name: &str, ends_with: &str) -> Result<(), Error> {
        self.on_settings(args!["finish", name, ends_with]).await.map(drop)
    }
}

#[async_trait]
impl Audit for Redis {
    async fn note(&self, entry: &Entry) -> Result<(), Error> {
        self.on_audit(args!["note", json(entry)]).await.map(drop)
    }

    async fn audit(&self, before: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let before = before.map_or_else(|| "+".to_owned(), |id| format!("({}", beginning(id)));
        let told = self.on_audit(args!["list", before, limit]).await?;
        Ok(told.iter().filter_map(|body| parsed(body)).collect())
    }
}

/// How the text of an entry begins whose id begins so.
fn beginning(id: &str) -> String {
    let quoted = json(&id);
    format!("{{\"id\":{}", &quoted[..quoted.len() - 1])
}
