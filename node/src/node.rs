//! The node: control session and data plane as one thing with a name, an identity and listeners.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::{
    control::AuthKey,
    engine::{TcpListener, TcpStream},
    netmap::{Netmap, WhoIs},
    state::StateStore,
};

/// How a node starts. `Default` is a node on Tailscale's servers with its state in memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// The coordination server.
    pub control_url: String,
    /// The name to ask for; control may add `-1`.
    pub hostname: String,
    /// An explicit auth key.
    pub auth_key: Option<AuthKey>,
    /// Log in with the auth key although the state holds a login.
    pub force_login: bool,
    /// `tag:…` to ask for.
    pub tags: Vec<String>,
    /// Removed from the tailnet when closed.
    pub ephemeral: bool,
    /// Where identity, certificates and hand-over are kept.
    pub store: Arc<dyn StateStore>,
    /// Trusted beside Mozilla's and the system's roots (DER), for control, relays and ACME.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// ACME directory.
    pub acme_directory: String,
    /// UDP port; 0: the one of the last run, else any.
    pub udp_port: u16,
    /// Announced to peers as they are (NodePort, host network).
    pub static_endpoints: Vec<SocketAddr>,
    /// Never use UDP.
    pub derp_only: bool,
}

/// A running node. Clones share it. Dropping the last one without [`Node::close`] ends its tasks at once.
#[derive(Clone)]
pub struct Node {
    // filled in by the implementation
}

/// Where the node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// No session with control yet; the last error, if any.
    Starting {
        /// In a sentence that names the next step.
        last_error: Option<String>,
    },
    /// Open this URL to log in.
    NeedsLogin {
        /// Shown to the user.
        url: String,
    },
    /// Logged in; an administrator must approve the machine.
    NeedsApproval,
    /// Credentials were refused or are missing.
    Refused {
        /// What control said.
        reason: String,
    },
    /// The node key has ended.
    KeyExpired,
    /// On the tailnet. Stays so through outages of control.
    Running(Identity),
    /// Closed or logged out.
    Closed,
}

/// Who the node is, as control assigned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The API's identifier of the device.
    pub stable_id: String,
    /// FQDN without trailing dot, e.g. `grafana.example.ts.net`.
    pub name: String,
    /// Own addresses.
    pub addrs: Vec<IpAddr>,
    /// Names for which certificates can be had.
    pub cert_domains: Vec<String>,
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// End of the leaf's validity.
    pub not_after: jiff::Timestamp,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state could not be read or written.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// The configuration makes no sense; names the field.
    #[error("{field}: {reason}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The network refused something locally, e.g. a port in use.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A request to control failed.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// A certificate could not be had; says why and when it is tried again.
    #[error("certificate for {domain}: {reason}")]
    Certificate {
        /// The name.
        domain: String,
        /// Why.
        reason: String,
        /// Not before this time, when the CA asked for a pause.
        retry_at: Option<jiff::Timestamp>,
    },
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}

impl Node {
    /// Starts the node's tasks on the current tokio runtime and returns at once; [`Node::up`] waits.
    ///
    /// # Errors
    /// When the state can't be read or no UDP socket can be had.
    pub async fn start(_config: Config) -> Result<Self, Error> {
        Err(Error::Closed)
    }

    /// Waits until the node is on the tailnet.
    ///
    /// # Errors
    /// When credentials are refused or the node is closed meanwhile. A server that can't be reached is waited for.
    pub async fn up(&self) -> Result<Identity, Error> {
        Err(Error::Closed)
    }

    /// The status and its changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        watch::channel(Status::Closed).1
    }

    /// The netmap and its changes; `None` before the first.
    pub fn netmap(&self) -> watch::Receiver<Option<Arc<Netmap>>> {
        watch::channel(None).1
    }

    /// Accepts TCP connections on `port` of all own addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, _port: u16) -> Result<TcpListener, Error> {
        Err(Error::Closed)
    }

    /// Opens a TCP connection to a tailnet address.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn dial(&self, _to: SocketAddr) -> Result<TcpStream, Error> {
        Err(Error::Closed)
    }

    /// Who is behind `src`, with the capabilities it has towards `dst` (one of our addresses).
    pub fn whois(&self, _src: IpAddr, _dst: IpAddr) -> Option<WhoIs> {
        None
    }

    /// A valid certificate for `domain`, from the store or issued now through control's `set-dns`; a stored
    /// one that is due is renewed in the background.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn cert(&self, _domain: &str) -> Result<Arc<Certificate>, Error> {
        Err(Error::Closed)
    }

    /// Logs out (control forgets the login) and closes.
    ///
    /// # Errors
    /// When control can't be told.
    pub async fn logout(self) -> Result<(), Error> {
        Err(Error::Closed)
    }

    /// Writes the hand-over state and ends every task and socket of this node.
    pub async fn close(self) {}
}
