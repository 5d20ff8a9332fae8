//! What a client of fred is told, and how it is asked: its defaults wait for ever and try again by themselves.

use std::time::Duration;

use fred::{
    clients::Client,
    error::{Error as FredError, ErrorKind},
    interfaces::{ClientLike, LuaInterface},
    types::{
        Builder, MultipleValues, RespVersion, Value,
        config::{Config, Options, TlsConnector},
        scripts::Script,
    },
};
use tokio::time::{error::Elapsed, timeout};

use super::{
    plan::Plan,
    servers::Way,
    trouble::{Trouble, is_redirected},
};

/// A call that takes longer has failed; its effect is unknown.
pub(super) const WITHIN: Duration = Duration::from_millis(250);

/// How long a PING may take.
pub(super) const PING_WITHIN: Duration = Duration::from_millis(350);

/// How long each step of connecting may take.
const STEP_WITHIN: Duration = Duration::from_secs(1);

/// Commands that may wait inside the client.
const WAITING_MAX: usize = 10_000;

/// Published messages kept for a slow reader.
pub(super) const PUBLISHED_MAX: usize = 1_024;

pub(super) fn client(plan: &Plan, way: &Way) -> Result<Client, FredError> {
    let (username, password) = plan.user();
    let server =
        way.server_config().ok_or_else(|| FredError::new(ErrorKind::Config, "its address is not host:port"))?;
    let tls = plan.tls.clone().map(|config| TlsConnector::Rustls(config.into()).into());
    let config = Config { username, password, server, tls, version: RespVersion::RESP3, ..Config::default() };
    let mut builder = Builder::from_config(config);
    builder
        .with_performance_config(|performance| {
            performance.default_command_timeout = WITHIN;
            performance.broadcast_channel_capacity = PUBLISHED_MAX;
        })
        .with_connection_config(|connection| {
            connection.connection_timeout = STEP_WITHIN;
            connection.internal_command_timeout = STEP_WITHIN;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = WAITING_MAX;
        });
    builder.build()
}

/// By its hash; where the server has lost it, with its text, which that server then keeps. A script that was sent to
/// the wrong node of a Cluster did not run and is sent once more; `moved` hears of it first.
pub(super) async fn run(
    client: &Client,
    script: &Script,
    keys: Vec<String>,
    args: MultipleValues,
    moved: &(dyn Fn() + Sync),
) -> Result<Value, FredError> {
    let hash = script.sha1();
    let first = client.evalsha(hash.clone(), keys.clone(), args.clone()).await;
    let error = match first {
        Err(error) if error.details().starts_with("NOSCRIPT") || is_redirected(&error) => error,
        other => return other,
    };
    let lua = script.lua().map(ToString::to_string).unwrap_or_default();
    let again = Options { max_attempts: Some(2), ..Options::default() };
    if is_redirected(&error) {
        moved();
        let moved: Result<Value, FredError> =
            client.with_options(&again).evalsha(hash.clone(), keys.clone(), args.clone()).await;
        match moved {
            Err(error) if error.details().starts_with("NOSCRIPT") => {}
            other => return other,
        }
    }
    client.eval(lua, keys, args).await
}

/// Asks the server, or each master of a Cluster, whether it is there and takes writes; else tells what is wrong.
pub(super) async fn ping(client: &Client) -> Result<(), Trouble> {
    if !client.is_clustered() {
        let node = client.active_connections().first().map_or_else(|| "redis".to_owned(), ToString::to_string);
        return judge_ping(node, timeout(PING_WITHIN, client.ping::<Value>(None)).await);
    }
    let masters = client.active_connections().into_iter().map(|master| async move {
        let asked = client.with_cluster_node(master.clone());
        judge_ping(master.to_string(), timeout(PING_WITHIN, asked.ping::<Value>(None)).await)
    });
    futures_util::future::try_join_all(masters).await.map(drop)
}

/// A server that cannot save refuses PING as well: it is there, and no use.
fn judge_ping(node: String, answered: Result<Result<Value, FredError>, Elapsed>) -> Result<(), Trouble> {
    let Ok(Err(error)) = answered else { return answered.map(drop).map_err(|_| Trouble::Silent { node }) };
    let said = error.details().to_owned();
    let is_silent = matches!(
        error.kind(),
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Tls | ErrorKind::Routing
    );
    Err(match said {
        _ if is_silent => Trouble::Silent { node },
        said if said.starts_with("NOPERM") => Trouble::NotAllowed { node, said },
        said => Trouble::Refused { node, said },
    })
}
