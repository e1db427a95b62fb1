//! Clients that the host declares, beside those that the store has.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::RwLock;

use crate::client::{Client, Origin};

/// They come before those of the store, and can't be changed on the admin page. Clones share them.
#[derive(Clone, Default)]
pub struct Declared(Arc<RwLock<Arc<BTreeMap<String, Client>>>>);

impl Declared {
    /// Replaces all of them, by their ids. It counts from the next request on.
    pub fn replace(&self, mut clients: BTreeMap<String, Client>) {
        for client in clients.values_mut() {
            client.origin = Origin::Declared;
        }
        *self.0.write() = Arc::new(clients);
    }

    pub(crate) fn all(&self) -> Arc<BTreeMap<String, Client>> {
        self.0.read().clone()
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Declared({})", self.all().len())
    }
}
