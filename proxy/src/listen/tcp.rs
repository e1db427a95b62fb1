//! Byte streams: to a backend and back, half-closes included.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use postern_proxy_config::{
    access::Access,
    funnel::Funnel,
    group::{Backend, ProxyProtocol, Timeouts},
};
use tokio::io::AsyncWriteExt;

use super::Port;
use crate::{
    copy::both_ways,
    http::Caller,
    metrics::KindLabel,
    tailnet::Accepted,
    upstream::{self, Dialled, Need},
};

/// Where a port's bytes go.
#[derive(Debug)]
pub struct Forward {
    /// The target.
    pub backend: Backend,
    /// Whether the target is told the client's address.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Who gets in from the tailnet.
    pub access: Option<Access>,
    /// How the internet gets in.
    pub funnel: Option<Arc<Funnel>>,
}

pub(super) async fn forward(port: &Arc<Port>, forward: &Forward, accepted: Accepted) {
    let Accepted {
        mut stream,
        peer,
        local,
        funnel,
    } = accepted;
    let source = peer.ip().to_canonical();
    let admitted = match funnel {
        Some(_) => forward
            .funnel
            .as_ref()
            .is_some_and(|funnel| funnel.admits(source)),
        None => {
            let whois = port.node.whois(source, local.ip().to_canonical());
            Caller::new(source, whois).may(forward.access.as_ref())
        }
    };
    if !admitted {
        tracing::debug!(name = &*port.name, client.addr = %source, "Connection not allowed");
        return;
    }
    let connected = async {
        let backend = at_port(&forward.backend, local.port());
        let target = port
            .upstreams
            .target(&backend, &Timeouts::default(), Need::Any)
            .map_err(|failure| (failure.label(), failure.to_string()))?;
        upstream::connect(&target)
            .await
            .map_err(|e| ("bad_gateway", e.to_string()))
    };
    let (mut backend, _entry) = match connected.await {
        Ok(Dialled { stream, local }) => {
            let enter = |local| port.upstreams.forwarded().enter(local, source);
            (stream, local.map(enter))
        }
        Err((kind, error)) => {
            port.metrics
                .upstream_errors
                .get_or_create_owned(&KindLabel { kind })
                .inc();
            tracing::debug!(name = &*port.name, error, "Backend failed");
            return;
        }
    };
    if let Some(version) = forward.proxy_protocol {
        let header = proxy_header(version, peer, local);
        if backend.write_all(&header).await.is_err() {
            return;
        }
    }
    if let Err(error) = both_ways(&mut stream, &mut backend).await {
        tracing::debug!(name = &*port.name, %error, "Connection ended");
    }
}

/// Port 0 of an address is the port that the client asked for.
fn at_port(backend: &Backend, asked: u16) -> Cow<'_, Backend> {
    match backend {
        Backend::Address {
            address,
            scheme,
            path,
        } => match address.strip_suffix(":0") {
            Some(host) => Cow::Owned(Backend::Address {
                address: format!("{host}:{asked}"),
                scheme: *scheme,
                path: path.clone(),
            }),
            None => Cow::Borrowed(backend),
        },
        _ => Cow::Borrowed(backend),
    }
}

/// The header of the PROXY protocol (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).
fn proxy_header(version: ProxyProtocol, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let (src_ip, dst_ip) = (src.ip().to_canonical(), dst.ip().to_canonical());
    match version {
        ProxyProtocol::V1 => {
            let family = if src_ip.is_ipv4() { "TCP4" } else { "TCP6" };
            format!(
                "PROXY {family} {src_ip} {dst_ip} {} {}\r\n",
                src.port(),
                dst.port()
            )
            .into_bytes()
        }
        ProxyProtocol::V2 => {
            let mut addresses = Vec::with_capacity(36);
            let family = match (src_ip, dst_ip) {
                (std::net::IpAddr::V4(s), std::net::IpAddr::V4(d)) => {
                    addresses.extend(s.octets());
                    addresses.extend(d.octets());
                    0x11
                }
                (s, d) => {
                    addresses.extend(v6(s));
                    addresses.extend(v6(d));
                    0x21
                }
            };
            addresses.extend(src.port().to_be_bytes());
            addresses.extend(dst.port().to_be_bytes());
            let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            // Version 2, command PROXY.
            header.extend([0x21, family, 0]);
            header.push(if family == 0x11 { 12 } else { 36 });
            header.extend(addresses);
            header
        }
    }
}

fn v6(ip: std::net::IpAddr) -> [u8; 16] {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_headers_are_as_specified() {
        let src = "100.64.0.1:1234".parse().unwrap();
        let dst = "100.64.0.2:5432".parse().unwrap();
        assert_eq!(
            proxy_header(ProxyProtocol::V1, src, dst),
            b"PROXY TCP4 100.64.0.1 100.64.0.2 1234 5432\r\n"
        );
        let mut want = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        want.extend([100, 64, 0, 1, 100, 64, 0, 2, 0x04, 0xd2, 0x15, 0x38]);
        assert_eq!(proxy_header(ProxyProtocol::V2, src, dst), want);
        let v6 = proxy_header(
            ProxyProtocol::V2,
            "[fd7a::1]:1".parse().unwrap(),
            "[fd7a::2]:2".parse().unwrap(),
        );
        assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 16 + 36));
    }
}
