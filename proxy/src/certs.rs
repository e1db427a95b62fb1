//! Certificates of one tailnet name: checked before they are published, looked up by SNI without a call
//! to anybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate with its key, fit for use.
#[derive(Debug, Clone)]
pub struct Usable {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// DNS names that it is for, lower case, maybe starting with `*.`.
    pub names: Vec<String>,
    /// End of its validity.
    pub not_after: Timestamp,
}

/// Why a certificate isn't published.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// `tls.crt` has no certificate.
    #[error("tls.crt: no PEM certificate in it")]
    NoChain,
    /// `tls.key` has no key.
    #[error("tls.key: no PEM private key in it")]
    NoKey,
    /// The leaf can't be read.
    #[error("tls.crt: the first certificate can't be read")]
    Unreadable,
    /// The key is of another certificate, or of a kind that isn't supported.
    #[error("tls.key: {0}")]
    Key(rustls::Error),
    /// Too late.
    #[error("tls.crt: the certificate ended at {0}")]
    Expired(Timestamp),
}

impl Usable {
    /// From the two values of a `kubernetes.io/tls` Secret.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn from_pem(chain: &[u8], key: &[u8], now: Timestamp) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::NoChain)?;
        if chain.is_empty() {
            return Err(CertificateError::NoChain);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        Self::new(chain, key, now)
    }

    /// From a parsed chain, leaf first.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: Timestamp,
    ) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError::NoChain)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Unreadable)?;
        let not_after = Timestamp::from_second(leaf.validity().not_after.timestamp())
            .map_err(|_| CertificateError::Unreadable)?;
        if not_after <= now {
            return Err(CertificateError::Expired(not_after));
        }
        let names = leaf
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|san| {
                san.value
                    .general_names
                    .iter()
                    .filter_map(|name| match name {
                        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                        _ => None,
                    })
                    .collect()
            })
            .unwrap_or_default();
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(CertificateError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            not_after,
        })
    }
}

/// Certificates by name, in the order in which they are tried.
#[derive(Debug, Default)]
pub struct Table(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl Table {
    /// Adds a certificate for `hosts`; where there are none, for the names in the certificate.
    pub fn add(&mut self, hosts: &[String], certificate: &Usable) {
        let names = if hosts.is_empty() {
            certificate.names.clone()
        } else {
            hosts.iter().map(|h| h.to_ascii_lowercase()).collect()
        };
        self.0.push((names, certificate.key.clone()));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every name, without wildcards.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .flat_map(|(names, _)| names)
            .map(String::as_str)
            .filter(|n| !n.starts_with("*."))
    }

    /// An exact name before a wildcard, which stands for one label.
    fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let exact = self.0.iter().find(|(names, _)| names.iter().any(|n| n == host));
        let wildcard = || {
            let (_, parent) = host.split_once('.')?;
            self.0
                .iter()
                .find(|(names, _)| names.iter().any(|n| n.strip_prefix("*.") == Some(parent)))
        };
        exact.or_else(wildcard).map(|(_, key)| key)
    }
}

/// Serves handshakes from the newest table.
#[derive(Debug, Default)]
pub struct Resolver(ArcSwap<Table>);

impl Resolver {
    /// Publishes a table.
    pub fn set(&self, table: Table) {
        self.0.store(Arc::new(table));
    }

    /// Whether both names are served with one certificate.
    pub fn same(&self, a: &str, b: &str) -> bool {
        let table = self.0.load();
        match (table.find(a), table.find(b)) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl ResolvesServerCert for Resolver {
    /// No SNI, or an unknown one: the handshake is refused.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sni = hello.server_name()?.to_ascii_lowercase();
        self.0.load().find(&sni).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let cert = rcgen::CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn usable(names: &[&str]) -> Usable {
        let (chain, key) = pair(names);
        Usable::from_pem(chain.as_bytes(), key.as_bytes(), Timestamp::now()).unwrap()
    }

    #[test]
    fn exact_names_come_before_wildcards_of_one_label() {
        let (a, b) = (
            usable(&["*.example.com"]),
            usable(&["Shop.example.com", "x.test"]),
        );
        let mut table = Table::default();
        table.add(&[], &a);
        table.add(&[], &b);
        let is = |host: &str, want: &Usable| table.find(host).is_some_and(|k| Arc::ptr_eq(k, &want.key));
        assert!(is("shop.example.com", &b));
        assert!(is("other.example.com", &a));
        assert!(is("x.test", &b));
        for unknown in ["example.com", "a.b.example.com", "y.test", "com"] {
            assert!(table.find(unknown).is_none(), "{unknown}");
        }
        let resolver = Resolver::default();
        resolver.set(table);
        assert!(resolver.same("x.test", "shop.example.com"));
        assert!(!resolver.same("x.test", "other.example.com"));
        assert!(!resolver.same("unknown", "unknown"));
    }

    #[test]
    fn unfit_pairs_are_refused_with_the_field() {
        let now = Timestamp::now();
        let ((chain, key), (_, other)) = (pair(&["a.test"]), pair(&["a.test"]));
        let refuse = |c: &str, k: &str, now| {
            Usable::from_pem(c.as_bytes(), k.as_bytes(), now)
                .unwrap_err()
                .to_string()
        };
        assert!(refuse(&chain, &other, now).starts_with("tls.key: "));
        assert!(refuse("", &key, now).starts_with("tls.crt: "));
        assert!(refuse(&chain, "x", now).starts_with("tls.key: "));
        let much_later = "9000-01-01T00:00:00Z".parse().unwrap();
        assert!(refuse(&chain, &key, much_later).starts_with("tls.crt: the certificate ended"));
    }
}
