//! Documents in a directory, one file each.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::Arc,
};

use aws_lc_rs::digest;
use futures::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{Document, Key, Store, StoreError, Swap, Version};

/// Documents as files (0600) in a directory (0700). Several processes may share it: a swap takes the
/// directory's lock file. A file is replaced by renaming a complete, synced one over it, so that after a crash
/// the old or the new document is there.
///
/// File operations block for as long as the disk takes, an `fsync` for a swap; documents are small and logins
/// are few.
#[derive(Debug, Clone)]
pub struct DirectoryStore(Arc<Directory>);

#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// Locked for each swap: against tasks by the mutex, against processes by the file.
    lock: Mutex<File>,
}

const LOCK: &str = ".idp-lock";

impl DirectoryStore {
    /// Opens the directory, made if needed.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let fail = |source: io::Error| StoreError::Io {
            action: "make a place for",
            document: path.display().to_string(),
            source: source.into(),
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&path).map_err(fail)?;
        let lock = private_file().create(true).truncate(false).open(path.join(LOCK));
        let lock = Mutex::new(lock.map_err(fail)?);
        Ok(Self(Arc::new(Directory { path, lock })))
    }
}

impl Store for DirectoryStore {
    fn read(&self, key: Key) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
        ready(self.0.read(key).map_err(failed("read", key))).boxed()
    }

    fn swap<'a>(
        &'a self,
        key: Key,
        read: Option<&'a Version>,
        bytes: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        ready(self.0.swap(key, read, &bytes).map_err(failed("write", key))).boxed()
    }
}

impl Directory {
    fn file(&self, key: Key) -> PathBuf {
        self.path.join(format!("{key}.json"))
    }

    fn read(&self, key: Key) -> io::Result<Option<Document>> {
        match fs::read(self.file(key)) {
            Ok(bytes) => Ok(Some(Document {
                version: version(&bytes),
                bytes: Zeroizing::new(bytes),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn swap(&self, key: Key, read: Option<&Version>, bytes: &[u8]) -> io::Result<Swap> {
        let lock = self.lock.lock();
        lock.lock()?;
        let swapped = self.swap_locked(key, read, bytes);
        lock.unlock()?;
        swapped
    }

    fn swap_locked(&self, key: Key, read: Option<&Version>, bytes: &[u8]) -> io::Result<Swap> {
        let now = self.read(key)?;
        if now.as_ref().map(|document| &document.version) != read {
            return Ok(Swap::Conflict);
        }
        let temporary = self.path.join(format!(".new-{key}"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // A new one: what a crash, or somebody else, left there would keep its mode.
        let mut file = private_file().create_new(true).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.file(key))?;
        File::open(&self.path)?.sync_all()?;
        Ok(Swap::Done(version(bytes)))
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Of its content: no two versions in a row are equal, since only changes are written.
fn version(bytes: &[u8]) -> Version {
    Version(hex::encode(digest::digest(&digest::SHA256, bytes)))
}

fn failed(action: &'static str, key: Key) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        action,
        document: key.to_string(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::store::Shard;

    fn bytes(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn files_are_private_and_what_a_crash_left_is_no_document() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(dir.path().join("idp")).unwrap();
        fs::write(dir.path().join("idp/.new-keys"), "half").unwrap();
        assert!(store.read(Key::Keys).await.unwrap().is_none());
        store.swap(Key::Keys, None, bytes("{}")).await.unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("idp/keys.json"), 0o600);
        assert_eq!(mode("idp"), 0o700);
    }

    #[tokio::test]
    async fn two_replicas_of_one_directory_agree() {
        let dir = tempfile::tempdir().unwrap();
        let replica = || DirectoryStore::open(dir.path()).unwrap();
        let (a, b) = (replica(), replica());
        let key = Key::Sessions(Shard::of(0));
        let Swap::Done(version) = a.swap(key, None, bytes("1")).await.unwrap() else {
            panic!("there was none");
        };
        assert!(matches!(
            b.swap(key, Some(&version), bytes("2")).await.unwrap(),
            Swap::Done(_)
        ));
        assert_eq!(
            a.swap(key, Some(&version), bytes("3")).await.unwrap(),
            Swap::Conflict
        );
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DirectoryStore::open(&file).unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }
}
