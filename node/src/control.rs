//! The session with the control server: ts2021 (Noise over HTTP, then HTTP/2), register, map stream,
//! `set-dns`, c2n (Go: `control/controlclient`).
//!
//! One task owns the session and is the one writer of the netmap. It ends only when the node is closed:
//! every failure is backed off from and reported in [`ControlStatus`].

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    credential::Credential,
    engine::PingKind,
    key::{DiscoPublic, NodePrivate},
    netmap::{Merger, Netmap, cut_off_peers},
    proxy::Outbound,
    state::NodeState,
    tailcfg::PingResponse,
};

mod backoff;
mod c2n;
mod connection;
mod dial;
mod early;
mod error;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod identity;
mod mint;
mod noise;
mod ping;
mod register;
mod session;
mod stream;
mod url;

use dial::{Dial, NetDialer};
use error::SessionError;
use identity::Identity;
use register::Login;
use session::Session;
use stream::Maps;
use url::Origin;

/// What we claim to understand (Go: `tailcfg.CurrentCapabilityVersion`). A version claims all behaviour up
/// to it, so it is the lowest that has what we need: 109 brings rules with `cap:` sources, 108 `svc:` hosts,
/// 111 and 112 the form of nodes, and 113 Funnel's `IngressEnabled`, which is also headscale's minimum.
/// From 115 on clients measure less, from 120 on they may be asked to speak to peer relays.
pub(crate) const CAPABILITY_VERSION: u16 = 113;

/// What a caller of [`Control`] waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_QUEUED_REQUESTS: usize = 16;

/// Starts the session's task. It runs until `cancel` is cancelled or the node is logged out; a URL that
/// makes no sense ends it at once, with [`ControlStatus::Refused`].
///
/// The node key watch starts with the key of `state` and changes when the node logs in with a new one.
pub fn spawn(
    config: ControlConfig,
    state: NodeState,
    persist: Arc<dyn Persist>,
    c2n: Arc<dyn C2n>,
    local: watch::Receiver<LocalState>,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) -> (Control, NodeKeyWatch) {
    let dialer = Arc::new(NetDialer::new(config.outbound.clone()));
    spawn_with(dialer, config, state, persist, c2n, local, tasks, cancel)
}

#[expect(
    clippy::too_many_arguments,
    reason = "the arguments of `spawn`, and the network"
)]
fn spawn_with(
    dialer: Arc<dyn Dial>,
    config: ControlConfig,
    state: NodeState,
    persist: Arc<dyn Persist>,
    c2n: Arc<dyn C2n>,
    local: watch::Receiver<LocalState>,
    tasks: &TaskTracker,
    cancel: CancellationToken,
) -> (Control, NodeKeyWatch) {
    let (set_dns_sender, set_dns) = mpsc::channel(MAX_QUEUED_REQUESTS);
    let (logout_sender, logouts) = mpsc::channel(1);
    let (netmap_sender, netmap) = watch::channel(None);
    let (node_key_sender, node_key) = watch::channel(state.node_key.clone());
    let (status_sender, status) = watch::channel(ControlStatus::Connecting {
        last_error: None,
        retry_at: None,
    });
    let control = Control {
        netmap,
        status,
        set_dns: set_dns_sender,
        logouts: logout_sender,
    };
    let ready = Origin::of_server(&config.url)
        .map_err(|e| format!("control URL: {e}"))
        .and_then(|server| match Login::first(&state, &config) {
            Ok(login) => Ok((server, login)),
            Err(error) => Err(format!("no randomness: {error}")),
        });
    match ready {
        Ok((server, login)) => {
            let merger = if config.keep_details {
                Merger::keeping_details()
            } else {
                Merger::new()
            };
            let peers_end = netmap_sender.clone();
            let session = Session {
                identity: Arc::new(Identity::new(&config, &state.machine_key)),
                config,
                server,
                dialer,
                persist,
                c2n,
                tasks: tasks.clone(),
                cancel,
                local,
                set_dns,
                status: status_sender,
                node_key: node_key_sender,
                maps: Maps {
                    merger,
                    netmap: netmap_sender,
                    last_ping: String::new(),
                },
                stored: state.registered,
                state,
                server_key: None,
                login: Some(login),
                connection: None,
                backoff: backoff::Backoff::default(),
            };
            tasks.spawn(async move {
                tokio::select! {
                    () = session.run(logouts) => {}
                    never = cut_off_peers(peers_end, Timestamp::now) => match never {},
                }
            });
        }
        Err(reason) => {
            status_sender.send_replace(ControlStatus::Refused { reason });
        }
    }
    (control, node_key)
}

/// How to reach the control server and what to say there.
#[derive(Debug, Clone, Default)]
pub struct ControlConfig {
    /// `http://` or `https://`, a host, maybe a port.
    pub url: String,
    /// The way to control, and to those who make keys of credentials.
    pub outbound: Outbound,
    /// Used when the state holds no login, its key has ended, or `force_login` is set; `None`: somebody logs in
    /// at a URL.
    pub credential: Option<Credential>,
    /// Log in anew even though the state holds a login.
    pub force_login: bool,
    /// `Hostinfo.Hostname`.
    pub hostname: String,
    /// `Hostinfo.RequestTags`, each starting with `tag:`.
    pub tags: Vec<String>,
    /// Remove the node when it goes.
    pub ephemeral: bool,
    /// See [`crate::netmap::Details`].
    pub keep_details: bool,
}

/// A pre-authentication key. Its `Debug` prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(zeroize::Zeroizing<String>);

impl AuthKey {
    /// Wraps the text of a key.
    pub fn new(text: impl Into<String>) -> Self {
        Self(zeroize::Zeroizing::new(text.into()))
    }

    /// The text, for the register request.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What the data plane and the node tell control about themselves; every change is sent in a
/// non-streaming map request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalState {
    /// The disco key of this process.
    pub disco: Option<DiscoPublic>,
    /// Where peers may find our UDP socket.
    pub endpoints: Vec<Endpoint>,
    /// What was measured about the network, the home region above all.
    pub net_info: NetInfo,
    /// PeerAPI ports; `None`: no PeerAPI.
    pub peer_api: crate::netmap::PeerApi,
    /// Hash of the `svc:` services that this node hosts, as lower-case hex; empty: none.
    pub services_hash: String,
    /// Some Funnel listener is enabled.
    pub ingress_enabled: bool,
    /// Funnel may be enabled later: control should prepare DNS.
    pub wire_ingress: bool,
}

/// An address of our UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where.
    pub addr: std::net::SocketAddr,
    /// How we know.
    pub kind: EndpointKind,
}

/// Go: `tailcfg.EndpointType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum EndpointKind {
    /// An interface's address.
    Local = 1,
    /// As a STUN server saw us.
    Stun = 2,
    /// Made by a port mapping.
    Portmapped = 3,
    /// Public address with the local port.
    Stun4LocalPort = 4,
    /// Configured.
    Explicit = 5,
}

/// Go: `tailcfg.NetInfo`, the part that control uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetInfo {
    /// The region where peers find us. Without one they can't start.
    pub preferred_derp: Option<crate::derp_map::RegionId>,
    /// Seconds by `"<region>-v4"` and `"<region>-v6"`.
    pub derp_latency: std::collections::BTreeMap<String, f64>,
    /// The NAT gives us another port for another destination; `None`: unknown.
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// A STUN answer has arrived.
    pub working_udp: Option<bool>,
    /// A STUN answer has arrived over IPv6.
    pub working_ipv6: Option<bool>,
}

/// Where the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlStatus {
    /// Dialling, or waiting to dial again after `last_error`.
    Connecting {
        /// Why the last attempt failed, in a sentence that names the next step.
        last_error: Option<String>,
        /// When the next attempt starts.
        retry_at: Option<Timestamp>,
    },
    /// Somebody must open this URL and log in.
    NeedsLogin {
        /// Shown to the user.
        url: String,
    },
    /// No credentials, or control refused them; only a change of configuration helps.
    Refused {
        /// What control said.
        reason: String,
    },
    /// Logged in; an administrator must approve the machine.
    NeedsApproval,
    /// The map stream is up.
    Running,
    /// The node key has ended and could not be renewed with what is configured.
    KeyExpired,
}

/// A handle on the session's task. Clones share it; the task ends with the token given to [`spawn`].
#[derive(Debug, Clone)]
pub struct Control {
    /// The newest netmap; `None` before the first.
    pub netmap: watch::Receiver<Option<Arc<Netmap>>>,
    /// Where the session stands.
    pub status: watch::Receiver<ControlStatus>,
    set_dns: mpsc::Sender<SetDns>,
    logouts: mpsc::Sender<Done>,
}

impl Control {
    /// Publishes a TXT record below one of the netmap's `cert_domains`, for an ACME challenge.
    ///
    /// # Errors
    /// When control refuses, or no session is up in time.
    pub async fn set_dns(&self, name: &str, value: &str) -> Result<(), ControlError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.ask(&self.set_dns, |done| SetDns { name, value, done }).await
    }

    /// Logs out: the node key ends now, a new one is stored, and the session ends, whatever it has come to.
    ///
    /// # Errors
    /// When control refuses or can't be reached, though the login is forgotten here all the same; when that can't be
    /// stored; when the session has ended already.
    pub async fn logout(&self) -> Result<(), ControlError> {
        self.ask(&self.logouts, |done| done).await
    }

    async fn ask<T>(
        &self,
        session: &mpsc::Sender<T>,
        request: impl FnOnce(Done) -> T,
    ) -> Result<(), ControlError> {
        let (done, answer) = oneshot::channel();
        let exchange = async {
            let sent = session.send(request(done)).await;
            sent.map_err(|_| ControlError::NoSession)?;
            answer.await.unwrap_or(Err(ControlError::NoSession))
        };
        let late = match *self.status.borrow() {
            ControlStatus::Running => ControlError::Timeout(REQUEST_TIMEOUT),
            _ => ControlError::NoSession,
        };
        timeout(REQUEST_TIMEOUT, exchange).await.unwrap_or(Err(late))
    }
}

/// Where the outcome of a request is waited for.
type Done = oneshot::Sender<Result<(), ControlError>>;

/// Publish a TXT record for an ACME challenge.
#[derive(Debug)]
struct SetDns {
    name: String,
    value: String,
    done: Done,
}

/// Why a request to control failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// The session is closed or was not up in time.
    #[error("no session with the control server")]
    NoSession,
    /// It didn't answer within this time.
    #[error("the control server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It answered with an error.
    #[error("the control server answered {status}: {text}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The beginning of the body.
        text: String,
    },
    /// The transport failed.
    #[error("control connection: {0}")]
    Transport(String),
}

impl From<SessionError> for ControlError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Answer { status, text, .. } => Self::Refused {
                status: status.as_u16(),
                text,
            },
            SessionError::TimedOut { after, .. } => Self::Timeout(after),
            other => Self::Transport(other.to_string()),
        }
    }
}

/// Persists what registration changed (a new node key, `registered`). Called before the key is used.
pub trait Persist: Send + Sync + 'static {
    /// Replaces the stored state.
    fn persist(&self, state: NodeState) -> crate::state::StoreFuture<'_, ()>;
}

/// Questions of control that concern other parts of the node are answered through this.
pub trait C2n: Send + Sync + 'static {
    /// Pings a peer; `None`: there is no answer to give.
    fn ping(&self, _to: IpAddr, _kind: Ping) -> Answer<Option<PingResponse>> {
        Box::pin(std::future::ready(None))
    }
    /// `GET /vip-services`: JSON body of `C2NVIPServicesResponse`.
    fn vip_services(&self) -> String {
        r#"{"ServicesHash":""}"#.to_owned()
    }
    /// `GET /tls-cert-status?domain=`: JSON body of `C2NTLSCertInfo`.
    fn tls_cert_status(&self, _domain: &str) -> Answer<String> {
        Box::pin(std::future::ready(r#"{"Missing":true}"#.to_owned()))
    }
}

/// An answer that takes its time.
pub type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How control wants a peer to be pinged (Go: `tailcfg.PingType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ping {
    /// By the data plane.
    Packet(PingKind),
    /// By an HTTP request to the peer's PeerAPI.
    PeerApi,
}

impl Ping {
    /// The name that control uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Packet(PingKind::Disco) => "disco",
            Self::Packet(PingKind::Tsmp) => "TSMP",
            Self::Packet(PingKind::Icmp) => "ICMP",
            Self::PeerApi => "peerapi",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = [
            Self::Packet(PingKind::Disco),
            Self::Packet(PingKind::Tsmp),
            Self::Packet(PingKind::Icmp),
            Self::PeerApi,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// The node key in use; it changes when the node logs in again.
pub type NodeKeyWatch = watch::Receiver<NodePrivate>;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
