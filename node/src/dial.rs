//! Where to dial: an address, or a name of the tailnet (Go: `tsnet.Server.Dial`).

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use crate::netmap::Netmap;

/// Where a connection goes: an address, or a MagicDNS name with a port. Made from a [`SocketAddr`], from host and
/// port, or from text like `db:5432`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(Target);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Addr(SocketAddr),
    Name(String, u16),
    Malformed(String),
}

impl Destination {
    /// The addresses to try, in order: those of a family that the node has.
    pub(crate) fn resolve(&self, netmap: &Netmap) -> io::Result<Vec<SocketAddr>> {
        let (name, port) = match &self.0 {
            Target::Addr(addr) => return Ok(vec![*addr]),
            Target::Name(name, port) => (name, *port),
            Target::Malformed(text) => {
                let why = format!("{text:?} is not HOST:PORT");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        };
        let has_family = |ip: &IpAddr| netmap.self_node.ips().any(|own| own.is_ipv4() == ip.is_ipv4());
        let ips = netmap.resolve(name).into_iter().filter(has_family);
        let addrs: Vec<SocketAddr> = ips.map(|ip| (ip, port).into()).collect();
        if addrs.is_empty() {
            let why = format!("the tailnet has no {name:?}");
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(addrs)
    }
}

impl From<SocketAddr> for Destination {
    fn from(addr: SocketAddr) -> Self {
        Self(Target::Addr(addr))
    }
}

impl From<(IpAddr, u16)> for Destination {
    fn from(addr: (IpAddr, u16)) -> Self {
        Self(Target::Addr(addr.into()))
    }
}

impl From<(&str, u16)> for Destination {
    fn from((host, port): (&str, u16)) -> Self {
        Self(match host.parse::<IpAddr>() {
            Ok(ip) => Target::Addr((ip, port).into()),
            Err(_) => Target::Name(host.to_owned(), port),
        })
    }
}

/// `HOST:PORT`, an IPv6 address in brackets. What makes no sense is said when it is dialled.
impl From<&str> for Destination {
    fn from(text: &str) -> Self {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return addr.into();
        }
        let split = text.rsplit_once(':');
        match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) if !host.is_empty() && !host.contains(':') => (host, port).into(),
            _ => Self(Target::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Target::Addr(addr) => addr.fmt(f),
            Target::Name(name, port) => write!(f, "{name}:{port}"),
            Target::Malformed(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_go_reads_them() {
        let ip: SocketAddr = "[fd7a::1]:80".parse().unwrap();
        assert_eq!(Destination::from("[fd7a::1]:80"), ip.into());
        assert_eq!(Destination::from("100.64.0.1:80").to_string(), "100.64.0.1:80");
        assert_eq!(Destination::from("db:5432"), ("db", 5432).into());
        assert_eq!(
            Destination::from("db.example.ts.net.:5432"),
            ("db.example.ts.net.", 5432).into()
        );
        for bad in ["db", "db:", "db:http", "db:65536", ":80", "fd7a::1", "a:b:80", ""] {
            assert_eq!(
                Destination::from(bad),
                Destination(Target::Malformed(bad.to_owned()))
            );
        }
    }
}
