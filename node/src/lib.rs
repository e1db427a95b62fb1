//! An embedded tailnet node.
//!
//! What `tsnet` is for Go programs: a program that uses this crate is a machine of a tailnet, without a
//! tun device, privileges or a second process. It knows nothing of HTTP routing and nothing of Kubernetes.

pub mod cert;
pub mod control;
pub mod credential;
pub mod derp;
pub mod derp_map;
pub mod dial;
mod disco;
pub mod engine;
pub mod filter;
pub mod funnel;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod key;
pub mod magicsock;
pub mod netmap;
mod netstack;
pub mod node;
mod peerapi;
pub mod proxy;
pub mod service;
pub mod state;
mod stun;
pub mod tailcfg;
pub mod tls;
pub mod tls_listener;
mod udp;
mod wg;
