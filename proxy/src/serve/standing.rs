//! What a name's report says, from what its node and its certificates say. Pure.

use postern_node::node::{Identity, Status};
use postern_proxy_config::report::{FunnelAccess, Phase};

/// The certificate that the node gets for the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Issued {
    /// Nothing needs one, or the user's own do.
    NotNeeded,
    /// None yet.
    Missing,
    /// There is one.
    Ready,
}

/// Whether control gave us the name that was asked for: it appends `-1` to one that is taken.
pub(super) fn is_name(hostname: &str, identity: &Identity) -> bool {
    let label = identity.name.split('.').next().unwrap_or_default();
    label.eq_ignore_ascii_case(hostname)
}

/// The phase and, where it isn't serving, the reason with the next step.
pub(super) fn phase(
    hostname: &str,
    status: &Status,
    issued: &Issued,
    certificate_error: &str,
) -> (Phase, String) {
    match (status, issued) {
        (Status::Running(identity), _) if !is_name(hostname, identity) => (
            Phase::NameTaken,
            format!(
                "another machine of the tailnet has the name {hostname} (control assigned {}): remove it or choose another name",
                identity.name
            ),
        ),
        (Status::Running(_), Issued::Missing) => (
            Phase::Certificate,
            if certificate_error.is_empty() {
                "the certificate is being issued".to_owned()
            } else {
                certificate_error.to_owned()
            },
        ),
        _ => node(status),
    }
}

/// The same of a node, whatever it is called.
pub(super) fn node(status: &Status) -> (Phase, String) {
    match status {
        Status::Starting { last_error } => (
            Phase::Connecting,
            last_error
                .clone()
                .unwrap_or_else(|| "waiting for the control server".to_owned()),
        ),
        Status::NeedsLogin { url } => (Phase::NeedsLogin, format!("log in at {url}")),
        Status::NeedsApproval => (
            Phase::NeedsApproval,
            "an administrator of the tailnet has to approve the machine".to_owned(),
        ),
        Status::Refused { reason } => (
            Phase::NeedsLogin,
            format!("the control server refused the login: {reason}"),
        ),
        Status::KeyExpired => (
            Phase::NeedsLogin,
            "the node key has expired and a new auth key is needed".to_owned(),
        ),
        Status::Closed => (Phase::Draining, String::new()),
        Status::Running(_) => (Phase::Serving, String::new()),
    }
}

/// Whether the node could be on Funnel.
pub(super) fn funnel_access(identity: &Identity) -> FunnelAccess {
    match &identity.funnel {
        Ok(()) => FunnelAccess::Allowed,
        Err(lacking) => FunnelAccess::Refused(lacking.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_node_does_not_serve() {
        let running = |name: &str| {
            Status::Running(Identity {
                stable_id: "n1".into(),
                name: name.into(),
                addrs: vec![],
                cert_domains: vec![],
                funnel: Ok(()),
            })
        };
        let of = |status: &Status, issued| phase("grafana", status, &issued, "").0;
        assert_eq!(of(&running("grafana.x.ts.net"), Issued::Ready), Phase::Serving);
        assert_eq!(
            of(&running("Grafana.x.ts.net"), Issued::Missing),
            Phase::Certificate
        );
        assert_eq!(
            of(&running("grafana-1.x.ts.net"), Issued::Ready),
            Phase::NameTaken
        );
        assert_eq!(of(&Status::KeyExpired, Issued::Ready), Phase::NeedsLogin);
        let (_, reason) = phase("grafana", &running("grafana-1.x.ts.net"), &Issued::Ready, "");
        assert!(reason.contains("grafana-1.x.ts.net"));
    }
}
