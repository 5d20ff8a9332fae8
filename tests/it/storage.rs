//! The disk under the node: full, limited, damaged, from the future, or somebody else's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tidegate::simulate::{ai, zendesk};

use crate::support::{
    SOON, Scene, eventually,
    webhooks::{delivery, message},
};

/// A text so long that a dozen of them do not fit into what is left of a full disk.
fn long_text() -> String {
    "long ".repeat(20_000)
}

/// The pause before the first further try.
const DUE_IN: &str = "[retry]\nbase = '1s'\n";

/// A Zendesk that goes on trying for a while.
fn patient() -> zendesk::Options {
    zendesk::Options { webhook_retry_base: Duration::from_millis(50), webhook_attempts_max: 12, ..Default::default() }
}

/// A message whose pause before the next try ends while nothing can be written.
async fn one_is_due_soon(scene: &Scene) {
    scene.ai.behave(ai::Behaviour { status: 422, ..ai::Behaviour::default() });
    scene.say("due", "refused at first").await;
    let delayed = async || scene.daemon.metric("tidegate_queue_messages{lane=\"chat\",state=\"delayed\"}").await;
    eventually("it waits for its next try", SOON, async || delayed().await == 1.0).await;
    scene.ai.behave(ai::Behaviour::default());
}

/// The disk fills, is full, and has room again; `set` does so. Everything is answered in the end.
async fn lives_through(scene: &mut Scene, set: impl Fn(&Scene, bool)) {
    scene.say("before", "hello").await;
    scene.settles().await;
    one_is_due_soon(scene).await;
    set(scene, true);
    for n in 0..20 {
        scene.say(&format!("c{n}"), &long_text()).await;
    }
    let refusals = async || scene.zendesk.stats().webhook_failed_attempts;
    eventually("webhooks are refused", SOON, async || refusals().await >= 5).await;
    let body = delivery(&[message("e", "m", "by-hand", &long_text())]);
    let refused = scene.deliver(body.clone()).await;
    assert_eq!((refused.status, refused.retry_after.is_some()), (503, true), "{refused:?}");
    let live = reqwest::get(scene.daemon.url("/livez")).await.unwrap();
    assert_eq!(live.status(), 200);
    let ready = reqwest::get(scene.daemon.url("/readyz")).await.unwrap();
    assert_eq!(ready.status(), 503, "a node that can store nothing is unready");
    stays_unready(scene).await;
    assert!(scene.daemon.ended().is_none(), "{}", scene.daemon.log_tail());
    set(scene, false);
    scene.settles().await;
    scene.assert_sound();
    assert_eq!(scene.zendesk.tally().answered, 22, "{:?}", scene.zendesk.stats());
    assert_eq!(scene.deliver(body).await.counts(), [1, 0, 0, 0, 0], "a 503 has stored nothing");
    let ready = scene.daemon.url("/readyz");
    eventually("it is ready again", SOON, async || reqwest::get(&ready).await.unwrap().status() == 200).await;
}

/// Longer than a refusal counts by itself, and long enough for actors to fail more often than is borne, if they did: a
/// message that is due asks for the disk all the time.
async fn stays_unready(scene: &Scene) {
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    while tokio::time::Instant::now() < until {
        let ready = reqwest::get(scene.daemon.url("/readyz")).await;
        let ready = ready.unwrap_or_else(|error| panic!("{error}\n{}", scene.daemon.log_tail()));
        assert_eq!(ready.status(), 503, "it can still store nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let up = scene.daemon.metric("tidegate_dependency_up{dependency=\"broker\"}").await;
    assert_eq!(up, 0.0, "the metric says the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_write_any_further_refuses_and_recovers() {
    let mut scene = Scene::set(DUE_IN, patient()).await;
    lives_through(&mut scene, |scene, full| {
        let pid = Pid::from_raw(scene.daemon.pid().cast_signed());
        // Not a byte, nor a line of the log.
        let current = full.then_some(0);
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).expect("a limit can be set on a child");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unready_node_finds_out_by_itself_that_it_can_store_again() {
    let scene = Scene::with("").await;
    let limit = |current| {
        let pid = Pid::from_raw(scene.daemon.pid().cast_signed());
        prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).expect("a limit can be set on a child");
    };
    limit(Some(0));
    let refused = scene.deliver(delivery(&[message("e", "m", "c", "hello")])).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    // Nobody else comes: a balancer leaves an unready node alone.
    stays_unready(&scene).await;
    limit(None);
    let ready = scene.daemon.url("/readyz");
    eventually("it is ready", SOON, async || reqwest::get(&ready).await.unwrap().status() == 200).await;
}

/// A small disk of its own, unmounted by its handle.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path());
        let done = mount.output().expect("`mount` is installed (package mount)");
        assert!(done.status.success(), "a small disk needs root: {}", String::from_utf8_lossy(&done.stderr));
        Self(folder)
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    /// Leaves no room, or makes it again.
    fn fill(&self, full: bool) {
        // A full disk is what is wanted, so the write ends with an error.
        let _ = if full { fs::write(self.ballast(), vec![1; 32 << 20]) } else { fs::remove_file(self.ballast()) };
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still hold it when a test fails.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Runs one test of this file in a user namespace of its own, where it may mount. Where that is forbidden too, the test
/// fails and says so.
fn run_where_one_may_mount(test: &str) {
    let this = std::env::current_exe().unwrap();
    let mut there = Command::new("unshare");
    there.arg("-rm").arg(this).args(["--exact", &format!("storage::{test}")]);
    let ended = there.output().expect("`unshare` is installed (package util-linux)");
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(
        ended.status.success() && said.contains("1 passed"),
        "a small disk can be mounted neither by this user nor in a user namespace of its own; the same way is taken by \
         a_node_that_may_not_write_any_further_refuses_and_recovers; go without this test by `--skip {test}`, or run it \
         as root: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_webhooks_loses_nothing_and_recovers() {
    if !rustix::process::getuid().is_root() {
        return run_where_one_may_mount("a_full_disk_refuses_webhooks_loses_nothing_and_recovers");
    }
    let disk = SmallDisk::mount();
    let path = disk.0.path().join("data");
    let config = format!("{DUE_IN}[broker.embedded]\npath = '{}'\n", path.display());
    let mut scene = Scene::set(&config, patient()).await;
    lives_through(&mut scene, |_, full| disk.fill(full)).await;
}

/// Starts the daemon again and waits for it to refuse; its exit code and the end of its log.
async fn refuses_to_start(scene: &mut Scene) -> (i32, String) {
    scene.daemon.spawn_again();
    eventually("it ends", SOON, async || scene.daemon.ended().is_some()).await;
    let code = scene.daemon.ended().and_then(|status| status.code()).expect("it ended by itself");
    (code, scene.daemon.log_tail())
}

/// A node that has stored something and was ended in order.
async fn used_and_stopped() -> Scene {
    let mut scene = Scene::with("").await;
    for n in 0..30 {
        scene.say(&format!("c{n}"), &format!("hello {}", "x".repeat(2_000))).await;
    }
    scene.settles().await;
    scene.daemon.terminate();
    eventually("it ends", SOON, async || scene.daemon.ended().is_some()).await;
    scene
}

fn damage(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    let end = bytes.len().min(at + 4096);
    assert!(at < end, "the file has only {} bytes", bytes.len());
    bytes[at..end].fill(0xa5);
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_newer_database_is_refused_with_a_reason_and_left_untouched() {
    let mut scene = used_and_stopped().await;
    let data = scene.daemon.data();
    type Spoil = fn(&Path);
    let cases: [(&str, &str, Spoil); 6] = [
        ("its head", "damaged", |file| damage(file, 0)),
        ("a page in the middle", "damaged", |file| damage(file, 2 * 4096)),
        ("cut to ten bytes", "damaged", |file| fs::write(file, b"SQLite for").unwrap()),
        ("something else", "damaged", |file| fs::write(file, "not a database ".repeat(500)).unwrap()),
        ("another kind of database", "damaged", |file| pragma(file, "application_id", 7)),
        ("a newer format", "newer version", |file| pragma(file, "user_version", 999)),
    ];
    for name in ["queue.db", "state.db"] {
        let file = data.join(name);
        let good = fs::read(&file).unwrap();
        for (what, word, spoil) in cases {
            spoil(&file);
            let spoiled = fs::read(&file).unwrap();
            let (code, log) = refuses_to_start(&mut scene).await;
            assert!(code != 0 && code != 101, "{name}, {what}: code {code}");
            // The reason may take a few lines, and is the last that was said.
            let said = log.rsplit_once("tidegate: ").map_or("", |(_, said)| said);
            assert!(said.contains(word) && said.contains(name), "{name}, {what}: {said}");
            assert!(fs::read(&file).unwrap() == spoiled, "{name}, {what}: the file was touched");
            fs::write(&file, &good).unwrap();
        }
    }
    scene.daemon.restart("").await;
    scene.say("after", "hello").await;
    scene.settles().await;
}

fn pragma(file: &Path, name: &str, value: i64) {
    let database = Connection::open(file).unwrap();
    database.pragma_update(None, name, value).unwrap();
    database.pragma_update(None, "journal_mode", "DELETE").unwrap();
}

fn run(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("run").arg("--config").arg(config).env_clear().output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_is_refused() {
    let scene = Scene::with("").await;
    let own = scene.daemon.data().with_file_name("config.toml");
    let mut config: toml::Table = fs::read_to_string(&own).unwrap().parse().unwrap();
    for section in ["http", "admin"] {
        config[section].as_table_mut().unwrap().insert("listen".into(), "127.0.0.1:0".into());
    }
    let other = own.with_file_name("other.toml");
    fs::write(&other, toml::to_string(&config).unwrap()).unwrap();
    let ended = tokio::task::spawn_blocking(move || run(&other)).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code().is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    scene.say("c", "still there?").await;
    scene.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_refused_with_the_key_to_change() {
    let mut scene = Scene::with("").await;
    scene.daemon.kill();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    scene.daemon.change(&format!("[http]\nlisten = '{}'\n", taken.local_addr().unwrap()));
    let (code, log) = refuses_to_start(&mut scene).await;
    assert!(code != 0 && log.contains("http.listen"), "{code}: {log}");
}

#[test]
fn every_problem_of_a_configuration_is_told_at_once_with_64() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let wrong = "[http]\nlisten = 'nowhere'\nwebhook_body_limit = 'much'\n[chat]\nmerge_quiet = '9s'\nquiet = '1s'\n\
                 [retry]\nfactor = 'two'\n[nonsense]\nx = 1\n[[ai.services]]\nname = 'a'\nconcurrency = 0\n\
                 [faults]\npanic = 0.5\n";
    fs::write(&config, wrong).unwrap();
    let ended = run(&config);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(64), "{said}");
    for key in [
        "http.listen",
        "http.webhook_body_limit",
        "chat.merge_quiet",
        "chat.quiet",
        "retry.factor",
        "nonsense",
        "concurrency",
        "faults",
    ] {
        assert!(said.lines().any(|line| line.contains(key)), "{key} is not told:\n{said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was made");
    let missing = run(&folder.path().join("missing.toml"));
    assert_eq!(missing.status.code(), Some(64), "a file that is not there");
}
