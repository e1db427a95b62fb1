//! Looks up the names of STUN servers for path selection.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::lookup_host, sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;

/// How long one name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Relays move rarely.
const REFRESH: Duration = Duration::from_secs(3600);
/// After a failure.
const RETRY: Duration = Duration::from_secs(30);

/// Looks up `hosts` whenever they change, and now and then. Ends with `cancel` or when the engine does.
pub(super) async fn run(shared: Arc<Shared>, hosts: watch::Receiver<Vec<String>>, cancel: CancellationToken) {
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = resolve(&shared, hosts) => {}
    }
}

async fn resolve(shared: &Shared, mut hosts: watch::Receiver<Vec<String>>) {
    loop {
        let names = hosts.borrow_and_update().clone();
        let mut failed = false;
        for name in names {
            // The port means nothing here: path selection knows the servers' ports.
            match timeout(LOOKUP_TIMEOUT, lookup_host((name.as_str(), 0))).await {
                Ok(Ok(found)) => {
                    let addrs: Vec<_> = found.map(|addr| addr.ip()).collect();
                    shared.paths.lock().set_stun_addrs(Instant::now(), &name, &addrs);
                    shared.wake_engine();
                }
                Ok(Err(error)) => {
                    failed = true;
                    tracing::info!(host = name, %error, "STUN server's name not found");
                }
                Err(_) => {
                    failed = true;
                    tracing::info!(host = name, "STUN server's name not found in time");
                }
            }
        }
        let pause = if failed { RETRY } else { REFRESH };
        if let Ok(Err(_)) = timeout(pause, hosts.changed()).await {
            return; // the engine has ended
        }
    }
}
