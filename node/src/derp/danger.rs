//! TLS for relays that the public key infrastructure doesn't know.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The TLS client for one relay: `cert_name` and `insecure` are as in [`crate::derp_map::DerpNode`],
/// `verified` is what to use when they ask for nothing special.
pub(super) fn client_config(
    cert_name: Option<&str>,
    insecure: bool,
    verified: &Arc<ClientConfig>,
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::clone(verified.crypto_provider());
    if let Some(pin) = cert_name.and_then(|name| name.strip_prefix("sha256-raw:")) {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(pin, &mut sha256)
            .map_err(|_| Error::General("`sha256-raw:` must be followed by 64 hex digits".to_owned()))?;
        config(Expect::ThisCertificate { sha256 }, provider)
    } else if insecure {
        config(Expect::DangerAnyCertificate, provider)
    } else {
        Ok(Arc::clone(verified))
    }
}

fn config(expect: Expect, provider: Arc<CryptoProvider>) -> Result<Arc<ClientConfig>, Error> {
    let verifier = DangerousVerifier {
        expect,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Verifies that the server holds the private key of its certificate, but not who vouches for it.
#[derive(Debug)]
struct DangerousVerifier {
    expect: Expect,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Expect {
    /// The leaf with this hash. It says more than a name or a date would.
    ThisCertificate { sha256: [u8; 32] },
    /// Anybody can be in the middle. What goes through a relay is sealed by WireGuard and disco, so that is
    /// good enough for tests, which is what the DERP map's `InsecureForTests` is for.
    DangerAnyCertificate,
}

impl ServerCertVerifier for DangerousVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use aws_lc_rs::digest::{SHA256, digest};
        match &self.expect {
            Expect::ThisCertificate { sha256 } if digest(&SHA256, end_entity).as_ref() != sha256 => Err(
                Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
            ),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
