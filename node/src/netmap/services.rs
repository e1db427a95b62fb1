//! The `svc:` services that control lets this node host (Go: `tailcfg.ServiceIPMappings`).

use std::{collections::BTreeMap, net::IpAddr};

use super::Node;

impl Node {
    /// The Tailscale Services that this node may host, with their addresses. Only control's approval puts one
    /// here. Several values of the capability add up.
    pub fn service_hosts(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let mut hosts = BTreeMap::<String, Vec<IpAddr>>::new();
        for value in self.cap_map.get("service-host").into_iter().flatten() {
            let Ok(services) = serde_json::from_str::<BTreeMap<String, Vec<IpAddr>>>(value.get()) else {
                tracing::warn!("A value of the capability service-host makes no sense and is left out");
                continue;
            };
            for (name, addrs) in services {
                hosts.entry(name).or_default().extend(addrs);
            }
        }
        hosts
    }
}
