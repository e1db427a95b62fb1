//! How much memory the data of connections takes: each buffer counts against its peer and its node.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Memory that several connections share.
#[derive(Debug)]
pub(crate) struct Pool {
    used: AtomicUsize,
    limit: usize,
}

/// How far a pool is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pressure {
    /// Less than half.
    Low,
    /// More than half: no connection gets more than the least.
    High,
    /// All: only connections that hold next to nothing take data.
    Full,
}

/// What one connection holds. Comes back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pools: [Arc<Pool>; 2],
    held: usize,
}

impl Pool {
    /// `limit` in bytes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    fn pressure(&self) -> Pressure {
        match self.used.load(Relaxed) {
            used if used >= self.limit => Pressure::Full,
            used if used >= self.limit / 2 => Pressure::High,
            _ => Pressure::Low,
        }
    }
}

impl Share {
    /// A share of the peer's and the node's memory.
    pub(crate) fn new(peer: Arc<Pool>, node: Arc<Pool>) -> Self {
        Self {
            pools: [peer, node],
            held: 0,
        }
    }

    pub(super) fn set(&mut self, held: usize) {
        if held == self.held {
            return;
        }
        for pool in &self.pools {
            if held > self.held {
                pool.used.fetch_add(held - self.held, Relaxed);
            } else {
                pool.used.fetch_sub(self.held - held, Relaxed);
            }
        }
        self.held = held;
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn pressure(&self) -> Pressure {
        let [peer, node] = &self.pools;
        peer.pressure().max(node.pressure())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_pool_counts_and_everything_comes_back() {
        let (peer, other, node) = (Pool::new(100), Pool::new(100), Pool::new(150));
        let mut a = Share::new(peer.clone(), node.clone());
        let mut b = Share::new(other, node.clone());
        a.set(100);
        assert_eq!((a.pressure(), b.pressure()), (Pressure::Full, Pressure::High));
        b.set(50);
        assert_eq!(b.pressure(), Pressure::Full);
        a.set(10);
        assert_eq!((a.pressure(), b.pressure()), (Pressure::Low, Pressure::High));
        drop((a, b));
        assert_eq!((peer.used.load(Relaxed), node.used.load(Relaxed)), (0, 0));
    }
}
