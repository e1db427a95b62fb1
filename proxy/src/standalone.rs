//! Without Kubernetes: the configuration is a file, read again when it changes, or said on the command line,
//! and state is a directory.

mod environment;
mod forward;
mod probes;
mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use postern_proxy_config::{
    funnel::Funnel,
    group::{Listener, Name, NodeConfig, Owner, Protocol, Route, SecretRef, Shard, Tailnet},
    parse,
    serve::{self, CERT_DOMAIN, Serve, is_label},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use environment::{Environment, Probes};
pub use secrets::{Directory, Place};

use crate::{
    args::{Extra, NodeArgs, Run},
    report::Reports,
    serve::{Desired, Plan, Spec},
};

/// What to serve.
#[derive(Debug)]
pub struct Source {
    kind: Kind,
    /// The serve.json that is in use, with the name's own domain still as its placeholder.
    serve_json: watch::Sender<Option<String>>,
}

#[derive(Debug)]
enum Kind {
    /// Our own file: a [`Shard`].
    Own(PathBuf),
    /// One name.
    Serve(Box<One>),
}

/// The one name of a sidecar.
#[derive(Debug)]
struct One {
    hostname: String,
    tags: Vec<String>,
    tailnet: Tailnet,
    /// Ports that go on to the same ports of this machine where the rest leaves them free.
    forward: BTreeSet<u16>,
    listeners: Said,
}

/// Where a sidecar's listeners are said.
#[derive(Debug)]
enum Said {
    /// In a `serve.json`.
    File(PathBuf),
    /// On the command line, with the text that says the same.
    Here(Serve, String),
    /// Nowhere: ports are forwarded.
    Nowhere,
}

/// Why we can't start alone.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// Nothing says what to serve.
    #[error(
        "nothing to serve: give a TARGET (postern-proxy serve 3000), --config FILE, TS_SERVE_CONFIG or POSTERN_FORWARD_PORTS, or in a cluster --group; see --help"
    )]
    NoSource,
    /// The machine's own name can't be used.
    #[error("TS_HOSTNAME is missing, and the machine's name {0:?} is not a DNS label")]
    NoHostname(String),
    /// Not a DNS label.
    #[error("TS_HOSTNAME: {0:?} is not a DNS label (letters, digits and hyphens, at most 63)")]
    BadHostname(String),
    /// `TS_EXTRA_ARGS`.
    #[error("{0}")]
    Extra(String),
    /// What the command line says.
    #[error("{0}")]
    Refused(String),
    /// `POSTERN_FORWARD_PORTS`.
    #[error("POSTERN_FORWARD_PORTS: {0:?} is neither a port nor `all`")]
    ForwardPorts(String),
    /// Another variable.
    #[error("{name}: {reason}")]
    Environment {
        /// Which.
        name: &'static str,
        /// Why not, and what to do.
        reason: String,
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
        if let Some(path) = &args.config {
            return Ok(Self::of(Kind::Own(path.clone())));
        }
        let forward = forward::ports(&args.forward_ports)?;
        let listeners = match &args.serve_config {
            Some(path) => Said::File(path.clone()),
            None if forward.is_empty() => return Err(StandaloneError::NoSource),
            None => Said::Nowhere,
        };
        let one = One::new(&args.node, forward, listeners)?;
        Ok(Self::of(Kind::Serve(Box::new(one))))
    }

    /// What the command line says in full.
    ///
    /// # Errors
    /// When the node's name can't be used, or what was said can't be served.
    pub fn here(node: &NodeArgs, serve: Serve, json: String) -> Result<Self, StandaloneError> {
        let one = One::new(node, BTreeSet::new(), Said::Here(serve.clone(), json))?;
        // A person waits for it: what can't be served is said at once.
        one.names(serve, 1).map_err(StandaloneError::Refused)?;
        Ok(Self::of(Kind::Serve(Box::new(one))))
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            serve_json: watch::Sender::new(None),
        }
    }

    /// The `serve.json` in use.
    pub fn serve_json(&self) -> watch::Receiver<Option<String>> {
        self.serve_json.subscribe()
    }

    /// Whether there is one name, whose state is the directory itself.
    pub fn is_one(&self) -> bool {
        matches!(self.kind, Kind::Serve(_))
    }

    fn file(&self) -> Option<&PathBuf> {
        match &self.kind {
            Kind::Own(path) => Some(path),
            Kind::Serve(one) => match &one.listeners {
                Said::File(path) => Some(path),
                Said::Here(..) | Said::Nowhere => None,
            },
        }
    }

    /// Reads the file again and again until `end`; what can't be used leaves the last good one in place.
    pub async fn follow(
        self,
        desired: watch::Sender<Option<Arc<Desired>>>,
        reports: Reports,
        end: CancellationToken,
    ) {
        let Some(path) = self.file().cloned() else {
            self.take("", 1, "the command line", &desired, &reports);
            end.cancelled().await;
            return;
        };
        let name = path.display().to_string();
        let mut seen = None;
        let mut generation = 0;
        loop {
            let read = tokio::fs::read_to_string(&path).await.map_err(|e| e.to_string());
            if seen.as_ref() != Some(&read) {
                generation += 1;
                match &read {
                    Ok(text) => self.take(text, generation, &name, &desired, &reports),
                    Err(reason) => refuse(&name, reason.clone(), &reports),
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

    fn take(
        &self,
        text: &str,
        generation: i64,
        file: &str,
        desired: &watch::Sender<Option<Arc<Desired>>>,
        reports: &Reports,
    ) {
        match self.parse(text, generation) {
            Ok(Parsed { new, warnings, json }) => {
                for warning in warnings {
                    tracing::warn!(file, warning, "Configuration");
                }
                tracing::info!(file, names = new.names.len(), "Configuration read");
                reports.configuration(Vec::new(), None);
                self.serve_json.send_replace(json);
                desired.send_replace(Some(Arc::new(new)));
            }
            Err(reason) => refuse(file, reason, reports),
        }
    }

    fn parse(&self, text: &str, generation: i64) -> Result<Parsed, String> {
        let (names, warnings, json) = match &self.kind {
            Kind::Own(_) => (own(text)?, Vec::new(), None),
            Kind::Serve(one) => {
                let (serve, json) = match &one.listeners {
                    Said::File(_) => {
                        let serve = serve::parse(text).map_err(|e| e.to_string())?;
                        (serve, Some(text.to_owned()))
                    }
                    Said::Here(serve, json) => (serve.clone(), Some(json.clone())),
                    Said::Nowhere => (Serve::default(), None),
                };
                let warnings = serve.warnings.clone();
                (one.names(serve, generation)?, warnings, json)
            }
        };
        for (key, spec) in &names {
            Plan::new(&spec.name).map_err(|e| format!("names[{key:?}].{e}"))?;
        }
        Ok(Parsed {
            new: Desired {
                names,
                ..Desired::default()
            },
            warnings,
            json,
        })
    }
}

/// A configuration that can be used.
#[derive(Debug)]
struct Parsed {
    new: Desired,
    warnings: Vec<String>,
    json: Option<String>,
}

fn refuse(file: &str, reason: String, reports: &Reports) {
    tracing::error!(file, reason, "Configuration refused, the one before goes on");
    reports.configuration(Vec::new(), Some(reason));
}

/// What our own configuration says; `check` and the process read it alike.
///
/// # Errors
/// Names what can't be used.
pub fn own(text: &str) -> Result<BTreeMap<String, Arc<Spec>>, String> {
    let parsed = parse::parse::<Shard>(text).map_err(|e| e.to_string())?;
    if !parsed.unknown.is_empty() {
        return Err(format!("unknown fields: {}", parsed.unknown.join(", ")));
    }
    let Shard { tailnet, names, .. } = parsed.value;
    let spec = |name| {
        Arc::new(Spec {
            tailnet: tailnet.clone(),
            name,
        })
    };
    Ok(names.into_iter().map(|(key, name)| (key, spec(name))).collect())
}

impl One {
    fn new(node: &NodeArgs, forward: BTreeSet<u16>, listeners: Said) -> Result<Self, StandaloneError> {
        let extra = Extra::parse(&node.extra_args).map_err(StandaloneError::Extra)?;
        for word in &extra.ignored {
            tracing::info!(
                argument = word,
                "Ignored: it has no meaning without a network interface"
            );
        }
        let tailnet = Tailnet {
            control_url: extra
                .login_server
                .or_else(|| node.login_server.clone())
                .unwrap_or_else(|| TAILSCALE.to_owned()),
            // SSL_CERT_FILE is read where TLS is set up.
            ca_bundle: None,
            acme_directory: node.acme_directory.clone(),
            derp_only: false,
        };
        Ok(Self {
            hostname: hostname(extra.hostname.or_else(|| node.hostname.clone()))?,
            tags: extra.tags,
            tailnet,
            forward,
            listeners,
        })
    }

    fn names(&self, serve: Serve, generation: i64) -> Result<BTreeMap<String, Arc<Spec>>, String> {
        if let Some(name) = serve.services.keys().next() {
            return Err(format!(
                "Services[{name:?}]: Services are not served from a file yet"
            ));
        }
        // Funnel's edge asks for the node's own name.
        let is_own = |host: &String| host == CERT_DOMAIN || host.split('.').next() == Some(&self.hostname);
        let ports = serve.funnel.iter().filter(|(_, hosts)| hosts.iter().any(is_own));
        let ports: BTreeSet<u16> = ports.map(|(port, _)| *port).collect();
        let mut listeners: Vec<Listener> = serve.listeners;
        for listener in listeners
            .iter_mut()
            .filter(|listener| ports.contains(&listener.port))
        {
            if let Protocol::Https(http) = &mut listener.protocol {
                let own = |route: &&mut Route| route.host.as_ref().is_none_or(is_own);
                http.routes
                    .iter_mut()
                    .filter(own)
                    .for_each(|route| route.funnel = true);
            }
        }
        // The file says that it is public; it has no word for a lock.
        let funnel = (!ports.is_empty()).then(|| Funnel {
            ports,
            unauthenticated: true,
            ..Funnel::default()
        });
        forward::add(&mut listeners, &self.forward);
        let hostname = &self.hostname;
        let secret = |what: &str| SecretRef {
            name: format!("{hostname}-{what}"),
            revision: String::new(),
        };
        let name = Name {
            owner: Owner {
                kind: "File".to_owned(),
                namespace: String::new(),
                name: hostname.clone(),
                uid: String::new(),
            },
            generation,
            node: NodeConfig {
                hostname: hostname.clone(),
                tags: self.tags.clone(),
                state: secret("node"),
                certificate: Some(secret("tls")),
            },
            listeners,
            funnel,
            certificates: Vec::new(),
        };
        let tailnet = self.tailnet.clone();
        Ok([(hostname.clone(), Arc::new(Spec { tailnet, name }))].into())
    }
}

/// The name that was asked for, else the machine's.
fn hostname(given: Option<String>) -> Result<String, StandaloneError> {
    if let Some(given) = given.filter(|name| !name.is_empty()) {
        let name = given.to_ascii_lowercase();
        return is_label(&name)
            .then_some(name)
            .ok_or(StandaloneError::BadHostname(given));
    }
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = machine
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    is_label(&label)
        .then_some(label)
        .ok_or_else(|| StandaloneError::NoHostname(machine.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> Run {
        match Cli::parse_from(["postern-proxy", "run"].iter().chain(words)).command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sidecar_needs_a_file_and_a_name() {
        let new = |words: &[&str]| Source::new(&args(words)).map_err(|e| e.to_string());
        assert!(new(&[]).unwrap_err().contains("nothing to serve"));
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
        let parsed = source.parse(r#"{"TCP":{"80":{"HTTP":true}}}"#, 3).unwrap();
        assert!(parsed.warnings[0].contains("404") && parsed.json.is_some());
        let spec = &parsed.new.names["app"];
        assert_eq!(spec.tailnet.control_url, "http://c:1");
        assert_eq!(spec.name.node.tags, ["tag:x"]);
        assert_eq!(spec.name.funnel, None);
        let public = r#"{"TCP":{"443":{"HTTPS":true},"8443":{"HTTPS":true}},
            "AllowFunnel":{"${TS_CERT_DOMAIN}:443":true,"other.example:8443":true}}"#;
        let parsed = source.parse(public, 4).unwrap();
        let funnel = parsed.new.names["app"].name.funnel.clone().unwrap();
        assert_eq!(funnel.ports, [443].into());
        assert!(funnel.unauthenticated && !funnel.only);
        let services = source.parse(r#"{"Services":{"svc:x":{}}}"#, 5).unwrap_err();
        assert!(services.contains("svc:x"), "{services}");
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
}
