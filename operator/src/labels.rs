//! Labels, annotations, finalizers and names of what the operator makes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

/// On everything that we make.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const POSTERN: &str = "postern";
/// The ProxyGroup that something belongs to.
pub const GROUP: &str = "postern.dev/proxy-group";
/// The device name that a Secret belongs to.
pub const HOSTNAME: &str = "postern.dev/hostname";
/// The Tailnet that a device is on.
pub const TAILNET: &str = "postern.dev/tailnet";
/// UID of the object that asked for it.
pub const OWNER_UID: &str = "postern.dev/owner-uid";
/// What a Secret is for: one of the `ROLE_` values.
pub const ROLE: &str = "postern.dev/role";
/// A node's state: the record of a device.
pub const ROLE_NODE: &str = "node";
/// A certificate that was issued for a name.
pub const ROLE_CERTIFICATE: &str = "certificate";
/// A copy of a certificate that an object brought.
pub const ROLE_OWN_CERTIFICATE: &str = "own-certificate";
/// Hashes of the keys that an object names.
pub const ROLE_KEYS: &str = "keys";
/// A copy of a Tailnet's credentials.
pub const ROLE_CREDENTIALS: &str = "credentials";
/// A document of an identity provider.
pub const ROLE_DOCUMENT: &str = "document";
/// Clients that objects declare to an identity provider.
pub const ROLE_CLIENTS: &str = "clients";
/// Anything else of a group.
pub const ROLE_GROUP: &str = "group";

/// Kind, namespace and name of the object that asked for it, for people.
pub const OWNER: &str = "postern.dev/owner";
/// The Secret and resourceVersion that a copy was made of.
pub const SOURCE: &str = "postern.dev/source";
/// On a ProxyGroup or Tailnet that the operator made by itself and takes away again.
pub const MADE_BY_DEFAULT: &str = "postern.dev/made-by-default";
/// Since when such a ProxyGroup has had no name.
pub const UNUSED_SINCE: &str = "postern.dev/unused-since";

/// On Ingress, TailnetIngress, TailnetService and IdentityProvider.
pub const NAME_FINALIZER: &str = "postern.dev/device";
/// On ProxyGroup.
pub const GROUP_FINALIZER: &str = "postern.dev/names";
/// On Tailnet.
pub const TAILNET_FINALIZER: &str = "postern.dev/proxy-groups";

/// The operator's copy of a Tailnet's credentials.
pub fn credentials(tailnet: &str) -> String {
    format!("postern-tailnet-{tailnet}")
}

/// The operator's copy of a certificate that an object brought.
pub fn own_certificate(group: &str, hostname: &str, secret: &str) -> String {
    // Two Secrets of one name rarely meet; a hash keeps long names within 253 characters.
    let hash = secret.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{group}-{hostname}-own-{hash:016x}")
}

/// Name of a replica's node that is a host of Services. Nobody sees it but administrators; the hash of the
/// cluster keeps groups of other clusters from meeting it.
pub fn host(group: &str, ordinal: u32, cluster_id: &str) -> String {
    let hash = cluster_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{group}-{ordinal}-{:08x}", hash & 0xffff_ffff)
}

/// Name of a group's ServiceAccount, Role and RoleBinding. Not the group's own name: that could be the name
/// of the operator's account.
pub fn account(group: &str) -> String {
    format!("{group}-proxy")
}

/// Metadata of something that belongs to a group.
pub fn group_meta(namespace: &str, group: &str, role: &str, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([
            (MANAGED_BY.to_owned(), POSTERN.to_owned()),
            (GROUP.to_owned(), group.to_owned()),
            (ROLE.to_owned(), role.to_owned()),
        ])),
        ..ObjectMeta::default()
    }
}

/// A label's value.
pub fn label<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation's value.
pub fn annotation<'a, K: Resource>(object: &'a K, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether we made it.
pub fn is_ours<K: Resource>(object: &K) -> bool {
    label(object, MANAGED_BY) == Some(POSTERN)
}
