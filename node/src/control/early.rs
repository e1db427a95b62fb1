//! What the server may say between Noise and HTTP/2 (Go: `control/ts2021/conn.go`).
//!
//! The first nine bytes are an HTTP/2 frame header, or a magic and the length of a JSON value that no
//! client uses. It is read away while HTTP/2 reads, not before HTTP/2 begins: nothing obliges a server to
//! speak first.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEADER: usize = 9;
const MAGIC: &[u8; 5] = b"\xff\xff\xffTS";
const MAX_LENGTH: u32 = 10 << 20;

/// The stream without an early payload.
pub(super) struct WithoutEarlyPayload<S> {
    stream: S,
    state: State,
}

enum State {
    Header { bytes: [u8; HEADER], filled: usize },
    Skip { left: usize },
    Replay { bytes: [u8; HEADER], from: usize },
    Through,
}

impl<S> WithoutEarlyPayload<S> {
    pub(super) fn new(stream: S) -> Self {
        let bytes = [0; HEADER];
        let state = State::Header { bytes, filled: 0 };
        Self { stream, state }
    }
}

fn after_header(bytes: [u8; HEADER]) -> io::Result<State> {
    let Some([a, b, c, d]) = bytes.strip_prefix(MAGIC) else {
        return Ok(State::Replay { bytes, from: 0 });
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]);
    if length > MAX_LENGTH {
        let reason = "control's early payload is too long";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    Ok(State::Skip {
        left: length as usize,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for WithoutEarlyPayload<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Header { bytes, filled } => {
                    let n = ready!(poll_some(&mut this.stream, cx, &mut bytes[*filled..]))?;
                    *filled += n;
                    if *filled == HEADER {
                        this.state = after_header(*bytes)?;
                    }
                }
                State::Skip { left: 0 } => this.state = State::Through,
                State::Skip { left } => {
                    let mut rest = [0; 1024];
                    let length = rest.len().min(*left);
                    *left -= ready!(poll_some(&mut this.stream, cx, &mut rest[..length]))?;
                }
                State::Replay { from: HEADER, .. } => this.state = State::Through,
                State::Replay { bytes, from } => {
                    let n = buf.remaining().min(HEADER - *from);
                    buf.put_slice(&bytes[*from..*from + n]);
                    *from += n;
                    return Poll::Ready(Ok(()));
                }
                State::Through => return Pin::new(&mut this.stream).poll_read(cx, buf),
            }
        }
    }
}

/// At least a byte; the end of the stream is an error here.
fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut part = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(cx, &mut part))?;
    match part.filled().len() {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        n => Poll::Ready(Ok(n)),
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithoutEarlyPayload<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (near, mut far) = duplex(4);
        let mut near = WithoutEarlyPayload::new(near);
        let mut got = Vec::new();
        let (_, result) = tokio::join!(
            async move { far.write_all(bytes).await },
            near.read_to_end(&mut got)
        );
        result.map(|_| got)
    }

    #[tokio::test]
    async fn http2_passes_and_an_early_payload_does_not() {
        let settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00and more";
        assert_eq!(read(settings).await.unwrap(), settings);
        let mut early = MAGIC.to_vec();
        early.extend(5u32.to_be_bytes());
        early.extend(b"{...}");
        early.extend(settings);
        assert_eq!(read(&early).await.unwrap(), settings);
    }

    #[tokio::test]
    async fn a_cut_or_endless_payload_is_an_error() {
        assert!(read(b"\xff\xff\xffTS\x00\x00\x00\x05ab").await.is_err());
        assert!(read(b"\xff\xff\xffTS\xff\xff\xff\xff").await.is_err());
        assert!(read(b"\x00").await.is_err());
    }
}
