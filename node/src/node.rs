//! The node: control session and data plane as one thing with a name, an identity and listeners.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::keeper::Keeper;
pub use self::{
    config::Config,
    error::Error,
    status::{Identity, Status},
};
use crate::{
    cert::CertStore,
    control::{self, C2n, Control, ControlConfig, LocalState},
    engine::{Engine, EngineConfig, TcpListener, TcpStream},
    key::{DiscoPrivate, NodePrivate},
    netmap::{Netmap, WhoIs},
    state::NodeState,
    tls,
};

mod config;
mod error;
mod keeper;
mod status;

/// How often what a successor needs is compared with what is stored.
const KEEP_INTERVAL: Duration = Duration::from_secs(15);

/// How long a logout of an ephemeral node may hold up its end.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(3);

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

/// A running node. Clones share it. Dropping the last one without [`Node::close`] ends its tasks at once.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    control: Control,
    engine: Engine,
    certs: CertStore,
    keeper: Arc<Keeper>,
    ephemeral: bool,
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
    /// When the state can't be read or written, or no UDP socket can be had.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let mut state = NodeState::load(&*config.store).await?;
        let disco_key = match state.hand_over.disco_key.clone() {
            Some(key) => key,
            None => DiscoPrivate::generate().map_err(|e| Error::Io {
                what: "make a disco key",
                source: e.into(),
            })?,
        };
        state.hand_over.disco_key = Some(disco_key.clone());

        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let roots = tls::roots(&config.extra_roots);
        let keeper = Arc::new(Keeper::new(Arc::clone(&config.store), state.clone()));
        let (local_sender, local) = watch::channel(LocalState::default());
        let answers = Arc::new(Answers::default());
        let (control, node_key) = control::spawn(
            ControlConfig {
                url: config.control_url,
                extra_roots: config.extra_roots,
                auth_key: config.auth_key,
                force_login: config.force_login,
                hostname: config.hostname,
                tags: config.tags,
                ephemeral: config.ephemeral,
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
            Arc::clone(&roots),
            &tasks,
            cancel.clone(),
        );
        let _first = answers.certs.set(certs.clone());
        let engine = Engine::start(
            EngineConfig {
                node_key: state.node_key.clone(),
                disco_key,
                udp_port: if config.udp_port == 0 {
                    state.hand_over.udp_port.unwrap_or(0)
                } else {
                    config.udp_port
                },
                static_endpoints: config.static_endpoints,
                derp_only: config.derp_only,
                roots,
                hand_over: state.hand_over,
            },
            control.netmap.clone(),
            local_sender,
            &tasks,
            cancel.clone(),
        )
        .map_err(|source| Error::Io {
            what: "bind a UDP socket",
            source,
        })?;

        let (status_sender, status) = watch::channel(Status::Starting { last_error: None });
        tasks.spawn(status::follow(control.clone(), status_sender, cancel.clone()));
        tasks.spawn(rekey(engine.clone(), node_key, cancel.clone()));
        tasks.spawn(keep(engine.clone(), Arc::clone(&keeper), cancel.clone()));
        tasks.close();
        Ok(Self {
            shared: Arc::new(Shared {
                control,
                engine,
                certs,
                keeper,
                ephemeral: config.ephemeral,
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

    /// Accepts TCP connections on `port` of all own addresses.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener, Error> {
        self.shared.engine.listen(None, port).map_err(|source| Error::Io {
            what: "listen",
            source,
        })
    }

    /// Opens a TCP connection to a tailnet address.
    ///
    /// # Errors
    /// As `connect(2)`.
    pub async fn dial(&self, to: SocketAddr) -> Result<TcpStream, Error> {
        self.shared
            .engine
            .dial(to)
            .await
            .map_err(|source| Error::Io { what: "dial", source })
    }

    /// Who is behind `src`, with the capabilities it has towards `dst` (one of our addresses).
    pub fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        self.shared.control.netmap.borrow().as_ref()?.whois(src, dst)
    }

    /// A valid certificate for `domain`, from the store or issued now through control's `set-dns`; a stored
    /// one that is due is renewed in the background.
    ///
    /// # Errors
    /// When none can be had.
    pub async fn cert(&self, domain: &str) -> Result<Arc<Certificate>, Error> {
        self.shared.certs.get(domain).await
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
        if let Err(error) = keeper.hand_over(engine.hand_over()).await {
            tracing::warn!(%error, "The state for a successor could not be stored; tried again in 15 s");
        }
    }
}

/// Answers control's questions to the node. The session that asks them is also what certificates are
/// issued through, so it is there first.
#[derive(Default)]
struct Answers {
    certs: OnceLock<CertStore>,
}

impl C2n for Answers {
    fn tls_cert_status(&self, domain: &str) -> String {
        self.certs.get().map_or_else(
            || r#"{"Missing":true}"#.to_owned(),
            |certs| certs.tls_cert_status(domain),
        )
    }
}
