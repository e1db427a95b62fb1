//! An embedded tailnet node.
//!
//! What `tsnet` is for Go programs: a program that uses this crate is a machine of a tailnet, without a
//! tun device, privileges or a second process. It knows nothing of HTTP routing and nothing of Kubernetes.
//!
//! A server that greets each visitor by name:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use postern_node::node::{Config, Node};
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
//! [`node::Config::from_env`] reads what `tsnet` reads: with `TS_AUTHKEY` set it logs in by itself, without it waits until
//! somebody opens the URL of [`node::Status::NeedsLogin`]. State is in memory unless [`node::Config::store`] says
//! otherwise ([`state::DirStore`]; a directory of Go's `tsnet` is taken over). From here on:
//!
//! | to | see |
//! |---|---|
//! | wait, watch, leave | [`node::Node::up`], [`node::Node::status`], [`node::Node::close`], [`node::Node::logout`] |
//! | accept | [`node::Node::listen`], [`node::Node::listen_tls`], [`node::Node::listen_funnel`], [`node::Node::listen_service`], [`node::Node::listen_packet`] |
//! | connect | [`node::Node::dial`], [`node::Node::dial_packet`], [`node::Node::ping`] |
//! | know who it is, and what they may | [`node::Node::whois`], [`netmap::WhoIs`] |
//! | have a certificate | [`node::Node::cert`] |
//! | log in otherwise | [`credential::Credential`] |
//!
//! The folder `examples/` has a program for each of them.

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
