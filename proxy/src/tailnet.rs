//! A tailnet node as the proxy sees it: a small trait, so that everything above it is tested on loopback.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use futures::future::BoxFuture;
use postern_node::{
    cert::Certificate,
    control::LocalState,
    engine::Traffic,
    key::NodePublic,
    netmap::{Netmap, WhoIs},
    node::{Config, Error, Status},
    service::{ServiceName, ServiceStatus},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

mod embedded;

pub use embedded::Embedded;

/// A byte stream of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream, its type forgotten.
pub type Stream = Box<dyn Io>;

/// A connection from a peer.
pub struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// The client's address: authenticated by the tailnet, or on the internet as Funnel says.
    pub peer: SocketAddr,
    /// The address of ours that it reached.
    pub local: SocketAddr,
    /// It comes from the internet, through Funnel, and asked for this name there. Nothing is known about who it is.
    pub funnel: Option<Arc<str>>,
}

impl Accepted {
    /// What connections are counted by.
    pub fn source(&self) -> IpAddr {
        source(self.peer.ip(), self.funnel.is_some())
    }
}

/// What a client is counted by: the address, of somebody on the internet who has many its network.
pub fn source(client: IpAddr, on_internet: bool) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) if on_internet => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        ip => ip,
    }
}

/// Accepts connections on one port.
pub trait Listener: Send {
    /// The next connection; `None` when the node is closed. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>>;
}

/// A running node.
pub trait Node: Send + Sync {
    /// The status and its changes.
    fn status(&self) -> watch::Receiver<Status>;
    /// Changes whenever a whois answer may have changed.
    fn generation(&self) -> u64;
    /// Accepts connections to `port` on all own addresses.
    ///
    /// # Errors
    /// When the port is taken.
    fn listen(&self, port: u16) -> Result<Box<dyn Listener>, Error>;
    /// Accepts connections from the internet to `port` of the node's own name, through Funnel.
    ///
    /// # Errors
    /// When the tailnet's policy doesn't allow it, or the port is taken.
    fn listen_funnel(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>>;
    /// Accepts connections to `port` of a Tailscale Service. With its first port control hears of us as a host, and
    /// sends nobody here before [`Node::advertise_service`] says so. Needs a running node.
    ///
    /// # Errors
    /// When the node has no tags, or the port is taken.
    fn listen_service<'a>(
        &'a self,
        _service: &'a ServiceName,
        _port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, Error>> {
        Box::pin(std::future::ready(Err(Error::Closed)))
    }
    /// Lets control send a Service's clients here, or elsewhere; it makes no difference to those who come.
    fn advertise_service(&self, _service: &ServiceName, _on: bool) {}
    /// Where the Services stand that are listened for, and the changes.
    fn services(&self) -> watch::Receiver<Vec<ServiceStatus>> {
        watch::channel(Vec::new()).1
    }
    /// Opens a connection to a name or an address of the tailnet; `None` where it has no such name, and where the
    /// address is somebody else's. Waits for a node that is starting.
    ///
    /// # Errors
    /// As `connect(2)`.
    fn dial<'a>(&'a self, _host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Option<Stream>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// Who is behind `src`, with its capabilities towards `dst`.
    fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs>;
    /// What the tailnet looks like from here.
    fn netmap(&self) -> Option<Arc<Netmap>> {
        None
    }
    /// How a peer is reached, and what went to and from it.
    fn traffic(&self, _peer: &NodePublic) -> Traffic {
        Traffic::default()
    }
    /// Where peers may find us.
    fn local(&self) -> LocalState {
        LocalState::default()
    }
    /// Ports that peers asked for and nobody listens on; `None`: not known.
    fn refused_ports(&self) -> Option<watch::Receiver<BTreeSet<u16>>> {
        None
    }
    /// Whether control is connected to now.
    fn is_online(&self) -> bool {
        false
    }
    /// A valid certificate, stored or issued now.
    fn certificate<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>>;
    /// Renews it no longer, and reads what is stored when it is wanted again.
    fn forget_certificate(&self, _domain: &str) {}
    /// Writes the hand-over state and ends the node.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Starts nodes.
pub trait StartNode: Send + Sync + fmt::Debug {
    /// Starts one; it need not be on the tailnet yet.
    fn start(&self, config: Config) -> BoxFuture<'_, Result<Arc<dyn Node>, Error>>;
}
