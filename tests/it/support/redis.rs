//! Redis of one's own: free loopback ports, temporary folders, ended by their handles, also when a test panics.
//!
//! One server ([`Redis`]), a [`Cluster`] of three masters and three replicas, or a master and a replica watched by
//! three [`Sentinels`].

#[path = "redis/certificates.rs"]
mod certificates;
#[path = "redis/cluster.rs"]
mod cluster;
#[path = "redis/resp.rs"]
mod resp;
#[path = "redis/sentinels.rs"]
mod sentinels;

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub use self::{certificates::Certificates, cluster::Cluster, sentinels::Sentinels};
use crate::ports::free_address;

/// How long a server may take to answer after it was started, and a group of them to agree.
const STARTS_WITHIN: Duration = Duration::from_secs(40);

/// Turns persistence off.
const FLEETING: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// One server.
pub struct Redis {
    program: &'static str,
    child: Child,
    folder: TempDir,
    /// Where it is spoken to.
    address: SocketAddr,
    /// Where the test itself speaks to it, without TLS.
    plain: SocketAddr,
    args: Vec<String>,
    /// Said before anything else: the arguments of AUTH.
    credentials: Vec<String>,
}

impl Redis {
    /// Starts one without persistence.
    pub fn start() -> Self {
        Self::with(&FLEETING)
    }

    /// Starts one with arguments of one's own.
    pub fn with(args: &[&str]) -> Self {
        Self::launch("redis-server", args, &[], None)
    }

    /// Starts one that asks for this password.
    pub fn with_password(password: &str) -> Self {
        let args = [&FLEETING[..], &["--requirepass", password]].concat();
        Self::launch("redis-server", &args, &[password], None)
    }

    /// Starts one that knows this user only.
    pub fn with_user(name: &str, password: &str) -> Self {
        let (secret, user) = (format!(">{password}"), ["--user", name, "on"]);
        let args = [&FLEETING[..], &["--user", "default", "off"], &user, &[&secret, "~*", "&*", "+@all"]].concat();
        Self::launch("redis-server", &args, &[name, password], None)
    }

    /// Starts one that speaks TLS with these certificates.
    pub fn with_tls(certificates: &Certificates) -> Self {
        Self::launch("redis-server", &FLEETING, &[], Some(certificates))
    }

    fn launch(program: &'static str, args: &[&str], credentials: &[&str], certificates: Option<&Certificates>) -> Self {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut args = owned(args);
        let plain = free_address();
        let address = certificates.map_or(plain, |_| free_address());
        if let Some(certificates) = certificates {
            args.extend(certificates.arguments(address.port()));
        }
        let child = spawn(program, folder.path(), plain, &args);
        let mut server = Self { program, child, folder, address, plain, args, credentials: owned(credentials) };
        server.await_answer();
        server
    }

    /// Its address as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        // One that has ended already need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same port and folder.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.program, self.folder.path(), self.plain, &self.args);
        self.await_answer();
    }

    /// Stops the process where it is, or lets it go on: it accepts connections and does not answer.
    pub fn freeze(&self, frozen: bool) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small")).expect("a pid is not zero");
        kill_process(pid, if frozen { Signal::STOP } else { Signal::CONT }).expect("the server runs");
    }

    /// Takes its folder away: whatever it wants to save from now on, it cannot.
    pub fn lose_folder(&self) {
        std::fs::remove_dir_all(self.folder.path()).expect("the folder is ours");
    }

    /// Asks for another password from now on, until it is started again; breaks all connections off.
    pub fn change_password(&mut self, password: &str) {
        assert_eq!(self.command(&["CONFIG", "SET", "requirepass", password]), "OK");
        self.credentials = vec![password.to_owned()];
        self.command(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// Runs a command: what it answers, lists as lines; an error begins with `-`.
    pub fn command(&self, command: &[&str]) -> String {
        self.try_command(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The same, for a server that may be away.
    pub fn try_command(&self, command: &[&str]) -> std::io::Result<String> {
        let credentials: Vec<&str> = self.credentials.iter().map(String::as_str).collect();
        resp::ask(self.plain, &credentials, command)
    }

    fn await_answer(&mut self) {
        wait_for("the server answers", || {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{} ended ({ended:?}) with {:?}", self.program, self.args);
            TcpStream::connect(self.address).is_ok() && TcpStream::connect(self.plain).is_ok()
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(program: &str, folder: &Path, address: SocketAddr, args: &[String]) -> Child {
    let mut command = Command::new(program);
    // Sentinels keep what they know in a file, and it comes first.
    let file = folder.join("sentinel.conf");
    if program == "redis-sentinel" {
        std::fs::File::options().append(true).create(true).open(&file).expect("it can be written");
        command.arg(file);
    }
    command
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(folder)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started ({error}); install it (scripts/test does)"))
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    // Not tokio's: the helper also serves tests without a runtime.
    let mut waited = Duration::ZERO;
    while !holds() {
        assert!(waited < STARTS_WITHIN, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
        waited += Duration::from_millis(10);
    }
}
