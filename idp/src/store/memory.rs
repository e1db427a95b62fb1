//! Documents in memory: for tests, and for providers that may forget.

use std::collections::BTreeMap;

use futures::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{Document, Key, Store, StoreError, Swap, Version};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore {
    documents: Mutex<BTreeMap<Key, Stored>>,
}

#[derive(Debug)]
struct Stored {
    document: Document,
    revision: u64,
}

impl Store for MemoryStore {
    fn read(&self, key: Key) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
        let document = self.documents.lock().get(&key).map(|s| s.document.clone());
        ready(Ok(document)).boxed()
    }

    fn swap<'a>(
        &'a self,
        key: Key,
        read: Option<&'a Version>,
        bytes: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        let mut documents = self.documents.lock();
        let stored = documents.get(&key);
        if stored.map(|s| &s.document.version) != read {
            return ready(Ok(Swap::Conflict)).boxed();
        }
        let revision = stored.map_or(0, |s| s.revision) + 1;
        let version = Version(revision.to_string());
        let document = Document {
            bytes,
            version: version.clone(),
        };
        documents.insert(key, Stored { document, revision });
        ready(Ok(Swap::Done(version))).boxed()
    }
}
