//! A timer wheel for many deadlines that mostly move before they are reached.
//!
//! Deadlines are milliseconds since the engine's start, rounded up to ticks. What lies further ahead than the
//! wheel reaches comes out early; the caller looks again and puts it back.

/// Length of a tick in milliseconds.
const TICK: u64 = 4;
/// The wheel reaches 4 s ahead.
const SLOTS: u64 = 1024;

#[derive(Debug)]
pub(super) struct Wheel<T> {
    slots: Vec<Vec<(u64, T)>>,
    entries: usize,
    tick: u64,
}

impl<T> Wheel<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            entries: 0,
            tick: 0,
        }
    }

    pub(super) fn insert(&mut self, deadline: u64, item: T) {
        let tick = deadline
            .div_ceil(TICK)
            .clamp(self.tick + 1, self.tick + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push((deadline, item));
        self.entries += 1;
    }

    /// Moves on to `now` and takes out all entries (with their deadlines) whose tick has come.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<(u64, T)>) {
        let target = now / TICK;
        while self.tick < target {
            if self.entries == 0 {
                self.tick = target;
                return;
            }
            self.tick += 1;
            let slot = &mut self.slots[(self.tick % SLOTS) as usize];
            self.entries -= slot.len();
            due.append(slot);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// When the next entry comes out, in milliseconds since the start; looks at most `horizon` ms ahead.
    pub(super) fn next(&self, horizon: u64) -> Option<u64> {
        if self.entries == 0 {
            return None;
        }
        (1..(horizon / TICK).min(SLOTS))
            .map(|i| self.tick + i)
            .find(|tick| !self.slots[(tick % SLOTS) as usize].is_empty())
            .map(|tick| tick * TICK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_far_ahead_comes_out_early_with_its_deadline() {
        let mut wheel = Wheel::new();
        wheel.insert(60_000, 'a');
        let mut due = Vec::new();
        wheel.advance(5_000, &mut due);
        assert_eq!(due, [(60_000, 'a')]);
        assert_eq!(wheel.next(1000), None);
    }

    proptest! {
        #[test]
        fn nothing_comes_early_or_late(deadlines in prop::collection::vec(1..4000_u64, 1..50), step in 1..300_u64) {
            let mut wheel = Wheel::new();
            for d in &deadlines {
                wheel.insert(*d, ());
            }
            let (mut now, mut seen) = (0, 0);
            while seen < deadlines.len() {
                prop_assert!(now < 5000);
                if let Some(next) = wheel.next(250) {
                    prop_assert!(next > now - now % TICK);
                }
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for (deadline, ()) in &due {
                    prop_assert!(*deadline <= now && now <= deadline + TICK + step);
                }
                seen += due.len();
            }
        }
    }
}
