//! TLS to Redis: rustls with ring, an authority of one's own or the system's, and the name always checked.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// How TLS is spoken; `ca_file` empty: the system's authorities.
pub(super) fn config(ca_file: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if ca_file.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        let unusable = |why: String| format!("state.redis.ca_file `{ca_file}` cannot be used: {why}");
        let certificates = CertificateDer::pem_file_iter(ca_file).map_err(|error| unusable(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unusable("there is no certificate in it".into()));
        }
    }
    Ok(Arc::new(with(roots)))
}

/// One that trusts nobody: it tells whether TLS is spoken at all.
pub(super) fn distrustful() -> Arc<ClientConfig> {
    Arc::new(with(RootCertStore::empty()))
}

fn with(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
