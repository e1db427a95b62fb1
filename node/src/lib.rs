//! An embedded tailnet node.
//!
//! What `tsnet` is for Go programs: a program that uses this crate is a machine of a tailnet, without a
//! tun device, privileges or a second process. It knows nothing of HTTP routing and nothing of Kubernetes.
//!
//! A server that greets each visitor by name:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use postern_node::{Config, Node};
//! use tokio::io::AsyncWriteExt;
//!
//! let config = Config { hostname: "hello".to_owned(), ..Config::from_env()? };
//! let node = Node::start(config).await?;
//! let mut listener = node.listen(7)?;
//! while let Some(mut stream) = listener.accept().await {
//!     let who = node.whois(stream.peer_addr().ip(), stream.local_addr().ip());
//!     let name = who.map_or_else(|| "stranger".to_owned(), |who| who.user.display_name.clone());
//!     stream.write_all(format!("Hello, {name}!\n").as_bytes()).await?;
//!     stream.shutdown().await?;
//! }
//! # Ok(()) }
//! ```
//!
//! [`Config::from_env`] reads what `tsnet` reads: with `TS_AUTHKEY` set it logs in by itself, without it waits until
//! somebody opens the URL of [`Status::NeedsLogin`]. State is in memory unless [`Config::store`] says
//! otherwise ([`DirStore`]; a directory of Go's `tsnet` is taken over). It runs on Linux only. From here on:
//!
//! | to | see |
//! |---|---|
//! | wait, watch, leave | [`Node::up`], [`Node::status`], [`Node::close`], [`Node::logout`] |
//! | accept | [`Node::listen`], [`Node::listen_tls`], [`Node::listen_funnel`], [`Node::listen_service`], [`Node::listen_packet`] |
//! | connect | [`Node::dial`], [`Node::dial_packet`], [`Node::ping`] |
//! | know who it is, and what they may | [`Node::whois`], [`WhoIs`] |
//! | have a certificate | [`Node::cert`] |
//! | log in otherwise | [`Credential`] |
//!
//! The folder `examples/` has a program for each of them. Of the modules, these are met first: [`node`], [`state`],
//! [`credential`], [`engine`] (streams and sockets), [`tls_listener`], [`funnel`], [`service`], [`netmap`]; the others are
//! what they are made of.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "postern-node runs on Linux only: it needs Linux's UDP segmentation offload (UDP_SEGMENT, UDP_GRO)"
);

#[doc(hidden)]
#[cfg(feature = "bench")]
pub mod bench;
pub mod cert;
pub mod control;
pub mod credential;
pub mod derp;
pub mod derp_map;
pub mod dial;
mod disco;
pub mod engine;
mod error;
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

pub use self::{
    credential::Credential,
    engine::{TcpListener, TcpStream},
    funnel::FunnelMode,
    netmap::WhoIs,
    node::{Config, Error, Identity, Node, Status},
    service::ServiceMode,
    state::DirStore,
};

/// The program of `README.md`.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;
