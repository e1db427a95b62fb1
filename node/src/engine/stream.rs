//! A flow as a byte stream.

use std::{
    fmt, io,
    io::IoSlice,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    flow::{Conn, Flow},
    shared::Shared,
};
use crate::{key::NodePublic, netstack::tcp::Read};

/// After how much reading the peer should hear about the new window.
const WINDOW_STEP: usize = 16 << 10;

/// A TCP connection over the tailnet.
///
/// Dropping it closes it in order, or resets it when received data was left unread. Written data leaves with
/// a flush, when the buffer is full, or at the end of the engine's round, whichever comes first.
pub struct TcpStream {
    shared: Arc<Shared>,
    flow: Arc<Flow>,
}

/// What a call on the stream needs afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// Make segments now.
    Egress,
    /// Let the engine make segments, unless a flush comes before it gets to run.
    Soon,
}

impl TcpStream {
    pub(super) fn new(shared: Arc<Shared>, flow: Arc<Flow>) -> Self {
        Self { shared, flow }
    }

    /// Our side.
    pub fn local_addr(&self) -> SocketAddr {
        self.flow.key.local
    }

    /// The peer's side: its tailnet address, authenticated by WireGuard.
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.key.remote
    }

    /// The peer's WireGuard key.
    pub fn peer_key(&self) -> NodePublic {
        self.flow.peer.key
    }

    pub(super) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }

    fn with<R>(&self, f: impl FnOnce(&mut Conn) -> (R, Then)) -> R {
        let (result, then, at) = self.shared.drive(&self.flow, |conn, out| {
            let (result, then) = f(conn);
            if then != Then::Egress {
                return (result, then, None);
            }
            let now = self.shared.now();
            conn.egress(now, out);
            (result, then, conn.next_visit(now))
        });
        if then == Then::Soon {
            self.shared.mark_dirty(&self.flow);
        }
        self.shared.arm(&self.flow, at);
        result
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.with(|conn| {
            let read = conn.tcp.read(|data| {
                let n = data.len().min(buf.remaining());
                buf.put_slice(&data[..n]);
                n
            });
            match read {
                Read::Data(n) => {
                    conn.read_since_egress += n;
                    let then = if conn.read_since_egress >= WINDOW_STEP {
                        Then::Egress
                    } else {
                        Then::Nothing
                    };
                    (Poll::Ready(Ok(())), then)
                }
                Read::Eof => (Poll::Ready(Ok(())), Then::Nothing),
                Read::Reset => (
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                    Then::Nothing,
                ),
                Read::Empty => {
                    conn.reader = Some(cx.waker().clone());
                    (Poll::Pending, Then::Nothing)
                }
            }
        })
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|conn| {
            if !conn.tcp.may_send() {
                return (Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), Then::Nothing);
            }
            let mut room = conn.tx_room();
            let mut total = 0;
            for slice in slices {
                let wanted = slice.len().min(room);
                let written = conn.tcp.write(&slice[..wanted]);
                total += written;
                room -= written;
                if room == 0 || written < wanted {
                    break;
                }
            }
            if total == 0 && slices.iter().any(|s| !s.is_empty()) {
                conn.wait_room(cx.waker());
                let then = if conn.tx_pending {
                    Then::Egress
                } else {
                    Then::Nothing
                };
                return (Poll::Pending, then);
            }
            conn.tx_pending |= total > 0;
            let then = match (room, total) {
                (0, _) => Then::Egress,
                (_, 0) => Then::Nothing,
                _ => Then::Soon,
            };
            (Poll::Ready(Ok(total)), then)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|conn| {
            let then = if conn.tx_pending {
                Then::Egress
            } else {
                Then::Nothing
            };
            (Poll::Ready(Ok(())), then)
        })
    }

    /// FIN after the written data; reading goes on.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.with(|conn| {
            conn.tcp.close();
            (Poll::Ready(Ok(())), Then::Egress)
        })
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let now = self.shared.now();
        self.with(|conn| {
            conn.disown(now);
            ((), Then::Egress)
        });
        self.shared.mark_dirty(&self.flow); // the engine takes over
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish_non_exhaustive()
    }
}
