//! Who has connected: where he came in, and how often he may ask. Who he is, is the provider's question.

use std::net::{IpAddr, SocketAddr};

use postern_idp::Arrival;
use postern_proxy_config::funnel::{Funnel, Quota};

use crate::tailnet::source;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    pub(super) arrival: Arrival,
    /// For the log.
    pub(super) peer: SocketAddr,
    /// What he is counted by.
    pub(super) source: IpAddr,
    /// For requests.
    pub(super) quota: Option<Quota>,
}

impl Visitor {
    /// A peer of the tailnet.
    pub(super) fn on_tailnet(peer: SocketAddr, local: SocketAddr) -> Self {
        let peer_ip = peer.ip().to_canonical();
        Self {
            arrival: Arrival::Tailnet {
                peer: peer_ip,
                local: local.ip().to_canonical(),
            },
            peer,
            source: peer_ip,
            quota: None,
        }
    }

    /// Somebody on the internet, unless he is kept out.
    pub(super) fn on_funnel(peer: SocketAddr, funnel: &Funnel) -> Option<Self> {
        funnel.admits(peer.ip().to_canonical()).then(|| Self {
            arrival: Arrival::Funnel,
            peer,
            source: source(peer.ip(), true),
            quota: funnel.limits.per_address,
        })
    }

    /// A client inside of the cluster, or of the machine.
    pub(super) fn inside(peer: SocketAddr) -> Self {
        Self {
            arrival: Arrival::BackChannel,
            peer,
            source: peer.ip().to_canonical(),
            quota: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_from_the_internet_is_nobody_and_counted() {
        let funnel = Funnel {
            sources: vec!["2001:db8::/32".parse().unwrap()],
            limits: postern_proxy_config::funnel::ISSUER_LIMITS,
            ..Funnel::default()
        };
        let inside = "[2001:db8::1:2]:7".parse().unwrap();
        let visitor = Visitor::on_funnel(inside, &funnel).unwrap();
        assert_eq!(visitor.arrival, Arrival::Funnel);
        assert_eq!(visitor.source, "2001:db8::".parse::<IpAddr>().unwrap());
        assert!(visitor.quota.is_some());
        assert!(Visitor::on_funnel("192.0.2.1:7".parse().unwrap(), &funnel).is_none());
        // Whatever address somebody on the internet says that he has.
        let anywhere = Funnel::default();
        let forged = Visitor::on_funnel("100.64.0.1:7".parse().unwrap(), &anywhere).unwrap();
        assert_eq!(forged.arrival, Arrival::Funnel);
    }
}
