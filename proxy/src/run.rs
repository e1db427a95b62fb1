//! The process: its parts, its signals, and its end.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Admin,
    args::Run,
    cluster,
    drain::Drain,
    listen::Limits,
    metrics::Metrics,
    report::Reports,
    serve::{Context, Secrets, Served},
    standalone::{self, Directory, Source},
    tailnet::StartNode,
    upstream::Upstreams,
};

/// Serves until SIGTERM or SIGINT, drains, returns. A second signal ends at once.
///
/// # Errors
/// When the configuration of the process itself can't be used, or the admin port can't be had.
pub async fn run(args: Run, start: Arc<dyn StartNode>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let metrics = Metrics::new();
    let reports = Reports::new(args.pod.clone().unwrap_or_else(|| "standalone".to_owned()));
    let upstreams = Arc::new(Upstreams::new()?);
    let drain = Drain::default();
    // What feeds the serving parts goes on until they have drained.
    let (feeding, end) = (TaskTracker::new(), CancellationToken::new());
    let (desired, configured) = watch::channel(None);

    let secrets: Arc<dyn Secrets> = if let Some(member) = cluster::Member::from_args(&args) {
        let cluster = cluster::Cluster::connect(member).await.context("kubernetes")?;
        cluster.follow(desired, upstreams.clone(), reports.clone(), &feeding, &end);
        cluster.secrets()
    } else {
        let source = Source::new(&args)?;
        // The environment is read here, once.
        let key = standalone::auth_key(|name| std::env::var(name).ok())?;
        let dir = args
            .state_dir
            .clone()
            .context("TS_STATE_DIR is missing: where identity and certificates are kept over restarts")?;
        feeding.spawn(source.follow(desired, reports.clone(), end.clone()));
        feeding.spawn(log_changes(reports.clone(), end.clone()));
        Arc::new(Directory::new(dir, key))
    };

    let served = Served::new(
        Arc::new(Context {
            start,
            secrets,
            upstreams: upstreams.clone(),
            metrics: metrics.clone(),
            reports: reports.clone(),
            limits: Limits::new(args.max_connections, args.max_connections_per_peer),
            drain_deadline: args.drain_deadline,
        }),
        drain.clone(),
    );
    let leaving = CancellationToken::new();
    if args.admin_port != 0 {
        let admin = Admin {
            metrics,
            applied: served.applied(),
            draining: leaving.clone(),
        };
        admin
            .serve(args.admin_port, &feeding, end.clone())
            .await
            .with_context(|| format!("listen on --admin-port {}", args.admin_port))?;
    }
    feeding.spawn(forget_unused(upstreams, end.clone()));
    drain.tasks.spawn(served.follow(configured));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("Draining");
    leaving.cancel();
    let orderly = async {
        tokio::time::sleep(args.drain_delay).await;
        drain.finish_within(args.drain_deadline).await;
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::warn!("Second signal, ending at once"),
        _ = interrupt.recv() => tracing::warn!("Second signal, ending at once"),
        () = orderly => tracing::info!("Drained"),
    }
    end.cancel();
    feeding.close();
    // The last report has a moment to go out.
    let _ = tokio::time::timeout(Duration::from_secs(3), feeding.wait()).await;
    Ok(())
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

/// Alone, the log is the place where one learns how the names are.
async fn log_changes(reports: Reports, end: CancellationToken) {
    let mut report = reports.subscribe();
    let mut seen = std::collections::BTreeMap::new();
    loop {
        let names = report.borrow_and_update().names.clone();
        for (key, name) in &names {
            let line = (name.phase, name.reason.clone());
            if seen.get(key) != Some(&line) {
                tracing::info!(
                    name = key,
                    phase = ?name.phase,
                    reason = name.reason,
                    assigned = name.assigned_name.as_deref().unwrap_or_default(),
                    addresses = ?name.addresses,
                    "Name"
                );
                seen.insert(key.clone(), line);
            }
        }
        tokio::select! {
            biased;
            () = end.cancelled() => return,
            changed = report.changed() => if changed.is_err() { return },
        }
    }
}
