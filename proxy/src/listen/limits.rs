//! How many connections there may be: in all, and from one peer.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;
use parking_lot::Mutex;

/// Counts open connections.
#[derive(Debug)]
pub struct Limits {
    total: usize,
    per_peer: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_peer: AHashMap<IpAddr, usize>,
}

/// An open connection; dropped, it frees its place.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    peer: IpAddr,
}

impl Limits {
    /// At most so many.
    pub fn new(total: usize, per_peer: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            per_peer,
            open: Mutex::default(),
        })
    }

    /// A place for a connection from `peer`, unless there is none.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Permit> {
        let mut open = self.open.lock();
        if open.total >= self.total {
            return None;
        }
        let count = open.by_peer.entry(peer).or_default();
        if *count >= self.per_peer {
            return None;
        }
        *count += 1;
        open.total += 1;
        Some(Permit {
            limits: self.clone(),
            peer,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_all() {
        let limits = Limits::new(3, 2);
        let (a, b) = ([100, 64, 0, 1].into(), [100, 64, 0, 2].into());
        let first = limits.admit(a).unwrap();
        let _second = limits.admit(a).unwrap();
        assert!(limits.admit(a).is_none());
        let _third = limits.admit(b).unwrap();
        assert!(limits.admit(b).is_none());
        drop(first);
        assert!(limits.admit(a).is_some());
        assert_eq!(limits.open.lock().by_peer.len(), 2);
    }
}
