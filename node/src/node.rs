//! The node: control session and data plane as one thing with a name, an identity and listeners.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{answers::Answers, keeper::Keeper};
pub use self::{
    config::{Config, LETS_ENCRYPT},
    status::{Identity, Status},
};
pub use crate::error::Error;
use crate::{
    cert::{CertStore, Certificate},
    control::{self, C2n, Control, ControlConfig, ControlStatus, LocalState},
    credential::{Credential, CredentialError},
    dial::Destination,
    engine::{Engine, EngineConfig, PingKind, Pong, TcpListener, TcpStream, Traffic, UdpSocket},
    funnel::{self, FunnelListener, FunnelMode, FunnelStream, Funnels},
    key::{NodePrivate, NodePublic},
    netmap::{Netmap, WhoIs},
    peerapi::PeerApi,
    proxy::{Outbound, Proxies},
    service::{self, ServiceError, ServiceListener, ServiceMode, ServiceName, ServiceStatus, Services},
    state::NodeState,
    tls,
    tls_listener::{self, TlsListener},
};

mod answers;
mod config;
mod keeper;
mod status;

/// The name of a node that nobody has given one.
const DEFAULT_HOSTNAME: &str = "postern";

/// How often what a successor needs is compared with what is stored.
const KEEP_INTERVAL: Duration = Duration::from_secs(15);

/// How long a logout of an ephemeral node may hold up its end.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(3);

/// A running node. Clones share it. Dropping the last one without [`Node::close`] ends its tasks at once.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    control: Control,
    engine: Engine,
    certs: CertStore,
    funnels: Funnels,
    services: Services,
    keeper: Arc<Keeper>,
    ephemeral: bool,
    hosted: watch::Receiver<Vec<ServiceStatus>>,
    status: watch::Receiver<Status>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("status", &*self.shared.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts the node's tasks on the current tokio runtime and returns at once; [`Node::up`] waits.
    ///
    /// # Errors
    /// When the state can't be read or written, the credential needs tags and there are none, or no UDP socket
    /// can be had.
    pub async fn start(config: Config) -> Result<Self, Error> {
        if config.tags.is_empty() && config.credential.as_ref().is_some_and(Credential::needs_tags) {
            return Err(Error::Config {
                field: "tags",
                reason: CredentialError::NoTags.to_string(),
            });
        }
        let state = NodeState::load(&*config.store).await?;
        let hostname = Some(config.hostname).filter(|name| !name.is_empty());
        let hostname = hostname.or_else(|| state.hostname.clone());
        let hostname = hostname.unwrap_or_else(|| DEFAULT_HOSTNAME.to_owned());

        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let proxies = Proxies::new(config.proxy, |name| std::env::var(name).ok());
        let outbound = Outbound::new(tls::roots(&config.extra_roots), proxies);
        let keeper = Arc::new(Keeper::new(Arc::clone(&config.store), state.clone()));
        let (local_sender, local) = watch::channel(LocalState::default());
        let funnels = Funnels::new(local_sender.clone());
        let services = Services::new(local_sender.clone());
        let answers = Arc::new(Answers::new(services.clone()));
        let (control, node_key) = control::spawn(
            ControlConfig {
                url: config.control_url,
                outbound: outbound.clone(),
                credential: config.credential,
                force_login: config.force_login,
                hostname,
                tags: config.tags,
                ephemeral: config.ephemeral,
                keep_details: config.keep_details,
            },
            state.clone(),
            Arc::clone(&keeper) as Arc<dyn control::Persist>,
            Arc::clone(&answers) as Arc<dyn C2n>,
            local,
            &tasks,
            cancel.clone(),
        );
        let certs = CertStore::new(
            config.store,
            Arc::new(control.clone()),
            config.acme_directory,
            outbound.clone(),
            &tasks,
            cancel.clone(),
        );
        let _first = answers.certs.set(certs.clone());
        let engine = Engine::start(
            EngineConfig {
                node_key: state.node_key.clone(),
                udp_port: config.udp_port,
                static_endpoints: config.static_endpoints,
                derp_only: config.derp_only,
                outbound,
                hand_over: state.hand_over,
            },
            control.netmap.clone(),
            local_sender.clone(),
            &tasks,
            cancel.clone(),
        )
        .map_err(|source| Error::Io {
            what: "bind a UDP socket and make a disco key",
            source,
        })?;

        let _first = answers.engine.set((engine.clone(), control.netmap.clone()));

        let (status_sender, status) = watch::channel(Status::Starting { last_error: None });
        tasks.spawn(status::follow(control.clone(), status_sender, cancel.clone()));
        let (hosted_sender, hosted) = watch::channel(Vec::new());
        tasks.spawn(
            services
                .clone()
                .follow(control.netmap.clone(), hosted_sender, cancel.clone()),
        );
        tasks.spawn(rekey(engine.clone(), node_key, cancel.clone()));
        tasks.spawn(keep(engine.clone(), Arc::clone(&keeper), cancel.clone()));
        let peer_api = PeerApi {
            engine: engine.clone(),
            netmap: control.netmap.clone(),
            local: local_sender,
            funnels: funnels.clone(),
        };
        tasks.spawn(peer_api.run(cancel.clone()));
        tasks.close();
        Ok(Self {
            shared: Arc::new(Shared {
                control,
                engine,
                certs,
                funnels,
                services,
                keeper,
                ephemeral: config.ephemeral,
                hosted,
                status,
                tasks,
                cancel,
            }),
        })
    }

    /// Waits until the node is on the tailnet.
    ///
    /// # Errors
    /// When credentials are refused or the node is closed meanwhile. A server that can't be reached, a login
    /// and an approval are waited for; [`Node::status`] tells about them.
    pub async fn up(&self) -> Result<Identity, Error> {
        let mut status = self.status();
        let status = status
            .wait_for(|s| matches!(s, Status::Running(_) | Status::Refused { .. } | Status::Closed))
            .await
            .map_err(|_| Error::Closed)?;
        match &*status {
            Status::Running(identity) => Ok(identity.clone()),
            Status::Refused { reason } => Err(Error::Refused {
                reason: reason.clone(),
            }),
            _ => Err(Error::Closed),
        }
    }

    /// The status and its changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// The netmap and its changes; `None` before the first.
    pub fn netmap(&self) -> watch::Receiver<Option<Arc<Netmap>>> {
        self.shared.control.netmap.clone()
    }

    /// Accepts TCP connections on `port` of all own addresses; 0 stands for every port that has no other
    /// listener.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener, Error> {
        self.shared.engine.listen(None, port).map_err(|source| Error::Io {
            what: "listen",
            source,
        })
    }

    /// Accepts TCP connections on `port` of all own addresses and ends TLS, with certificates for the names that
    /// control has given this node.
    ///
    /// # Errors
    /// When the port is taken; [`Error::NoHttps`] when control has said that there are no such names.
    pub fn listen_tls(&self, port: u16) -> Result<TlsListener<TcpStream>, Error> {
        let netmap = self.netmap();
        tls_listener::check(netmap.borrow().as_deref())?;
        let names = move |name: &str| {
            let netmap = netmap.borrow();
            let mut domains = netmap.iter().flat_map(|netmap| &netmap.cert_domains);
            domains.any(|domain| domain.eq_ignore_ascii_case(name))
        };
        Ok(TlsListener::new(
            self.listen(port)?,
            Arc::new(names),
            self.shared.certs.clone(),
            &self.shared.tasks,
        ))
    }

    /// Opens `port` to the internet through Funnel, and with [`FunnelMode::Both`] to the tailnet too. TLS is ended
    /// with the certificate of the node's own name. Waits until the node is up.
    ///
    /// In production the port is 443, 8443 or 10000. Dropping the listener closes the port.
    ///
    /// # Errors
    /// [`Error::Funnel`] says what the tailnet's policy lacks; [`Error::Io`] when the port is taken; as
    /// [`Node::up`].
    pub async fn listen_funnel(
        &self,
        port: u16,
        mode: FunnelMode,
    ) -> Result<TlsListener<FunnelStream>, Error> {
        let listener = self.listen_funnel_tcp(port, mode).await?;
        let host = listener.host().to_owned();
        Ok(TlsListener::new(
            listener,
            Arc::new(move |name: &str| host.eq_ignore_ascii_case(name)),
            self.shared.certs.clone(),
            &self.shared.tasks,
        ))
    }

    /// As [`Node::listen_funnel`], for a caller that ends TLS itself: for the name [`FunnelListener::host`] and no
    /// other, since only that one was meant to be on the internet.
    ///
    /// # Errors
    /// As [`Node::listen_funnel`].
    pub async fn listen_funnel_tcp(&self, port: u16, mode: FunnelMode) -> Result<FunnelListener, Error> {
        let host = funnel::check(&*self.running().await?, port)?;
        let tailnet = match mode {
            FunnelMode::FunnelOnly => None,
            FunnelMode::Both => Some(self.listen(port)?),
        };
        let listener = self.shared.funnels.listen(host, port, tailnet);
        listener.map_err(|source| Error::Io {
            what: "listen on Funnel",
            source,
        })
    }

    /// Tells control that Funnel may be used later, so that it can prepare public DNS; a Funnel listener says it
    /// by itself.
    pub fn prepare_funnel(&self, wanted: bool) {
        self.shared.funnels.prepare(wanted);
    }

    /// Hosts a port of a Tailscale Service (`svc:web`), at the service's own addresses. Waits until the node is up.
    ///
    /// Control is told at once; whether it has approved this host, [`Node::services`] says. Connections come as soon
    /// as it has. A service of several ports is listened to several times, and control may want all ports that the
    /// service's definition names. Dropping the listener withdraws it.
    ///
    /// # Errors
    /// [`Error::Service`] when the name makes no sense or the node has no tags; [`Error::Io`] when the port is
    /// taken; as [`Node::up`].
    pub async fn listen_service(&self, service: &str, mode: ServiceMode) -> Result<ServiceListener, Error> {
        let name: ServiceName = service.parse()?;
        let port = mode.port();
        if port == 0 {
            return Err(ServiceError::Port.into());
        }
        let netmap = self.running().await?;
        if !netmap.self_node.is_tagged() {
            return Err(ServiceError::Untagged.into());
        }
        let listener = self.shared.engine.listen_service(name.as_str(), port);
        let listener = listener.map_err(|source| Error::Io {
            what: "listen on a service",
            source,
        })?;
        let fqdn = name.fqdn(&netmap.magic_dns_suffix);
        let listener = match mode {
            ServiceMode::Tcp { .. } => service::Listener::Tcp(listener),
            ServiceMode::TerminateTls { .. } => {
                let fqdn = fqdn.clone();
                service::Listener::Tls(TlsListener::new(
                    listener,
                    Arc::new(move |name: &str| fqdn == name),
                    self.shared.certs.clone(),
                    &self.shared.tasks,
                ))
            }
        };
        Ok(ServiceListener::new(
            listener,
            fqdn,
            self.shared.services.host(name, port),
        ))
    }

    /// Tells control to send clients of a hosted service here (as it does from the first listener on), or to send
    /// them elsewhere: before an orderly end, some 20 s ahead. Connections are accepted all the same.
    ///
    /// Returns `false` when the service has no listener.
    pub fn advertise_service(&self, service: &ServiceName, on: bool) -> bool {
        self.shared.services.advertise(service, on)
    }

    /// The services that this node listens for, whether control has approved it as their host, and the changes.
    pub fn services(&self) -> watch::Receiver<Vec<ServiceStatus>> {
        self.shared.hosted.clone()
    }

    /// Opens a TCP connection to a tailnet address, or to a MagicDNS name: `db:5432`, `db.example.ts.net:5432`, a
    /// Service's name. Waits until the node is up.
    ///
    /// # Errors
    /// As `connect(2)`; `NotFound` when the tailnet has no such name; as [`Node::up`].
    pub async fn dial(&self, to: impl Into<Destination>) -> Result<TcpStream, Error> {
        let dial = |source| Error::Io { what: "dial", source };
        let addrs = to.into().resolve(&*self.running().await?).map_err(dial)?;
        let mut failed = std::io::ErrorKind::NotFound.into();
        for addr in addrs {
            match self.shared.engine.dial(addr).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(dial(failed))
    }

    /// A UDP socket on one of the node's addresses, or on all of a family (`0.0.0.0`, `::`). Port 0: any that is
    /// free. Waits until the node is up.
    ///
    /// # Errors
    /// When the port is taken or the address isn't the node's; as [`Node::up`].
    pub async fn listen_packet(&self, local: SocketAddr) -> Result<UdpSocket, Error> {
        self.running().await?;
        let socket = self.shared.engine.bind_udp(local);
        socket.map_err(|source| Error::Io {
            what: "bind a UDP socket on the tailnet",
            source,
        })
    }

    /// A UDP socket that talks to this address or MagicDNS name alone. Waits until the node is up.
    ///
    /// # Errors
    /// When no peer has the address or the name; as [`Node::up`].
    pub async fn dial_packet(&self, to: impl Into<Destination>) -> Result<UdpSocket, Error> {
        let addrs = to.into().resolve(&*self.running().await?);
        let socket = addrs.and_then(|addrs| {
            let to = addrs.first().ok_or(std::io::ErrorKind::NotFound)?;
            self.shared.engine.connect_udp(*to)
        });
        socket.map_err(|source| Error::Io {
            what: "dial by UDP",
            source,
        })
    }

    /// The netmap, once the node is up.
    async fn running(&self) -> Result<Arc<Netmap>, Error> {
        self.up().await?;
        let netmap = self.shared.control.netmap.borrow().clone();
        netmap.ok_or(Error::Closed)
    }

    /// Pings the peer that has the address `to`.
    ///
    /// # Errors
    /// When no peer has it, or it doesn't answer within 10 s.
    pub async fn ping(&self, to: IpAddr, kind: PingKind) -> Result<Pong, Error> {
        let pong = self.shared.engine.ping(to, kind).await;
        pong.map_err(|source| Error::Io { what: "ping", source })
    }

    /// Who is behind `src`, with the capabilities it has towards `dst` (one of our addresses).
    pub fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        self.shared.control.netmap.borrow().as_ref()?.whois(src, dst)
    }

    /// How a peer is reached, and what went to and from it.
    pub fn traffic(&self, peer: &NodePublic) -> Traffic {
        self.shared.engine.traffic(peer)
    }

    /// [`Engine::rekey`].
    #[cfg(feature = "bench")]
    #[doc(hidden)]
    pub fn rekey(&self, peer: &NodePublic) -> bool {
        self.shared.engine.rekey(peer)
    }

    /// Where peers may find us: endpoints, home region, PeerAPI.
    pub fn local(&self) -> LocalState {
        self.shared.engine.local()
    }

    /// Ports that peers asked for and nobody listens on: the first few, as they come.
    pub fn refused_ports(&self) -> watch::Receiver<BTreeSet<u16>> {
        self.shared.engine.refused_ports()
    }

    /// Whether the map stream is up now.
    pub fn is_online(&self) -> bool {
        matches!(*self.shared.control.status.borrow(), ControlStatus::Running)
    }

    /// A valid certificate for `domain`, from the store or issued now through control's `set-dns`; a stored
    /// one that is due is renewed in the background.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn cert(&self, domain: &str) -> Result<Arc<Certificate>, Error> {
        self.shared.certs.get(domain).await
    }

    /// Renews the certificate for `domain` no longer, and looks into the store again when it is asked for next.
    pub fn forget_cert(&self, domain: &str) {
        self.shared.certs.forget(domain);
    }

    /// Logs out (control forgets the login) and closes.
    ///
    /// # Errors
    /// When control can't be told; the node is closed all the same.
    pub async fn logout(self) -> Result<(), Error> {
        let told = self.shared.control.logout().await;
        self.end().await;
        told.map_err(Error::Control)
    }

    /// Ends every task and socket of this node, after what a successor needs has been stored. An ephemeral
    /// node logs out first.
    pub async fn close(self) {
        if self.shared.ephemeral
            && !matches!(
                tokio::time::timeout(LOGOUT_TIMEOUT, self.shared.control.logout()).await,
                Ok(Ok(()))
            )
        {
            tracing::info!("Control was not told of the end of an ephemeral node; it will notice by itself");
        }
        self.end().await;
    }

    async fn end(self) {
        if let Err(error) = self.shared.keeper.hand_over(self.shared.engine.hand_over()).await {
            tracing::warn!(%error, "The state for a successor could not be stored");
        }
        self.shared.cancel.cancel();
        self.shared.tasks.wait().await;
    }
}

/// Gives the engine the node key of a new login.
async fn rekey(engine: Engine, mut key: watch::Receiver<NodePrivate>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = key.changed() => if changed.is_err() { return },
        }
        let key = key.borrow_and_update().clone();
        engine.set_node_key(key);
    }
}

/// Stores what a successor needs while the node runs: a crash writes nothing.
async fn keep(engine: Engine, keeper: Arc<Keeper>, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(KEEP_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        if let Err(error) = keeper.keep(engine.hand_over()).await {
            tracing::warn!(%error, "The state for a successor could not be stored; tried again in 15 s");
        }
    }
}
