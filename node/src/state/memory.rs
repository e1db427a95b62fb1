use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::{StateStore, StoreFuture};

/// Keeps state for the life of the process: for ephemeral nodes and tests. Its `Debug` prints no values.
#[derive(Default)]
pub struct MemoryStore(Mutex<BTreeMap<String, Vec<u8>>>);

impl StateStore for MemoryStore {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move { Ok(self.0.lock().get(key).cloned()) })
    }

    fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.0.lock().extend(values);
            Ok(())
        })
    }

    fn clear(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.0.lock().clear();
            Ok(())
        })
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}
