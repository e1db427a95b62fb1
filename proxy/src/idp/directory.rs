//! The provider's directory: the node's state in it, the provider's documents below it, and what tsidp has left.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use postern_idp::{Key, Store, Tsidp, store::DirectoryStore};
use postern_node::state::{DirStore, StateStore};

/// See the module.
pub(super) struct State {
    path: PathBuf,
    /// The node's; it also keeps other processes out of the directory.
    pub(super) node: Arc<dyn StateStore>,
    /// The provider's.
    pub(super) store: Arc<dyn Store>,
}

const DOCUMENTS: &str = "idp";

impl State {
    /// Opens the directory, made if needed.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            node: Arc::new(DirStore::open(path)?),
            store: Arc::new(DirectoryStore::open(path.join(DOCUMENTS))?),
        })
    }

    /// What tsidp has left here; nothing once we have keys of our own.
    pub(super) fn tsidp(&self) -> anyhow::Result<Option<Tsidp>> {
        if self
            .path
            .join(DOCUMENTS)
            .join(format!("{}.json", Key::Keys))
            .exists()
        {
            return Ok(None);
        }
        let mut tsidp = Tsidp::default();
        let mut found = false;
        if let Some(json) = self.read(Tsidp::KEY_FILE)? {
            tsidp.add_key(&json)?;
            found = true;
        }
        for file in Tsidp::CLIENT_FILES {
            if let Some(json) = self.read(file)? {
                tsidp.add_clients(&json)?;
                found = true;
            }
        }
        if found {
            tracing::info!(
                clients = tsidp.clients(),
                "Taking over key and clients of tsidp; its files stay, with the clients' secrets in clear: remove them \
                 when all is well"
            );
        }
        Ok(found.then_some(tsidp))
    }

    fn read(&self, file: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.path.join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tsidp_left_is_found_until_there_are_keys() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(state.tsidp().unwrap().is_none());
        let clients = r#"{"a":{"client_id":"a","client_secret":"s","redirect_uris":["https://a/cb"]}}"#;
        fs::write(dir.path().join("oidc-funnel-clients.json"), clients).unwrap();
        assert_eq!(state.tsidp().unwrap().unwrap().clients(), 1);
        fs::write(dir.path().join("oidc-key.json"), "{}").unwrap();
        assert!(state.tsidp().unwrap_err().to_string().contains("oidc-key.json"));
        fs::write(dir.path().join("idp/keys.json"), "{}").unwrap();
        assert!(state.tsidp().unwrap().is_none());
    }
}
