//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use postern_crds::TailnetSpec;

/// Turns Ingresses and TailnetIngresses into names on a tailnet.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// What to do; `run` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Shared by all commands.
    #[command(flatten)]
    pub common: Common,
}

/// What to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Runs the controllers.
    Run,
    /// Removes every device and finalizer, so that nothing hangs when the operator is gone. Objects stay.
    Uninstall,
}

/// Shared by all commands.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Image of postern-proxy.
    #[arg(
        long,
        global = true,
        env = "POSTERN_PROXY_IMAGE",
        default_value = "postern-proxy:dev"
    )]
    pub image: String,
    /// How nodes get the image.
    #[arg(
        long,
        global = true,
        env = "POSTERN_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    pub pull_policy: String,
    /// Log filter of the proxies.
    #[arg(long, global = true, env = "POSTERN_PROXY_LOG", default_value = "info")]
    pub proxy_log: String,
    /// The operator's own namespace, where everything that it makes is.
    #[arg(long, global = true, env = "POSTERN_NAMESPACE", default_value = "postern")]
    pub namespace: String,
    /// The cluster's identity; the UID of the namespace kube-system when absent.
    #[arg(long, global = true, env = "POSTERN_CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// Spec of a Tailnet `default` to make, as JSON: Helm can't install an object together with its definition.
    #[arg(long, global = true, env = "POSTERN_DEFAULT_TAILNET", value_parser = tailnet_spec)]
    pub default_tailnet: Option<TailnetSpec>,
    /// This process's name among the operator's replicas.
    #[arg(long, global = true, env = "POD_NAME", default_value = "postern-operator")]
    pub instance: String,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(
        long,
        global = true,
        env = "POSTERN_ADMIN_ADDRESS",
        default_value = "[::]:9401"
    )]
    pub admin_address: SocketAddr,
    /// Log filter.
    #[arg(long, global = true, env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// Log lines as JSON.
    #[arg(long, global = true, env = "POSTERN_LOG_JSON")]
    pub log_json: bool,
}

fn tailnet_spec(json: &str) -> Result<TailnetSpec, serde_json::Error> {
    serde_json::from_str(json)
}
