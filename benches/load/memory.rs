//! Memory while the AI is down and customers write on.

use tokio::time::Instant;

use crate::{
    Options, bare,
    client::{Plan, load},
    daemon::Daemon,
};

/// What the daemon may use, however many messages lie in its queue.
const MIB_MAX: f64 = 120.0;

/// Sends the messages, twice as many as the queue takes the second time, and looks at the daemon.
pub async fn memory(options: &Options) {
    let nowhere = [
        ("AI__SERVICES__0__BASE_URL", "http://127.0.0.1:1/v1".to_owned()),
        ("ZENDESK__API_URL", "http://127.0.0.1:1".to_owned()),
        ("ZENDESK__INTEGRATION", "tidegate".to_owned()),
        ("BROKER__EMBEDDED__MAX_MESSAGES", options.messages.to_string()),
    ];
    let daemon = Daemon::start(None, &nowhere).await;
    let plan = Plan { total: options.messages, within: bare::LONG, ..options.plan() };
    let began = Instant::now();
    let taken = load(daemon.public, Plan { conversations: options.conversations * 10, ..plan }).await;
    let full = daemon.resident_mib();
    let refused = load(daemon.public, Plan { first: options.messages, total: 1_000, ..plan }).await;
    println!(
        "{} webhooks in {:.1} s with the AI down, {} refused; memory {full:.1} MiB",
        options.messages,
        began.elapsed().as_secs_f64(),
        taken.failed
    );
    println!(
        "{} of 1000 beyond broker.embedded.max_messages were told to come again; memory {:.1} MiB",
        refused.failed,
        daemon.resident_mib()
    );
    assert!(full <= MIB_MAX && daemon.resident_mib() <= MIB_MAX, "more than {MIB_MAX} MiB");
    assert!(refused.failed > 900, "the sender was not told that the queue is full");
}
