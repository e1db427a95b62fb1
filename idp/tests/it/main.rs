//! The provider as a whole, on a tailnet of two users, with a relying party that nobody here wrote.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod admin;
mod change;
mod exchange;
mod funnel;
mod login;
mod register;
mod relying_party;
mod replicas;
mod secrets;
mod tailnet;
mod takeover;
