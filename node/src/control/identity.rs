//! What we tell control about ourselves.

use aws_lc_rs::{
    digest,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    signature::{Ed25519KeyPair, KeyPair},
};

use super::{CAPABILITY_VERSION, ControlConfig, LocalState};
use crate::{
    key::{MachinePrivate, NodePublic},
    tailcfg::{Hostinfo, MapRequest, NetInfo, Service},
};

/// The form that control expects, `1.MINOR.PATCH-WHAT`; 1.80 is the release whose capability version we
/// claim.
const VERSION: &str = concat!("1.80.0-postern-", env!("CARGO_PKG_VERSION"));

/// What stays the same over the life of a session.
pub(super) struct Identity {
    base: Hostinfo,
    nl_key: String,
}

impl Identity {
    pub(super) fn new(config: &ControlConfig, machine: &MachinePrivate) -> Self {
        let system = rustix::system::uname();
        let mut tags = config.tags.clone();
        tags.sort_unstable();
        tags.dedup();
        Self {
            base: Hostinfo {
                ipn_version: VERSION.to_owned(),
                backend_log_id: log_id(machine),
                os: "linux".to_owned(),
                os_version: system.release().to_string_lossy().into_owned(),
                machine: system.machine().to_string_lossy().into_owned(),
                app: "postern".to_owned(),
                hostname: config.hostname.clone(),
                no_logs_no_support: true,
                request_tags: tags,
                userspace: Some(true),
                userspace_router: Some(true),
                ..Hostinfo::default()
            },
            nl_key: nl_key(machine),
        }
    }

    /// The public tailnet-lock key as text.
    pub(super) fn nl_key(&self) -> &str {
        &self.nl_key
    }

    /// All that control is told about the machine.
    pub(super) fn hostinfo(&self, local: &LocalState) -> Hostinfo {
        let service = |proto: &str, port: Option<u16>| {
            port.map(|port| Service {
                proto: proto.to_owned(),
                port,
            })
        };
        let net = &local.net_info;
        Hostinfo {
            wire_ingress: local.wire_ingress,
            ingress_enabled: local.ingress_enabled,
            services_hash: local.services_hash.clone(),
            services: [
                service("peerapi4", local.peer_api.v4),
                service("peerapi6", local.peer_api.v6),
            ]
            .into_iter()
            .flatten()
            .collect(),
            net_info: Some(NetInfo {
                mapping_varies_by_dest_ip: net.mapping_varies_by_dest_ip,
                working_ipv6: net.working_ipv6,
                working_udp: net.working_udp,
                preferred_derp: net.preferred_derp.unwrap_or(0),
                derp_latency: net.derp_latency.clone(),
            }),
            ..self.base.clone()
        }
    }

    /// Asks for the map (`stream`), or only tells what is new about us.
    ///
    /// Both forms say everything: Tailscale's control ignores what a streaming request says, headscale
    /// applies it.
    pub(super) fn map_request(&self, local: &LocalState, node_key: NodePublic, stream: bool) -> MapRequest {
        MapRequest {
            version: CAPABILITY_VERSION,
            keep_alive: true,
            node_key,
            disco_key: local.disco,
            stream,
            hostinfo: self.hostinfo(local),
            endpoints: local.endpoints.iter().map(|e| e.addr).collect(),
            endpoint_types: local.endpoints.iter().map(|e| e.kind as u8).collect(),
            omit_peers: !stream,
        }
    }
}

/// Go refuses to register without a log ID. We have no logs to send, so it names nothing but the machine.
fn log_id(machine: &MachinePrivate) -> String {
    let hash = digest::digest(&digest::SHA256, machine.public().as_bytes());
    hex::encode(hash.as_ref())
}

/// Every client names a tailnet-lock key. Ours is derived from the machine key, so there is no further
/// secret to keep.
fn nl_key(machine: &MachinePrivate) -> String {
    struct Seed;
    impl KeyType for Seed {
        fn len(&self) -> usize {
            32
        }
    }
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    let pair = Salt::new(HKDF_SHA256, &[])
        .extract(machine.expose_bytes())
        .expand(&[b"postern tailnet-lock key"], Seed)
        .and_then(|derived| derived.fill(&mut *seed))
        .ok()
        .and_then(|()| Ed25519KeyPair::from_seed_unchecked(&*seed).ok());
    let public = pair.map_or_else(|| vec![0; 32], |pair| pair.public_key().as_ref().to_vec());
    format!("nlpub:{}", hex::encode(public))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Endpoint, EndpointKind};

    #[test]
    fn a_map_request_says_all_that_is_known() {
        let config = ControlConfig {
            hostname: "h".to_owned(),
            tags: ["tag:b", "tag:a", "tag:b"].map(str::to_owned).to_vec(),
            ..ControlConfig::default()
        };
        let machine = MachinePrivate::from_bytes([8; 32]);
        let identity = Identity::new(&config, &machine);
        let local = LocalState {
            endpoints: vec![Endpoint {
                addr: "192.0.2.1:7".parse().unwrap(),
                kind: EndpointKind::Stun,
            }],
            peer_api: crate::netmap::PeerApi {
                v4: Some(1234),
                v6: None,
            },
            services_hash: "ab".to_owned(),
            ingress_enabled: true,
            net_info: crate::control::NetInfo {
                preferred_derp: Some(9),
                working_udp: Some(true),
                ..Default::default()
            },
            ..LocalState::default()
        };
        let key = NodePublic::from_bytes([1; 32]);
        let lite = serde_json::to_value(identity.map_request(&local, key, false)).unwrap();
        assert_eq!(lite["OmitPeers"], true);
        assert_eq!(lite.get("Stream"), None);
        assert_eq!(lite.get("Compress"), None);
        assert_eq!(lite["Endpoints"][0], "192.0.2.1:7");
        assert_eq!(lite["EndpointTypes"][0], 2);
        let info = &lite["Hostinfo"];
        assert_eq!(info["RequestTags"], serde_json::json!(["tag:a", "tag:b"]));
        assert_eq!(
            info["Services"],
            serde_json::json!([{"Proto": "peerapi4", "Port": 1234}])
        );
        assert_eq!(
            info["NetInfo"],
            serde_json::json!({"PreferredDERP": 9, "WorkingUDP": true})
        );
        assert_eq!(
            (&info["ServicesHash"], &info["IngressEnabled"]),
            (&"ab".into(), &true.into())
        );
        let stream = serde_json::to_value(identity.map_request(&local, key, true)).unwrap();
        assert_eq!(stream["Stream"], true);
        assert_eq!(stream["Hostinfo"], *info);
    }

    #[test]
    fn the_lock_key_is_a_key_of_this_machine() {
        let one = nl_key(&MachinePrivate::from_bytes([8; 32]));
        assert_eq!(one.len(), "nlpub:".len() + 64);
        assert_ne!(one, format!("nlpub:{}", "0".repeat(64)));
        assert_eq!(one, nl_key(&MachinePrivate::from_bytes([8; 32])));
        assert_ne!(one, nl_key(&MachinePrivate::from_bytes([16; 32])));
    }
}
