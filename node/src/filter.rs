//! The packet filter with Go's semantics (`wgengine/filter`), and the capabilities that its rules grant.
//!
//! Pure: rules and a packet's 5-tuple in, a verdict out. The only state, which UDP flows we started, is
//! the caller's and passed in as `reply`.

use std::net::{IpAddr, SocketAddr};

use crate::netmap::CapMap;

/// All rules that hold for this node, parsed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    // filled in by the implementation
}

/// What the filter needs to know of an inbound packet, after WireGuard has checked its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inbound {
    /// Source; the port is 0 where the protocol has none.
    pub src: SocketAddr,
    /// Destination; the port is 0 where the protocol has none.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// TCP: SYN without ACK. Only these are checked against rules.
    pub tcp_syn: bool,
    /// UDP: answers a flow that we started.
    pub reply: bool,
    /// ICMP: an echo request needs a rule, replies and errors don't.
    pub icmp_request: bool,
    /// A later fragment.
    pub fragment: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it in.
    Accept,
    /// Not for us, or no rule allows it.
    Drop,
}

impl Filter {
    /// Decides about an inbound packet whose destination is one of our addresses.
    pub fn check(&self, _packet: &Inbound) -> Verdict {
        Verdict::Drop
    }

    /// The capabilities that `src` has towards `dst`.
    pub fn caps(&self, _src: IpAddr, _dst: IpAddr) -> CapMap {
        CapMap::new()
    }
}
