//! Two machines on a simulated network, and one machine against hand-made segments.

use super::*;

mod chaos;
mod ends;
mod gvisor;
mod linux;
mod recovery;
mod segments;
mod sim;
mod wire;

/// Memory of which nobody runs out.
fn ample() -> Share {
    Share::new(Pool::new(1 << 30), Pool::new(1 << 30))
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
