//! Who gets in: one block for every place that decides it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A request passes when any rule matches; an empty list lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Alternatives.
    pub allow: Vec<Principal>,
}

/// One alternative: exactly one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Principal {
    /// A login name, such as `alice@example.com`.
    User(String),
    /// A group that control reveals in the user's profile, such as `group:eng`.
    Group(String),
    /// A tag of the peer's node, such as `tag:ci`.
    Tag(String),
    /// A capability granted by the tailnet's policy.
    Capability(String),
    /// Source addresses.
    Source(IpNet),
}

/// What is known about who is asking; see [`Access::permits`].
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The source address.
    pub addr: std::net::IpAddr,
    /// Login name; absent for tagged nodes and unknown sources.
    pub login: Option<&'a str>,
    /// The user's groups.
    pub groups: &'a [String],
    /// The node's tags.
    pub tags: &'a [String],
}

impl Access {
    /// Decides. `has_cap` tells whether the caller has a capability towards the address it reached.
    pub fn permits(&self, caller: &Caller<'_>, has_cap: impl Fn(&str) -> bool) -> bool {
        self.allow.iter().any(|p| match p {
            Principal::User(login) => caller.login.is_some_and(|l| l.eq_ignore_ascii_case(login)),
            Principal::Group(group) => caller.login.is_some() && caller.groups.contains(group),
            Principal::Tag(tag) => caller.tags.contains(tag),
            Principal::Capability(cap) => has_cap(cap),
            Principal::Source(net) => net.contains(&caller.addr),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(allow: Vec<Principal>, login: Option<&str>, tags: &[String]) -> bool {
        let caller = Caller {
            addr: [100, 64, 0, 1].into(),
            login,
            groups: &[],
            tags,
        };
        Access { allow }.permits(&caller, |c| c == "example.com/cap/x")
    }

    #[test]
    fn any_rule_lets_in_and_none_keeps_out() {
        assert!(!permits(vec![], Some("a@example.com"), &[]));
        assert!(permits(
            vec![Principal::User("A@example.com".into())],
            Some("a@example.com"),
            &[]
        ));
        assert!(permits(
            vec![Principal::Tag("tag:ci".into())],
            None,
            &["tag:ci".into()]
        ));
        assert!(permits(
            vec![Principal::Capability("example.com/cap/x".into())],
            None,
            &[]
        ));
        assert!(!permits(
            vec![Principal::Capability("example.com/cap/y".into())],
            None,
            &[]
        ));
        assert!(permits(
            vec![Principal::Source("100.64.0.0/10".parse().unwrap())],
            None,
            &[]
        ));
    }
}
