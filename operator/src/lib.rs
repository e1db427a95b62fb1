//! Controllers that turn cluster objects into names on a tailnet.
//!
//! It reads Ingresses and TailnetIngresses, makes what proxies need (configuration, Secrets, accounts, pods),
//! lets nodes in and removes devices through the coordination server's API, and writes every status. It is
//! no data plane: proxies go on serving while it is away.
//!
//! Every controller has the same steps, a file each: dereference (reads), validate and plan (pure), apply,
//! status. Front ends translate to one model ([`model`]); what a group of proxies serves has one writer
//! ([`proxy_group`]); every device has a record that outlives the object that asked for it ([`record`]).

pub mod admin;
pub mod apply;
pub mod args;
pub mod conditions;
pub mod config;
pub mod context;
pub mod device;
pub mod events;
pub mod identity_provider;
pub mod ingress;
pub mod labels;
pub mod lease;
pub mod metrics;
pub mod model;
pub mod name;
pub mod oidc_client;
pub mod proxy_group;
pub mod queues;
pub mod record;
pub mod report;
pub mod runtime;
pub mod stores;
pub mod tailnet;
pub mod tailnet_api;
pub mod tailnet_ingress;
pub mod tailnet_service;
pub mod triggers;
pub mod uninstall;
