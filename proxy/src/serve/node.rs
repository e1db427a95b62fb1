//! The node of a name or of a host: how it is started, and when it has to be another one.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use postern_node::{
    node::{Config, LETS_ENCRYPT, Status},
    state::{StateError, StateStore},
};
use postern_proxy_config::group::{NodeConfig, Tailnet};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;

use super::Context;
use crate::{drain::Drain, tailnet::Node};

/// A node that couldn't be started is tried again after this, or when its configuration changes.
const START_RETRY: Duration = Duration::from_secs(10);
/// What took a node away should not be asked for another in a tight loop.
pub(super) const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Starts a node. The error says what is wrong with its configuration or its Secrets.
pub(super) async fn start(
    context: &Context,
    tailnet: &Tailnet,
    node: &NodeConfig,
    store: Result<Arc<dyn StateStore>, StateError>,
) -> Result<Arc<dyn Node>, String> {
    let extra_roots = match &tailnet.ca_bundle {
        None => Vec::new(),
        Some(pem) => CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| format!("tailnet.caBundle: {e}"))?,
    };
    let credential = context.secrets.credential(node).await;
    let config = Config {
        control_url: tailnet.control_url.clone(),
        hostname: node.hostname.clone(),
        credential: credential.map_err(|e| e.to_string())?,
        tags: node.tags.clone(),
        store: store.map_err(|e| e.to_string())?,
        extra_roots,
        acme_directory: tailnet
            .acme_directory
            .clone()
            .unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
        derp_only: tailnet.derp_only,
        ..Config::default()
    };
    context.start.start(config).await.map_err(|e| e.to_string())
}

/// Waits until a start is worth another try; a break is the end of serving.
pub(super) async fn retry<S>(drain: &Drain, spec: &mut watch::Receiver<S>) -> ControlFlow<()> {
    tokio::select! {
        biased;
        () = drain.start.cancelled() => return ControlFlow::Break(()),
        _ = spec.changed() => {}
        () = tokio::time::sleep(START_RETRY) => {}
    }
    ControlFlow::Continue(())
}

/// Whether the node itself is another one; a changed Secret matters only to one that can't log in.
pub(super) fn is_another(
    (tailnet, old): (&Tailnet, &NodeConfig),
    (new_tailnet, new): (&Tailnet, &NodeConfig),
    status: &Status,
) -> bool {
    let stuck = matches!(
        status,
        Status::NeedsLogin { .. } | Status::Refused { .. } | Status::KeyExpired | Status::Closed
    );
    tailnet != new_tailnet
        || old.hostname != new.hostname
        || old.tags != new.tags
        || old.state.name != new.state.name
        || old.certificate.as_ref().map(|c| &c.name) != new.certificate.as_ref().map(|c| &c.name)
        || (stuck && old.state.revision != new.state.revision)
}
