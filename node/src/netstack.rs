//! IP inside the tunnel: packet headers, TCP flows, echo replies.
//!
//! Nothing in here does IO: packets and the time go in, packets come out.

pub(crate) mod echo;
pub(crate) mod packet;
pub(crate) mod tcp;
pub(crate) mod udp;
