//! Lazily touched socket buffers.
//!
//! smoltcp wants contiguous rings whose capacity never changes. Anonymous mappings are cut into equal slots;
//! a page costs memory only once it was written. smoltcp's rings restart at offset 0 whenever they run empty,
//! so a quiet connection touches one or two pages, and [`Buffers::release`] gives even these back.
//!
//! # Safety
//! The `unsafe` of this crate is here, for two things that safe Rust can't say:
//! - A socket borrows its slot for `'static`. [`Buffers`] owns both and drops the socket first; a slot returns
//!   to the free list only in its own `Drop`, so no two sockets ever share one, and the mapping lives as long
//!   as any slot of it.
//! - `MADV_DONTNEED` turns pages into zeros behind the borrow. That is done only to rings that hold no data;
//!   any byte value is a valid `u8`, and a ring is written before it is read.
#![expect(
    unsafe_code,
    reason = "slots of lazily mapped memory lent to sockets; see the module's comment"
)]

use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use parking_lot::Mutex;
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::tcp::{Socket, SocketBuffer},
};

/// Receive ring: bounds the window that a peer gets.
const RX: usize = 256 << 10;
/// Send ring; how much of it is used follows the peer (see the flow's limit).
const TX: usize = 1 << 20;
const SLOT: usize = RX + TX;
/// Slots of one mapping: address space is reserved as it is needed.
const CHUNK_SLOTS: usize = 64;

/// Hands out socket buffers, up to a limit.
#[derive(Debug)]
pub(crate) struct Arena {
    free: Mutex<Free>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Free {
    slots: Vec<Place>,
    chunks: usize,
    lent: usize,
}

#[derive(Debug)]
struct Place {
    chunk: Arc<MmapRaw>,
    offset: usize,
}

/// A slot on loan.
struct Slot {
    place: Option<Place>,
    arena: Arc<Arena>,
    touched: bool,
}

/// A TCP socket together with its buffers.
pub(crate) struct Buffers {
    // The order matters: the socket borrows from the slot and is dropped first.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    slot: Slot,
}

impl Arena {
    /// Room for `limit` connections.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::default(),
            limit,
        })
    }

    /// A new socket; `None` when the limit is reached or no address space can be had.
    pub(crate) fn socket(self: &Arc<Self>) -> Option<Buffers> {
        let place = self.take()?;
        let base = place.chunk.as_mut_ptr();
        // SAFETY: the two ranges lie inside the mapping, don't overlap, and belong to this place alone until
        // its `Slot` is dropped, which is after the socket (see the module's comment).
        let (rx, tx) = unsafe {
            let base = base.add(place.offset);
            (
                std::slice::from_raw_parts_mut(base, RX),
                std::slice::from_raw_parts_mut(base.add(RX), TX),
            )
        };
        let slot = Slot {
            place: Some(place),
            arena: self.clone(),
            touched: false,
        };
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx)));
        Some(Buffers {
            sockets,
            handle,
            slot,
        })
    }

    /// Connections that hold buffers now.
    pub(crate) fn in_use(&self) -> usize {
        self.free.lock().lent
    }

    fn take(&self) -> Option<Place> {
        let mut free = self.free.lock();
        if free.lent >= self.limit {
            return None;
        }
        if free.slots.is_empty() {
            let chunk = MmapOptions::new()
                .len(CHUNK_SLOTS * SLOT)
                .no_reserve_swap()
                .map_anon()
                .inspect_err(|error| tracing::error!(%error, "No address space for more connections"))
                .ok()?;
            // A transparent huge page would make one touched byte cost 2 MiB. Kernels without them refuse.
            let _ = chunk.advise(Advice::NoHugePage);
            let chunk = Arc::new(MmapRaw::from(chunk));
            free.chunks += 1;
            free.slots.extend((0..CHUNK_SLOTS).rev().map(|i| Place {
                chunk: chunk.clone(),
                offset: i * SLOT,
            }));
        }
        let place = free.slots.pop()?;
        free.lent += 1;
        Some(place)
    }
}

impl Buffers {
    pub(crate) fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn socket_ref(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// Data may have been written to the buffers.
    pub(crate) fn touch(&mut self) {
        self.slot.touched = true;
    }

    /// The buffers may hold pages.
    pub(crate) fn is_touched(&self) -> bool {
        self.slot.touched
    }

    /// Gives all pages back to the kernel, if the rings are empty.
    pub(crate) fn release(&mut self) {
        let socket = self.socket_ref();
        if socket.send_queue() == 0 && socket.recv_queue() == 0 {
            self.slot.release();
        }
    }
}

impl Slot {
    fn release(&mut self) {
        let Some(place) = &self.place else { return };
        // SAFETY: an anonymous private mapping; nobody relies on the contents of this range (see the
        // module's comment).
        let released = unsafe {
            place
                .chunk
                .unchecked_advise_range(UncheckedAdvice::DontNeed, place.offset, SLOT)
        };
        // A refusal costs memory, nothing else.
        self.touched = released.is_err();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.touched {
            self.release();
        }
        let mut free = self.arena.free.lock();
        free.lent -= 1;
        free.slots.extend(self.place.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_come_back() {
        let arena = Arena::new(70);
        let all: Vec<_> = std::iter::from_fn(|| arena.socket()).collect();
        assert_eq!((all.len(), arena.in_use()), (70, 70));
        drop(all);
        assert_eq!(arena.in_use(), 0);
        assert!(arena.socket().is_some());
        assert_eq!(arena.free.lock().chunks, 2);
    }

    #[test]
    fn places_do_not_overlap() {
        let arena = Arena::new(130);
        let mut all: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
        all.sort_by_key(|p| p.chunk.as_ptr() as usize + p.offset);
        assert!(all.windows(2).all(|w| {
            w[0].chunk.as_ptr() as usize + w[0].offset + SLOT <= w[1].chunk.as_ptr() as usize + w[1].offset
        }));
    }
}
