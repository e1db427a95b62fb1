//! A directory as the place of secrets: each node's state below it, certificates where the file says.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use postern_node::{
    credential::Credential,
    state::{DirStore, MemoryStore, StateError, StateStore},
};
use postern_proxy_config::{
    group::{NodeConfig, SecretRef},
    keys::Keys,
};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::serve::{PemPair, SecretError, Secrets};

/// See the module. A certificate's "Secret" is a directory with `tls.crt` and `tls.key`; that of keys has the
/// directories `bearer` and `basic`, or one of them, each with a file for each key as a mounted Secret has it.
#[derive(Debug)]
pub struct Directory {
    place: Place,
    credential: Option<Credential>,
    /// Opened ones: each is locked against other processes for the life of this one.
    stores: Mutex<BTreeMap<String, Arc<dyn StateStore>>>,
}

/// Where state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// One node, as Tailscale's container keeps it, whose directory is taken over.
    Of(PathBuf),
    /// A directory for each node below this one.
    Below(PathBuf),
    /// In memory: every start is a new machine.
    Nowhere,
}

impl Directory {
    /// State in `place`; all nodes log in with the one credential.
    pub fn new(place: Place, credential: Option<Credential>) -> Self {
        Self {
            place,
            credential,
            stores: Mutex::default(),
        }
    }

    fn open(&self, hostname: &str) -> Result<Arc<dyn StateStore>, StateError> {
        let dir = match &self.place {
            Place::Of(dir) => dir.clone(),
            Place::Below(root) => root.join(hostname),
            Place::Nowhere => return Ok(Arc::new(MemoryStore::default())),
        };
        usable(&dir)?;
        Ok(Arc::new(DirStore::open(dir)?))
    }
}

/// What a volume of another user's would fail with later, said with its owner.
fn usable(dir: &Path) -> Result<(), StateError> {
    // What an older process, ours or Go's, has left: all of it is read or replaced.
    const LEFT: [&str; 4] = [".lock", "state", "tailscaled.state", "certs"];
    let left = LEFT.iter().map(|name| dir.join(name));
    let all = std::iter::once(dir.to_owned()).chain(left);
    for path in all.filter(|path| path.exists()) {
        let access = if path.is_dir() {
            Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK
        } else {
            Access::READ_OK | Access::WRITE_OK
        };
        if accessat(CWD, &path, access, AtFlags::EACCESS).is_err() {
            return Err(foreign(&path));
        }
    }
    Ok(())
}

fn foreign(path: &Path) -> StateError {
    let uid = rustix::process::geteuid().as_raw();
    let reason = match std::fs::metadata(path) {
        Ok(file) => format!(
            "it belongs to uid {} (mode {:04o}) and we run as uid {uid}: chown -R {uid} it, or run as that user",
            file.uid(),
            file.mode() & 0o7777
        ),
        Err(error) => error.to_string(),
    };
    StateError::Invalid {
        what: path.display().to_string(),
        reason,
    }
}

impl Secrets for Directory {
    fn store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        let mut stores = self.stores.lock();
        if let Some(store) = stores.get(&node.hostname) {
            return Ok(store.clone());
        }
        let store = self.open(&node.hostname)?;
        stores.insert(node.hostname.clone(), store.clone());
        Ok(store)
    }

    fn credential<'a>(
        &'a self,
        _node: &'a NodeConfig,
    ) -> BoxFuture<'a, Result<Option<Credential>, SecretError>> {
        Box::pin(std::future::ready(Ok(self.credential.clone())))
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

    fn keys<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Keys, SecretError>> {
        Box::pin(async move {
            let of = async |what: &str| {
                entries(&Path::new(&secret.name).join(what))
                    .await
                    .map_err(|e| SecretError::Read {
                        name: secret.name.clone(),
                        reason: format!("{what}: {e}"),
                    })
            };
            let (bearer, basic) = (of("bearer").await?, of("basic").await?);
            let (keys, errors) = Keys::new(&secret.name, shown(&bearer), shown(&basic));
            for error in errors {
                tracing::warn!(secret = secret.name, %error, "Key left out");
            }
            Ok(keys)
        })
    }
}

/// The files of a directory by their names, without those that Kubernetes' mounts keep for themselves; no
/// directory has none.
async fn entries(dir: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    let mut listed = match tokio::fs::read_dir(dir).await {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(entries),
        Err(error) => return Err(error),
    };
    while let Some(entry) = listed.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && tokio::fs::metadata(entry.path()).await?.is_file() {
            entries.insert(name, tokio::fs::read(entry.path()).await?);
        }
    }
    Ok(entries)
}

/// Tells whether keys are to be read again: names, times and sizes of their files, not what is in them.
pub(super) async fn revision(dir: &Path) -> String {
    let mut files = BTreeSet::new();
    for what in ["bearer", "basic"] {
        // A directory that isn't there has no keys.
        let Ok(mut listed) = tokio::fs::read_dir(dir.join(what)).await else {
            continue;
        };
        while let Ok(Some(entry)) = listed.next_entry().await {
            // Of a mounted Secret each file is a link, and what it leads to changes.
            if let Ok(file) = tokio::fs::metadata(entry.path()).await {
                let name = entry.file_name().to_string_lossy().into_owned();
                files.insert(format!(
                    "{what}/{name} {}.{} {}",
                    file.mtime(),
                    file.mtime_nsec(),
                    file.len()
                ));
            }
        }
    }
    files.into_iter().collect::<Vec<_>>().join(", ")
}

fn shown(entries: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = (&str, &[u8])> {
    (entries.iter()).map(|(name, value)| (name.as_str(), value.as_slice()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use postern_proxy_config::keys::Presented;

    use super::*;

    #[test]
    fn a_foreign_volume_is_refused_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tailscaled.state"), "{}").unwrap();
        usable(dir.path()).unwrap();
        let text = foreign(&dir.path().join("tailscaled.state")).to_string();
        let uid = rustix::process::geteuid().as_raw();
        assert!(
            text.contains("tailscaled.state") && text.contains(&format!("uid {uid} (mode 0")),
            "{text}"
        );
        // Root may do everything, so this shows only where tests run as somebody else.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
        assert_eq!(usable(dir.path()).is_err(), uid != 0);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[tokio::test]
    async fn keys_are_the_files_of_a_mounted_secret() {
        let dir = tempfile::tempdir().unwrap();
        let bearer = dir.path().join("bearer");
        fs::create_dir_all(bearer.join("..2026_01_01")).unwrap();
        fs::write(bearer.join("ci"), "sk-0123456789abcdef\n").unwrap();
        fs::write(bearer.join("short"), "x").unwrap();
        let secret = SecretRef {
            name: dir.path().display().to_string(),
            revision: String::new(),
        };
        let keys = Directory::new(Place::Nowhere, None).keys(&secret).await.unwrap();
        assert_eq!(keys.find(Presented::Bearer("sk-0123456789abcdef")), Some("ci"));
        assert_eq!(format!("{keys:?}"), "1 keys and 0 passwords");

        let before = revision(dir.path()).await;
        assert_eq!(before, revision(dir.path()).await);
        fs::write(bearer.join("ci"), "sk-another-0123456789\n").unwrap();
        assert_ne!(before, revision(dir.path()).await);
        assert_eq!(revision(&dir.path().join("none")).await, "");
    }
}
