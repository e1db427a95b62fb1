//! The lab: real parts, brought up on one machine and taken down without a trace.
//!
//! It is: a one-node Kubernetes ([`cluster`]), a coordination server with DERP, STUN, ACME and Go tailnet clients
//! ([`tailnet`]) in the same network namespace, and Postern built from this tree and installed by its chart
//! ([`product`]). Two binaries use it: `lab` (run as `cargo lab …`) and `e2e`, the tests that `cargo lab test` runs
//! on it.
//!
//! It is not: a dependency of the product, a way to run Postern for anything but development, or a unit test
//! harness: those live beside the code that they test.
#![expect(clippy::print_stdout, reason = "it talks to a person at a terminal")]

pub mod app;
pub mod bench;
pub mod checks;
pub mod client;
pub mod cluster;
pub mod command;
pub mod control;
pub mod demo;
pub mod down;
pub mod lab;
pub mod machine;
pub mod process;
pub mod product;
pub mod relying_party;
pub mod status;
pub mod step;
pub mod tailnet;
pub mod up;
pub mod wait;
