//! What goes over the wire between a node and its control server, as JSON (Go: `tailcfg/tailcfg.go`).
//!
//! Plain owned values, close to Go's. What other people's servers send is read tolerantly: unknown fields
//! are ignored, `null` is the empty value, and a field of the wrong type is as if it were absent. Only
//! where that would let somebody in (a node's tags, its expiry, a rule's protocols) it breaks the node or
//! rule concerned, which is then left out of its list and counted; never the message around it.
//! `Option` around a list keeps Go's difference between absent (unchanged) and `[]` (now empty).

mod derp;
mod filter;
mod hostinfo;
mod lax;
mod map;
mod node;
mod register;
mod rpc;

pub use derp::{DerpHomeParams, DerpMap, DerpNode, DerpRegion};
pub use filter::{CapGrant, FilterRule, NetPortRange, PortRange};
pub use hostinfo::{Hostinfo, NetInfo, Service};
pub use lax::List;
pub use map::{
    Debug, DialCandidate, DialPlan, DisplayMessage, DnsConfig, DnsRecord, MapRequest, MapResponse,
    PingRequest, Resolver,
};
pub use node::{Node, PeerChange, UserProfile};
pub use register::{Login, RegisterAuth, RegisterRequest, RegisterResponse, User};
pub use rpc::{PingResponse, ServerKeys, SetDnsRequest};

#[cfg(test)]
mod tests;
