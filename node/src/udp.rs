//! The node's UDP socket: GRO on receive, GSO batches on send.
//!
//! Datagrams gather in an [`Outbox`] until somebody flushes; a batch that can't grow any more leaves at once. They are sent
//! from where they lie: quinn-udp, which does the receiving, would have them in one piece.

use std::{
    cell::RefCell,
    io,
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};
use parking_lot::Mutex;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::{io::Interest, net::UdpSocket};

use self::outbox::{Batch, MAX_BATCH_SEGMENTS, Outbox};
use crate::engine::Stats;

mod outbox;

/// Receive calls are batched by this many buffers of 64 KiB, each of which GRO may fill.
const RECV_BATCH: usize = 4;
/// Wanted; the kernel caps it at `net.core.{r,w}mem_max`.
const SOCKET_BUFFER: usize = 4 << 20;

/// A bound UDP socket, for IPv4 and (where the machine has it) IPv6: the side that sends, shared by whoever does.
pub(crate) struct Udp {
    outgoing: Mutex<Outgoing>,
    /// Datagrams in one call; 1 when the machine can't do GSO.
    max_segments: AtomicUsize,
    dual_stack: bool,
    port: u16,
    stats: Arc<Stats>,
}

/// What waits, and the socket that it leaves by. Handles outlive their node: [`Udp::close`] takes the socket from them.
struct Outgoing {
    outbox: Outbox,
    io: Option<Arc<UdpSocket>>,
}

/// The side that receives.
pub(crate) struct UdpReceiver {
    io: Arc<UdpSocket>,
    state: UdpSocketState,
    stats: Arc<Stats>,
}

struct RecvBuffers {
    buffers: [Vec<u8>; RECV_BATCH],
    meta: [RecvMeta; RECV_BATCH],
}

impl RecvBuffers {
    fn new() -> Self {
        Self {
            buffers: std::array::from_fn(|_| vec![0; 65_536]),
            meta: [RecvMeta::default(); RECV_BATCH],
        }
    }
}

thread_local! {
    /// Receive memory. What a thread receives it deals with before it receives for another node.
    static RECEIVED: RefCell<RecvBuffers> = RefCell::new(RecvBuffers::new());
}

impl Udp {
    /// Binds `port`; 0: any.
    ///
    /// # Errors
    /// When the port is taken, or no UDP socket can be had at all.
    pub(crate) fn bind(port: u16, stats: Arc<Stats>) -> io::Result<(Self, UdpReceiver)> {
        let (socket, dual_stack) = bind_any_family(port)?;
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Refused sizes leave the kernel's defaults in place, which work.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), SOCKET_BUFFER);
        let port = socket.local_addr()?.port();
        let io = Arc::new(UdpSocket::from_std(socket)?);
        let udp = Self {
            outgoing: Mutex::new(Outgoing {
                outbox: Outbox::default(),
                io: Some(io.clone()),
            }),
            max_segments: state.max_gso_segments().into(),
            dual_stack,
            port,
            stats: stats.clone(),
        };
        Ok((udp, UdpReceiver { io, state, stats }))
    }

    /// The port that the socket is bound to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Queues datagrams for one destination. They leave with the next [`Self::flush`] at the latest.
    pub(crate) fn queue(&self, to: SocketAddr, datagrams: impl IntoIterator<Item = Bytes>) {
        let mut outgoing = self.outgoing.lock();
        let Outgoing { outbox, io: Some(io) } = &mut *outgoing else {
            return;
        };
        let max_segments = self.max_segments.load(Relaxed);
        for datagram in datagrams {
            if !outbox.push(to, datagram, max_segments) {
                self.stats.tx_dropped.fetch_add(1, Relaxed);
            }
        }
        // Full batches leave at once, so that the peer works while we go on sealing.
        while let Some(batch) = outbox.pop_full() {
            if !self.send(io, outbox, batch) {
                break;
            }
        }
    }

    /// Sends what waits, as far as the socket takes it.
    pub(crate) fn flush(&self) {
        self.flush_some(&mut self.outgoing.lock());
    }

    fn flush_some(&self, outgoing: &mut Outgoing) {
        let Outgoing { outbox, io: Some(io) } = outgoing else {
            return;
        };
        while let Some(batch) = outbox.pop() {
            if !self.send(io, outbox, batch) {
                break;
            }
        }
    }

    /// Sends what the socket still takes, and lets go of it; nothing is sent from now on.
    pub(crate) fn close(&self) {
        let mut outgoing = self.outgoing.lock();
        self.flush_some(&mut outgoing);
        outgoing.outbox = Outbox::default();
        outgoing.io = None;
    }

    /// Arranges a wake-up for when the socket takes more, if something waits for that.
    pub(crate) fn poll_blocked(&self, cx: &mut Context<'_>) {
        if let Outgoing { outbox, io: Some(io) } = &*self.outgoing.lock()
            && !outbox.is_empty()
            && io.poll_send_ready(cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
    }

    /// `false`: the socket is full; the batch is back in the queue.
    fn send(&self, io: &UdpSocket, outbox: &mut Outbox, batch: Batch) -> bool {
        let to = self.destination(batch.to);
        let count = batch.datagrams.len() as u64;
        match transmit(io, to, &batch.datagrams, batch.segment) {
            Ok(()) => {
                self.stats.tx_packets.fetch_add(count, Relaxed);
                self.stats.tx_bytes.fetch_add(batch.bytes as u64, Relaxed);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                outbox.put_back(batch);
                return false;
            }
            // A driver without GSO says so only now: one by one, from now on.
            Err(e) if count > 1 && refuses_gso(&e) => {
                self.max_segments.store(1, Relaxed);
                for datagram in &batch.datagrams {
                    let counter = match transmit(io, to, std::slice::from_ref(datagram), datagram.len()) {
                        Ok(()) => &self.stats.tx_packets,
                        Err(_) => &self.stats.tx_dropped,
                    };
                    counter.fetch_add(1, Relaxed);
                }
            }
            // No route, a firewall: UDP may lose packets, TCP repairs it.
            Err(error) => {
                tracing::trace!(to = %batch.to, %error, "Datagrams not sent");
                self.stats.tx_dropped.fetch_add(count, Relaxed);
            }
        }
        outbox.recycle(batch);
        true
    }

    /// A dual-stack socket wants IPv4 destinations in their mapped form.
    fn destination(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(ip) if self.dual_stack => (ip.to_ipv6_mapped(), to.port()).into(),
            _ => to,
        }
    }
}

impl UdpReceiver {
    /// Receives one round and hands every datagram to `f`, which must not receive.
    pub(crate) fn poll_recv(&self, cx: &mut Context<'_>, f: impl FnMut(SocketAddr, &[u8])) -> Poll<()> {
        RECEIVED.with_borrow_mut(|received| self.poll_recv_into(cx, received, f))
    }

    fn poll_recv_into(
        &self,
        cx: &mut Context<'_>,
        RecvBuffers { buffers, meta }: &mut RecvBuffers,
        mut f: impl FnMut(SocketAddr, &[u8]),
    ) -> Poll<()> {
        while self.io.poll_recv_ready(cx).is_ready() {
            let mut got = 0;
            let _ = self.io.try_io(Interest::READABLE, || {
                let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
                match self.state.recv(UdpSockRef::from(&self.io), &mut slices, meta) {
                    Ok(n) => got = n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.stats.rx_errors.fetch_add(1, Relaxed);
                    }
                }
                // A short round means that the queue is empty: clear the readiness now instead of paying for
                // another call that only returns EAGAIN. epoll is edge triggered, so a datagram that arrives
                // in between raises it again.
                if got < RECV_BATCH {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            });
            if got == 0 {
                continue;
            }
            for (meta, buffer) in meta[..got].iter().zip(buffers.iter()) {
                let from = canonical(meta.addr);
                let received = buffer.get(..meta.len).unwrap_or_default();
                for datagram in received.chunks(meta.stride.max(1)) {
                    self.stats.rx_packets.fetch_add(1, Relaxed);
                    self.stats.rx_bytes.fetch_add(datagram.len() as u64, Relaxed);
                    f(from, datagram);
                }
            }
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Sends datagrams of `segment` bytes, the last of which may be shorter, by one call.
fn transmit(io: &UdpSocket, to: SocketAddr, datagrams: &[Bytes], segment: usize) -> io::Result<()> {
    let to = SockaddrStorage::from(to);
    let segment = segment as u16;
    let slices: [_; MAX_BATCH_SEGMENTS] =
        std::array::from_fn(|i| IoSlice::new(datagrams.get(i).map_or(&[], |datagram| datagram)));
    let slices = &slices[..datagrams.len()];
    let cut = [ControlMessage::UdpGsoSegments(&segment)];
    let cut = if datagrams.len() > 1 { &cut[..] } else { &[] };
    io.try_io(Interest::WRITABLE, || {
        loop {
            match sendmsg(io.as_raw_fd(), slices, cut, MsgFlags::empty(), Some(&to)) {
                Err(Errno::EINTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    })
}

fn refuses_gso(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EIO | Errno::EINVAL))
}

fn bind_any_family(port: u16) -> io::Result<(std::net::UdpSocket, bool)> {
    match bind_family(AddressFamily::INET6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(socket) => Ok((socket, true)),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => Err(e),
        Err(_) => Ok((
            bind_family(AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, port).into())?,
            false,
        )),
    }
}

fn bind_family(family: AddressFamily, addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &addr)?;
    Ok(socket.into())
}

/// IPv4 sources arrive at a dual-stack socket in their mapped form.
fn canonical(addr: SocketAddr) -> SocketAddr {
    (addr.ip().to_canonical(), addr.port()).into()
}

#[cfg(test)]
mod tests;
