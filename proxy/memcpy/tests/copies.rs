//! Against what the language does, with every length that has a branch of its own, and what lies around left as it was.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code)]

use postern_memcpy::{memcpy, memmove};
use proptest::prelude::*;

fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 + i / 256 + seed) as u8).collect()
}

/// Copies `n` bytes between two places that don't overlap.
fn copied(n: usize, from: usize, to: usize) {
    let source = bytes(n + from + 80, 1);
    for copy in [memcpy, memmove] {
        let mut target = bytes(n + to + 80, 99);
        let mut want = target.clone();
        want[to..to + n].copy_from_slice(&source[from..from + n]);
        // SAFETY: both vectors have 80 bytes more.
        let returned = unsafe { copy(target.as_mut_ptr().add(to), source.as_ptr().add(from), n) };
        assert_eq!(returned, unsafe { target.as_mut_ptr().add(to) });
        assert!(target == want, "{n} bytes from {from} to {to}");
    }
}

/// Moves `n` bytes inside of one place.
fn moved(n: usize, from: usize, to: usize) {
    let mut target = bytes(n + from.max(to) + 80, 5);
    let mut want = target.clone();
    want.copy_within(from..from + n, to);
    let start = target.as_mut_ptr();
    // SAFETY: the vector ends behind both.
    unsafe { memmove(start.add(to), start.add(from), n) };
    assert!(target == want, "{n} bytes from {from} to {to}");
}

#[test]
fn every_short_length_and_the_bounds_of_the_long_ones() {
    for n in (0..=400).chain(2030..2070).chain([4095, 4096, 65_535]) {
        for (from, to) in [(0, 0), (1, 0), (0, 3), (7, 16)] {
            copied(n, from, to);
        }
        for distance in [0, 1, 2, 15, 16, 17, 63, 64, 65, 200] {
            moved(n, 0, distance);
            moved(n, distance, 0);
        }
    }
}

proptest! {
    #[test]
    fn any_copy(n in 0..20_000_usize, from in 0..64_usize, to in 0..64_usize) {
        copied(n, from, to);
    }

    #[test]
    fn any_move(n in 0..5_000_usize, from in 0..5_000_usize, to in 0..5_000_usize) {
        moved(n, from, to);
    }
}
