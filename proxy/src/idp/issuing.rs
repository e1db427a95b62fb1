//! The identity provider behind a name of a group: its documents are objects of the cluster, shared by all replicas.

use std::{fmt, net::Ipv6Addr, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use postern_idp::{Config, Issuer, Lifetimes, Provider, Registration, Store};
use postern_proxy_config::{funnel::Funnel, group::IdentityProvider, names::BACK_CHANNEL_PORT};
use tokio::{net::TcpListener, sync::OnceCell};

use super::{
    People, TEND,
    declared::algorithm,
    serve::{Host, PAUSE},
    visitor::Visitor,
};
use crate::{
    listen::Port,
    serve::Secrets,
    tailnet::{Accepted, Stream},
};

/// See the module. It starts with the port; a connection that comes before that waits for it.
#[derive(Clone)]
pub struct Issuing {
    config: IdentityProvider,
    /// How the internet gets in.
    pub(crate) funnel: Option<Arc<Funnel>>,
    host: String,
    store: Option<Arc<dyn Store>>,
    started: Arc<OnceCell<Arc<Host>>>,
}

/// The documents can't be read: the API server may be away.
const RETRY: Duration = Duration::from_secs(5);

impl Issuing {
    /// For the name that the node has.
    pub fn new(
        config: &IdentityProvider,
        funnel: Option<Arc<Funnel>>,
        fqdn: &str,
        secrets: &dyn Secrets,
    ) -> Self {
        Self {
            config: IdentityProvider {
                // A change of them starts nothing anew: [`crate::http::Gate`] has them.
                clients: None,
                ..config.clone()
            },
            funnel,
            host: fqdn.to_owned(),
            store: secrets.documents(config),
            started: Arc::default(),
        }
    }

    /// This one in the place of another, which may have started what would be the same.
    pub fn after(&self, before: &Self) -> Self {
        let is_same = (&self.config, &self.host) == (&before.config, &before.host);
        let started = if is_same { &before.started } else { &self.started };
        Self {
            started: started.clone(),
            ..self.clone()
        }
    }

    /// Serves a connection, inside of its TLS.
    pub async fn serve(&self, port: &Port, accepted: Accepted) {
        let Accepted {
            stream, peer, local, ..
        } = accepted;
        let visitor = match (accepted.funnel, &self.funnel) {
            (None, _) => Some(Visitor::on_tailnet(peer, local)),
            (Some(_), Some(funnel)) => Visitor::on_funnel(peer, funnel),
            (Some(_), None) => None,
        };
        match visitor {
            Some(visitor) => self.answer(port, stream, visitor).await,
            None => tracing::debug!(name = &*port.name, client.addr = %peer.ip(), "Connection not allowed"),
        }
    }

    async fn answer(&self, port: &Port, stream: Stream, visitor: Visitor) {
        match self.host(port).await {
            Ok(host) => host.http(stream, visitor, &port.drain).await,
            Err(error) => tracing::warn!(name = &*port.name, "A login has to wait: {error:#}"),
        }
    }

    async fn tend(&self, port: &Port) -> anyhow::Result<()> {
        let host = self.host(port).await?;
        Ok(host.provider.tend(Timestamp::now()).await?)
    }

    async fn host(&self, port: &Port) -> anyhow::Result<Arc<Host>> {
        let started = self.started.get_or_try_init(async || {
            let store = self.store.clone().context("an identity provider needs a cluster for its documents")?;
            let config = Config {
                declared: port.gate.clients.clone(),
                ..config(&self.config, Issuer::new(&self.host, 443)?)
            };
            let node = port.node.clone();
            let people = Arc::new(People::new(move || node.netmap()));
            let provider = Provider::start(config, store, people, None, Timestamp::now()).await?;
            tracing::info!(name = &*port.name, issuer = %provider.config().issuer, "The identity provider is there");
            anyhow::Ok(Arc::new(Host {
                provider,
                name: port.name.clone(),
                metrics: port.metrics.clone(),
                limiter: port.gate.limiter.clone(),
                show_requests: false,
            }))
        });
        started.await.cloned()
    }
}

/// Starts the provider of a port, rotates its keys when they are due, and serves its back channel; until draining
/// starts.
pub async fn look_after(port: Arc<Port>, issuing: Arc<ArcSwap<Issuing>>) {
    let accepting = back_channel(&port, &issuing);
    let tending = async {
        loop {
            let pause = match issuing.load_full().tend(&port).await {
                Ok(()) => TEND,
                Err(error) => {
                    tracing::warn!(name = &*port.name, "The identity provider waits: {error:#}");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    port.drain
        .start
        .run_until_cancelled(async { tokio::join!(tending, accepting) })
        .await;
}

/// From inside of the cluster: the same host name and certificate, and nobody is known.
async fn back_channel(port: &Arc<Port>, issuing: &Arc<ArcSwap<Issuing>>) {
    if !issuing.load().config.back_channel {
        return;
    }
    let listener = loop {
        match TcpListener::bind((Ipv6Addr::UNSPECIFIED, BACK_CHANNEL_PORT)).await {
            Ok(listener) => break listener,
            Err(error) => {
                // The one before may still be draining.
                tracing::warn!(name = &*port.name, %error, port = BACK_CHANNEL_PORT, "No back channel yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(name = &*port.name, %error, "No connection on the back channel");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(permit) = port.limits.admit(peer.ip().to_canonical()) else {
            continue;
        };
        let accepted = Accepted {
            local: stream.local_addr().unwrap_or(peer),
            stream: Box::new(stream),
            peer,
            funnel: None,
        };
        let (port, issuing) = (port.clone(), issuing.load_full());
        let tasks = port.drain.tasks.clone();
        tasks.spawn(async move {
            let abort = port.drain.abort.clone();
            let serving = async {
                if let Some((accepted, _, _)) = port.handshake(&port.tls.bytes, accepted).await {
                    issuing
                        .answer(&port, accepted.stream, Visitor::inside(peer))
                        .await;
                }
            };
            abort.run_until_cancelled(serving).await;
            drop(permit);
        });
    }
}

fn config(config: &IdentityProvider, issuer: Issuer) -> Config {
    Config {
        signing: algorithm(config.signing),
        token_exchange: config.token_exchange,
        registration: Registration {
            enabled: config.registration_seconds.is_some(),
            expire_after: config.registration_seconds.map(i64::from),
            ..Registration::default()
        },
        lifetimes: Lifetimes {
            token: config.token_seconds.into(),
            refresh: config.refresh_seconds.into(),
            ..Lifetimes::default()
        },
        ..Config::new(issuer)
    }
}

impl fmt::Debug for Issuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuing")
            .field("host", &self.host)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
