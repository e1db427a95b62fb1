//! Whether the tailnet's policy lets this node use Funnel (Go: `ipn.CheckFunnelAccess`).

use crate::netmap::{CapMap, Netmap};

/// The allowed ports are in the capability's name, behind this.
const PORTS: &str = "https://tailscale.com/cap/funnel-ports";

/// What Funnel lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FunnelError {
    /// HTTPS certificates are off for the tailnet.
    #[error("Funnel needs HTTPS certificates: enable HTTPS in the DNS settings of the tailnet")]
    NoHttps,
    /// The policy has no such node attribute for this node.
    #[error(
        "Funnel needs the node attribute \"funnel\": give it to this node's tag or user under nodeAttrs in the tailnet's policy"
    )]
    NoAttribute,
    /// The policy names other ports.
    #[error("port {port} is not allowed for Funnel: the tailnet's policy allows {allowed}")]
    Port {
        /// The port that was asked for.
        port: u16,
        /// The allowed ones, as the policy writes them.
        allowed: String,
    },
    /// Control has named no domain for certificates.
    #[error("Funnel needs a name: control has assigned this node none for which it may have certificates")]
    NoName,
}

/// The name under which the internet reaches this node, if `port` may be opened to it.
pub(crate) fn check(netmap: &Netmap, port: u16) -> Result<String, FunnelError> {
    check_caps(&netmap.self_node.cap_map, port)?;
    host(netmap).map(str::to_owned).ok_or(FunnelError::NoName)
}

/// The node's own name; control may name domains of Services too, which are never on Funnel.
pub(super) fn host(netmap: &Netmap) -> Option<&str> {
    let own = &netmap.self_node.name;
    let domains = &netmap.cert_domains;
    let found = domains.iter().find(|domain| domain.eq_ignore_ascii_case(own));
    found.map(String::as_str)
}

fn check_caps(caps: &CapMap, port: u16) -> Result<(), FunnelError> {
    if !caps.contains_key("https") {
        return Err(FunnelError::NoHttps);
    }
    if !caps.contains_key("funnel") {
        return Err(FunnelError::NoAttribute);
    }
    let mut lists = caps.keys().filter_map(|cap| ports(cap));
    let allowed = lists.next().unwrap_or_default();
    if allowed.split(',').any(|range| covers(range, port)) {
        return Ok(());
    }
    Err(FunnelError::Port {
        port,
        allowed: match allowed {
            "" => "none".to_owned(),
            list => list.to_owned(),
        },
    })
}

/// The list of ports in a capability's name.
fn ports(cap: &str) -> Option<&str> {
    let query = cap.strip_prefix(PORTS)?.strip_prefix('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("ports="))
}

/// A port, or `first-last`.
fn covers(range: &str, port: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(names: &[&str]) -> CapMap {
        names
            .iter()
            .map(|name| ((*name).to_owned(), Vec::new()))
            .collect()
    }

    #[test]
    fn an_error_says_what_the_policy_lacks() {
        let of = |names: &[&str], port| check_caps(&caps(names), port);
        assert_eq!(of(&["funnel"], 443), Err(FunnelError::NoHttps));
        assert_eq!(of(&["https"], 443), Err(FunnelError::NoAttribute));
        let denied = |allowed: &str| {
            Err(FunnelError::Port {
                port: 80,
                allowed: allowed.to_owned(),
            })
        };
        assert_eq!(of(&["https", "funnel"], 80), denied("none"));
        let all = "https://tailscale.com/cap/funnel-ports?ports=443,8443,10000";
        assert_eq!(of(&["https", "funnel", all], 80), denied("443,8443,10000"));
        assert_eq!(
            of(&["https", "funnel", all], 80).unwrap_err().to_string(),
            "port 80 is not allowed for Funnel: the tailnet's policy allows 443,8443,10000"
        );
        for port in [443, 8443, 10000] {
            assert_eq!(of(&["https", "funnel", all], port), Ok(()));
        }
    }

    /// The cases of Go's `TestCheckFunnelPort`, as facts.
    #[test]
    fn ports_are_read_as_go_reads_them() {
        let cap = |list: &str| format!("{PORTS}?ports={list}");
        for (list, port, allowed) in [
            ("443", 443, true),
            ("80-85", 83, true),
            ("80-85", 86, false),
            ("1-99,443", 443, true),
            ("1-99,", 443, false),
            ("", 443, false),
            ("443-", 443, false),
            ("-443", 443, false),
            ("99-1", 50, false),
            ("65536", 0, false),
        ] {
            assert_eq!(
                check_caps(&caps(&["https", "funnel", &cap(list)]), port).is_ok(),
                allowed,
                "{list} {port}"
            );
        }
        for other in [
            "https://tailscale.com/cap/funnel-portsx?ports=443",
            "https://tailscale.com/cap/funnel-ports",
            "http://tailscale.com/cap/funnel-ports?ports=443",
        ] {
            assert!(
                check_caps(&caps(&["https", "funnel", other]), 443).is_err(),
                "{other}"
            );
        }
    }
}
