//! TLS to servers: rustls with ring, an authority of one's own or the system's, and the name always checked.

use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// How TLS is spoken, as the configuration says it; an empty text stands for none.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The section of the configuration these stand in, for what is said of them.
    pub section: &'a str,
    /// The authority's certificate (PEM); empty: the system's authorities.
    pub ca_file: &'a str,
    /// The client's certificate (PEM).
    pub client_cert: &'a str,
    /// The key of the client's certificate (PEM).
    pub client_key: &'a str,
}

/// Reads the files. The error names the key of the configuration that is to be changed.
pub fn config(files: &Files<'_>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if files.ca_file.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        for certificate in certificates(files, "ca_file", files.ca_file)? {
            roots.add(certificate).map_err(|error| unusable(files, "ca_file", files.ca_file, &error))?;
        }
    }
    let builder = trusting(roots);
    if files.client_cert.is_empty() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let chain = certificates(files, "client_cert", files.client_cert)?;
    let key = PrivateKeyDer::from_pem_file(files.client_key);
    let key = key.map_err(|error| unusable(files, "client_key", files.client_key, &error))?;
    let config = builder.with_client_auth_cert(chain, key);
    Ok(Arc::new(config.map_err(|error| unusable(files, "client_key", files.client_key, &error))?))
}

/// One that trusts nobody: it tells whether TLS is spoken at all.
pub fn distrustful() -> Arc<ClientConfig> {
    Arc::new(trusting(RootCertStore::empty()).with_no_client_auth())
}

fn certificates(files: &Files<'_>, key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(unusable(files, key, path, &"there is no certificate in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(files, key, path, &error)),
    }
}

fn unusable(files: &Files<'_>, key: &str, path: &str, why: &dyn std::fmt::Display) -> String {
    format!("{}.{key} `{path}` cannot be used: {why}", files.section)
}

fn trusting(roots: RootCertStore) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}
