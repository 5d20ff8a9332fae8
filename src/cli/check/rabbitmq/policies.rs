//! The limits that belong into RabbitMQ's policies. They are no arguments of the queues, because an argument cannot be
//! changed without deleting the queue.

use serde_json::Value;

use crate::broker::RabbitmqConfig;

/// What all work queues together may hold, as much as `broker.embedded` does.
const WORK: (u64, u64) = (1_000_000, 4 << 30);

/// What lies in the dead or the parked letters at the most: they wait for people, and a message has a few KiB.
const LETTERS: (u64, u64) = (100_000, 1 << 30);

/// Above what an operator gives to all queues, as a rule 0.
const PRIORITY: u32 = 10;

/// A limit for some queues.
pub(super) struct Policy {
    /// One queue it must apply to.
    pub queue: String,
    name: String,
    pattern: String,
    messages: u64,
    bytes: u64,
}

/// One for the work, one each for the dead and the parked letters.
pub(super) fn all(rabbitmq: &RabbitmqConfig) -> [Policy; 3] {
    let prefix = &rabbitmq.prefix;
    let pattern = format!("^{}\\.", prefix.replace('.', "\\."));
    let work_queues = u64::from(rabbitmq.partitions) + 1;
    let of = |name: &str, queue: &str, queues: &str, (messages, bytes): (u64, u64)| Policy {
        queue: format!("{prefix}.{queue}"),
        name: format!("{prefix}-{name}"),
        pattern: format!("{pattern}{queues}$"),
        messages,
        bytes,
    };
    let each = (WORK.0 / work_queues, WORK.1 / work_queues);
    [
        of("work", "events", "(chat\\.[0-9]+|events)", each),
        of("dead", "dead", "dead", LETTERS),
        of("parked", "parked", "parked", LETTERS),
    ]
}

/// Why, and the commands that set them.
pub(super) fn remedy(rabbitmq: &RabbitmqConfig) -> String {
    let why = format!(
        "set limits, beyond which RabbitMQ refuses and the nodes keep what comes (all work queues together {} messages and \
         {} GiB, as the embedded queue; {} letters and {} GiB):",
        WORK.0,
        WORK.1 >> 30,
        LETTERS.0,
        LETTERS.1 >> 30
    );
    let commands = all(rabbitmq).map(|policy| policy.command(&rabbitmq.vhost));
    [&[why], &commands[..]].concat().join("\n")
}

/// Whether a policy's definition limits a queue.
pub(super) fn limits(definition: &Value) -> bool {
    !definition["max-length"].is_null() && !definition["max-length-bytes"].is_null()
}

impl Policy {
    /// Whether a policy that is set there is this one, whatever its numbers.
    pub fn is(&self, set: &Value) -> bool {
        set["pattern"] == self.pattern.as_str() && limits(&set["definition"])
    }

    fn command(&self, vhost: &str) -> String {
        let Self { name, pattern, messages, bytes, .. } = self;
        let definition = format!("{{\"max-length\":{messages},\"max-length-bytes\":{bytes}}}");
        let vhost = quoted(vhost);
        format!(
            "rabbitmqctl set_policy -p {vhost} --priority {PRIORITY} --apply-to queues {name} '{pattern}' '{definition}'"
        )
    }
}

/// For a shell.
pub(super) fn quoted(text: &str) -> String {
    let is_plain = text.chars().all(|letter| letter.is_ascii_alphanumeric() || "/-_.".contains(letter));
    if is_plain && !text.is_empty() { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
