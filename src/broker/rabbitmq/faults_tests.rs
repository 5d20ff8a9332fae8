//! What becomes of messages while something is wrong between a node and a real server, and after it was mended.

use std::sync::Arc;

use super::{
    Queue,
    private::{Certificates, Rabbit, definitions},
    spool_tests::{Kept, config},
};
use crate::{
    broker::{Broker, Config, Publication, RabbitmqConfig, Upkeep, contract::tools},
    domain::{job::Kind, secret::Secret},
};

fn with(address: &str, folder: &std::path::Path, change: impl FnOnce(&mut RabbitmqConfig)) -> Config {
    let mut config = config(address.to_owned(), folder);
    config.rabbitmq.partitions = 2;
    change(&mut config.rabbitmq);
    config
}

/// Waits until the trouble says so, publishes a message and finds it in the spool.
async fn in_trouble(config: &Config, told: &str, lasting: bool) -> Kept {
    let kept = Kept::open(config);
    let says = |broker: &super::Rabbitmq| {
        broker.trouble().is_some_and(|trouble| trouble.reason.contains(told) && trouble.lasting == lasting)
    };
    kept.until(told, says).await;
    kept.publish(0..1).await;
    assert_eq!(kept.spooled(), 1, "{told}");
    kept
}

/// Waits until the spool is empty, and takes the message out of the queue.
async fn goes_on(kept: &Kept) {
    kept.until("it does not go on", |broker| broker.trouble().is_none() && broker.spooled() == Some(0)).await;
    let partition = kept.broker.inner.topology.partition_of(&tools::job(0, "c").conversation);
    let taken = tools::take_many(&*kept.broker, Queue::Chat(partition), 1).await;
    assert_eq!(tools::numbers(&taken), [0]);
    for delivery in taken {
        delivery.ack().await.unwrap();
    }
}

fn login(user: &str) -> impl FnOnce(&mut RabbitmqConfig) {
    move |config| (config.username, config.password) = (user.to_owned(), Secret::new(user))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_spools_and_goes_on_once_the_server_lets_him() {
    let folders = [(); 5].map(|()| tempfile::tempdir().unwrap());
    let rabbit = Rabbit::with(&definitions(folders[4].path()));
    let at =
        |n: usize, change: Box<dyn FnOnce(&mut RabbitmqConfig)>| with(&rabbit.address(), folders[n].path(), change);
    let password = at(0, Box::new(|config| config.password = Secret::new("other")));
    let vhost = at(1, Box::new(|config| config.vhost = "later".into()));
    let closed = at(2, Box::new(|config| config.vhost = "closed".into()));
    let rights = at(3, Box::new(login("reader")));
    let all = [
        in_trouble(&password, "does not accept this user or password", false).await,
        in_trouble(&vhost, "has no virtual host `later`", false).await,
        in_trouble(&closed, "into the virtual host `closed`", false).await,
        in_trouble(&rights, "does not let this user declare what is needed", true).await,
    ];
    let rights = [".*"; 3];
    tokio::task::block_in_place(|| {
        rabbit.ctl(&["add_vhost", "later"]);
        rabbit.ctl(&[&["set_permissions", "-p", "later", "guest"][..], &rights].concat());
        rabbit.ctl(&[&["set_permissions", "-p", "closed", "guest"][..], &rights].concat());
        rabbit.ctl(&[&["set_permissions", "reader"][..], &rights].concat());
        // Last, for the others use the old one.
    });
    for kept in &all[1..] {
        goes_on(kept).await;
        kept.broker.close().await;
    }
    tokio::task::block_in_place(|| rabbit.ctl(&["change_password", "guest", "other"]));
    goes_on(&all[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_under_our_name_is_told_and_not_touched() {
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let rabbit = Rabbit::start();
    let prefixed = |n: usize, prefix: &'static str| {
        with(&rabbit.address(), folders[n].path(), |config| config.prefix = prefix.into())
    };
    let first = Kept::open(&prefixed(0, "a"));
    first.until("no connection", |broker| broker.trouble().is_none()).await;
    let live = first.broker.inner.link.publish().live().unwrap();
    let channel = live.connection.create_channel().await.unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("b.parked".into(), durable, Default::default()).await.unwrap();

    let mut partitions = prefixed(1, "a");
    partitions.rabbitmq.partitions = 3;
    let mut prefetch = prefixed(2, "a");
    prefetch.rabbitmq.prefetch = 100;
    let told = "broker.rabbitmq.partitions is 3 here, but 2 on the nodes that were first";
    drop(in_trouble(&partitions, told, true).await);
    drop(in_trouble(&prefetch, "broker.rabbitmq.prefetch is 100 here, but 256", true).await);
    first.publish(0..1).await;
    goes_on(&first).await;

    let other = in_trouble(&prefixed(3, "b"), "the queue `b.parked` is there with other settings", true).await;
    channel.queue_delete("b.parked".into(), Default::default()).await.unwrap();
    goes_on(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_works_with_the_right_certificates_and_each_wrong_one_is_told() {
    let certificates = Certificates::for_names("IP:127.0.0.1");
    let others = Certificates::for_localhost();
    let folder = tempfile::tempdir().unwrap();
    let file = |of: &Certificates, name: &str| of.file(name).display().to_string();
    let ours = |name: &str| file(&certificates, name);
    let rabbit = Rabbit::with(&format!(
        "listeners.ssl.1 = 127.0.0.1:PORT\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
        ours("ca.pem"),
        ours("server.pem"),
        ours("key.pem")
    ));
    let secured = rabbit.further_address();
    let by_name = secured.replace("127.0.0.1", "localhost");
    let (ca, cert, key) = (ours("ca.pem"), ours("server.pem"), ours("key.pem"));
    let foreign = ["ca.pem", "server.pem", "key.pem"].map(|name| file(&others, name));
    let none = String::new();
    let table = [
        (&rabbit.address(), true, [&ca, &cert, &key], "does not speak TLS"),
        (&secured, false, [&none, &none, &none], "does not speak AMQP without TLS"),
        (&secured, true, [&foreign[0], &cert, &key], "is not trusted"),
        (&by_name, true, [&ca, &cert, &key], "is for another name"),
        (&secured, true, [&ca, &none, &none], "does not accept our TLS certificate, or misses one"),
        (&secured, true, [&ca, &foreign[1], &foreign[2]], "does not accept our TLS certificate"),
    ];
    let told_how = |n: usize, address: &str, tls: bool, files: [&String; 3]| {
        with(address, &folder.path().join(n.to_string()), |config| {
            config.tls = tls;
            [config.ca_file, config.client_cert, config.client_key] = files.map(String::clone);
        })
    };
    for (n, (address, tls, files, told)) in table.into_iter().enumerate() {
        let kept = in_trouble(&told_how(n, address, tls, files), told, false).await;
        kept.broker.close().await;
        drop(kept);
        // As after a new start with the right configuration.
        let kept = Kept::open(&told_how(n, &secured, true, [&ca, &cert, &key]));
        assert_eq!(kept.spooled(), 1, "{told}");
        goes_on(&kept).await;
        kept.broker.close().await;
    }
}

const BODY_MAX: usize = 20_000;

fn large(name: usize, conversation: &str) -> Publication {
    let mut job = tools::job(name, conversation);
    job.kind = Kind::Message { text: "x".repeat(BODY_MAX), user: None, image: None };
    Publication { job: Arc::new(job), ..tools::chat(name, conversation) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_server_takes_waits_alone_until_it_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rabbit = Rabbit::with(&format!("max_message_size = {BODY_MAX}\n"));
    let config = with(&rabbit.address(), folder.path(), |config| config.partitions = 1);
    let kept = Kept::open(&config);
    kept.until("no connection", |broker| broker.trouble().is_none()).await;
    let generation = kept.broker.inner.link.publish().live().unwrap().generation;
    let broker = &*kept.broker;
    // At the head, in the middle, and after the limit is known.
    let first = vec![large(0, "c"), tools::chat(1, "c"), large(2, "d"), tools::chat(3, "c"), tools::chat(4, "d")];
    broker.publish(first).await.unwrap();
    broker.publish(vec![tools::chat(5, "c"), large(6, "e"), tools::chat(7, "e")]).await.unwrap();
    let came = taken_until(broker, &[1, 3, 4, 5, 7]).await;
    assert_eq!(came, [1, 3, 4, 5, 7], "nobody waits behind what cannot be sent");
    kept.until("what stays is not told", |broker| broker.oversized() == 3 && broker.spooled() == Some(3)).await;
    let trouble = broker.trouble().unwrap();
    assert!(trouble.reason.contains("3 messages in the spool are larger") && !trouble.lasting, "{trouble:?}");
    let now = broker.inner.link.publish().live().unwrap().generation;
    assert_eq!(now, generation, "the connection is still the first: only the channel is opened anew");

    rabbit.configure("max_message_size = 1000000\n");
    tokio::task::block_in_place(|| rabbit.restart());
    kept.until("it does not go on", |broker| broker.oversized() == 0 && broker.spooled() == Some(0)).await;
    taken_until(broker, &[0, 2, 6]).await;
}

/// Takes and acknowledges until all of these have come; what has come, sorted. One may come twice, as always.
async fn taken_until(broker: &super::Rabbitmq, wanted: &[usize]) -> Vec<usize> {
    let mut came = Vec::new();
    while !wanted.iter().all(|number| came.contains(number)) {
        for delivery in tools::take(broker, Queue::Chat(0), 16).await {
            came.extend(tools::numbers(std::slice::from_ref(&delivery)));
            delivery.ack().await.unwrap();
        }
    }
    came.sort_unstable();
    came.dedup();
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_confirms_nothing_gives_way_to_another_on_the_same_connection() {
    let folder = tempfile::tempdir().unwrap();
    let rabbit = Rabbit::start();
    let kept = Kept::open(&with(&rabbit.address(), folder.path(), |_| {}));
    kept.until("no connection", |broker| broker.trouble().is_none()).await;
    kept.publish(1..2).await;
    let connection = || kept.broker.inner.link.publish().live().map(|live| live.generation);
    let before = connection();
    // As a channel is that waits for a queue's leader which has gone.
    let confirms = "(try rabbit_channel:info(P, [confirm]) == [{confirm, true}] catch _:_ -> false end)";
    let suspend = format!("[sys:suspend(P) || P <- rabbit_channel:list(), {confirms}].");
    tokio::task::block_in_place(|| rabbit.ctl(&["eval", &suspend]));
    kept.publish(2..5).await;
    kept.until("the spool is not emptied", |broker| broker.spooled() == Some(0)).await;
    assert!(before.is_some() && connection() == before, "all others on the connection would suffer with it");
    let partition = kept.broker.inner.topology.partition_of(&tools::job(0, "c").conversation);
    let taken = tools::take_many(&*kept.broker, Queue::Chat(partition), 4).await;
    assert_eq!(tools::numbers(&taken), [1, 2, 3, 4]);
}
