//! Where secrets are: Kubernetes or a directory.

use std::sync::Arc;

use futures::future::BoxFuture;
use postern_node::{
    credential::Credential,
    state::{StateError, StateStore},
};
use postern_proxy_config::{
    clients::Clients,
    group::{IdentityProvider, NodeConfig, SecretRef},
    keys::Keys,
};

/// Keeps nodes' state and hands out what was put there for us.
pub trait Secrets: Send + Sync {
    /// The store of a name's node.
    ///
    /// # Errors
    /// When it can't be opened, or another process uses it.
    fn store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError>;
    /// The store of a host's node, whose certificates are those of the Services that it hosts.
    ///
    /// # Errors
    /// As [`Secrets::store`].
    fn host_store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        self.store(node)
    }
    /// What proves who a node is when it logs in; `None`: somebody must log it in.
    fn credential<'a>(
        &'a self,
        node: &'a NodeConfig,
    ) -> BoxFuture<'a, Result<Option<Credential>, SecretError>>;
    /// A certificate brought by the user.
    fn certificate<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<PemPair, SecretError>>;
    /// The keys that open a name on Funnel.
    fn keys<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Keys, SecretError>>;
    /// The clients that are declared to an identity provider.
    fn clients<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Clients, SecretError>> {
        Box::pin(async move {
            Err(SecretError::Missing {
                name: secret.name.clone(),
                missing: "it",
            })
        })
    }
    /// Where an identity provider's documents are; `None`: there is no place for them.
    fn documents(&self, _provider: &IdentityProvider) -> Option<Arc<dyn postern_idp::Store>> {
        None
    }
}

/// A certificate chain and its key, as text. Its `Debug` prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct PemPair {
    /// Leaf first.
    pub chain: Vec<u8>,
    /// The leaf's key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a secret can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It doesn't exist, or a key of it is missing.
    #[error("secret {name}: {missing} is missing")]
    Missing {
        /// The Secret.
        name: String,
        /// The key, or "it".
        missing: &'static str,
    },
    /// It can't be read now.
    #[error("read secret {name}: {reason}")]
    Read {
        /// The Secret.
        name: String,
        /// Why.
        reason: String,
    },
}
