//! The command line and what the environment says instead.

mod bounds;
mod extra;
mod target;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use postern_proxy_config::names::ADMIN_PORT;

pub use self::{
    bounds::Bounds,
    extra::Extra,
    target::{Foreground, Targets},
};
use crate::trust::Trust;

/// Serves applications on a tailnet, telling them who is asking.
#[derive(Debug, Parser)]
#[command(
    name = "postern-proxy",
    version,
    after_help = "\
Examples:
  What listens on port 3000 here, for the tailnet, until Ctrl-C:
    postern-proxy serve 3000

  Beside an application, with the environment of Tailscale's container:
    TS_AUTHKEY=tskey-… TS_STATE_DIR=/var/lib/postern TS_HOSTNAME=ollama \\
    TS_SERVE_CONFIG=/etc/serve.json postern-proxy run

  Who is it?
    postern-proxy whois 100.101.102.103

  In a cluster (the operator writes this into the pod):
    postern-proxy run --group default --namespace postern --pod default-0"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM, then drain.
    Run(Box<Run>),
    /// Be an identity provider on the tailnet, with tsidp's flags and directory.
    Idp(Box<crate::idp::Idp>),
    /// Say whether a server's certificate would be believed here.
    Trust(Trust),
    /// Serve one target to the tailnet until Ctrl-C, and print its URL.
    #[command(after_help = target::SERVE_HELP)]
    Serve(Box<Foreground>),
    /// Serve one target to the whole internet by Funnel until Ctrl-C, and print its URL.
    #[command(after_help = target::FUNNEL_HELP)]
    Funnel(Box<Foreground>),
    /// Show the tailnet as a running proxy beside us sees it.
    Status(Ask),
    /// Print the tailnet addresses of this node, or of a peer.
    Ip(Ip),
    /// Tell who is behind a tailnet address, or behind a connection that was forwarded to this machine.
    Whois(Whois),
    /// Read a serve.json or our own configuration and say what it would do; nothing is started.
    Check(Check),
}

/// Where the configuration is and how to serve it.
#[derive(Debug, Args)]
pub struct Run {
    /// In a cluster: the ProxyGroup whose ConfigMaps are watched.
    #[arg(long, env = "POSTERN_GROUP", requires_all = ["namespace", "pod"], conflicts_with_all = ["config", "serve_config"])]
    pub group: Option<String>,
    /// In a cluster: the namespace of the group's objects.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// In a cluster: this replica.
    #[arg(long, env = "POD_NAME")]
    pub pod: Option<String>,

    /// Alone: a file with our own configuration (JSON), read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "serve_config")]
    pub config: Option<PathBuf>,
    /// Alone: a serve.json, read again when it changes; `${TS_CERT_DOMAIN}` is the name's own domain.
    #[arg(long, value_name = "FILE", env = "TS_SERVE_CONFIG")]
    pub serve_config: Option<PathBuf>,
    /// Alone: ports that go on to the same ports of 127.0.0.1 where nothing else serves them, e.g. `11434,8080`, or `all`.
    #[arg(
        long,
        value_name = "PORTS",
        env = "POSTERN_FORWARD_PORTS",
        value_delimiter = ','
    )]
    pub forward_ports: Vec<String>,

    /// The node, where we run alone.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The process.
    #[command(flatten)]
    pub process: Process,
}

/// The node of a proxy that runs alone.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Alone: where identity and certificates are kept over restarts.
    #[arg(long, value_name = "DIR", env = "TS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// With a serve.json: the name on the tailnet; the machine's host name where none is given.
    #[arg(long, env = "TS_HOSTNAME")]
    pub hostname: Option<String>,
    /// Alone: the coordination server.
    #[arg(long, value_name = "URL", env = "TS_CONTROL_URL")]
    pub login_server: Option<String>,
    /// As for Tailscale's container: --login-server, --hostname and --advertise-tags are understood.
    #[arg(long, env = "TS_EXTRA_ARGS", default_value = "", allow_hyphen_values = true)]
    pub extra_args: String,
    /// Alone: another ACME directory than Let's Encrypt's.
    #[arg(long, value_name = "URL", env = "TS_DEBUG_ACME_DIRECTORY_URL")]
    pub acme_directory: Option<String>,
    /// Alone: the LocalAPI's unix socket, for programs that ask `tailscaled.sock`; at /tmp/tailscaled.sock if free.
    #[arg(long, value_name = "PATH", env = "TS_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Alone: the LocalAPI on a loopback port too, e.g. 127.0.0.1:41112, with a password.
    #[arg(
        long,
        value_name = "ADDR",
        env = "POSTERN_LOCAL_API",
        requires = "local_api_password_file"
    )]
    pub local_api: Option<SocketAddr>,
    /// Where that password is written, for our own user to read.
    #[arg(long, value_name = "FILE", env = "POSTERN_LOCAL_API_PASSWORD_FILE")]
    pub local_api_password_file: Option<PathBuf>,
    /// Alone: a SOCKS5 server by which programs beside us reach the tailnet, e.g. localhost:1055.
    #[arg(long, value_name = "ADDR", env = "TS_SOCKS5_SERVER", default_value = "")]
    pub socks5_server: String,
    /// Alone: the same as an HTTP proxy; the address may be that of the SOCKS5 server.
    #[arg(
        long,
        value_name = "ADDR",
        env = "TS_OUTBOUND_HTTP_PROXY_LISTEN",
        default_value = ""
    )]
    pub outbound_http_proxy_listen: String,
    /// Alone: forward auth for nginx, Traefik and Envoy, on `unix:PATH` or a loopback address.
    #[arg(long, value_name = "SOCKET", env = "POSTERN_FORWARD_AUTH")]
    pub forward_auth: Option<String>,
    /// Who gets in, and how often.
    #[command(flatten)]
    pub bounds: Bounds,
}

impl NodeArgs {
    /// Whether programs beside us are to reach the tailnet by us.
    pub fn has_way_out(&self) -> bool {
        !(self.socks5_server.is_empty() && self.outbound_http_proxy_listen.is_empty())
    }
}

/// How the process behaves.
#[derive(Debug, Clone, Args)]
pub struct Process {
    /// Port of /healthz, /readyz and /metrics; 0: none.
    #[arg(long, default_value_t = ADMIN_PORT, env = "POSTERN_ADMIN_PORT")]
    pub admin_port: u16,
    /// How long requests in flight may take after SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value = "25", value_parser = seconds)]
    pub drain_deadline: Duration,
    /// How long to go on accepting after SIGTERM, while others learn that we leave.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub drain_delay: Duration,
    /// Connections in all.
    #[arg(long, default_value_t = 20_000)]
    pub max_connections: usize,
    /// Connections from one peer.
    #[arg(long, default_value_t = 256)]
    pub max_connections_per_peer: usize,
    /// How log lines look; the access log is always JSON.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// What is logged, e.g. `info,postern_node=debug`; `access=off` turns the access log off.
    #[arg(long, default_value = LOG, env = "RUST_LOG")]
    pub log: String,
}

impl Process {
    /// At a terminal what was not asked for is left out: no admin port, and warnings alone in the log.
    pub fn in_foreground(self) -> Self {
        let admin_port = if self.admin_port == ADMIN_PORT {
            0
        } else {
            self.admin_port
        };
        let log = if self.log == LOG {
            "warn,access=off".to_owned()
        } else {
            self.log
        };
        Self {
            admin_port,
            log_format: LogFormat::Text,
            log,
            ..self
        }
    }
}

/// What is logged if nobody says otherwise.
const LOG: &str = "info";

/// See [`Process::log_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Ask {
    /// The LocalAPI's unix socket: ours, or that of a `tailscaled`.
    #[arg(long, value_name = "PATH", env = "TS_SOCKET", default_value = crate::local_api::SOCKET)]
    pub socket: PathBuf,
    /// Print what is answered, as it is.
    #[arg(long)]
    pub json: bool,
}

/// `ip`.
#[derive(Debug, Args)]
pub struct Ip {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: Ask,
    /// Only the IPv4 address.
    #[arg(short = '4', conflicts_with = "v6")]
    pub v4: bool,
    /// Only the IPv6 address.
    #[arg(short = '6')]
    pub v6: bool,
    /// A peer's name or address, instead of this node.
    pub peer: Option<String>,
}

/// `whois`.
#[derive(Debug, Args)]
pub struct Whois {
    /// Whom to ask.
    #[command(flatten)]
    pub ask: Ask,
    /// An address, with a port where it is a forwarded connection's: `100.64.0.1`, `127.0.0.1:40123`.
    pub addr: String,
}

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// A serve.json, or our own configuration (it has a `format`).
    pub file: PathBuf,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok())
        .ok_or_else(|| "expected a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
