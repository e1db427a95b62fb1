//! Positions in a stream.
//!
//! On the wire a sequence number has 32 bits and wraps. Inside, a position counts from the initial sequence
//! number on and doesn't: 0 is the SYN, the data begins at 1, the FIN stands behind the last byte.

/// An initial sequence number (RFC 9293 §3.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin(u32);

impl Origin {
    pub(super) fn new(initial: u32) -> Self {
        Self(initial)
    }

    /// The sequence number of a position.
    pub(super) fn wire(self, position: u64) -> u32 {
        self.0.wrapping_add(position as u32)
    }

    /// The position nearest to `near` that has this sequence number; `None` if that is before the SYN.
    pub(super) fn position(self, wire: u32, near: u64) -> Option<u64> {
        let distance = wire.wrapping_sub(self.wire(near)) as i32;
        near.checked_add_signed(distance.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_survives_the_wire(initial: u32, position in 0..1_u64 << 40, drift in -0x7fff_ffff..0x7fff_ffff_i64) {
            let origin = Origin::new(initial);
            let near = position.saturating_add_signed(drift);
            prop_assert_eq!(origin.position(origin.wire(position), near), Some(position));
        }
    }

    #[test]
    fn nothing_is_before_the_syn() {
        let origin = Origin::new(5);
        assert_eq!(origin.position(4, 100), None);
        assert_eq!(origin.position(5, 100), Some(0));
        assert_eq!(origin.position(u32::MAX, 1 << 32), Some((1 << 32) - 6));
    }
}
