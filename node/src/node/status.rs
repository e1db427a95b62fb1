//! Where a node stands, derived from the control session and the newest netmap.

use std::{fmt, net::IpAddr, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    control::{Control, ControlStatus},
    funnel::{self, FunnelError},
    netmap::Netmap,
};

/// Where the node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// No session with control yet; the last error, if any.
    Starting {
        /// In a sentence that names the next step.
        last_error: Option<String>,
    },
    /// Open this URL to log in.
    NeedsLogin {
        /// Shown to the user.
        url: String,
    },
    /// Logged in; an administrator must approve the machine.
    NeedsApproval,
    /// Credentials were refused or are missing.
    Refused {
        /// What control said.
        reason: String,
    },
    /// The node key has ended.
    KeyExpired,
    /// On the tailnet. Stays so through outages of control.
    Running(Identity),
    /// Closed or logged out.
    Closed,
}

/// Who the node is, as control assigned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The API's identifier of the device.
    pub stable_id: String,
    /// FQDN without trailing dot, e.g. `grafana.example.ts.net`.
    pub name: String,
    /// Own addresses.
    pub addrs: Vec<IpAddr>,
    /// Names for which certificates can be had.
    pub cert_domains: Vec<String>,
    /// Whether the tailnet's policy lets its port 443 be on Funnel.
    pub funnel: Result<(), FunnelError>,
}

impl Identity {
    fn of(netmap: &Netmap) -> Self {
        Self {
            stable_id: netmap.self_node.stable_id.clone(),
            name: netmap.self_node.name.clone(),
            addrs: netmap.self_node.ips().collect(),
            cert_domains: netmap.cert_domains.clone(),
            funnel: funnel::check(netmap, 443).map(drop),
        }
    }
}

impl Status {
    /// A node that was on the tailnet stays there through outages of control: peers and keys go on working.
    pub(super) fn of(control: &ControlStatus, netmap: Option<&Netmap>) -> Self {
        match (control, netmap) {
            (ControlStatus::NeedsLogin { url }, _) => Self::NeedsLogin { url: url.clone() },
            (ControlStatus::Refused { reason }, _) => Self::Refused {
                reason: reason.clone(),
            },
            (ControlStatus::KeyExpired, _) => Self::KeyExpired,
            (ControlStatus::NeedsApproval, _) => Self::NeedsApproval,
            (ControlStatus::Connecting { .. } | ControlStatus::Running, Some(netmap)) => {
                Self::Running(Identity::of(netmap))
            }
            (ControlStatus::Connecting { last_error, .. }, None) => Self::Starting {
                last_error: last_error.clone(),
            },
            (ControlStatus::Running, None) => Self::Starting { last_error: None },
        }
    }
}

impl fmt::Display for Status {
    /// A sentence for people; where something is left to be done, it says what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting { last_error: None } => f.write_str("connecting to the control server"),
            Self::Starting {
                last_error: Some(error),
            } => write!(f, "connecting to the control server; the last attempt failed: {error}"),
            Self::NeedsLogin { url } => write!(f, "a login is needed: open {url}"),
            Self::NeedsApproval => f.write_str(
                "an administrator of the tailnet must approve this machine (admin console, Machines); it goes on by \
                 itself then",
            ),
            Self::Refused { reason } => write!(f, "the control server refused the login: {reason}; give another credential"),
            Self::KeyExpired => f.write_str(
                "the node key has ended and the credential could not renew it: give a new credential, or extend the \
                 key in the admin console",
            ),
            Self::Running(identity) => write!(f, "on the tailnet as {}", identity.name),
            Self::Closed => f.write_str("closed"),
        }
    }
}

/// Publishes the status until the node is closed.
pub(super) async fn follow(mut control: Control, status: watch::Sender<Status>, cancel: CancellationToken) {
    loop {
        let netmap: Option<Arc<Netmap>> = control.netmap.borrow_and_update().clone();
        let next = Status::of(&control.status.borrow_and_update(), netmap.as_deref());
        status.send_if_modified(|current| {
            let changed = *current != next;
            *current = next;
            changed
        });
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            changed = control.netmap.changed() => if changed.is_err() { break },
            changed = control.status.changed() => if changed.is_err() { break },
        }
    }
    status.send_replace(Status::Closed);
}
