//! TLS towards clients.

use std::sync::Arc;

use rustls::{ServerConfig, crypto::aws_lc_rs};

use crate::certs::Resolver;

/// One configuration for HTTP (with ALPN) and one for bytes; both look certificates up by SNI.
#[derive(Debug, Clone)]
pub struct ServerConfigs {
    /// `h2`, `http/1.1`.
    pub http: Arc<ServerConfig>,
    /// No ALPN, as Go's `TerminateTLS`.
    pub bytes: Arc<ServerConfig>,
}

impl ServerConfigs {
    /// TLS 1.2 and 1.3, tickets for resumption, no early data.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn new(certificates: &Arc<Resolver>) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        let bytes = Arc::new(config.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            http: Arc::new(config),
            bytes,
        })
    }
}
