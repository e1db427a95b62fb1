//! Noise IK with the control server (Go: `control/controlbase`): handshake and records.
//!
//! Cryptography is `snow`'s. Ours is the framing, and the nonce: control counts it big-endian, while
//! `snow` writes the number it is given little-endian as the Noise specification says, so it is given the
//! number with its bytes swapped.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use snow::{Builder, HandshakeState, StatelessTransportState};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::key::{MachinePrivate, MachinePublic};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// A frame with its header.
const MAX_FRAME: usize = 4096;
const HEADER: usize = 3;
const TAG: usize = 16;
/// What fits into a record.
const MAX_PLAINTEXT: usize = MAX_FRAME - HEADER - TAG;
/// Length of the client's first message with its header.
pub(super) const INITIATION: usize = 101;
const RESPONSE: usize = 48;

const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_ERROR: u8 = 3;
const TYPE_RECORD: u8 = 4;

/// Why no session came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoiseError {
    /// The server is another than its key said, or speaks another protocol.
    #[error("noise handshake: {0}")]
    Crypto(#[from] snow::Error),
    /// The server says why it doesn't want to.
    #[error("the server refused the noise handshake: {0}")]
    Refused(String),
    /// The server doesn't speak the protocol.
    #[error("the server's noise answer is no frame of the protocol")]
    Malformed,
    /// The connection broke.
    #[error("noise handshake: {0}")]
    Io(#[from] io::Error),
}

/// A handshake after its first message.
pub(super) struct Handshake(HandshakeState);

impl Handshake {
    /// Begins as client; returns the first message, which goes into a header of the upgrade request.
    pub(super) fn initiate(
        machine: &MachinePrivate,
        server: &MachinePublic,
        version: u16,
    ) -> Result<(Self, [u8; INITIATION]), NoiseError> {
        let mut state = builder(&prologue(version), machine)?
            .remote_public_key(server.as_bytes())?
            .build_initiator()?;
        let mut message = [0; INITIATION];
        message[..2].copy_from_slice(&version.to_be_bytes());
        message[2] = TYPE_INITIATION;
        message[3..5].copy_from_slice(&((INITIATION - 5) as u16).to_be_bytes());
        state.write_message(&[], &mut message[5..])?;
        Ok((Self(state), message))
    }

    /// Reads the server's answer.
    pub(super) async fn complete<S>(mut self, mut stream: S) -> Result<NoiseStream<S>, NoiseError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
        if length > MAX_FRAME - HEADER {
            return Err(NoiseError::Malformed);
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        match header[0] {
            TYPE_RESPONSE if length == RESPONSE => {}
            TYPE_ERROR => {
                return Err(NoiseError::Refused(String::from_utf8_lossy(&body).into_owned()));
            }
            _ => return Err(NoiseError::Malformed),
        }
        self.0.read_message(&body, &mut [])?;
        Ok(NoiseStream::new(stream, self.0.into_stateless_transport_mode()?))
    }
}

pub(super) fn prologue(version: u16) -> String {
    format!("Tailscale Control Protocol v{version}")
}

pub(super) fn builder<'a>(prologue: &'a str, key: &'a MachinePrivate) -> Result<Builder<'a>, snow::Error> {
    Builder::new(PATTERN.parse()?)
        .prologue(prologue.as_bytes())?
        .local_private_key(key.expose_bytes())
}

/// The bytes inside the session.
pub(super) struct NoiseStream<S> {
    stream: S,
    cipher: StatelessTransportState,
    rx: Received,
    tx: Sent,
}

/// A record that is being read, and the plaintext of the one before.
struct Received {
    counter: u64,
    record: Box<[u8; MAX_FRAME]>,
    filled: usize,
    plain: Box<[u8; MAX_FRAME]>,
    unread: std::ops::Range<usize>,
}

/// A record that is being written.
struct Sent {
    counter: u64,
    record: Box<[u8; MAX_FRAME]>,
    unsent: std::ops::Range<usize>,
}

impl<S> NoiseStream<S> {
    pub(super) fn new(stream: S, cipher: StatelessTransportState) -> Self {
        Self {
            stream,
            cipher,
            rx: Received {
                counter: 0,
                record: Box::new([0; MAX_FRAME]),
                filled: 0,
                plain: Box::new([0; MAX_FRAME]),
                unread: 0..0,
            },
            tx: Sent {
                counter: 0,
                record: Box::new([0; MAX_FRAME]),
                unsent: 0..0,
            },
        }
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

impl Received {
    /// How long the record must get before more can be said about it.
    fn wanted(&self) -> io::Result<usize> {
        if self.filled < HEADER {
            return Ok(HEADER);
        }
        if self.record[0] != TYPE_RECORD {
            return Err(malformed("control sent something that is no noise record"));
        }
        let length = usize::from(u16::from_be_bytes([self.record[1], self.record[2]]));
        if !(TAG..=MAX_FRAME - HEADER).contains(&length) {
            return Err(malformed("control sent a noise record of a wrong length"));
        }
        Ok(HEADER + length)
    }

    fn open(&mut self, cipher: &StatelessTransportState) -> io::Result<()> {
        let length = cipher
            .read_message(
                self.counter.swap_bytes(),
                &self.record[HEADER..self.filled],
                &mut self.plain[..],
            )
            .map_err(|_| malformed("control sent a noise record that can't be decrypted"))?;
        self.counter += 1;
        self.filled = 0;
        self.unread = 0..length;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let rx = &mut this.rx;
        // A record may hold nothing, so one is not always enough.
        while rx.unread.is_empty() {
            let wanted = rx.wanted()?;
            if rx.filled == wanted {
                rx.open(&this.cipher)?;
                continue;
            }
            let mut part = ReadBuf::new(&mut rx.record[rx.filled..wanted]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
            match part.filled().len() {
                0 if rx.filled == 0 => return Poll::Ready(Ok(())),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                n => rx.filled += n,
            }
        }
        let n = rx.unread.len().min(buf.remaining());
        buf.put_slice(&rx.plain[rx.unread.start..rx.unread.start + n]);
        rx.unread.start += n;
        Poll::Ready(Ok(()))
    }
}

impl Sent {
    fn seal(&mut self, cipher: &StatelessTransportState, plain: &[u8]) -> io::Result<()> {
        let length = cipher
            .write_message(self.counter.swap_bytes(), plain, &mut self.record[HEADER..])
            .map_err(io::Error::other)?;
        self.counter += 1;
        self.record[0] = TYPE_RECORD;
        self.record[1..HEADER].copy_from_slice(&(length as u16).to_be_bytes());
        self.unsent = 0..HEADER + length;
        Ok(())
    }

    fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let rest = &self.record[self.unsent.clone()];
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.unsent.start += n,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.tx.poll_send(&mut this.stream, cx))?;
        let n = buf.len().min(MAX_PLAINTEXT);
        if n > 0 {
            this.tx.seal(&this.cipher, &buf[..n])?;
            // The record is taken; what can't be sent now is sent by the next write or flush.
            if let Poll::Ready(Err(error)) = this.tx.poll_send(&mut this.stream, cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.tx.poll_send(&mut this.stream, cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.tx.poll_send(&mut this.stream, cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests;
