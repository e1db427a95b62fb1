//! Names of the objects between operator and proxies, all in the operator's namespace.
//!
//! The operator makes every one of them beforehand, so that a proxy needs no `create`, and a proxy watches
//! each by name.

/// ConfigMaps over which a group's names are spread: 1 MiB each, a simple name takes about 1 KiB.
pub const SHARDS: usize = 4;

/// Port of `/healthz`, `/readyz` and `/metrics` in a proxy pod.
pub const ADMIN_PORT: u16 = 9402;

/// Port of an identity provider's back channel in a proxy pod.
pub const BACK_CHANNEL_PORT: u16 = 9444;

/// Key of a node's Secret with the one-time auth key.
pub const AUTH_KEY: &str = "authkey";

/// The ConfigMap of a shard, with [`crate::group::CONFIG_KEY`].
pub fn shard(group: &str, shard: usize) -> String {
    format!("{group}-config-{shard}")
}

/// The shard of a name: by FNV-1a of its key, which no release may change.
pub fn shard_of(name_key: &str) -> usize {
    let hash = name_key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % SHARDS as u64) as usize
}

/// The ConfigMap with [`crate::endpoints::ENDPOINTS_KEY`].
pub fn endpoints(group: &str) -> String {
    format!("{group}-endpoints")
}

/// The ConfigMap with [`crate::assignment::ASSIGNMENT_KEY`].
pub fn assignment(group: &str) -> String {
    format!("{group}-assignment")
}

/// The ConfigMap with [`crate::report::REPORT_KEY`] of one replica.
pub fn report(pod: &str) -> String {
    format!("{pod}-report")
}

/// A replica: the StatefulSet's pod.
pub fn pod(group: &str, ordinal: u32) -> String {
    format!("{group}-{ordinal}")
}

/// The Secret with a device name's node state and auth key.
pub fn node_state(group: &str, hostname: &str) -> String {
    format!("{group}-{hostname}-node")
}

/// The Secret with the certificate issued for a device name.
pub fn certificate(group: &str, hostname: &str) -> String {
    format!("{group}-{hostname}-tls")
}

/// The Secret with the hashes of a device name's keys, [`crate::keys::KEYS_KEY`].
pub fn keys(group: &str, hostname: &str) -> String {
    format!("{group}-{hostname}-keys")
}

/// The Secret with the certificate issued for a service, by its name without `svc:`. No device name has a dot.
pub fn service_certificate(group: &str, label: &str) -> String {
    format!("{group}-{label}.svc-tls")
}

/// The Secret with the group's ACME account, key `acme-account.key.pem`.
pub fn acme_account(group: &str) -> String {
    format!("{group}-acme")
}

/// The Secret that authenticates the link between a group's replicas.
pub fn replica_link(group: &str) -> String {
    format!("{group}-replica-link")
}

/// What the names of an identity provider's documents begin with.
pub fn documents(group: &str, hostname: &str) -> String {
    format!("{group}-{hostname}-idp")
}

/// The Service of the back channel of a group's identity provider, of which it has one then. A Service's name has 63
/// characters at most, so the hostname isn't in it.
pub fn back_channel(group: &str) -> String {
    format!("{group}-back-channel")
}

/// The ConfigMap or Secret of one of its documents, which stands there under [`DOCUMENT_KEY`].
pub fn document(documents: &str, key: &str) -> String {
    format!("{documents}-{key}")
}

/// The documents that are ConfigMaps.
pub fn open_documents() -> impl Iterator<Item = String> {
    let shards = |kind: &'static str| (0..16).map(move |shard| format!("{kind}-{shard:02}"));
    ["clients", "consents", "sessions"].into_iter().flat_map(shards)
}

/// The document that is a Secret: the signing keys.
pub const SECRET_DOCUMENT: &str = "keys";

/// The Secret with the clients that objects declare, [`crate::clients`]. The operator writes it and the proxy reads it.
pub fn declared_clients(documents: &str) -> String {
    document(documents, "declared")
}

/// Key of a document's ConfigMap or Secret.
pub const DOCUMENT_KEY: &str = "document.json";
