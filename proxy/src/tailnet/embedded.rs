//! The trait over `postern-node`.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use postern_node::{
    cert::Certificate,
    control::LocalState,
    engine::{self, Traffic},
    funnel::{FunnelListener, FunnelMode},
    key::NodePublic,
    netmap::{Netmap, WhoIs},
    node::{Config, Error, Node, Status},
    service::{ServiceListener, ServiceMode, ServiceName, ServiceStatus},
};
use tokio::sync::watch;

use super::{Accepted, Listener, StartNode, Stream};

/// Starts real nodes.
#[derive(Debug, Clone, Copy)]
pub struct Embedded;

impl StartNode for Embedded {
    fn start(&self, config: Config) -> BoxFuture<'_, Result<Arc<dyn super::Node>, Error>> {
        Box::pin(async {
            let node = Node::start(config).await?;
            Ok(Arc::new(Running {
                netmap: node.netmap(),
                advertised: Mutex::default(),
                node: Mutex::new(Some(node)),
            }) as Arc<dyn super::Node>)
        })
    }
}

struct Running {
    netmap: watch::Receiver<Option<Arc<Netmap>>>,
    /// Services whose clients may be sent here.
    advertised: Mutex<BTreeSet<ServiceName>>,
    /// Empty once closed.
    node: Mutex<Option<Node>>,
}

impl Running {
    fn node(&self) -> Result<Node, Error> {
        self.node.lock().clone().ok_or(Error::Closed)
    }
}

impl super::Node for Running {
    fn status(&self) -> watch::Receiver<Status> {
        match self.node() {
            Ok(node) => node.status(),
            Err(_) => watch::channel(Status::Closed).1,
        }
    }

    fn generation(&self) -> u64 {
        self.netmap
            .borrow()
            .as_ref()
            .map_or(0, |netmap| netmap.generation)
    }

    fn listen(&self, port: u16) -> Result<Box<dyn Listener>, Error> {
        Ok(Box::new(Port(self.node()?.listen(port)?)))
    }

    fn listen_funnel(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async move {
            let listener = self
                .node()?
                .listen_funnel_tcp(port, FunnelMode::FunnelOnly)
                .await?;
            Ok(Box::new(Funnel {
                host: listener.host().to_ascii_lowercase().into(),
                listener,
                netmap: self.netmap.clone(),
            }) as Box<dyn Listener>)
        })
    }

    fn listen_service<'a>(
        &'a self,
        service: &'a ServiceName,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, Error>> {
        Box::pin(async move {
            let node = self.node()?;
            let listener = node
                .listen_service(service.as_str(), ServiceMode::Tcp { port })
                .await?;
            // Before anybody else can run: the node advertises what is listened for.
            let advertised = self.advertised.lock().contains(service);
            node.advertise_service(service, advertised);
            Ok(Box::new(Service(listener)) as Box<dyn Listener>)
        })
    }

    fn advertise_service(&self, service: &ServiceName, on: bool) {
        let mut advertised = self.advertised.lock();
        match on {
            true => advertised.insert(service.clone()),
            false => advertised.remove(service),
        };
        if let Ok(node) = self.node() {
            node.advertise_service(service, on);
        }
    }

    fn services(&self) -> watch::Receiver<Vec<ServiceStatus>> {
        match self.node() {
            Ok(node) => node.services(),
            Err(_) => watch::channel(Vec::new()).1,
        }
    }

    fn dial<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Option<Stream>>> {
        Box::pin(async move {
            let node = self.node().map_err(io::Error::other)?;
            match node.dial((host, port)).await {
                Ok(stream) => Ok(Some(Box::new(stream) as Stream)),
                Err(Error::Io { source, .. }) if is_elsewhere(host, &source) => Ok(None),
                Err(Error::Io { source, .. }) => Err(source),
                Err(error) => Err(io::Error::other(error)),
            }
        })
    }

    fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        self.node().ok()?.whois(src, dst)
    }

    fn netmap(&self) -> Option<Arc<Netmap>> {
        self.netmap.borrow().clone()
    }

    fn traffic(&self, peer: &NodePublic) -> Traffic {
        self.node()
            .map_or_else(|_| Traffic::default(), |node| node.traffic(peer))
    }

    fn local(&self) -> LocalState {
        self.node()
            .map_or_else(|_| LocalState::default(), |node| node.local())
    }

    fn refused_ports(&self) -> Option<watch::Receiver<BTreeSet<u16>>> {
        Some(self.node().ok()?.refused_ports())
    }

    fn is_online(&self) -> bool {
        self.node().is_ok_and(|node| node.is_online())
    }

    fn certificate<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>> {
        Box::pin(async move { self.node()?.cert(domain).await })
    }

    fn forget_certificate(&self, domain: &str) {
        if let Ok(node) = self.node() {
            node.forget_cert(domain);
        }
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let node = self.node.lock().take();
        Box::pin(async {
            if let Some(node) = node {
                node.close().await;
            }
        })
    }
}

/// Whether the tailnet hasn't got what could not be reached there: a name, or an address that neither a peer has nor
/// anybody could (Go: `tsaddr.CGNATRange`, `tsaddr.TailscaleULARange`).
fn is_elsewhere(host: &str, error: &io::Error) -> bool {
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Err(_) => error.kind() == io::ErrorKind::NotFound,
        Ok(ip) => {
            let is_of_tailnets = match ip {
                IpAddr::V4(v4) => matches!(v4.octets(), [100, 64..=127, ..]),
                IpAddr::V6(v6) => v6.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
            };
            error.kind() == io::ErrorKind::HostUnreachable && !is_of_tailnets
        }
    }
}

struct Port(engine::TcpListener);

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        Box::pin(async {
            let stream = self.0.accept().await?;
            Some(Accepted {
                peer: stream.peer_addr(),
                local: stream.local_addr(),
                stream: Box::new(stream),
                funnel: None,
            })
        })
    }
}

struct Service(ServiceListener);

impl Listener for Service {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        Box::pin(async {
            let stream = self.0.accept().await?;
            let connection = stream.get_ref();
            Some(Accepted {
                peer: connection.peer_addr(),
                local: connection.local_addr(),
                stream: Box::new(stream),
                funnel: None,
            })
        })
    }
}

struct Funnel {
    host: Arc<str>,
    listener: FunnelListener,
    netmap: watch::Receiver<Option<Arc<Netmap>>>,
}

impl Funnel {
    /// What the client reached as backends should see it: our address of its family, as Go says it
    /// (`forwardTCPWithProxyProtocol`), and the port that it asked for.
    fn reached(&self, client: IpAddr) -> IpAddr {
        let netmap = self.netmap.borrow();
        let mut own = netmap.iter().flat_map(|netmap| netmap.self_node.ips());
        let same = own.find(|ip| ip.is_ipv4() == client.is_ipv4());
        same.unwrap_or_else(|| match client {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        })
    }
}

impl Listener for Funnel {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        Box::pin(async {
            let stream = self.listener.accept().await?;
            let peer = stream.peer_addr();
            Some(Accepted {
                peer,
                local: (self.reached(peer.ip().to_canonical()), self.listener.port()).into(),
                stream: Box::new(stream),
                funnel: Some(self.host.clone()),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tailnets_alone_have_goes_nowhere_else() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NotFound};
        for (host, kind, elsewhere) in [
            ("example.com", NotFound, true),
            ("db", ConnectionRefused, false),
            ("db", HostUnreachable, false),
            ("192.0.2.1", HostUnreachable, true),
            ("192.0.2.1", ConnectionRefused, false),
            ("100.64.0.9", HostUnreachable, false),
            ("100.128.0.1", HostUnreachable, true),
            ("fd7a:115c:a1e0::9", HostUnreachable, false),
            ("2001:db8::1", HostUnreachable, true),
        ] {
            assert_eq!(is_elsewhere(host, &kind.into()), elsewhere, "{host} {kind}");
        }
    }
}
