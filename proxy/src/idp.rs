//! The identity provider: behind a name of a group ([`Issuing`]), and as `postern-proxy idp` alone on a machine,
//! in place of tsidp.
//!
//! Alone it takes tsidp's flags and environment, and its directory: the node with its name, the signing key and the
//! clients. Three ways lead in, and each says by itself what may be done on it ([`postern_idp::Arrival`]): the
//! tailnet, Funnel, and a port on loopback.

mod args;
mod declared;
mod directory;
mod issuing;
mod people;
mod requests;
mod serve;
mod visitor;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use postern_idp::{Config, Issuer, Provider};
use postern_node::{
    funnel::FunnelMode,
    node::{self, Node, Status},
};
use postern_proxy_config::funnel::{Funnel, ISSUER_LIMITS};
use tokio::signal::unix::{SignalKind, signal};

pub use args::{Idp, go_flags};
pub use declared::declared;
pub use issuing::{Issuing, look_after};

use self::{people::People, serve::Host, visitor::Visitor};
use crate::{drain::Drain, listen::Limits, metrics::Metrics};

/// Keys that are due are rotated with this delay at most.
const TEND: Duration = Duration::from_secs(3600);
/// What is in flight when the process is told to end.
const DRAIN: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 4096;
const MAX_CONNECTIONS_PER_PEER: usize = 64;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the flags can't be followed, the directory can't be used, control refuses the node, or a port is taken.
pub async fn run(args: Idp) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = directory::State::open(args.check()?)?;
    // The credential is chosen as tsnet does it.
    let mut config = node::Config::from_env().context("the environment")?;
    if let Some(url) = &args.login_server {
        config.control_url.clone_from(url);
    }
    config.force_login |= args.force_login;
    config.hostname.clone_from(&args.hostname);
    config.tags = args.tags();
    config.store = state.node.clone();
    config.acme_directory.clone_from(&args.acme_directory);
    let node = Node::start(config).await.context("start the tailnet node")?;

    let drain = Drain::default();
    let served = tokio::select! {
        biased;
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        served = serve(&args, &state, &node, &drain) => served,
    };
    tracing::info!("Draining");
    drain.finish_within(DRAIN).await;
    node.close().await;
    served
}

/// Until something fails.
async fn serve(args: &Idp, state: &directory::State, node: &Node, drain: &Drain) -> anyhow::Result<()> {
    let name = up(node).await?;
    if !name.starts_with(&format!("{}.", args.hostname.to_ascii_lowercase())) {
        tracing::warn!(
            name,
            wanted = args.hostname,
            "The coordination server has given this machine another name, and the issuer follows it"
        );
    }
    let issuer = Issuer::new(&name, args.port).context("the name of this machine")?;
    let mut config = Config::new(issuer.clone());
    config.token_exchange = args.enable_sts;
    let known = node.clone();
    let people = Arc::new(People::new(move || known.netmap().borrow().clone()));
    let provider = Provider::start(
        config,
        state.store.clone(),
        people,
        state.tsidp()?,
        Timestamp::now(),
    );
    let host = Arc::new(Host {
        provider: provider.await.context("start the identity provider")?,
        name: args.hostname.as_str().into(),
        metrics: Metrics::new(),
        limiter: Arc::default(),
        show_requests: args.debug_all_requests,
    });
    let limits = Limits::new(MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER);

    if args.funnel {
        tracing::warn!(
            "The provider's endpoints for clients are reachable from the whole internet (-funnel)"
        );
        let mut listener = node
            .listen_funnel(args.port, FunnelMode::Both)
            .await
            .context("-funnel")?;
        let funnel = Funnel {
            limits: ISSUER_LIMITS,
            ..Funnel::default()
        };
        let (host, limits, drain) = (host.clone(), limits.clone(), drain.clone());
        accept(&drain.clone(), async move {
            while let Some(stream) = listener.accept().await {
                let connection = stream.get_ref().0;
                let (peer, local) = (connection.peer_addr(), connection.local_addr());
                let visitor = match connection.is_funnel() {
                    true => Visitor::on_funnel(peer, &funnel),
                    false => Some(Visitor::on_tailnet(peer, local)),
                };
                if let Some(visitor) = visitor {
                    host.connection(stream, visitor, &limits, &drain);
                }
            }
        });
    } else {
        let mut listener = node.listen_tls(args.port).context("-port")?;
        let (host, limits, drain) = (host.clone(), limits.clone(), drain.clone());
        accept(&drain.clone(), async move {
            while let Some(stream) = listener.accept().await {
                let connection = stream.get_ref().0;
                let visitor = Visitor::on_tailnet(connection.peer_addr(), connection.local_addr());
                host.connection(stream, visitor, &limits, &drain);
            }
        });
    }
    if let Some(port) = args.local_port() {
        let listener = tokio::net::TcpListener::bind(("localhost", port)).await;
        let listener = listener.with_context(|| format!("-local-port {port}"))?;
        let serving = serve::local(host.clone(), limits, drain.clone(), listener);
        drain.tasks.spawn(serving);
        tracing::info!(
            port,
            "Also on loopback, for what clients ask: nobody is known there"
        );
    }
    tracing::info!(%issuer, "The identity provider is there");
    loop {
        tokio::time::sleep(TEND).await;
        if let Err(error) = host.provider.tend(Timestamp::now()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "The signing keys could not be looked after"
            );
        }
    }
}

/// Accepts until draining starts: the node is closed after that, so its listeners don't end by themselves.
fn accept(drain: &Drain, accepting: impl Future<Output = ()> + Send + 'static) {
    let start = drain.start.clone();
    drain
        .tasks
        .spawn(async move { start.run_until_cancelled(accepting).await });
}

/// The node's full name, once it is on the tailnet. What it waits for meanwhile is in the log.
async fn up(node: &Node) -> anyhow::Result<String> {
    let mut status = node.status();
    loop {
        match &*status.borrow_and_update() {
            Status::Running(identity) => return Ok(identity.name.clone()),
            Status::Refused { reason } => {
                anyhow::bail!("the coordination server refuses this machine: {reason}")
            }
            Status::Closed => anyhow::bail!("the node was closed"),
            Status::NeedsLogin { url } => tracing::warn!(url, "Open this URL to log the machine in"),
            Status::NeedsApproval => {
                tracing::warn!("An administrator of the tailnet has to approve the machine")
            }
            Status::KeyExpired => tracing::warn!("The machine's key has expired"),
            Status::Starting {
                last_error: Some(error),
            } => tracing::warn!(error, "No connection to control yet"),
            Status::Starting { last_error: None } => {}
        }
        status.changed().await.context("the node has ended")?;
    }
}
