//! How a node starts.

use std::{net::SocketAddr, sync::Arc};

use rustls_pki_types::CertificateDer;

use super::Error;
use crate::{
    credential::Credential,
    proxy::ProxyChoice,
    state::{MemoryStore, StateStore},
};

/// How a node starts. `Default` is a node on Tailscale's servers with its state in memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordination server.
    pub control_url: String,
    /// The name to ask for; control may add `-1`. Empty: the one of the Go node whose identity was taken over, else
    /// `postern`.
    pub hostname: String,
    /// How the node logs in; `None`: somebody must open the URL of [`super::Status::NeedsLogin`]. It is not used
    /// while the state holds a login that is good.
    pub credential: Option<Credential>,
    /// Log in anew although the state holds a login.
    pub force_login: bool,
    /// `tag:…` to ask for.
    pub tags: Vec<String>,
    /// Removed from the tailnet when closed.
    pub ephemeral: bool,
    /// Where identity, certificates and hand-over are kept.
    pub store: Arc<dyn StateStore>,
    /// Trusted beside Mozilla's and the system's roots (DER), for control, relays, ACME and proxies.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The HTTP proxy on the way to control, relays and ACME. By default the environment says.
    pub proxy: ProxyChoice,
    /// ACME directory.
    pub acme_directory: String,
    /// UDP port; 0: the one of the last run, else any. When it is taken, any other is used, with a warning.
    pub udp_port: u16,
    /// Announced to peers as they are (NodePort, host network).
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP.
    pub derp_only: bool,
    /// Whether peers' [`crate::netmap::Details`] are kept for those who ask: some hundred bytes each.
    pub keep_details: bool,
}

/// Let's Encrypt's ACME directory.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

impl Default for Config {
    fn default() -> Self {
        Self {
            control_url: "https://controlplane.tailscale.com".to_owned(),
            hostname: String::new(),
            credential: None,
            force_login: false,
            tags: Vec::new(),
            ephemeral: false,
            store: Arc::new(MemoryStore::default()),
            extra_roots: Vec::new(),
            proxy: ProxyChoice::default(),
            acme_directory: LETS_ENCRYPT.to_owned(),
            udp_port: 0,
            static_endpoints: Vec::new(),
            derp_only: false,
            keep_details: false,
        }
    }
}

impl Config {
    /// The default, with what the variables of tsnet say: `TS_AUTHKEY` and the other credentials that
    /// [`Credential::choose`] reads, `TS_CONTROL_URL`, `TSNET_FORCE_LOGIN`.
    ///
    /// # Errors
    /// When one of them makes no sense, naming it.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let default = Self::default();
        let credential = Credential::choose(None, &variable).map_err(|error| Error::Config {
            field: "credential",
            reason: error.to_string(),
        })?;
        // As Go's `envknob.Bool`.
        let force_login = match variable("TSNET_FORCE_LOGIN").as_deref() {
            None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => false,
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
            Some(other) => {
                return Err(Error::Config {
                    field: "TSNET_FORCE_LOGIN",
                    reason: format!("{other:?} is neither true nor false"),
                });
            }
        };
        Ok(Self {
            control_url: variable("TS_CONTROL_URL")
                .filter(|url| !url.is_empty())
                .unwrap_or(default.control_url),
            credential,
            force_login,
            ..default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{AuthKey, tests::environment};

    #[test]
    fn the_environment_is_read_as_tsnet_does() {
        let config = |variables: &[(&str, &str)]| Config::from_variables(environment(variables));
        let empty = config(&[("TS_CONTROL_URL", "")]).unwrap();
        assert_eq!(empty.control_url, Config::default().control_url);
        assert!(empty.credential.is_none() && !empty.force_login);
        let all = config(&[
            ("TS_CONTROL_URL", "http://hs.test"),
            ("TS_AUTH_KEY", "k"),
            ("TSNET_FORCE_LOGIN", "1"),
        ])
        .unwrap();
        assert_eq!(all.control_url, "http://hs.test");
        assert_eq!(all.credential, Some(Credential::AuthKey(AuthKey::new("k"))));
        assert!(all.force_login);
        let error = config(&[("TSNET_FORCE_LOGIN", "maybe")]).unwrap_err().to_string();
        assert!(error.contains("TSNET_FORCE_LOGIN"), "{error}");
        let error = config(&[("TS_CLIENT_ID", "x")]).unwrap_err().to_string();
        assert!(error.contains("TS_CLIENT_ID"), "{error}");
    }
}
