//! What the management HTTP API knows and AMQP does not tell: the size of the cluster, its alarms and partitions, the
//! policies. Neither of them tells `cluster_partition_handling` and the server's `consumer_timeout` (looked for in 3.10
//! and 4.0), so these are left to the operator.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

use super::{
    super::{ANSWER_WITHIN, Finding},
    BROKER, policies,
};
use crate::{broker::RabbitmqConfig, client, tls};

/// Servers that survive the loss of one.
const MAJORITY_OF: usize = 3;

/// How one asks, and where.
struct Management<'a> {
    client: Client,
    rabbitmq: &'a RabbitmqConfig,
}

/// Why it was not told.
enum Untold {
    /// There is no such thing.
    Absent,
    /// In words.
    Because(String),
}

/// What is found out, and the commands by which the rest can be.
pub(super) async fn findings(rabbitmq: &RabbitmqConfig) -> Vec<Finding> {
    let mut findings = match ask(rabbitmq).await {
        Ok(findings) => findings,
        Err(why) => vec![unseen(rabbitmq, &why), wanted(rabbitmq, "whether the queues have limits is not known")],
    };
    findings.push(by_hand(rabbitmq));
    findings
}

async fn ask(rabbitmq: &RabbitmqConfig) -> Result<Vec<Finding>, String> {
    if rabbitmq.management_url.is_empty() {
        return Err("broker.rabbitmq.management_url is empty".into());
    }
    let management = Management { client: http(rabbitmq)?, rabbitmq };
    let mut findings = match management.get(&["nodes"]).await {
        Ok(nodes) => cluster(nodes.as_array().map(Vec::as_slice).unwrap_or_default()),
        Err(Untold::Absent) => return Err("management_url answers, and is not RabbitMQ's management API".into()),
        Err(Untold::Because(why)) => return Err(why),
    };
    findings.extend(management.limits().await?);
    Ok(findings)
}

fn http(rabbitmq: &RabbitmqConfig) -> Result<Client, String> {
    client::tls();
    let builder = Client::builder().timeout(ANSWER_WITHIN).no_proxy().redirect(reqwest::redirect::Policy::none());
    let files = tls::Files {
        section: "broker.rabbitmq",
        ca_file: &rabbitmq.ca_file,
        client_cert: &rabbitmq.client_cert,
        client_key: &rabbitmq.client_key,
    };
    let is_secured = rabbitmq.management_url.starts_with("https:");
    let builder = if is_secured { builder.tls_backend_preconfigured((*tls::config(&files)?).clone()) } else { builder };
    builder.build().map_err(|error| error.to_string())
}

impl Management<'_> {
    async fn get(&self, path: &[&str]) -> Result<Value, Untold> {
        let because = |why: &str| Untold::Because(format!("management_url {why}"));
        let mut url = Url::parse(&self.rabbitmq.management_url).map_err(|_| because("is not an address"))?;
        url.path_segments_mut().map_err(|()| because("is not an address"))?.pop_if_empty().push("api").extend(path);
        let request = self.client.get(url).basic_auth(&self.rabbitmq.username, Some(self.rabbitmq.password.expose()));
        let response = request.send().await.map_err(|_| because("does not answer"))?;
        match response.status() {
            StatusCode::OK => response.json().await.map_err(|_| because("does not answer in JSON")),
            StatusCode::NOT_FOUND => Err(Untold::Absent),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(because("does not tell this user; give it the tag: rabbitmqctl set_user_tags USER monitoring"))
            }
            status => Err(because(&format!("answers {}", status.as_u16()))),
        }
    }

    /// Whether the queues have limits, and are held to the time that nodes expect.
    async fn limits(&self) -> Result<Vec<Finding>, String> {
        let (mut without, mut absent, mut findings) = (Vec::new(), Vec::new(), Vec::new());
        let set = match self.get(&["policies", &self.rabbitmq.vhost]).await {
            Ok(Value::Array(policies)) => policies,
            Err(Untold::Because(why)) => return Err(why),
            _ => Vec::new(),
        };
        for policy in policies::all(self.rabbitmq) {
            let queue = &policy.queue;
            match self.get(&["queues", &self.rabbitmq.vhost, queue]).await {
                Ok(told) => {
                    let effective = &told["effective_policy_definition"];
                    if !policies::limits(effective) {
                        without.push(queue.clone());
                    }
                    findings.extend(self.too_short(queue, effective));
                }
                Err(Untold::Absent) if set.iter().any(|one| policy.is(one)) => {}
                Err(Untold::Absent) => absent.push(queue.clone()),
                Err(Untold::Because(why)) => return Err(why),
            }
        }
        findings.push(match (without.as_slice(), absent.as_slice()) {
            ([], []) => Finding::good(BROKER, "the queues have limits of length by policy"),
            ([], _) => wanted(self.rabbitmq, "limits are set by policies, also before the queues are there"),
            (without, _) => {
                let why = "no limit of length by policy: when nobody empties a queue, it fills the disk";
                wanted(self.rabbitmq, &format!("{}: {why}", without.join(", ")))
            }
        });
        Ok(findings)
    }

    /// RabbitMQ 3.12 and newer know this time limit as a policy as well.
    fn too_short(&self, queue: &str, effective: &Value) -> Option<Finding> {
        let limit = Duration::from_millis(effective["consumer-timeout"].as_u64()?);
        let detail = format!("the policy of {queue} has a consumer-timeout of {limit:?}, shorter than ours");
        let remedy = format!("set broker.rabbitmq.consumer_timeout = \"{}ms\", or raise it there", limit.as_millis());
        (limit < self.rabbitmq.consumer_timeout).then(|| Finding::warn(BROKER, detail, remedy))
    }
}

/// What is to be said of the servers of a cluster.
fn cluster(nodes: &[Value]) -> Vec<Finding> {
    let name = |node: &Value| node["name"].as_str().unwrap_or_default().to_owned();
    let are = |holds: &dyn Fn(&Value) -> bool| nodes.iter().filter(|node| holds(node)).map(name).collect::<Vec<_>>();
    let size = nodes.len();
    let mut findings = vec![if size < MAJORITY_OF {
        let detail = format!("a cluster of {size}: the loss of one server stops the queue, or loses it with its disk");
        Finding::warn(BROKER, detail, "run three servers, cluster_partition_handling = pause_minority")
    } else {
        Finding::good(BROKER, format!("a cluster of {size}"))
    }];
    let mut warn = |who: Vec<String>, what: &str, remedy: &str| {
        if !who.is_empty() {
            findings.push(Finding::warn(BROKER, format!("{}: {what}", who.join(", ")), remedy));
        }
    };
    warn(are(&|node| node["running"] == false), "not running", "start it");
    let parted = |node: &Value| node["partitions"].as_array().is_some_and(|others| !others.is_empty());
    warn(are(&parted), "cut off from others", "see rabbitmqctl cluster_status, and the network");
    warn(are(&|node| node["mem_alarm"] == true), "memory alarm: it takes no messages", "free memory there");
    warn(are(&|node| node["disk_free_alarm"] == true), "disk alarm: it takes no messages", "free disk there");
    findings
}

fn unseen(rabbitmq: &RabbitmqConfig, why: &str) -> Finding {
    let detail = format!("not looked at: the size of the cluster, its alarms and partitions, its policies ({why})");
    let vhost = policies::quoted(&rabbitmq.vhost);
    let commands = [
        "set broker.rabbitmq.management_url, or look by hand:".to_owned(),
        "rabbitmqctl cluster_status       # three servers, no partitions, no alarms".to_owned(),
        format!("rabbitmqctl list_policies -p {vhost}"),
    ];
    Finding::warn(BROKER, detail, commands.join("\n"))
}

fn wanted(rabbitmq: &RabbitmqConfig, detail: &str) -> Finding {
    Finding::warn(BROKER, detail, policies::remedy(rabbitmq))
}

/// What no interface tells.
fn by_hand(rabbitmq: &RabbitmqConfig) -> Finding {
    let ours = rabbitmq.consumer_timeout.as_millis();
    let commands = [
        "on a server:".to_owned(),
        format!(
            "rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'            # not less than {ours} ms"
        ),
        "rabbitmqctl eval 'application:get_env(rabbit, cluster_partition_handling).'  # pause_minority; autoheal throws \
         messages away"
            .to_owned(),
    ];
    let detail = "consumer_timeout and cluster_partition_handling are told by rabbitmqctl only";
    Finding::note(BROKER, detail, commands.join("\n"))
}

#[cfg(test)]
#[path = "management_tests.rs"]
mod tests;
