//! The command line and what the environment says instead.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use postern_proxy_config::names::ADMIN_PORT;

use crate::trust::Trust;

/// Serves applications on a tailnet, telling them who is asking.
#[derive(Debug, Parser)]
#[command(
    name = "postern-proxy",
    version,
    after_help = "\
Examples:
  In a cluster (the operator writes this into the pod):
    postern-proxy run --group default --namespace postern --pod default-0

  Beside an application, with the serve.json of Tailscale's container:
    TS_AUTHKEY=tskey-… TS_STATE_DIR=/var/lib/postern TS_HOSTNAME=ollama \\
    TS_SERVE_CONFIG=/etc/serve.json postern-proxy run

  With our own configuration:
    postern-proxy run --config names.json --state-dir /var/lib/postern"
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
    /// Say whether a server's certificate would be believed here.
    Trust(Trust),
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
    /// Alone: where identity and certificates are kept over restarts.
    #[arg(long, value_name = "DIR", env = "TS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// With a serve.json: the name on the tailnet.
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
    #[arg(long, default_value = "info", env = "RUST_LOG")]
    pub log: String,
}

/// See [`Run::log_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One object a line.
    Json,
    /// For people.
    Text,
}

/// What `TS_EXTRA_ARGS` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// `--login-server`.
    pub login_server: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--advertise-tags`.
    pub tags: Vec<String>,
    /// Understood to be of no meaning here.
    pub ignored: Vec<String>,
}

impl Extra {
    /// Reads arguments as Tailscale's container splits them: at white space.
    ///
    /// # Errors
    /// Names the first argument that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut extra = Self::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word, None),
            };
            let name = flag.trim_start_matches('-');
            let mut value = || {
                inline
                    .or_else(|| words.next())
                    .map(str::to_owned)
                    .ok_or_else(|| format!("TS_EXTRA_ARGS: {flag} needs a value"))
            };
            match name {
                "login-server" => extra.login_server = Some(value()?),
                "hostname" => extra.hostname = Some(value()?),
                "advertise-tags" => extra.tags = value()?.split(',').map(str::to_owned).collect(),
                _ if flag.starts_with('-') && name.starts_with("accept-") => {
                    extra.ignored.push(word.to_owned());
                }
                _ => {
                    return Err(format!(
                        "TS_EXTRA_ARGS: {flag} is not understood: --login-server, --hostname, --advertise-tags are"
                    ));
                }
            }
        }
        Ok(extra)
    }
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

    #[test]
    fn extra_arguments_are_understood_or_refused_by_name() {
        let extra = Extra::parse("--login-server=http://x:1 --hostname app --advertise-tags=tag:a,tag:b --accept-dns=false --accept-routes")
            .unwrap();
        assert_eq!(extra.login_server.as_deref(), Some("http://x:1"));
        assert_eq!(extra.hostname.as_deref(), Some("app"));
        assert_eq!(extra.tags, ["tag:a", "tag:b"]);
        assert_eq!(extra.ignored, ["--accept-dns=false", "--accept-routes"]);
        assert!(
            Extra::parse("--ssh")
                .unwrap_err()
                .contains("--ssh is not understood")
        );
        assert!(Extra::parse("--hostname").unwrap_err().contains("needs a value"));
    }
}
