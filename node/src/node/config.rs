//! How a node starts.

use std::{net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;

use crate::{
    control::AuthKey,
    state::{MemoryStore, StateStore},
};

/// How a node starts. `Default` is a node on Tailscale's servers with its state in memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordination server.
    pub control_url: String,
    /// The name to ask for; control may add `-1`.
    pub hostname: String,
    /// An explicit auth key.
    pub auth_key: Option<AuthKey>,
    /// Log in with the auth key although the state holds a login.
    pub force_login: bool,
    /// `tag:…` to ask for.
    pub tags: Vec<String>,
    /// Removed from the tailnet when closed.
    pub ephemeral: bool,
    /// Where identity, certificates and hand-over are kept.
    pub store: Arc<dyn StateStore>,
    /// Trusted beside Mozilla's and the system's roots (DER), for control, relays and ACME.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// ACME directory.
    pub acme_directory: String,
    /// UDP port; 0: the one of the last run, else any.
    pub udp_port: u16,
    /// Announced to peers as they are (NodePort, host network).
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP.
    pub derp_only: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            control_url: "https://controlplane.tailscale.com".to_owned(),
            hostname: "postern".to_owned(),
            auth_key: None,
            force_login: false,
            tags: Vec::new(),
            ephemeral: false,
            store: Arc::new(MemoryStore::default()),
            extra_roots: Vec::new(),
            acme_directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            udp_port: 0,
            static_endpoints: Vec::new(),
            derp_only: false,
        }
    }
}
