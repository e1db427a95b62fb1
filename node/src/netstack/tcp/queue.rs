//! Bytes in order, in blocks that are allocated as they fill and freed as they are taken.

use std::collections::VecDeque;

/// The largest block.
const BLOCK: usize = 16 << 10;
/// A first block starts with this much and doubles: most exchanges are short.
const FIRST_BLOCK: usize = 1 << 10;

/// All blocks but the last one hold exactly [`BLOCK`] bytes, unless another queue was appended.
#[derive(Debug, Default)]
pub(super) struct Queue {
    blocks: VecDeque<Vec<u8>>,
    /// So many bytes of the first block were taken.
    head: usize,
    len: usize,
    /// A block that was emptied last, for the next bytes.
    spare: Option<Vec<u8>>,
    /// Memory of all blocks.
    held: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn push(&mut self, mut data: &[u8]) {
        self.len += data.len();
        while !data.is_empty() {
            if self.blocks.back().is_none_or(|block| block.len() == BLOCK) {
                self.add_block();
            }
            let Some(block) = self.blocks.back_mut() else {
                return;
            };
            let (now, later) = data.split_at(data.len().min(BLOCK - block.len()));
            let wanted = block.len() + now.len();
            if wanted > block.capacity() {
                let before = block.capacity();
                let capacity = wanted.next_power_of_two().clamp(FIRST_BLOCK, BLOCK);
                block.reserve_exact(capacity - block.len());
                self.held += block.capacity() - before;
            }
            block.extend_from_slice(now);
            data = later;
        }
    }

    /// Moves the bytes of another queue behind the own ones. [`Self::slices`] doesn't work any more afterwards.
    pub(super) fn append(&mut self, mut other: Self) {
        while !other.is_empty() && (other.head > 0 || other.len <= BLOCK) {
            let front = other.front();
            self.push(front);
            let len = front.len();
            other.take(len);
        }
        self.len += other.len;
        self.held += other.blocks.iter().map(Vec::capacity).sum::<usize>();
        self.blocks.append(&mut other.blocks);
    }

    fn add_block(&mut self) {
        let block = self.spare.take().unwrap_or_else(|| {
            let capacity = if self.blocks.is_empty() { 0 } else { BLOCK };
            let block = Vec::with_capacity(capacity);
            self.held += block.capacity();
            block
        });
        self.blocks.push_back(block);
    }

    /// The first bytes that lie together; empty if there are none.
    pub(super) fn front(&self) -> &[u8] {
        self.blocks.front().map_or(&[], |block| &block[self.head..])
    }

    /// `len` bytes (at most a block) from `offset` on, in two pieces.
    pub(super) fn slices(&self, offset: usize, len: usize) -> [&[u8]; 2] {
        let at = self.head + offset;
        let (index, at) = (at / BLOCK, at % BLOCK);
        let block = |i: usize| self.blocks.get(i).map_or(&[][..], Vec::as_slice);
        let first = block(index).get(at..).unwrap_or_default();
        let first = &first[..len.min(first.len())];
        let rest = block(index + 1);
        [first, &rest[..(len - first.len()).min(rest.len())]]
    }

    /// Removes the first `count` bytes.
    pub(super) fn take(&mut self, count: usize) {
        let count = count.min(self.len);
        self.len -= count;
        self.head += count;
        while let Some(block) = self.blocks.front() {
            if self.head < block.len() || block.is_empty() {
                break;
            }
            self.head -= block.len();
            let Some(mut block) = self.blocks.pop_front() else {
                break;
            };
            if self.spare.is_none() {
                block.clear();
                self.spare = Some(block);
            } else {
                self.held -= block.capacity();
            }
        }
    }

    /// Gives back memory that holds nothing.
    pub(super) fn release(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.held -= spare.capacity();
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_queue_is_a_queue(steps in prop::collection::vec((0..40_000_usize, 0..40_000_usize, any::<bool>()), 1..40)) {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            let mut next = 0_u8;
            for (add, remove, release) in steps {
                let data: Vec<u8> = (0..add).map(|i| next.wrapping_add((i % 251) as u8)).collect();
                next = next.wrapping_add(17);
                queue.push(&data);
                model.extend(data);
                let offset = remove.min(model.len());
                let len = 1240.min(model.len() - offset);
                let expected: Vec<u8> = model.range(offset..offset + len).copied().collect();
                prop_assert_eq!(queue.slices(offset, len).concat(), expected);
                let front = queue.front().to_vec();
                prop_assert!(model.iter().take(front.len()).eq(&front) && front.is_empty() == model.is_empty());
                queue.take(remove);
                model.drain(..offset);
                if release {
                    queue.release();
                }
                prop_assert_eq!(queue.len(), model.len());
                let held: usize = queue.blocks.iter().chain(&queue.spare).map(Vec::capacity).sum();
                prop_assert_eq!(queue.held(), held);
                prop_assert!(held <= model.len() + 3 * BLOCK);
            }
        }
    }

    proptest! {
        #[test]
        fn queues_are_joined_in_order(lens in prop::collection::vec((0..50_000_usize, 0..20_000_usize), 1..8)) {
            let (mut joined, mut model) = (Queue::default(), VecDeque::<u8>::new());
            for (i, (len, taken)) in lens.into_iter().enumerate() {
                let data: Vec<u8> = (0..len).map(|at| (at * 7 + i) as u8).collect();
                let mut other = Queue::default();
                other.push(&data);
                other.take(taken);
                model.extend(&data[taken.min(len)..]);
                joined.append(other);
                let held: usize = joined.blocks.iter().chain(&joined.spare).map(Vec::capacity).sum();
                prop_assert_eq!((joined.len(), joined.held()), (model.len(), held));
                joined.take(taken / 2);
                model.drain(..model.len().min(taken / 2));
            }
            while !joined.is_empty() {
                let front = joined.front().to_vec();
                prop_assert!(model.drain(..front.len()).eq(front.iter().copied()));
                joined.take(front.len());
            }
            prop_assert!(model.is_empty());
        }
    }

    #[test]
    fn little_data_needs_little_memory_and_none_needs_none() {
        let mut queue = Queue::default();
        queue.push(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(queue.held(), FIRST_BLOCK);
        queue.take(queue.len());
        assert_eq!(queue.held(), FIRST_BLOCK);
        queue.release();
        assert_eq!(queue.held(), 0);
    }
}
