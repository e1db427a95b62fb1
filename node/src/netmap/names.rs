//! MagicDNS without a DNS server: the netmap has all names.

use std::net::IpAddr;

use super::Netmap;

impl Netmap {
    /// The addresses of a MagicDNS name: a node's, or one that control adds, as it does for Services. A single
    /// label is looked up in the tailnet's own suffix. Empty when the tailnet has no such name.
    pub fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let full = match name.contains('.') {
            true => name.to_owned(),
            false => format!("{name}.{}", self.magic_dns_suffix),
        };
        let is_it = |other: &str| {
            other
                .strip_suffix('.')
                .unwrap_or(other)
                .eq_ignore_ascii_case(&full)
        };
        let mut nodes = self.peers.values().chain([&self.self_node]);
        if let Some(node) = nodes.find(|node| is_it(&node.name)) {
            return node.ips().collect();
        }
        let records = self.extra_records.iter().filter(|record| is_it(&record.name));
        records.filter_map(|record| record.value.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use crate::netmap::Merger;

    #[test]
    fn nodes_and_services_are_found_by_name() {
        let message = json!({
            "Node": {"ID": 1, "Key": format!("nodekey:{}", "1".repeat(64)), "Name": "me.example.ts.net.", "Addresses": ["100.64.0.1/32"]},
            "Peers": [
                {"ID": 2, "Key": format!("nodekey:{}", "2".repeat(64)), "Name": "db.example.ts.net.", "Addresses": ["100.64.0.2/32", "fd7a::2/128"]},
                {"ID": 3, "Key": format!("nodekey:{}", "3".repeat(64)), "Name": "db.other.ts.net.", "Addresses": ["100.64.0.3/32"]},
            ],
            "DNSConfig": {"ExtraRecords": [
                {"Name": "web.example.ts.net", "Value": "100.127.0.1"},
                {"Name": "web.example.ts.net", "Value": "fd7a::7f"},
                {"Name": "web.example.ts.net", "Type": "TXT", "Value": "no address"},
            ]},
        });
        let message = serde_json::from_str(&message.to_string()).unwrap();
        let netmap = Merger::new()
            .apply(message, Timestamp::UNIX_EPOCH)
            .unwrap()
            .unwrap();
        let resolve = |name: &str| {
            let ips: Vec<String> = netmap.resolve(name).iter().map(ToString::to_string).collect();
            ips.join(" ")
        };
        assert_eq!(resolve("db"), "100.64.0.2 fd7a::2");
        assert_eq!(resolve("DB.Example.ts.net."), "100.64.0.2 fd7a::2");
        assert_eq!(resolve("db.other.ts.net"), "100.64.0.3");
        assert_eq!(resolve("web"), "100.127.0.1 fd7a::7f");
        assert_eq!(resolve("me"), "100.64.0.1");
        for unknown in ["", ".", "d", "db.example", "example.ts.net", "db.example.com"] {
            assert_eq!(resolve(unknown), "", "{unknown}");
        }
    }
}
