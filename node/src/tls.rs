//! Trust for the connections that the node makes itself: control, relays, the certificate authority.
//!
//! The crypto provider is always passed explicitly, never taken from the process: a library can't know
//! what its program has installed there.

use std::sync::{Arc, LazyLock};

use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::CertificateDer;

/// The crypto provider of every TLS connection of this crate.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Mozilla's roots and the system's (or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name), read when they are first
/// asked for: all nodes of a process share them.
static PUBLIC: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| Arc::new(read_public_roots()));

/// The public roots, as this process found them when it first asked, and `extra`. What can't be read or parsed is
/// logged and left out, since the rest may well be enough.
pub fn roots(extra: &[CertificateDer<'static>]) -> Arc<RootCertStore> {
    if extra.is_empty() {
        return Arc::clone(&PUBLIC);
    }
    let mut store = RootCertStore::clone(&PUBLIC);
    for (number, cert) in extra.iter().enumerate() {
        if let Err(error) = store.add(cert.clone()) {
            tracing::warn!(number, %error, "An extra root certificate can't be used");
        }
    }
    Arc::new(store)
}

fn read_public_roots() -> RootCertStore {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "Some system roots could not be read");
    }
    let mut systems = RootCertStore::empty();
    // System stores often hold a few certificates that webpki can't use; that is not worth a line each.
    systems.add_parsable_certificates(system.certs);
    // Mostly the system's are Mozilla's, which are part of the program.
    let mozillas = webpki_roots::TLS_SERVER_ROOTS;
    let others = systems.roots.into_iter().filter(|root| !mozillas.contains(root));
    RootCertStore {
        roots: mozillas.iter().cloned().chain(others).collect(),
    }
}

/// A client that verifies servers against `roots` and has no certificate of its own.
pub fn client_config(roots: impl Into<Arc<RootCertStore>>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_roots_are_added_and_bad_ones_left_out() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).unwrap().der().clone();

        let base = roots(&[]);
        assert!(base.len() >= webpki_roots::TLS_SERVER_ROOTS.len());
        let bad = CertificateDer::from(vec![1, 2, 3]);
        let with = roots(&[ca, bad]);
        assert_eq!(with.len(), base.len() + 1);
        client_config(with);
    }
}
