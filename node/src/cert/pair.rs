//! A certificate chain with its key: reading, checking.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use super::plan::Validity;
use crate::tls;

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// End of the leaf's validity.
    pub not_after: Timestamp,
}

/// A checked pair.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) certificate: Arc<Certificate>,
    pub(super) validity: Validity,
}

impl Pair {
    /// Reads a chain (leaf first) and its key, and checks that they belong together, that they are for
    /// `domain`, and that each certificate is signed by the next. Whether the chain ends in a root that
    /// anybody trusts is for clients to say: the authority may be a private one.
    ///
    /// An ended pair is returned too; [`Pair::is_valid`] tells.
    pub(super) fn parse(domain: &str, chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let text = |error: rustls::Error| error.to_string();
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the chain is no PEM: {error}"))?;
        // The error may quote what was read.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key is no PEM".to_owned())?;
        let leaf = chain.first().ok_or("the chain is empty")?;
        let validity = validity(leaf)?;

        let provider = tls::provider();
        let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider);
        pair.and_then(|pair| pair.keys_match()).map_err(text)?;
        let parsed = ParsedCertificate::try_from(leaf).map_err(text)?;
        // A wildcard certificate is for the names it stands for.
        let name = domain
            .strip_prefix("*.")
            .map_or_else(|| domain.to_owned(), |base| format!("any.{base}"));
        let name = ServerName::try_from(name).map_err(|_| format!("{domain} is no DNS name"))?;
        verify_server_name(&parsed, &name).map_err(text)?;
        if let [_, between @ .., last] = chain.as_slice() {
            let mut roots = RootCertStore::empty();
            roots.add(last.clone()).map_err(text)?;
            // The dates are checked by us, against the caller's clock.
            let then = UnixTime::since_unix_epoch(validity.not_before.as_duration().unsigned_abs());
            let algorithms = provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, between, then, algorithms)
                .map_err(|error| format!("the chain is broken: {error}"))?;
        }
        Ok(Self {
            certificate: Arc::new(Certificate {
                chain,
                key,
                not_after: validity.not_after,
            }),
            validity,
        })
    }

    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.validity.not_before <= now && now < self.validity.not_after
    }

    pub(super) fn leaf(&self) -> &CertificateDer<'static> {
        // Not empty: `parse` has seen it.
        &self.certificate.chain[0]
    }
}

fn validity(leaf: &CertificateDer<'_>) -> Result<Validity, String> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|error| error.to_string())?;
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| error.to_string())
    };
    Ok(Validity {
        not_before: time(leaf.validity().not_before)?,
        not_after: time(leaf.validity().not_after)?,
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Ca(Issuer<'static, KeyPair>, String);

    fn ca(name: &str) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca(Issuer::new(params, key), pem)
    }

    fn leaf(ca: &Ca, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &ca.0).unwrap().pem(), key.serialize_pem())
    }

    fn parse(domain: &str, chain: &str, key: &str) -> Result<Pair, String> {
        Pair::parse(domain, chain.as_bytes(), key.as_bytes())
    }

    #[test]
    fn a_pair_must_belong_together() {
        let (ca, other) = (ca("a"), ca("a"));
        let (cert, key) = leaf(&ca, "x.example.ts.net");
        let chain = format!("{cert}{}", ca.1);
        let pair = parse("x.example.ts.net", &chain, &key).unwrap();
        assert!(pair.is_valid(Timestamp::now()));
        assert!(!pair.is_valid(pair.certificate.not_after));
        parse("x.example.ts.net", &cert, &key).expect("without the authority's certificate");

        let (_, foreign_key) = leaf(&ca, "x.example.ts.net");
        for (domain, chain, key, what) in [
            ("y.example.ts.net", &chain, &key, "another name"),
            ("x.example.ts.net", &chain, &foreign_key, "another key"),
            (
                "x.example.ts.net",
                &format!("{cert}{}", other.1),
                &key,
                "another authority",
            ),
            ("x.example.ts.net", &String::new(), &key, "no chain"),
            ("x.example.ts.net", &chain, &String::new(), "no key"),
            ("x.example.ts.net", &key, &chain, "swapped"),
        ] {
            assert!(parse(domain, chain, key).is_err(), "{what}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_its_names() {
        let ca = ca("a");
        let (cert, key) = leaf(&ca, "*.x.example.ts.net");
        parse("*.x.example.ts.net", &cert, &key).unwrap();
        assert!(parse("x.example.ts.net", &cert, &key).is_err());
    }
}
