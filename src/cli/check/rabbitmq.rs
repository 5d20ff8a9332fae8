//! What `tidegate check` asks RabbitMQ. It makes and changes nothing there.

mod management;
mod policies;
mod version;

use std::path::Path;

use super::Finding;
use crate::{
    broker::{Fault, Greeting, Kind, Probe, RabbitmqConfig, SpoolConfig},
    config::Config,
    store::FolderLock,
};

const BROKER: &str = "broker";
const SPOOL: &str = "spool";

/// What is found out; nothing with the embedded queue.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    if config.broker.kind != Kind::Rabbitmq {
        return Vec::new();
    }
    let rabbitmq = &config.broker.rabbitmq;
    let mut findings = match Probe::new(rabbitmq) {
        Ok(probe) => servers(rabbitmq, &probe).await,
        Err(error) => vec![Finding::bad(BROKER, error.to_string(), "correct it in [broker.rabbitmq]")],
    };
    findings.push(spool(&config.broker.spool));
    findings
}

async fn servers(rabbitmq: &RabbitmqConfig, probe: &Probe) -> Vec<Finding> {
    let hosts = probe.hosts().await;
    let usable = hosts.iter().position(|(_, asked)| asked.is_ok());
    let mut findings = Vec::new();
    for (node, asked) in &hosts {
        match asked {
            Ok(greeting) => findings.extend(host(node, greeting.as_ref())),
            Err(fault) if fault.away && usable.is_some() => {
                findings.push(Finding::warn(BROKER, &fault.what, &fault.remedy));
            }
            Err(fault) => findings.push(bad(fault)),
        }
    }
    let greetings = hosts.iter().filter_map(|(node, asked)| Some((node.as_str(), asked.as_ref().ok()?.as_ref()?)));
    findings.extend(one_cluster(&greetings.collect::<Vec<_>>()));
    if let Some(usable) = usable {
        findings.extend(topology(probe, usable).await);
        findings.extend(management::findings(rabbitmq).await);
    }
    findings
}

fn bad(fault: &Fault) -> Finding {
    Finding::bad(BROKER, &fault.what, &fault.remedy)
}

fn host(node: &str, greeting: Option<&Greeting>) -> Vec<Finding> {
    let Some(greeting) = greeting else {
        let detail = format!("{node} does not tell its version");
        return vec![Finding::warn(BROKER, detail, "see to it that it is RabbitMQ 3.10 or newer")];
    };
    let Greeting { product, version, cluster } = greeting;
    let mut findings = vec![Finding::good(BROKER, format!("{product} {version} at {node}, cluster `{cluster}`"))];
    findings.extend(version::finding(node, version));
    findings
}

/// Hosts of several clusters would share the messages out between queues that know nothing of each other.
fn one_cluster(greetings: &[(&str, &Greeting)]) -> Option<Finding> {
    let (first, of_first) = greetings.first()?;
    let (other, of_other) = greetings.iter().find(|(_, greeting)| greeting.cluster != of_first.cluster)?;
    let detail = format!(
        "{first} belongs to the cluster `{}` and {other} to `{}`: each would have a queue of its own",
        of_first.cluster, of_other.cluster
    );
    Some(Finding::bad(
        BROKER,
        detail,
        "let broker.rabbitmq.nodes name hosts of one cluster; rabbitmqctl cluster_status",
    ))
}

async fn topology(probe: &Probe, host: usize) -> Vec<Finding> {
    let looked = match probe.look(host).await {
        Ok(looked) => looked,
        Err(fault) => return vec![bad(&fault)],
    };
    let mut findings: Vec<Finding> = looked.differing.iter().map(bad).collect();
    let (there, missing) = (looked.there, looked.missing);
    findings.push(match (there, missing) {
        (0, _) if !findings.is_empty() => return findings,
        (0, _) => Finding::good(BROKER, format!("{missing} exchanges and queues will be made by the first node")),
        (_, 0) => Finding::good(BROKER, format!("{there} exchanges and queues are as they should be")),
        _ => Finding::good(BROKER, format!("{there} exchanges and queues are there, {missing} will be made")),
    });
    findings
}

fn spool(spool: &SpoolConfig) -> Finding {
    if !spool.enabled {
        let detail = "broker.spool.enabled is false: while RabbitMQ does not confirm, webhooks are answered 503";
        return Finding::note(SPOOL, detail, "Zendesk tries again for 15 minutes, then the message is lost to us");
    }
    let on_own_disk = "; the disk must survive the process: give it a volume of its own";
    match FolderLock::take(Path::new(&spool.path)) {
        Ok(_) => Finding::good(SPOOL, format!("{}{on_own_disk}", spool.path)),
        Err(error) => Finding::bad(SPOOL, error.to_string(), "check broker.spool.path and its permissions"),
    }
}
