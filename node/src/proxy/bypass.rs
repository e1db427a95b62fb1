//! `NO_PROXY`: what is reached without a proxy.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list of hosts. `localhost` and loopback addresses are in each list that comes from a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Bypass {
    loopback: bool,
    all: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Net(IpNet),
    Address(IpAddr, Option<u16>),
    Name {
        /// In lower case, with a dot at its start.
        suffix: String,
        /// The name itself counts too, not only those below it.
        itself: bool,
        port: Option<u16>,
    },
}

impl Bypass {
    /// Not even loopback: the proxy was chosen explicitly.
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    /// Separated by commas; what makes no sense is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut bypass = Self {
            loopback: true,
            ..Self::default()
        };
        for entry in text.split(',') {
            let entry = entry.trim().to_ascii_lowercase();
            if entry == "*" {
                bypass.all = true;
            }
            bypass.entries.extend(parse_entry(&entry));
        }
        bypass
    }

    pub(super) fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim().to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if self.loopback && (host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())) {
            return true;
        }
        self.all || self.entries.iter().any(|entry| entry.covers(&host, ip, port))
    }
}

impl Entry {
    fn covers(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let same_port = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match (self, ip) {
            (Self::Net(net), Some(ip)) => net.contains(&ip),
            (Self::Address(address, port), Some(ip)) => *address == ip && same_port(port),
            (Self::Name { suffix, itself, port }, None) => {
                let matches = host.ends_with(suffix.as_str()) || (*itself && host == &suffix[1..]);
                matches && same_port(port)
            }
            _ => false,
        }
    }
}

fn parse_entry(entry: &str) -> Option<Entry> {
    if let Ok(net) = entry.parse::<IpNet>() {
        return Some(Entry::Net(net));
    }
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(Entry::Address(address.to_canonical(), None));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let host = host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Entry::Address(address.to_canonical(), port));
    }
    let host = host
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(host);
    if host.trim_matches('.').is_empty() || host.contains('*') {
        return None;
    }
    Some(Entry::Name {
        itself: !host.starts_with('.'),
        suffix: format!(".{}", host.trim_start_matches('.')),
        port,
    })
}
