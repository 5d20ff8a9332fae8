//! What `tidegate check` asks Redis.

use std::time::Duration;

use fred::types::scripts::Script;

use super::Finding;
use crate::{
    config::Config,
    state::{
        Kind, RedisConfig,
        redis::{Plan, Probe, Reply, Trouble, Way, find, survey},
    },
    telemetry::Clock,
};

const STATE: &str = "state";
const CACHE: &str = "cache";

/// Clocks that differ by more make waits and deadlines differ between nodes.
const SKEW_MAX: Duration = Duration::from_secs(1);

/// Writes and reads as the scripts of a node do.
const TRIAL: &str = "redis.call('TIME') redis.call('SET', KEYS[1], '1', 'PX', 1000) return redis.call('GET', KEYS[1])";

/// What is found out; nothing with local state.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    if config.state.kind != Kind::Redis {
        return Vec::new();
    }
    let redis = &config.state.redis;
    let mut findings = state(redis).await;
    if config.cache.enabled {
        findings.push(cache(redis).await);
    }
    findings
}

async fn state(redis: &RedisConfig) -> Vec<Finding> {
    let plan = match Plan::new(redis) {
        Ok(plan) => plan,
        Err(error) => return vec![Finding::bad(STATE, error.to_string(), "correct it in [state.redis]")],
    };
    let way = match find(&plan, &[]).await {
        Ok(way) => way,
        Err(trouble) => return vec![bad(STATE, &trouble)],
    };
    let mut findings = Vec::new();
    for (_, surveyed) in survey(&plan, &plan.nodes).await {
        if let Err(trouble) = surveyed {
            findings.push(Finding::warn(STATE, trouble.to_string(), trouble.remedy()));
        }
    }
    let looked = match look(&plan, &way).await {
        Ok(looked) => try_out(&plan, &way, &redis.prefix, true).await.map(|()| looked),
        Err(trouble) => Err(trouble),
    };
    match looked {
        Ok(looked) => findings.splice(0..0, looked),
        Err(trouble) => return vec![bad(STATE, &trouble)],
    };
    findings
}

async fn cache(redis: &RedisConfig) -> Finding {
    if redis.cache_nodes.is_empty() || redis.cache_nodes == redis.nodes {
        let detail = "the cache shares the state's Redis: when its memory is full, either answers or decisions suffer";
        return Finding::warn(
            CACHE,
            detail,
            "give the cache a Redis of its own, which may evict: state.redis.cache_nodes",
        );
    }
    let plan = match Plan::for_cache(redis) {
        Ok(plan) => plan,
        Err(error) => return Finding::bad(CACHE, error.to_string(), "correct state.redis.cache_nodes"),
    };
    let found = match find(&plan, &[]).await {
        Ok(way) => try_out(&plan, &way, &redis.prefix, false).await.map(|()| way),
        Err(trouble) => Err(trouble),
    };
    match found {
        Ok(way) => Finding::good(CACHE, format!("redis at {}", way.node())),
        Err(trouble) => {
            let remedy = trouble.remedy().replace("state.redis.nodes", "state.redis.cache_nodes");
            Finding::bad(CACHE, trouble.to_string(), remedy)
        }
    }
}

fn bad(what: &str, trouble: &Trouble) -> Finding {
    Finding::bad(what, trouble.to_string(), trouble.remedy())
}

/// Looks at the server that was found.
async fn look(plan: &Plan, way: &Way) -> Result<Vec<Finding>, Trouble> {
    let mut probe = Probe::open(plan, way.node()).await?;
    let facts = probe.facts().await?;
    let shape = match way {
        Way::Server(node) => format!("redis {} at {node}", facts.version),
        Way::Cluster(_, members) => format!("redis {}, a Cluster of {} servers", facts.version, members.len()),
    };
    let mut findings = vec![Finding::good(STATE, shape)];
    let mut parts = facts.version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    if (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) < (6, 2) {
        let detail = format!("redis {} is old; this version is tested with 7", facts.version);
        findings.push(Finding::warn(STATE, detail, "install Redis 6.2 or newer"));
    }
    findings.extend(eviction(&mut probe).await?);
    match probe.info("persistence", "aof_enabled").await? {
        Some(enabled) if enabled != "0" => {}
        Some(_) => findings.push(Finding::warn(
            STATE,
            "it keeps no append-only file: a restart forgets limits, breakers and what was answered",
            "set appendonly yes, appendfsync everysec",
        )),
        None => findings.push(Finding::warn(
            STATE,
            "whether it persists could not be read: INFO is not allowed",
            "see to it that it keeps an append-only file",
        )),
    }
    findings.extend(skew(&mut probe).await?);
    Ok(findings)
}

/// Does what a node does all day: whoever may not is connected, and stands alone all the same.
async fn try_out(plan: &Plan, way: &Way, prefix: &str, publishes: bool) -> Result<(), Trouble> {
    let mut probe = Probe::open(plan, way.node()).await?;
    let (key, channel) = (format!("{prefix}:{{check}}:rights"), format!("{prefix}:check"));
    let hash = Script::from_lua(TRIAL).sha1().to_string();
    let mut tried = vec![vec!["EVAL", TRIAL, "1", &key], vec!["EVALSHA", &hash, "1", &key]];
    if publishes {
        tried.push(vec!["PUBLISH", &channel, ""]);
        // The last one: after it nothing else may be asked.
        tried.push(vec!["SUBSCRIBE", &channel]);
    }
    for words in tried {
        match probe.ask(&words).await? {
            // Another member of the Cluster has the key; the user's rights were looked at before that.
            Reply::Error(said) if said.starts_with("MOVED") || said.starts_with("CLUSTERDOWN") => {}
            Reply::Error(said) => {
                let said = format!("{}: {said}", words[0]);
                return Err(Trouble::NotAllowed { node: way.node().to_owned(), said });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Managed services forbid CONFIG; INFO tells the same.
async fn eviction(probe: &mut Probe) -> Result<Option<Finding>, Trouble> {
    let policy = match probe.info("memory", "maxmemory_policy").await? {
        Some(policy) => Some(policy),
        None => {
            let asked = probe.ask(&["CONFIG", "GET", "maxmemory-policy"]).await?;
            asked.list().get(1).and_then(Reply::text).map(ToOwned::to_owned)
        }
    };
    Ok(match policy.as_deref() {
        Some("noeviction") => None,
        Some(policy) => Some(Finding::warn(
            STATE,
            format!("maxmemory-policy is {policy}: when its memory is full, it drops limits and what was answered"),
            "set maxmemory-policy noeviction, and give the cache a Redis of its own",
        )),
        None => Some(Finding::warn(
            STATE,
            "maxmemory-policy could not be read: neither INFO nor CONFIG GET is allowed",
            "see to it that it is noeviction",
        )),
    })
}

async fn skew(probe: &mut Probe) -> Result<Option<Finding>, Trouble> {
    let Reply::List(parts) = probe.ask(&["TIME"]).await? else { return Ok(None) };
    let seconds = parts.first().and_then(Reply::text).and_then(|text| text.parse::<i64>().ok());
    let micros = parts.get(1).and_then(Reply::text).and_then(|text| text.parse::<i64>().ok());
    let (Some(seconds), Some(micros)) = (seconds, micros) else { return Ok(None) };
    let ahead_ms = Clock::system().now().0 - (seconds * 1_000 + micros / 1_000);
    let beyond = u128::from(ahead_ms.unsigned_abs()) > SKEW_MAX.as_millis();
    Ok(beyond.then(|| {
        let detail = format!("this machine's clock is {ahead_ms} ms ahead of Redis's");
        Finding::warn(STATE, detail, "synchronise the clocks (chrony, systemd-timesyncd)")
    }))
}
