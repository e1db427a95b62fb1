//! Without Kubernetes: the configuration is a file, read again when it changes, and state is a directory.

mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use postern_node::control::AuthKey;
use postern_proxy_config::{
    group::{Name, NodeConfig, Owner, SecretRef, Shard, Tailnet},
    parse, serve,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use secrets::Directory;

use crate::{
    args::{Extra, Run},
    report::Reports,
    serve::{Desired, Plan, Spec},
};

/// A file to follow.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Our own: a [`Shard`].
    Own,
    /// A `serve.json` for this one name.
    Serve {
        hostname: String,
        tags: Vec<String>,
        tailnet: Tailnet,
    },
}

/// Why we can't start alone.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// Nothing says what to serve.
    #[error("nothing to serve: give --group (in a cluster), --config FILE, or TS_SERVE_CONFIG; see --help")]
    NoSource,
    /// A `serve.json` doesn't name the machine.
    #[error("TS_HOSTNAME is missing: the name on the tailnet")]
    NoHostname,
    /// Not a DNS label.
    #[error("TS_HOSTNAME: {0:?} is not a DNS label (letters, digits and hyphens, at most 63)")]
    BadHostname(String),
    /// `TS_EXTRA_ARGS`.
    #[error("{0}")]
    Extra(String),
    /// The auth key's file.
    #[error("TS_AUTHKEY: read {path}")]
    AuthKey {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

const TAILSCALE: &str = "https://controlplane.tailscale.com";
/// A changed file is seen after this at the latest. Looking at it costs nothing, and unlike inotify sees
/// through the symbolic links that a mounted ConfigMap swaps.
const LOOK: Duration = Duration::from_millis(500);

impl Source {
    /// From the command line.
    ///
    /// # Errors
    /// Names what is missing.
    pub fn new(args: &Run) -> Result<Self, StandaloneError> {
        let extra = Extra::parse(&args.extra_args).map_err(StandaloneError::Extra)?;
        for word in &extra.ignored {
            tracing::info!(
                argument = word,
                "Ignored: it has no meaning without a network interface"
            );
        }
        if let Some(path) = &args.config {
            return Ok(Self {
                path: path.clone(),
                kind: Kind::Own,
            });
        }
        let path = args.serve_config.clone().ok_or(StandaloneError::NoSource)?;
        let hostname = extra
            .hostname
            .or_else(|| args.hostname.clone())
            .ok_or(StandaloneError::NoHostname)?
            .to_ascii_lowercase();
        if !is_label(&hostname) {
            return Err(StandaloneError::BadHostname(hostname));
        }
        let tailnet = Tailnet {
            control_url: extra
                .login_server
                .or_else(|| args.login_server.clone())
                .unwrap_or_else(|| TAILSCALE.to_owned()),
            // SSL_CERT_FILE is read where TLS is set up.
            ca_bundle: None,
            acme_directory: args.acme_directory.clone(),
            derp_only: false,
        };
        let tags = extra.tags;
        Ok(Self {
            path,
            kind: Kind::Serve {
                hostname,
                tags,
                tailnet,
            },
        })
    }

    /// Reads the file again and again until `end`; what can't be used leaves the last good one in place.
    pub async fn follow(
        self,
        desired: watch::Sender<Option<Arc<Desired>>>,
        reports: Reports,
        end: CancellationToken,
    ) {
        let mut seen = None;
        let mut generation = 0;
        loop {
            let read = tokio::fs::read_to_string(&self.path)
                .await
                .map_err(|e| e.to_string());
            if seen.as_ref() != Some(&read) {
                generation += 1;
                let parsed = read.clone().and_then(|text| self.parse(&text, generation));
                match parsed {
                    Ok(new) => {
                        tracing::info!(file = %self.path.display(), names = new.names.len(), "Configuration read");
                        reports.configuration(Vec::new(), None);
                        desired.send_replace(Some(Arc::new(new)));
                    }
                    Err(reason) => {
                        tracing::error!(
                            file = %self.path.display(),
                            reason,
                            "Configuration refused, the one before goes on"
                        );
                        reports.configuration(Vec::new(), Some(reason));
                    }
                }
                seen = Some(read);
            }
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn parse(&self, text: &str, generation: i64) -> Result<Desired, String> {
        let names: BTreeMap<String, Arc<Spec>> = match &self.kind {
            Kind::Own => {
                let parsed = parse::parse::<Shard>(text).map_err(|e| e.to_string())?;
                if !parsed.unknown.is_empty() {
                    return Err(format!("unknown fields: {}", parsed.unknown.join(", ")));
                }
                let Shard { tailnet, names, .. } = parsed.value;
                names
                    .into_iter()
                    .map(|(key, name)| {
                        (
                            key,
                            Arc::new(Spec {
                                tailnet: tailnet.clone(),
                                name,
                            }),
                        )
                    })
                    .collect()
            }
            Kind::Serve {
                hostname,
                tags,
                tailnet,
            } => {
                let listeners = serve::parse(text).map_err(|e| e.to_string())?;
                let secret = |what: &str| SecretRef {
                    name: format!("{hostname}-{what}"),
                    revision: String::new(),
                };
                let name = Name {
                    owner: Owner {
                        kind: "File".to_owned(),
                        namespace: String::new(),
                        name: self.path.display().to_string(),
                        uid: String::new(),
                    },
                    generation,
                    node: NodeConfig {
                        hostname: hostname.clone(),
                        tags: tags.clone(),
                        state: secret("node"),
                        certificate: Some(secret("tls")),
                    },
                    listeners,
                    funnel: BTreeSet::new(),
                    certificates: Vec::new(),
                };
                let tailnet = tailnet.clone();
                [(hostname.clone(), Arc::new(Spec { tailnet, name }))].into()
            }
        };
        for (key, spec) in &names {
            Plan::new(&spec.name).map_err(|e| format!("names[{key:?}].{e}"))?;
        }
        Ok(Desired { names })
    }
}

/// The auth key of the environment, from tsnet's variables in their order. `file:PATH` is read.
///
/// # Errors
/// When its file can't be read.
pub fn auth_key(variable: impl Fn(&str) -> Option<String>) -> Result<Option<AuthKey>, StandaloneError> {
    let given = ["TS_AUTHKEY", "TS_AUTH_KEY"]
        .into_iter()
        .find_map(|name| variable(name).filter(|v| !v.is_empty()));
    let Some(given) = given else { return Ok(None) };
    let Some(path) = given.strip_prefix("file:") else {
        return Ok(Some(AuthKey::new(given)));
    };
    let text = std::fs::read_to_string(path).map_err(|source| StandaloneError::AuthKey {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(AuthKey::new(text.trim())))
}

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> Run {
        match Cli::parse_from(["postern-proxy", "run"].iter().chain(words)).command {
            Command::Run(run) => *run,
            other => panic!("not a run: {other:?}"),
        }
    }

    #[test]
    fn a_sidecar_needs_a_file_and_a_name() {
        let new = |words: &[&str]| Source::new(&args(words)).map_err(|e| e.to_string());
        assert!(new(&[]).unwrap_err().contains("nothing to serve"));
        assert!(new(&["--serve-config", "x"]).unwrap_err().contains("TS_HOSTNAME"));
        assert!(
            new(&["--serve-config", "x", "--hostname", "a.b"])
                .unwrap_err()
                .contains("a.b")
        );
        let source = new(&[
            "--serve-config",
            "x",
            "--hostname",
            "a",
            "--extra-args",
            "--login-server=http://c:1 --hostname=App --advertise-tags=tag:x",
        ])
        .unwrap();
        let desired = source.parse(r#"{"TCP":{"80":{"HTTP":true}}}"#, 3).unwrap();
        let spec = &desired.names["app"];
        assert_eq!(spec.tailnet.control_url, "http://c:1");
        assert_eq!(spec.name.node.tags, ["tag:x"]);
        assert_eq!(spec.name.generation, 3);
    }

    #[test]
    fn unknown_fields_of_people_are_refused() {
        let source = Source::new(&args(&["--config", "x"])).unwrap();
        let json = r#"{"format":1,"tailnet":{"controlUrl":"http://c","typo":1},"names":{}}"#;
        assert_eq!(
            source.parse(json, 1).unwrap_err(),
            "unknown fields: .tailnet.typo"
        );
    }

    #[tokio::test]
    async fn a_bad_file_leaves_the_last_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.json");
        std::fs::write(&path, r#"{"TCP":{"80":{"HTTP":true}}}"#).unwrap();
        let source = Source::new(&args(&[
            "--serve-config",
            path.to_str().unwrap(),
            "--hostname",
            "a",
        ]))
        .unwrap();
        let (sender, mut desired) = watch::channel(None);
        let reports = Reports::new("r");
        let mut report = reports.subscribe();
        let end = CancellationToken::new();
        let task = tokio::spawn(source.follow(sender, reports, end.clone()));
        let wait = Duration::from_secs(10);
        tokio::time::timeout(wait, desired.wait_for(Option::is_some))
            .await
            .unwrap()
            .unwrap();
        std::fs::write(&path, "{").unwrap();
        tokio::time::timeout(wait, report.wait_for(|r| r.refused.is_some()))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            desired.borrow().as_ref().unwrap().names["a"].name.listeners.len(),
            1
        );
        std::fs::write(&path, "{}").unwrap();
        tokio::time::timeout(wait, report.wait_for(|r| r.refused.is_none()))
            .await
            .unwrap()
            .unwrap();
        assert!(
            desired.borrow().as_ref().unwrap().names["a"]
                .name
                .listeners
                .is_empty()
        );
        end.cancel();
        task.await.unwrap();
    }

    #[test]
    fn the_auth_key_comes_from_the_environment_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "tskey-file\n").unwrap();
        let key = |name: &'static str, value: String| {
            auth_key(move |n| (n == name).then(|| value.clone()))
                .unwrap()
                .map(|k| k.expose().to_owned())
        };
        assert_eq!(key("TS_AUTH_KEY", "tskey-x".into()).as_deref(), Some("tskey-x"));
        assert_eq!(
            key("TS_AUTHKEY", format!("file:{}", path.display())).as_deref(),
            Some("tskey-file")
        );
        assert_eq!(key("OTHER", "x".into()), None);
        assert!(auth_key(|_| Some("file:/nowhere/key".into())).is_err());
    }
}
