//! The framing of the map stream: a length of four bytes, little-endian, and a message.

use bytes::{Buf, Bytes, BytesMut};

/// Longer messages are refused. A map of 30,000 peers has about 50 MiB.
const MAX_MESSAGE: usize = 64 << 20;
const LENGTH: usize = 4;

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub(super) struct Frames {
    buffered: BytesMut,
}

/// The message is longer than we accept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) u32);

impl Frames {
    /// Adds bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// The next whole message; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(&[a, b, c, d]) = self.buffered.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]);
        let whole = LENGTH + length as usize;
        if length as usize > MAX_MESSAGE {
            return Err(TooLong(length));
        }
        if self.buffered.len() < whole {
            return Ok(None);
        }
        let mut message = self.buffered.split_to(whole);
        message.advance(LENGTH);
        if self.buffered.is_empty() {
            self.buffered = BytesMut::new(); // or the memory of the longest message would be kept
        }
        Ok(Some(message.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_as_they_were_put_in_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            piece in 1..50usize,
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend((message.len() as u32).to_le_bytes());
                stream.extend(message);
            }
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for piece in stream.chunks(piece) {
                frames.push(piece);
                while let Some(message) = frames.next().unwrap() {
                    got.push(message.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert_eq!(frames.next(), Err(TooLong(u32::MAX)));
        let mut frames = Frames::default();
        frames.push(&(MAX_MESSAGE as u32).to_le_bytes());
        assert_eq!(frames.next(), Ok(None));
    }
}
