//! The process: its parts, its signals, and its end.

mod local_services;
mod log;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use postern_node::credential::Credential;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Admin,
    args::{Foreground, NodeArgs, Process, Run, Targets},
    cluster,
    drain::Drain,
    listen::Limits,
    local_api::Nodes,
    metrics::Metrics,
    report::Reports,
    serve::{Context, Desired, Secrets, Served},
    standalone::{Directory, Environment, Place, Source},
    tailnet::StartNode,
    upstream::Upstreams,
};

/// Serves until SIGTERM or SIGINT, drains, returns. A second signal ends at once.
///
/// # Errors
/// When the configuration of the process itself can't be used, or the admin port can't be had.
pub async fn run(args: Run, start: Arc<dyn StartNode>) -> anyhow::Result<()> {
    let replica = args.pod.clone().unwrap_or_else(|| "standalone".to_owned());
    let parts = Parts::new(&replica, start)?;
    match cluster::Member::from_args(&args) {
        Some(member) => {
            let cluster = cluster::Cluster::connect(member).context("kubernetes")?;
            let (desired, configured) = watch::channel(None);
            cluster.follow(
                desired,
                parts.upstreams.clone(),
                parts.reports.clone(),
                &parts.feeding,
                &parts.end,
            );
            parts.serve(&args.process, cluster.secrets(), configured).await
        }
        None => {
            let source = Source::new(&args)?;
            parts.alone(source, &args.node, &args.process, None).await
        }
    }
}

/// The same for one target that the command line names; its URL is printed when it is served.
///
/// # Errors
/// As [`run`], and when the target can't be used.
pub async fn foreground(args: Foreground, funnel: bool, start: Arc<dyn StartNode>) -> anyhow::Result<()> {
    let (serve, json) = args.targets.to_serve(funnel)?;
    let mut node = args.node;
    if node.state_dir.is_none() {
        node.state_dir = Some(own_state_dir()?);
    }
    let source = Source::here(&node, serve, json)?;
    let parts = Parts::new("foreground", start)?;
    parts
        .alone(source, &node, &args.process, Some(args.targets))
        .await
}

/// `$XDG_STATE_HOME/postern`, as the base directory specification has it.
fn own_state_dir() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty());
    let base = match base {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("neither --state-dir nor HOME is set")?)
            .join(".local/state"),
    };
    Ok(base.join("postern"))
}

/// What every form of the process has.
struct Parts {
    start: Arc<dyn StartNode>,
    metrics: Metrics,
    reports: Reports,
    upstreams: Arc<Upstreams>,
    /// What feeds the serving parts goes on until they have drained.
    feeding: TaskTracker,
    end: CancellationToken,
}

impl Parts {
    fn new(replica: &str, start: Arc<dyn StartNode>) -> anyhow::Result<Self> {
        Ok(Self {
            start,
            metrics: Metrics::new(),
            reports: Reports::new(replica),
            upstreams: Arc::new(Upstreams::new()?),
            feeding: TaskTracker::new(),
            end: CancellationToken::new(),
        })
    }

    async fn alone(
        mut self,
        source: Source,
        node: &NodeArgs,
        process: &Process,
        announce: Option<Targets>,
    ) -> anyhow::Result<()> {
        // The environment is read here, once.
        let variable = |name: &str| std::env::var(name).ok();
        let environment = Environment::read(&|name| match (name, &node.state_dir) {
            ("TS_STATE_DIR", Some(dir)) => Some(dir.display().to_string()),
            _ => variable(name),
        })?;
        for note in &environment.notes {
            tracing::info!("Ignored: {note}");
        }
        let credential = Credential::choose(None, variable)?;
        let place = match (&node.state_dir, source.is_one()) {
            (Some(dir), true) => Place::Of(dir.clone()),
            (Some(dir), false) => Place::Below(dir.clone()),
            (None, _) => {
                tracing::warn!("TS_STATE_DIR is not set: every start is a new machine of the tailnet");
                Place::Nowhere
            }
        };
        if let Some(probes) = environment.probes {
            probes
                .serve(
                    self.reports.subscribe(),
                    self.metrics.clone(),
                    &self.feeding,
                    self.end.clone(),
                )
                .await
                .with_context(|| format!("listen on TS_LOCAL_ADDR_PORT {}", probes.addr))?;
        }
        let nodes = Nodes::new(self.start.clone(), self.feeding.clone(), environment.force_login);
        self.local_services(nodes.clone(), source.serve_json(), node)
            .await?;
        self.way_out(&nodes, node).await?;
        self.start = nodes;
        let (desired, configured) = watch::channel(None);
        self.feeding
            .spawn(source.follow(desired, self.reports.clone(), self.end.clone()));
        self.feeding
            .spawn(log::changes(self.reports.clone(), announce, self.end.clone()));
        let secrets = Arc::new(Directory::new(place, credential));
        self.serve(process, secrets, configured).await
    }

    async fn serve(
        self,
        process: &Process,
        secrets: Arc<dyn Secrets>,
        configured: watch::Receiver<Option<Arc<Desired>>>,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = Drain::default();
        let served = Served::new(
            Arc::new(Context {
                start: self.start,
                secrets,
                upstreams: self.upstreams.clone(),
                metrics: self.metrics.clone(),
                reports: self.reports,
                limits: Limits::new(process.max_connections, process.max_connections_per_peer),
                drain_deadline: process.drain_deadline,
            }),
            drain.clone(),
        );
        let leaving = CancellationToken::new();
        if process.admin_port != 0 {
            let admin = Admin {
                metrics: self.metrics,
                ready: served.ready(),
                draining: leaving.clone(),
            };
            admin
                .serve(process.admin_port, &self.feeding, self.end.clone())
                .await
                .with_context(|| format!("listen on --admin-port {}", process.admin_port))?;
        }
        self.feeding
            .spawn(forget_unused(self.upstreams, self.end.clone()));
        drain.tasks.spawn(served.follow(configured));

        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("Draining");
        leaving.cancel();
        let orderly = async {
            tokio::time::sleep(process.drain_delay).await;
            drain.finish_within(process.drain_deadline).await;
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => tracing::warn!("Second signal, ending at once"),
            _ = interrupt.recv() => tracing::warn!("Second signal, ending at once"),
            () = orderly => tracing::info!("Drained"),
        }
        self.end.cancel();
        self.feeding.close();
        // The last report has a moment to go out.
        let _ = tokio::time::timeout(Duration::from_secs(3), self.feeding.wait()).await;
        Ok(())
    }
}

async fn forget_unused(upstreams: Arc<Upstreams>, end: CancellationToken) {
    const AGE: Duration = Duration::from_secs(600);
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            () = tokio::time::sleep(AGE) => upstreams.forget_unused(AGE),
        }
    }
}
