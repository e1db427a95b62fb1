//! How much memory the data of connections takes: each buffer counts against its peer and its node, and so does
//! what a receive window has promised beyond the least.

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
    /// More than half: no connection is promised more than the least.
    High,
    /// More than three quarters: nothing more is promised. The rest is for what was.
    Critical,
    /// All: only connections that hold next to nothing take data.
    Full,
}

/// What one connection holds, and what is reserved for it. Comes back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pools: [Arc<Pool>; 2],
    held: usize,
    reserved: usize,
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
            used if used >= self.limit / 4 * 3 => Pressure::Critical,
            used if used >= self.limit / 2 => Pressure::High,
            _ => Pressure::Low,
        }
    }

    /// What may be used until the pressure is high.
    fn room(&self) -> usize {
        (self.limit / 2).saturating_sub(self.used.load(Relaxed))
    }
}

impl Share {
    /// A share of the peer's and the node's memory.
    pub(crate) fn new(peer: Arc<Pool>, node: Arc<Pool>) -> Self {
        Self {
            pools: [peer, node],
            held: 0,
            reserved: 0,
        }
    }

    pub(super) fn set(&mut self, held: usize, reserved: usize) {
        let (before, after) = (self.held + self.reserved, held + reserved);
        (self.held, self.reserved) = (held, reserved);
        if before == after {
            return;
        }
        for pool in &self.pools {
            if after > before {
                pool.used.fetch_add(after - before, Relaxed);
            } else {
                pool.used.fetch_sub(before - after, Relaxed);
            }
        }
    }

    /// How much may be reserved for this connection: half of what there is, so that others find something.
    pub(super) fn grant(&self) -> usize {
        let [peer, node] = &self.pools;
        (self.reserved + peer.room().min(node.room())) / 2
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
        self.set(0, 0);
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
        a.set(60, 40);
        assert_eq!((a.pressure(), b.pressure()), (Pressure::Full, Pressure::High));
        b.set(20, 0);
        assert_eq!(b.pressure(), Pressure::Critical);
        b.set(50, 0);
        assert_eq!(b.pressure(), Pressure::Full);
        a.set(10, 0);
        assert_eq!((a.pressure(), b.pressure()), (Pressure::Low, Pressure::High));
        drop((a, b));
        assert_eq!((peer.used.load(Relaxed), node.used.load(Relaxed)), (0, 0));
    }

    #[test]
    fn whoever_comes_later_finds_something_to_reserve() {
        let node = Pool::new(1 << 20);
        let mut shares = [(); 4].map(|()| Share::new(Pool::new(1 << 30), node.clone()));
        for _ in 0..20 {
            for share in &mut shares {
                share.set(0, share.grant());
            }
        }
        assert!(node.used.load(Relaxed) <= 1 << 19);
        let fair = (1 << 19) / 5;
        assert!(shares.iter().all(|share| share.reserved.abs_diff(fair) < 10));
    }
}
