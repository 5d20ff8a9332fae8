//! Certificates of one's own, made with openssl.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// An authority, and a certificate that it signed.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// For servers on this machine.
    pub fn for_localhost() -> Self {
        Self::for_names("DNS:localhost,IP:127.0.0.1")
    }

    /// For servers of these names, in openssl's words: `DNS:name,IP:address`.
    pub fn for_names(names: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let made = Self { folder };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"];
        made.openssl(&[&authority[..], &key].concat());
        let names = format!("subjectAltName={names}");
        let server = ["req", "-subj", "/CN=server", "-addext", &names, "-keyout", "key.pem", "-out", "request.pem"];
        made.openssl(&[&server[..], &key].concat());
        let sign = ["x509", "-req", "-days", "2", "-in", "request.pem", "-copy_extensions", "copyall"];
        made.openssl(&[&sign[..], &["-CA", "ca.pem", "-CAkey", "ca.key", "-out", "server.pem"]].concat());
        made
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// One of the files: `ca.pem`, `server.pem` (a client may show it as well), `key.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a server is told.
    pub(super) fn arguments(&self, port: u16) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", file("server.pem")),
            ("--tls-key-file", file("key.pem")),
            ("--tls-ca-cert-file", file("ca.pem")),
            ("--tls-auth-clients", "no".to_owned()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    fn openssl(&self, args: &[&str]) {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        let ended = command.output().expect("openssl can be started; install openssl (scripts/test does)");
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}
