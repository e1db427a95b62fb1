//! `postern-proxy trust`: would this program, where it stands, believe a server's certificate?
//!
//! For whoever wonders whether an image brings the roots of public authorities, or whether `SSL_CERT_FILE`
//! took effect. It asks nobody: the chain is in a file, and the moment can be given.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

/// Which chain, for whom and when.
#[derive(Debug, Args)]
pub struct Trust {
    /// The chain as the server sends it (PEM, its own certificate first).
    #[arg(value_name = "FILE")]
    pub chain: PathBuf,
    /// The server's name.
    #[arg(long, value_name = "HOST")]
    pub name: String,
    /// Judge as of this moment, e.g. 2026-01-31T12:00:00Z; now, when not given.
    #[arg(long, value_name = "TIME")]
    pub at: Option<jiff::Timestamp>,
}

/// Judges the chain by the roots that the node's own connections trust.
///
/// # Errors
/// Says why it is not believed, or what can't be read.
pub fn judge(trust: &Trust) -> Result<()> {
    let file = trust.chain.display();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&trust.chain)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {file}"))?;
    ensure!(!chain.is_empty(), "{file} holds no certificate");
    let name = ServerName::try_from(trust.name.clone())
        .with_context(|| format!("--name: {:?} is neither a host name nor an address", trust.name))?;
    let at = trust.at.unwrap_or_else(jiff::Timestamp::now);
    let since_epoch = at.as_duration().try_into().context("--at lies before 1970")?;
    let verifier = WebPkiServerVerifier::builder_with_provider(
        postern_node::tls::roots(&[]),
        postern_node::tls::provider(),
    )
    .build()?;
    verifier
        .verify_server_cert(
            &chain[0],
            &chain[1..],
            &name,
            &[],
            UnixTime::since_unix_epoch(since_epoch),
        )
        .map(drop)
        .with_context(|| format!("{file} is not believed for {} at {at}", trust.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_root_vouches_for_is_refused() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["app.example.com".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let chain = folder.path().join("chain.pem");
        std::fs::write(&chain, params.self_signed(&key).unwrap().pem()).unwrap();
        let error = judge(&Trust {
            chain: chain.clone(),
            name: "app.example.com".to_owned(),
            at: None,
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains("UnknownIssuer"), "{error:#}");

        std::fs::write(&chain, "").unwrap();
        let empty = judge(&Trust {
            chain,
            name: "app.example.com".to_owned(),
            at: None,
        })
        .unwrap_err();
        assert!(format!("{empty:#}").contains("holds no certificate"), "{empty:#}");
    }
}
