//! One TCP connection: the boundary behind which the TCP machine can be replaced.
//!
//! Today it is one smoltcp Interface with one socket (a shared Interface collapses with thousands of idle
//! sockets). [`Tcp`] turns packets in and calls into packets out; it has no clock, no lock and no wakers.

use std::net::IpAddr;

use bytes::BytesMut;
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketSet},
    socket::tcp::{CongestionControl, RecvError, State},
    time::{Duration, Instant},
    wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint},
};

use self::window::Window;
use super::{arena::Buffers, device::Wire, packet::FlowKey};

mod window;

/// An ACK waits this long for data to travel with.
const ACK_DELAY: Duration = Duration::from_millis(10);
/// How long the opening handshake may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(12);
/// An idle connection asks this often whether the other side is still there…
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// …and gives up when it has heard nothing for this long (three probes lost). Holds for unacknowledged data too.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(240);

/// A connection's state.
pub(crate) struct Tcp {
    buffers: Buffers,
    iface: Interface,
    window: Window,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// This many bytes.
    Data(usize),
    /// Nothing yet.
    Empty,
    /// The other side has closed its half.
    Eof,
    /// The connection has ended without a FIN from the other side.
    Reset,
}

impl Tcp {
    /// Waits for the SYN of `key`.
    pub(crate) fn listening(key: &FlowKey, buffers: Buffers, now: Instant, seed: u64) -> Option<Self> {
        let mut tcp = Self::new(key, buffers, now, seed)?;
        let local = (IpAddress::from(key.local.ip()), key.local.port());
        tcp.buffers.socket().listen(local).ok()?;
        Some(tcp)
    }

    /// Will open the connection `key` with the next [`Self::egress`].
    pub(crate) fn connecting(key: &FlowKey, buffers: Buffers, now: Instant, seed: u64) -> Option<Self> {
        let mut tcp = Self::new(key, buffers, now, seed)?;
        let remote = IpEndpoint::from(key.remote);
        let local = IpEndpoint::from(key.local);
        tcp.buffers
            .socket()
            .connect(tcp.iface.context(), remote, local)
            .ok()?;
        Some(tcp)
    }

    fn new(key: &FlowKey, mut buffers: Buffers, now: Instant, seed: u64) -> Option<Self> {
        let iface = interface(key.local.ip(), now, seed, &mut Vec::new())?;
        let socket = buffers.socket();
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_timeout(Some(OPEN_TIMEOUT));
        Some(Self {
            window: Window::new(socket.recv_capacity()),
            buffers,
            iface,
        })
    }

    /// The opening handshake is over: from now on silence is measured, not the handshake.
    pub(crate) fn opened(&mut self) {
        let socket = self.buffers.socket();
        socket.set_timeout(Some(SILENCE_TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
    }

    /// Processes one packet. An immediate answer (RST, challenge ACK) lands in `out`.
    pub(crate) fn ingress(&mut self, now: Instant, packet: &[u8], out: &mut Vec<BytesMut>) {
        self.buffers.touch();
        if let Some(ack) = self.window.acceptable_ack(packet) {
            self.receive(now, &ack, out);
        }
        self.receive(now, packet, out);
    }

    fn receive(&mut self, now: Instant, packet: &[u8], out: &mut Vec<BytesMut>) {
        let first = out.len();
        let mut wire = Wire {
            rx: Some(packet),
            out,
        };
        self.iface
            .poll_ingress_single(now, &mut wire, self.buffers.sockets());
        self.window.note_sent(out.get(first..).unwrap_or_default());
    }

    /// Emits everything that is due: data, ACKs, window updates, retransmissions.
    pub(crate) fn egress(&mut self, now: Instant, out: &mut Vec<BytesMut>) {
        let first = out.len();
        // One segment per call.
        loop {
            let mut wire = Wire { rx: None, out };
            let result = self.iface.poll_egress(now, &mut wire, self.buffers.sockets());
            if result != PollResult::SocketStateChanged {
                break;
            }
        }
        self.window.note_sent(out.get(first..).unwrap_or_default());
    }

    /// When [`Self::egress`] has something to do next.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.iface.poll_at(now, self.buffers.sockets())
    }

    /// Takes received bytes: `take` gets a contiguous piece and says how much of it it took; it is asked
    /// again while it takes all and there is more.
    pub(crate) fn read(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> Read {
        let socket = self.buffers.socket();
        let mut total = 0;
        loop {
            let mut offered = 0;
            let taken = socket.recv(|data| {
                offered = data.len();
                let taken = take(data);
                (taken, taken)
            });
            match taken {
                Ok(n) => total += n,
                Err(RecvError::Finished) if total == 0 => return Read::Eof,
                Err(RecvError::InvalidState) if total == 0 => return Read::Reset,
                Err(_) => return Read::Data(total),
            }
            if offered == 0 || taken != Ok(offered) {
                return if total == 0 && offered == 0 {
                    Read::Empty
                } else {
                    Read::Data(total)
                };
            }
        }
    }

    /// Appends to the send ring as much as fits. [`Self::may_send`] must hold, else nothing does.
    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        self.buffers.touch();
        let socket = self.buffers.socket();
        let first = socket.send_slice(data).unwrap_or(0);
        // The part after the ring's wrap.
        let rest = data.get(first..).filter(|rest| first > 0 && !rest.is_empty());
        first + rest.map_or(0, |rest| socket.send_slice(rest).unwrap_or(0))
    }

    /// FIN after the queued data; receiving goes on.
    pub(crate) fn close(&mut self) {
        self.buffers.socket().close();
    }

    /// Ends the connection; the next [`Self::egress`] emits a RST.
    pub(crate) fn abort(&mut self) {
        self.buffers.socket().abort();
    }

    /// The last ACK must not wait for data that will never come.
    pub(crate) fn ack_at_once(&mut self) {
        self.buffers.socket().set_ack_delay(None);
    }

    /// Both directions are up, or were until one side closed.
    pub(crate) fn may_send(&self) -> bool {
        self.buffers.socket_ref().may_send()
    }

    /// A read would not say [`Read::Empty`].
    pub(crate) fn is_readable(&self) -> bool {
        let socket = self.buffers.socket_ref();
        socket.can_recv() || !socket.may_recv()
    }

    /// Unread bytes wait.
    pub(crate) fn has_unread(&self) -> bool {
        self.buffers.socket_ref().can_recv()
    }

    /// The handshake is over (successfully).
    pub(crate) fn is_synchronized(&self) -> bool {
        !matches!(
            self.buffers.socket_ref().state(),
            State::Closed | State::Listen | State::SynSent | State::SynReceived
        )
    }

    /// Nothing will happen any more. TIME-WAIT is not kept: a late segment gets a RST. LISTEN: the handshake
    /// was taken back by a RST, and the next SYN makes a connection of its own.
    pub(crate) fn is_over(&self) -> bool {
        matches!(
            self.buffers.socket_ref().state(),
            State::Closed | State::TimeWait | State::Listen
        )
    }

    /// Bytes that wait to be sent or acknowledged.
    pub(crate) fn send_queue(&self) -> usize {
        self.buffers.socket_ref().send_queue()
    }

    /// Size of the send ring.
    pub(crate) fn send_capacity(&self) -> usize {
        self.buffers.socket_ref().send_capacity()
    }

    /// Gives the pages of empty rings back to the kernel.
    pub(crate) fn release(&mut self) {
        self.buffers.release();
    }

    /// There may be pages to give back.
    pub(crate) fn holds_pages(&self) -> bool {
        self.buffers.is_touched()
    }
}

/// What a host without any socket answers to `packet`: a RST, or nothing.
pub(crate) fn refusal(local: IpAddr, now: Instant, packet: &[u8]) -> Vec<BytesMut> {
    let mut out = Vec::new();
    let Some(mut iface) = interface(local, now, 0, &mut out) else {
        return out;
    };
    let mut wire = Wire {
        rx: Some(packet),
        out: &mut out,
    };
    iface.poll_ingress_single(now, &mut wire, &mut SocketSet::new(Vec::new()));
    out
}

/// `None`: no host has this address, whoever says that it is ours; smoltcp panics at such.
fn interface(local: IpAddr, now: Instant, seed: u64, out: &mut Vec<BytesMut>) -> Option<Interface> {
    let local = IpAddress::from(local);
    if !local.is_unicast() {
        return None;
    }
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed; // initial sequence numbers come from here
    let mut iface = Interface::new(config, &mut Wire { rx: None, out }, now);
    iface.update_ip_addrs(|addrs| {
        // Prefix length 0: every destination counts as reachable, so no route is needed.
        addrs
            .push(IpCidr::new(local, 0))
            .expect("a new interface has room for an address");
    });
    Some(iface)
}

#[cfg(test)]
mod tests;
