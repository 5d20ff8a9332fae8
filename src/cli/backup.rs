//! `tidegate backup` and `restore`: the embedded store, copied while the node runs, and brought back.
//!
//! The queue is copied before the ledger: what has ended in between is in the copied queue and has ended in the copied
//! ledger. What was answered after both is not known to the copy; so a restored ledger counts as born at the restore, and
//! whatever is older is looked for in Zendesk before it is answered (design rule 5), and what was written since is read
//! there, as after an absence (rule 18).

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::{Source, failed};
use crate::{
    broker,
    config::Config,
    domain::time::{Timestamp, rfc3339},
    state::{self, Local},
    store::{FolderLock, backup},
    telemetry::Clock,
};

/// What is copied, in this order.
const FILES: [&str; 2] = ["queue.db", "state.db"];

/// Says when the copy was taken.
const MANIFEST: &str = "backup.json";

/// A node that was away for longer reads what it has missed from Zendesk.
const LONG_AWAY: Duration = Duration::from_secs(16 * 60);

/// Options of both.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The folder of the copy.
    folder: PathBuf,
    #[command(flatten)]
    source: Source,
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    #[serde(with = "rfc3339")]
    taken_at: Timestamp,
    version: String,
}

pub(super) fn backup(options: &Options) -> ExitCode {
    run(options, |config, folder| {
        let data = Path::new(&config.broker.embedded.path);
        if !data.join(FILES[0]).exists() {
            bail!(
                "there is no queue in {}; name the node's configuration by --config, and run this where the node runs",
                data.display()
            );
        }
        if folder.join(MANIFEST).exists() {
            bail!("{} holds a copy already; name another folder", folder.display());
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let taken_at = Clock::system().now();
        for file in FILES {
            backup::copy(&data.join(file), &folder.join(file))
                .with_context(|| format!("cannot copy {} into {}", data.join(file).display(), folder.display()))?;
        }
        let manifest = Manifest { taken_at, version: env!("CARGO_PKG_VERSION").into() };
        fs::write(folder.join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
        println!("copied {} into {}", data.display(), folder.display());
        Ok(())
    })
}

pub(super) fn restore(options: &Options) -> ExitCode {
    run(options, |config, folder| {
        let data = Path::new(&config.broker.embedded.path);
        let manifest = fs::read(folder.join(MANIFEST))
            .with_context(|| format!("{} is no backup: it has no {MANIFEST}", folder.display()))?;
        let manifest: Manifest = serde_json::from_slice(&manifest).context(MANIFEST)?;
        let _lock = FolderLock::take(data)?;
        // A log without its database would be taken for the log of the restored one.
        if let Some(there) = FILES.iter().flat_map(|file| with_logs(file)).find(|file| data.join(file).exists()) {
            bail!("{} is there; move it away, nothing is written over", data.join(there).display());
        }
        // Nothing lies where the node looks for it before it is whole, and marked as restored.
        let beside = data.join("restoring");
        if beside.exists() {
            fs::remove_dir_all(&beside).with_context(|| format!("cannot remove {}", beside.display()))?;
        }
        fs::create_dir(&beside).with_context(|| format!("cannot create {}", beside.display()))?;
        for file in FILES {
            fs::copy(folder.join(file), beside.join(file)).with_context(|| format!("cannot copy {file}"))?;
            fs::File::open(beside.join(file))?.sync_all()?;
        }
        let now = Clock::system().now();
        Local::open(&beside, config.retention.clone(), now)?.restored(now, manifest.taken_at.before(LONG_AWAY))?;
        // Without the state the queue is read by a node that was born after all that lies in it, which looks it up.
        for file in FILES.iter().flat_map(|file| with_logs(file).into_iter().rev()) {
            if beside.join(&file).exists() {
                fs::rename(beside.join(&file), data.join(&file)).with_context(|| format!("cannot move {file}"))?;
            }
        }
        fs::remove_dir_all(&beside)?;
        fs::File::open(data)?.sync_all()?;
        println!(
            "restored {} as it was at {}; at its start the node looks in Zendesk for what has happened since",
            data.display(),
            manifest.taken_at.to_rfc3339()
        );
        Ok(())
    })
}

/// A database, and the files that SQLite writes beside it.
fn with_logs(file: &str) -> [String; 3] {
    ["", "-wal", "-shm"].map(|ending| format!("{file}{ending}"))
}

fn run(options: &Options, work: impl FnOnce(&Config, &Path) -> anyhow::Result<()>) -> ExitCode {
    let loaded = match options.source.load(toml::Table::new()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let outcome = match (loaded.config.broker.kind, loaded.config.state.kind) {
        (broker::Kind::Embedded, state::Kind::Local) => work(&loaded.config, &options.folder),
        (broker::Kind::Rabbitmq, _) => Err(anyhow!("broker.kind is rabbitmq: its queues are RabbitMQ's to back up")),
        (_, state::Kind::Redis) => Err(anyhow!("state.kind is redis: the ledger is Redis's to back up")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}
