//! What a proxy that runs alone offers to programs beside it.

use std::{io, path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::sync::watch;

use super::Parts;
use crate::{
    args::NodeArgs,
    forward_auth::ForwardAuth,
    local::Socket,
    local_api::{LocalApi, Nodes, Password, SOCKET},
    outbound::{self, Outbound},
};

impl Parts {
    /// Starts the LocalAPI, and forward auth where it was asked for.
    pub(super) async fn local_services(
        &self,
        nodes: Arc<Nodes>,
        serve_json: watch::Receiver<Option<String>>,
        node: &NodeArgs,
    ) -> anyhow::Result<()> {
        let api = LocalApi::new(nodes, self.upstreams.forwarded().clone(), serve_json);
        if let Some(socket) = socket(node.socket.as_deref()).await? {
            api.serve(socket, None, &self.feeding, self.end.clone());
        }
        if let (Some(addr), Some(file)) = (node.local_api, &node.local_api_password_file) {
            let socket = Socket::loopback(addr).await.context("--local-api")?;
            let password = Password::write_new(file)
                .with_context(|| format!("--local-api-password-file {}", file.display()))?;
            api.serve(socket, Some(password), &self.feeding, self.end.clone());
        }
        if let Some(text) = &node.forward_auth {
            let socket = Socket::parse(text).await;
            let socket = socket.with_context(|| format!("--forward-auth {text}"))?;
            ForwardAuth::new(api).serve(socket, &self.feeding, self.end.clone());
        }
        Ok(())
    }

    /// Opens the ports by which programs beside us reach the tailnet, where they were asked for.
    pub(super) async fn way_out(&self, nodes: &Arc<Nodes>, node: &NodeArgs) -> anyhow::Result<()> {
        let outbound = Outbound::new(nodes.clone(), self.feeding.clone(), self.end.clone());
        for addr in outbound::addresses(node).map_err(anyhow::Error::msg)? {
            let listener = outbound::listen(addr).await;
            outbound.serve(listener.with_context(|| format!("listen on {addr} for the way out"))?);
        }
        Ok(())
    }
}

/// The socket that was asked for; the usual one only where nothing is in its way.
async fn socket(asked: Option<&Path>) -> anyhow::Result<Option<Socket>> {
    let path = asked.unwrap_or_else(|| Path::new(SOCKET));
    match (Socket::unix(path).await, asked) {
        (Ok(socket), _) => Ok(Some(socket)),
        (Err(error), None) => {
            let why = |error: &io::Error| error.to_string();
            tracing::warn!(
                path = SOCKET,
                error = why(&error),
                "No LocalAPI: TS_SOCKET can name another place"
            );
            Ok(None)
        }
        (Err(error), Some(path)) => Err(error).with_context(|| format!("TS_SOCKET {}", path.display())),
    }
}
