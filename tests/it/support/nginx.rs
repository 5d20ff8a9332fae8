//! A real NGINX with the configuration of `deploy/nginx`, before daemons that a test has started.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::Daemon;
use crate::ports::free_address;

/// What stands in `upstream.conf` for the nodes.
const NODE: &str = "    server 127.0.0.1:8000 max_fails=0;\n";

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// Passes requests on until it is dropped.
pub struct Nginx {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Nginx {
    /// Starts one before these daemons, who may not run yet.
    pub async fn before(daemons: &[&Daemon]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let address = free_address();
        configure(folder.path(), address, daemons);
        let child = Command::new(program())
            .args(["-p".as_ref(), folder.path(), "-c".as_ref(), &folder.path().join("nginx.conf")])
            .args(["-e".as_ref(), folder.path().join("error.log").as_path()])
            .args(["-g", &format!("daemon off; {}pid {}/pid;", user(), folder.path().display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("nginx cannot be started ({error}); install nginx-light (scripts/test does)")
            });
        let nginx = Self { child, folder, address };
        super::eventually("NGINX listens", STARTS_WITHIN, async || TcpStream::connect(address).is_ok()).await;
        nginx
    }

    /// Where something lies behind it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it complained of; for failures.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it; one that has ended already need not be told.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// The shipped files, with addresses and folders of the test.
fn configure(folder: &Path, address: SocketAddr, daemons: &[&Daemon]) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx");
    for name in ["nginx.conf", "proxy.conf"] {
        fs::copy(shipped.join(name), folder.join(name)).expect("the shipped file can be copied");
    }
    let upstream = fs::read_to_string(shipped.join("upstream.conf")).expect("the shipped file can be read");
    assert_eq!(upstream.matches(NODE).count(), 2, "{upstream}");
    let server = |daemon: &&Daemon| format!("    server {} max_fails=0;\n", daemon.address());
    let nodes: String = daemons.iter().map(server).collect();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).expect("it can be written");
    write("upstream.conf", upstream.replace(NODE, &nodes));
    write("listen.conf", format!("listen {address};\n"));
    let at = folder.display();
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places: String = kept.iter().map(|kind| format!("{kind}_temp_path {at}/{kind};\n")).collect();
    write("place.conf", format!("access_log off;\n{places}"));
}

/// Debian keeps it where users do not look.
fn program() -> &'static str {
    if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

/// Started by root its workers would be somebody who cannot write into the test's folder.
fn user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user root; " } else { "" }
}
