//! The whole proxy in one process: a node that is loopback TCP in front, backends behind.

#![expect(unreachable_pub, reason = "nothing leaves a test binary")]
#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod attacks;
mod backend;
mod change;
mod cluster;
mod drain;
mod front;
mod funnel;
mod headers;
mod idle;
mod issuing;
mod locks;
mod outbound;
mod serve_json;
mod services;
mod streams;
mod tls;
