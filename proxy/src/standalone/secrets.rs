//! A directory as the place of secrets: each node's state below it, certificates where the file says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use postern_node::{
    control::AuthKey,
    state::{DirStore, StateError, StateStore},
};
use postern_proxy_config::group::{NodeConfig, SecretRef};

use crate::serve::{PemPair, SecretError, Secrets};

/// See the module. A certificate's "Secret" is a directory with `tls.crt` and `tls.key`.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    auth_key: Option<AuthKey>,
    /// Opened ones: each is locked against other processes for the life of this one.
    stores: Mutex<BTreeMap<String, Arc<DirStore>>>,
}

impl Directory {
    /// State below `root`; all nodes log in with the one key.
    pub fn new(root: PathBuf, auth_key: Option<AuthKey>) -> Self {
        Self {
            root,
            auth_key,
            stores: Mutex::default(),
        }
    }
}

impl Secrets for Directory {
    fn store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        let mut stores = self.stores.lock();
        if let Some(store) = stores.get(&node.hostname) {
            return Ok(store.clone());
        }
        let store = Arc::new(DirStore::open(self.root.join(&node.hostname))?);
        stores.insert(node.hostname.clone(), store.clone());
        Ok(store)
    }

    fn auth_key<'a>(&'a self, _node: &'a NodeConfig) -> BoxFuture<'a, Result<Option<AuthKey>, SecretError>> {
        Box::pin(std::future::ready(Ok(self.auth_key.clone())))
    }

    fn certificate<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<PemPair, SecretError>> {
        Box::pin(async move {
            let read = async |file: &str| {
                tokio::fs::read(Path::new(&secret.name).join(file))
                    .await
                    .map_err(|e| SecretError::Read {
                        name: secret.name.clone(),
                        reason: format!("{file}: {e}"),
                    })
            };
            Ok(PemPair {
                chain: read("tls.crt").await?,
                key: read("tls.key").await?,
            })
        })
    }
}
