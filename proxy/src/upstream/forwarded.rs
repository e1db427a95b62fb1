//! Whose bytes a connection to a backend carries, by our end of it: a backend that asks the LocalAPI who
//! connected to it from `127.0.0.1:PORT` means the client behind us (Go: `proxymap`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use parking_lot::Mutex;

/// Connections that carry one client's bytes.
#[derive(Debug, Default)]
pub struct Forwarded(Mutex<AHashMap<SocketAddr, IpAddr>>);

/// The time for which a connection is known.
#[derive(Debug)]
pub struct Entry {
    forwarded: Arc<Forwarded>,
    local: SocketAddr,
}

impl Forwarded {
    /// From `local` on this machine the bytes of `client` are sent, until the entry is dropped.
    pub fn enter(self: &Arc<Self>, local: SocketAddr, client: IpAddr) -> Entry {
        self.0.lock().insert(local, client.to_canonical());
        Entry {
            forwarded: self.clone(),
            local,
        }
    }

    /// The client whose bytes come from `local`.
    pub fn client(&self, local: SocketAddr) -> Option<IpAddr> {
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        self.0.lock().get(&local).copied()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.forwarded.0.lock().remove(&self.local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_while_it_lasts() {
        let forwarded = Arc::new(Forwarded::default());
        let local: SocketAddr = "127.0.0.1:40000".parse().unwrap();
        let entry = forwarded.enter(local, "::ffff:100.64.0.7".parse().unwrap());
        let client = Some([100, 64, 0, 7].into());
        assert_eq!(forwarded.client(local), client);
        assert_eq!(
            forwarded.client("[::ffff:127.0.0.1]:40000".parse().unwrap()),
            client
        );
        assert_eq!(forwarded.client("127.0.0.1:40001".parse().unwrap()), None);
        drop(entry);
        assert_eq!(forwarded.client(local), None);
    }
}
