//! What the internet may have of a name, through Funnel.
//!
//! What restricts may not be passed over: unknown fields are refused here, so that a proxy that is older than
//! its configuration keeps the last one it understands instead of leaving a lock open.

use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU32};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::group::SecretRef;

/// Funnel's edge accepts connections on these ports alone.
pub const PORTS: [u16; 3] = [443, 8443, 10_000];

/// How the internet reaches a name. Of HTTP it has the routes that say so ([`crate::group::Route::funnel`]), of an
/// identity provider what clients ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Funnel {
    /// Ports of the name. They have to speak TLS.
    pub ports: BTreeSet<u16>,
    /// The tailnet doesn't reach these ports.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only: bool,
    /// One of the keys in this Secret ([`crate::keys::Keys`]) is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SecretRef>,
    /// Clients have to be in one of these networks; empty: anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<IpNet>,
    /// Said in words where there is no lock: neither keys nor sources.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unauthenticated: bool,
    /// Bounds on clients.
    #[serde(default, skip_serializing_if = "FunnelLimits::is_none")]
    pub limits: FunnelLimits,
}

/// Bounds on clients of an identity provider, where no others are said: what they ask costs signatures.
pub const ISSUER_LIMITS: FunnelLimits = FunnelLimits {
    per_key: None,
    per_address: Some(Quota {
        requests_per_minute: NonZeroU32::new(600),
        concurrent: NonZeroU32::new(32),
    }),
    connections_per_address: NonZeroU32::new(32),
};

/// Bounds on clients from the internet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FunnelLimits {
    /// For whoever holds a key, or a user with a password; from the tailnet too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_key: Option<Quota>,
    /// For each address; of IPv6 for each /64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_address: Option<Quota>,
    /// Open connections of each address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_per_address: Option<NonZeroU32>,
}

/// How much one caller may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// Requests, all of a minute's at once if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests that aren't answered to their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<NonZeroU32>,
}

impl Funnel {
    /// Whether something keeps strangers out.
    pub fn is_locked(&self) -> bool {
        self.keys.is_some() || !self.sources.is_empty()
    }

    /// Whether a client may come from there.
    pub fn admits(&self, source: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|net| net.contains(&source))
    }
}

impl FunnelLimits {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        for json in [
            r#"{"ports":[443],"sourcesDenied":["0.0.0.0/0"]}"#,
            r#"{"ports":[443],"limits":{"perCountry":{}}}"#,
            r#"{"ports":[443],"limits":{"perKey":{"requestsPerDay":1}}}"#,
        ] {
            assert!(serde_json::from_str::<Funnel>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn sources_bound_where_they_are_said() {
        let anywhere = Funnel::default();
        assert!(!anywhere.is_locked() && anywhere.admits([203, 0, 113, 7].into()));
        let json = r#"{"ports":[443],"sources":["192.0.2.0/24","2001:db8::/32"]}"#;
        let some: Funnel = serde_json::from_str(json).unwrap();
        assert!(some.is_locked());
        assert!(some.admits([192, 0, 2, 9].into()) && some.admits("2001:db8::1".parse().unwrap()));
        assert!(!some.admits([203, 0, 113, 7].into()));
    }
}
