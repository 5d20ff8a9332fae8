//! A Redis of one's own: free loopback ports, a temporary folder, ended by its handle, also when a test panics.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

/// How long a server may take to answer after it was started.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// One server.
pub struct Redis {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
    args: Vec<String>,
}

impl Redis {
    /// Starts one without persistence.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts one with arguments of one's own.
    pub fn with(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let address = free_address();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = spawn(&folder, address, &args);
        let server = Self { child, folder, address, args };
        server.answers();
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
        self.child = spawn(&self.folder, self.address, &self.args);
        self.answers();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn answers(&self) {
        wait_for("redis-server answers", || TcpStream::connect(self.address).is_ok());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound")
}

fn spawn(folder: &TempDir, address: SocketAddr, args: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(folder.path())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server can be started; install redis-server (scripts/test does)")
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    // Not tokio's: the helper also serves tests without a runtime.
    let mut waited = Duration::ZERO;
    while !holds() {
        assert!(waited < STARTS_WITHIN, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
        waited += Duration::from_millis(10);
    }
}
