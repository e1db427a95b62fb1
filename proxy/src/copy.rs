//! Bytes both ways between two streams, half-closes included, with no memory while nothing moves: most tunnels,
//! WebSockets and forwarded connections are idle most of the time.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is read at once.
const PIECE: usize = 64 << 10;
/// Pieces in a row; then others get their turn.
const TURN: usize = 16;

thread_local! {
    /// What is read into. Only what the other side doesn't take at once is kept elsewhere.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Copies until both sides have ended, and closes each way in order. Returns the bytes from `a` to `b`, and from `b` to `a`.
///
/// # Errors
/// The first one of either side; the other way ends with it.
pub(crate) async fn both_ways<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let there = there.poll(cx, a, b)?;
        let back = back.poll(cx, b, a)?;
        Poll::Ready(Ok((ready!(there), ready!(back))))
    })
    .await
}

#[derive(Default)]
struct Way {
    stage: Stage,
    /// Read, but not taken by the other side yet; what is before `taken` was.
    waiting: Vec<u8>,
    taken: usize,
    /// Written since the last flush.
    unflushed: bool,
    copied: u64,
}

#[derive(Default, Clone, Copy)]
enum Stage {
    #[default]
    Open,
    /// The source has ended.
    Ending,
    Ended,
}

impl Way {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<u64>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = SCRATCH.take();
        scratch.resize(PIECE, 0);
        let polled = self.poll_with(cx, from, to, &mut scratch);
        SCRATCH.set(scratch);
        polled
    }

    fn poll_with<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
    ) -> Poll<io::Result<u64>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            while self.taken < self.waiting.len() {
                self.taken += ready!(write(cx, to, &self.waiting[self.taken..]))?;
                self.unflushed = true;
            }
            self.waiting = Vec::new();
            self.taken = 0;
            match self.stage {
                Stage::Open => {}
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(self.copied));
                }
                Stage::Ended => return Poll::Ready(Ok(self.copied)),
            }
            let mut piece = ReadBuf::new(scratch);
            let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut piece) else {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            };
            read?;
            let piece = piece.filled();
            if piece.is_empty() {
                self.stage = Stage::Ending;
                continue;
            }
            self.copied += piece.len() as u64;
            let written = match write(cx, to, piece) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            self.unflushed |= written > 0;
            self.waiting = piece[written..].to_vec();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn write<W: AsyncWrite + Unpin>(cx: &mut Context<'_>, to: &mut W, data: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, data))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

    use super::*;

    /// Between pipes that take a few bytes at a time, with both ways under way at once.
    #[tokio::test]
    async fn what_goes_in_comes_out_and_each_way_ends_on_its_own() {
        for room in [1, 7, 4096, 200_000] {
            let (client, mut a) = duplex(room);
            let (server, mut b) = duplex(room);
            let copying = tokio::spawn(async move { both_ways(&mut a, &mut b).await });
            let question: Vec<u8> = (0..50_000_u32).map(|i| (i * 7) as u8).collect();
            let answer: Vec<u8> = (0..90_000_u32).map(|i| (i * 13) as u8).collect();
            let (mut from_server, mut to_server) = split(client);
            let (mut from_client, mut to_client) = split(server);
            let (asked, answered) = (question.clone(), answer.clone());
            let client = tokio::spawn(async move {
                to_server.write_all(&asked).await.unwrap();
                to_server.shutdown().await.unwrap();
            });
            let server = tokio::spawn(async move {
                let mut heard = Vec::new();
                from_client.read_to_end(&mut heard).await.unwrap();
                // Only now: the way back outlives the way there.
                to_client.write_all(&answered).await.unwrap();
                to_client.shutdown().await.unwrap();
                heard
            });
            let mut heard = Vec::new();
            from_server.read_to_end(&mut heard).await.unwrap();
            client.await.unwrap();
            assert!(server.await.unwrap() == question && heard == answer, "{room}");
            assert_eq!(copying.await.unwrap().unwrap(), (50_000, 90_000));
        }
    }

    #[tokio::test]
    async fn a_side_that_breaks_ends_both_ways() {
        let (mut client, mut a) = duplex(64);
        let (server, mut b) = duplex(64);
        let copying = tokio::spawn(async move { both_ways(&mut a, &mut b).await });
        drop(server);
        client.write_all(b"anybody there?").await.unwrap();
        let error = copying.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
