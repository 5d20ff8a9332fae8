//! RabbitMQ of one's own: free loopback ports, temporary folders, ended by their handles, also when a test panics.
//!
//! A server takes ten seconds to start. Tests that do it no harm share one ([`shared`]), each under a prefix of its
//! own; the others start theirs ([`Rabbit`]), or a [`Cluster`] of three.

#[allow(clippy::duplicate_mod, reason = "in the library the tests of the broker and of the state are strangers")]
#[path = "redis/certificates.rs"]
mod certificates;
#[path = "rabbitmq/cluster.rs"]
mod cluster;
#[path = "rabbitmq/definitions.rs"]
mod definitions;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use self::{certificates::Certificates, cluster::Cluster, definitions::definitions};
use crate::ports::free_port;

/// A loaded machine takes 40 s to boot one server, and 80 s for three of a cluster.
const STARTS_WITHIN: Duration = Duration::from_secs(180);

/// A clean stop takes 3 s.
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// How often a server is asked.
const POLL: Duration = Duration::from_millis(50);

/// Partitions of a daemon that a test starts.
pub const PARTITIONS: usize = 8;

/// Debian's wrapper in /usr/sbin changes the user and the folder; these do not.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// Where another Debian lies, whose RabbitMQ is to be used (`scripts/rabbitmq4`). Temporary folders must lie in it.
const ROOT: &str = "TIDEGATE_TEST_RABBITMQ_ROOT";

/// Reads the first line of its input, which ends with whoever holds the other end; then ends the server and its folder.
const GUARDIAN: &str = "cat >/dev/null; kill -9 \"$1\" \"$2\" 2>/dev/null; rm -rf \"$3\"";

/// Where servers of one cluster find each other.
struct Epmd {
    child: Child,
    port: u16,
}

impl Epmd {
    /// Starts one and waits until it listens: a server that finds none there starts its own, which nobody ends.
    fn start() -> Self {
        let port = free_port();
        let mut child = Command::new("epmd")
            .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("epmd cannot be started ({error}); install rabbitmq-server (scripts/test does)")
            });
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "epmd ended ({ended:?})");
            std::thread::sleep(POLL);
        }
        Self { child, port }
    }
}

impl Drop for Epmd {
    fn drop(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One server.
pub struct Rabbit {
    server: Server,
    epmd: Epmd,
}

/// A server's process, its place and its settings.
struct Server {
    child: Child,
    folder: TempDir,
    name: String,
    port: u16,
    /// What `PORT` in its settings stands for.
    further_port: u16,
    distribution_port: u16,
    epmd_port: u16,
}

impl Rabbit {
    /// Starts one.
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one with more lines in its `rabbitmq.conf`. `PORT` stands for a further free port.
    pub fn with(config: &str) -> Self {
        Self::with_advanced(config, "")
    }

    /// The same, with settings that only an `advanced.config` can make: a list of Erlang's pairs for `rabbit`.
    pub fn with_advanced(config: &str, rabbit: &str) -> Self {
        let epmd = Epmd::start();
        let mut server = Server::prepare("one", epmd.port, config);
        fs::write(server.folder.path().join("advanced.config"), format!("[{{rabbit, [{rabbit}]}}]."))
            .expect("it can be written");
        server.boot();
        server.await_answer();
        Self { server, epmd }
    }

    /// Its address as `host:port`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The further port its settings speak of, as `host:port`.
    pub fn further_address(&self) -> String {
        format!("127.0.0.1:{}", self.server.further_port)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Stops it as an operator does, and waits for that.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again on the same port and folder, without waiting for it to answer.
    pub fn boot(&mut self) {
        self.server.kill();
        self.server.boot();
    }

    /// Starts it again and waits until it answers.
    pub fn restart(&mut self) {
        self.boot();
        self.server.await_answer();
    }

    /// Stops the process where it is, or lets it go on: it accepts connections and does not answer.
    pub fn freeze(&self, frozen: bool) {
        self.server.freeze(frozen);
    }

    /// Adds lines to its settings, for the next start.
    pub fn configure(&self, lines: &str) {
        self.server.configure(lines);
    }

    /// Runs `rabbitmqctl`, which takes seconds; what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.server.ctl(arguments)
    }

    /// Raises the memory alarm, or ends it: the server takes no more messages.
    pub fn alarm(&self, raised: bool) {
        let watermark = if raised { "0.00001" } else { "0.9" };
        self.ctl(&["set_vm_memory_high_watermark", watermark]);
    }
}

/// The server that tests share, and a prefix of the caller's own. It ends with the process, however that ends.
pub fn shared() -> (String, String) {
    static SHARED: OnceLock<String> = OnceLock::new();
    static PREFIXES: AtomicU64 = AtomicU64::new(0);
    let address = SHARED.get_or_init(|| {
        let rabbit = Rabbit::start();
        let address = rabbit.address();
        rabbit.outlive_tests();
        address
    });
    (address.clone(), format!("t{}", PREFIXES.fetch_add(1, Ordering::Relaxed)))
}

/// A daemon's configuration that leads to these servers. A hung one is noticed after 4 s.
pub fn config(nodes: &[String], prefix: &str) -> String {
    format!(
        "[broker]\nkind = 'rabbitmq'\n[broker.rabbitmq]\nnodes = {nodes:?}\npassword = 'guest'\nprefix = '{prefix}'\n\
         partitions = {PARTITIONS}\nheartbeat = '2s'\n"
    )
}

/// The partition of a conversation under [`config`]: FNV-1a and the finalizer of MurmurHash3, as on every node.
pub fn partition_of(conversation: &str) -> usize {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = conversation.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let partitions = u64::try_from(PARTITIONS).expect("they are few");
    usize::try_from((hash ^ (hash >> 33)) % partitions).expect("they are few")
}

impl Rabbit {
    /// Hands it to a guardian that ends it when this process has ended.
    fn outlive_tests(self) {
        let folder = self.server.folder.path().to_owned();
        let mut guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian"])
            .args([self.server.child.id().to_string(), self.epmd.child.id().to_string()])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        // Closed by the system when this process ends.
        std::mem::forget(guardian.stdin.take());
        // Waited for by nobody: it ends after this process.
        std::mem::forget(guardian);
        std::mem::forget(self);
    }
}

impl Server {
    /// Writes its settings; it is not started yet.
    fn prepare(name: &str, epmd_port: u16, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (port, further_port, distribution_port) = (free_port(), free_port(), free_port());
        let config = config.replace("PORT", &further_port.to_string());
        let own = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nvm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\nlog.console = false\nlog.file.level = warning\n{config}\n"
        );
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("it can be written");
        write("rabbitmq.conf", &own);
        write("env.conf", "");
        write("plugins", if config.contains("management.") { "[rabbitmq_management]." } else { "[]." });
        let home = folder.path().join("home");
        fs::create_dir(&home).expect("it can be made");
        cookie(&home);
        let child = Command::new("true").spawn().expect("`true` can be started");
        Self {
            child,
            folder,
            name: format!("{name}{port}@127.0.0.1"),
            port,
            further_port,
            distribution_port,
            epmd_port,
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Adds lines to its settings.
    fn configure(&self, lines: &str) {
        let path = self.folder.path().join("rabbitmq.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("it is there");
        file.write_all(lines.as_bytes()).expect("it can be written");
    }

    fn command(&self, script: &str) -> Command {
        let place = |name: &str| self.folder.path().join(name);
        let script = Path::new(SCRIPTS).join(script);
        let mut command = match std::env::var_os(ROOT) {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(script);
                command
            }
            None => Command::new(script),
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", place("home"))
            .env("LANG", "C.UTF-8")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", place("env.conf"))
            .env("RABBITMQ_CONFIG_FILE", place("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", place("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins"))
            .env("RABBITMQ_USE_LONGNAME", "true")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_MNESIA_BASE", place("mnesia"))
            .env("RABBITMQ_LOG_BASE", place("log"))
            .env("RABBITMQ_PID_FILE", place("pid"))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            // Each script replaces itself by the next, so that the child's pid is the server's.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn boot(&mut self) {
        let mut command = self.command("rabbitmq-server");
        let said = fs::File::create(self.folder.path().join("said")).expect("it can be written");
        let complains = said.try_clone().expect("a file can be opened twice");
        let started = command.arg("-noinput").stdout(said).stderr(complains).spawn();
        self.child = started.unwrap_or_else(|error| {
            panic!("rabbitmq-server cannot be started ({error}); install rabbitmq-server (scripts/test does)")
        });
    }

    /// Waits until it answers.
    fn await_answer(&mut self) {
        let mut waited = Duration::ZERO;
        let address: SocketAddr = ([127, 0, 0, 1], self.port).into();
        while !speaks_amqp(address) {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "RabbitMQ ended ({ended:?}):\n{}", self.told());
            assert!(waited < STARTS_WITHIN, "RabbitMQ does not answer in time:\n{}", self.told());
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    /// What it said since it was booted, and its log.
    fn told(&self) -> String {
        let log = self.folder.path().join("log").join(format!("{}.log", self.name));
        let files = [self.folder.path().join("said"), log];
        files.map(|file| fs::read_to_string(file).unwrap_or_default()).join("\n")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small")).expect("a pid is not zero")
    }

    fn kill(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn stop(&mut self) {
        kill_process(self.pid(), Signal::TERM).expect("the server runs");
        let mut waited = Duration::ZERO;
        while self.child.try_wait().expect("it is our child").is_none() {
            assert!(waited < STOPS_WITHIN, "RabbitMQ does not stop in time");
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    fn freeze(&self, frozen: bool) {
        kill_process(self.pid(), if frozen { Signal::STOP } else { Signal::CONT }).expect("the server runs");
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        let ended = self.command("rabbitmqctl").args(arguments).output().expect("rabbitmqctl can be started");
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&ended.stderr));
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All servers and `rabbitmqctl` know each other by it.
fn cookie(home: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let path: PathBuf = home.join(".erlang.cookie");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path).expect("it can be made");
    file.write_all(b"TIDEGATETESTS").expect("it can be written");
}

/// The port opens last: whoever answers to AMQP's header has booted.
fn speaks_amqp(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut first = [0];
    let heard = stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .and_then(|()| stream.write_all(b"AMQP\0\0\x09\x01"))
        .and_then(|()| stream.read_exact(&mut first));
    heard.is_ok() && first == [1]
}
