//! The typed contract between `postern-operator` and `postern-proxy`, and the `serve.json` of others.
//!
//! It is parsing and validation and nothing else: no sockets, no Kubernetes, no clock. The operator
//! writes [`group::Shard`]s, [`endpoints::Endpoints`] and [`assignment::Assignment`]s; each replica of a
//! proxy writes a [`report::Report`].
//!
//! Rules that hold for everything here (design: contracts between the processes):
//!
//! - Every object carries `format`. A reader refuses a newer one and keeps what it had.
//! - No secret, hash or auth key is in any of them: only names of Secrets with a `revision` that says
//!   when to read again. Hashes of keys ([`keys::Keys`]) and of clients' secrets ([`clients::Client`]) stand in
//!   Secrets.
//! - In objects that the operator writes, an unknown field is ignored and reported (rolling upgrades), except
//!   where it might restrict what is open to the internet ([`funnel`]); in files that people write it is
//!   refused.

pub mod access;
pub mod assignment;
pub mod clients;
pub mod endpoints;
pub mod funnel;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod group;
pub mod keys;
pub mod names;
pub mod parse;
pub mod report;
pub mod serve;

/// The layout of all objects that this version writes.
pub const FORMAT: u32 = 1;
