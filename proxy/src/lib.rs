//! The data plane: serves applications on a tailnet.
//!
//! It holds any number of tailnet names, each an embedded node of `postern-node` with its own listeners,
//! certificates and routes, and forwards what arrives there to backends, telling them who is asking.
//! It runs in a cluster, beside an application or alone.
//!
//! It is not a control plane: what it serves is one value ([`serve::Desired`]) from a watched object or a
//! file. It never lists Secrets and never talks to the REST API of a coordination service.

pub mod admin;
pub mod args;
pub mod ask;
pub mod certs;
pub mod check;
pub mod cluster;
mod copy;
pub mod drain;
pub mod forward_auth;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
pub mod idp;
pub mod limiter;
pub mod listen;
pub mod local;
pub mod local_api;
pub mod metrics;
pub mod outbound;
pub mod replica_link;
pub mod report;
pub mod route;
pub mod run;
pub mod serve;
pub mod standalone;
pub mod tailnet;
pub mod telemetry;
pub mod trust;
pub mod upstream;
