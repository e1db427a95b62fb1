//! Go's JSON: members by their Go names and in Go's order, left out where Go leaves them out
//! (Go: `tailcfg/tailcfg.go`, `omitempty` and `omitzero`).

use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;
use postern_node::netmap::{CapMap, Netmap, Node, NodeId, UserId, UserProfile};
use serde::Serialize;
use serde_json::value::RawValue;

/// Go's `tailcfg.Node`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeJson<'a> {
    #[serde(rename = "ID")]
    id: NodeId,
    #[serde(rename = "StableID")]
    stable_id: &'a str,
    name: String,
    user: UserId,
    #[serde(skip_serializing_if = "is_default")]
    sharer: UserId,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_expiry: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disco_key: Option<String>,
    addresses: Vec<String>,
    #[serde(rename = "AllowedIPs")]
    allowed_ips: Vec<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    endpoints: &'a [SocketAddr],
    #[serde(rename = "HomeDERP", skip_serializing_if = "Option::is_none")]
    home_derp: Option<u16>,
    hostinfo: Hostinfo<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    cap: u32,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tags: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    primary_routes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    machine_authorized: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cap_map: BTreeMap<&'a str, Option<&'a [Box<RawValue>]>>,
    #[serde(rename = "UnsignedPeerAPIOnly", skip_serializing_if = "is_default")]
    unsigned_peer_api_only: bool,
    computed_name: String,
    computed_name_with_host: String,
    #[serde(skip_serializing_if = "is_default")]
    expired: bool,
    #[serde(skip_serializing_if = "is_default")]
    is_wire_guard_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    is_jailed: bool,
}

/// As control sent it, or what we know of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Hostinfo<'a> {
    Whole(&'a RawValue),
    Known {
        #[serde(rename = "OS", skip_serializing_if = "str::is_empty")]
        os: &'a str,
        #[serde(rename = "Hostname", skip_serializing_if = "str::is_empty")]
        hostname: &'a str,
    },
}

impl<'a> NodeJson<'a> {
    pub(super) fn new(netmap: &Netmap, node: &'a Node) -> Self {
        let details = node.details.as_deref();
        let whole = details.and_then(|d| serde_json::from_str(d.hostinfo.as_deref()?).ok());
        let (computed_name, computed_name_with_host) = computed_names(netmap, node);
        Self {
            id: node.id,
            stable_id: &node.stable_id,
            name: absolute(&node.name),
            user: node.user,
            sharer: details.map_or(0, |d| d.sharer),
            key: node.key.to_string(),
            key_expiry: node.key_expiry,
            machine: node.machine.map(|key| key.to_string()),
            disco_key: node.disco.map(|key| key.to_string()),
            addresses: texts(&node.addresses),
            allowed_ips: texts(&node.allowed_ips),
            endpoints: &node.endpoints,
            home_derp: node.home_derp,
            hostinfo: whole.map_or(
                Hostinfo::Known {
                    os: &node.os,
                    hostname: &node.hostname,
                },
                Hostinfo::Whole,
            ),
            created: details.and_then(|d| d.created),
            cap: node.cap,
            tags: &node.tags,
            primary_routes: details.map_or_else(Vec::new, |d| texts(&d.primary_routes)),
            last_seen: details.and_then(|d| d.last_seen),
            online: node.online,
            machine_authorized: node.machine_authorized,
            cap_map: caps(&node.cap_map),
            unsigned_peer_api_only: node.unsigned_peer_api_only,
            computed_name,
            computed_name_with_host,
            expired: node.expired,
            is_wire_guard_only: details.is_some_and(|d| d.is_wire_guard_only),
            is_jailed: node.is_jailed,
        }
    }
}

/// Go's `tailcfg.UserProfile`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UserJson<'a> {
    #[serde(rename = "ID")]
    id: UserId,
    login_name: &'a str,
    display_name: &'a str,
    #[serde(rename = "ProfilePicURL", skip_serializing_if = "str::is_empty")]
    profile_pic_url: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
}

impl<'a> From<&'a UserProfile> for UserJson<'a> {
    fn from(user: &'a UserProfile) -> Self {
        Self {
            id: user.id,
            login_name: &user.login_name,
            display_name: &user.display_name,
            profile_pic_url: &user.profile_pic_url,
            groups: &user.groups,
        }
    }
}

/// Capabilities without values are `null`, as Go writes what control leaves out.
pub(super) fn caps(caps: &CapMap) -> BTreeMap<&str, Option<&[Box<RawValue>]>> {
    caps.iter()
        .map(|(cap, values)| (cap.as_str(), (!values.is_empty()).then_some(&values[..])))
        .collect()
}

pub(super) fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// Go's names of nodes end with a dot.
pub(super) fn absolute(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("{name}.")
    }
}

/// A time that Go writes although it isn't set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Time(pub(super) Option<Timestamp>);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(time) => serializer.collect_str(&time),
            None => serializer.serialize_str("0001-01-01T00:00:00Z"),
        }
    }
}

/// The name without the tailnet's suffix, and the same with the machine's own name where that is another
/// (Go: `Node.InitDisplayNames`).
pub(super) fn computed_names(netmap: &Netmap, node: &Node) -> (String, String) {
    let suffix = format!(".{}", netmap.magic_dns_suffix);
    let mut name = node.name.strip_suffix(&suffix).unwrap_or(&node.name).to_owned();
    let mut host = sanitized(&node.hostname);
    if host.eq_ignore_ascii_case(&name) {
        host.clear();
    }
    if name.is_empty() {
        name = if host.is_empty() {
            node.key.to_string()
        } else {
            std::mem::take(&mut host)
        };
    }
    let with_host = if host.is_empty() {
        name.clone()
    } else {
        format!("{name} ({host})")
    };
    (name, with_host)
}

/// A host name as a DNS label (Go: `dnsname.SanitizeHostname`).
fn sanitized(hostname: &str) -> String {
    let bare = [".local", ".localdomain", ".lan"]
        .iter()
        .fold(hostname, |name, end| name.strip_suffix(end).unwrap_or(name));
    let short: String = bare.chars().take(63).collect();
    short
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .chars()
        .filter_map(|c| match c {
            ' ' | '.' | '@' | '_' => Some('-'),
            c if c.is_ascii_alphanumeric() || c == '-' => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
