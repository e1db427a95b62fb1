//! The node against parts that we did not write: a control server (Go's testcontrol), its relay, Go nodes.
//!
//! Each test has all of it for itself, in a network namespace from which nothing leads out. It needs root, Go and
//! iproute2.

#![expect(unreachable_pub, reason = "nothing leaves a test binary")]
#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod deltas;
mod dialling;
mod examples;
mod expiry;
mod filter;
mod funnel;
mod ingress;
mod joining;
mod keys;
mod lab;
mod leaving;
mod load;
mod namespace;
mod paths;
mod questions;
mod regions;
mod service;
mod takeover;
