//! What all requests of one connection have in common.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Caller, Gate, Site};
use crate::{
    certs::Resolver, drain::Drain, metrics::Metrics, route::Host, tailnet::Node, upstream::Upstreams,
};

/// A client's connection.
pub struct Connection {
    /// The tailnet name's key.
    pub name: Arc<str>,
    /// The client.
    pub peer: SocketAddr,
    /// What it is counted by: see [`crate::tailnet::Accepted::source`].
    pub source: IpAddr,
    /// The address of ours that it reached.
    pub local: SocketAddr,
    /// It comes from the internet, through Funnel: its address says nothing about who it is.
    pub funnel: bool,
    /// Absent on plain HTTP.
    pub tls: Option<Tls>,
    /// What is served; replaced when the configuration changes.
    pub site: Arc<ArcSwap<Site>>,
    /// Keys and counts of the name.
    pub gate: Arc<Gate>,
    /// For whois.
    pub node: Arc<dyn Node>,
    /// Backends.
    pub upstreams: Arc<Upstreams>,
    /// Counters.
    pub metrics: Metrics,
    /// Owns upgraded streams.
    pub drain: Drain,
    /// The whois answer and the netmap generation that it is from.
    pub whois: Mutex<Option<(u64, Arc<Caller>)>>,
}

/// What a TLS handshake settled.
pub struct Tls {
    /// The name that the client asked for, lower case.
    pub sni: Arc<str>,
    /// The certificates of the tailnet name.
    pub certificates: Arc<Resolver>,
}

impl Connection {
    /// Whether requests for `host` may come over this connection. Over TLS the certificate that was shown
    /// has to be the one for `host` as well (browsers reuse HTTP/2 connections: RFC 9113, section 9.1.1);
    /// else the host has to be one of the name's own.
    pub(super) fn is_for(&self, site: &Site, host: &Host) -> bool {
        match &self.tls {
            Some(tls) if self.funnel => &*tls.sni == host.as_str(),
            Some(tls) => &*tls.sni == host.as_str() || tls.certificates.same(&tls.sni, host.as_str()),
            None => site.answers_for(host),
        }
    }

    /// Who the peer is, as of the current netmap.
    pub fn caller(&self) -> Arc<Caller> {
        let generation = self.node.generation();
        let mut cached = self.whois.lock();
        if let Some((of, caller)) = &*cached
            && *of == generation
        {
            return caller.clone();
        }
        let source = self.peer.ip().to_canonical();
        // Whoever claims an address of the tailnet there is not the one who has it here.
        let whois = match self.funnel {
            true => None,
            false => self.node.whois(source, self.local.ip().to_canonical()),
        };
        let caller = Caller::new(source, whois);
        *cached = Some((generation, caller.clone()));
        caller
    }
}
