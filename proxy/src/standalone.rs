//! Without Kubernetes: the configuration is a file, read again when it changes, or said on the command line,
//! and state is a directory.

mod environment;
mod forward;
mod probes;
mod secrets;
mod sidecar;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use postern_proxy_config::{
    group::Shard,
    parse,
    serve::{self, Serve},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use environment::{Environment, Probes};
pub use secrets::{Directory, Place};

use self::sidecar::{Said, Sidecar};

use crate::{
    args::{NodeArgs, Run},
    report::Reports,
    serve::{Desired, Plan, Services, Spec},
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
    Serve(Box<Sidecar>),
}

/// Why we can't start alone.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// Nothing says what to serve.
    #[error(
        "nothing to serve: give a TARGET (postern-proxy serve 3000), --config FILE, TS_SERVE_CONFIG, POSTERN_FORWARD_PORTS or TS_SOCKS5_SERVER, or in a cluster --group; see --help"
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
            None if forward.is_empty() && !args.node.has_way_out() => return Err(StandaloneError::NoSource),
            None => Said::Nowhere,
        };
        let sidecar = Sidecar::new(&args.node, forward, listeners)?;
        Ok(Self::of(Kind::Serve(Box::new(sidecar))))
    }

    /// What the command line says in full.
    ///
    /// # Errors
    /// When the node's name can't be used, or what was said can't be served.
    pub fn here(node: &NodeArgs, serve: Serve, json: String) -> Result<Self, StandaloneError> {
        let sidecar = Sidecar::new(node, BTreeSet::new(), Said::Here(serve, json))?;
        let source = Self::of(Kind::Serve(Box::new(sidecar)));
        // A person waits for it: what can't be served is said at once.
        source
            .parse(&Read::default(), 1)
            .map_err(StandaloneError::Refused)?;
        Ok(source)
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
            Kind::Serve(sidecar) => match &sidecar.listeners {
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
        let file = self.file();
        let name = file.map_or_else(
            || "the command line".to_owned(),
            |file| file.display().to_string(),
        );
        let mut seen = None;
        let mut generation = 0;
        loop {
            let read = self.read().await;
            if seen.as_ref() != Some(&read) {
                generation += 1;
                match self.parse(&read, generation) {
                    Ok(parsed) => self.take(parsed, &name, &desired, &reports),
                    Err(reason) => refuse(&name, reason, &reports),
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

    async fn read(&self) -> Read {
        let text = match self.file() {
            Some(file) => tokio::fs::read_to_string(file).await.map_err(|e| e.to_string()),
            None => Ok(String::new()),
        };
        let keys = match &self.kind {
            Kind::Serve(sidecar) => sidecar.keys_revision().await,
            Kind::Own(_) => String::new(),
        };
        Read { text, keys }
    }

    fn take(
        &self,
        parsed: Parsed,
        file: &str,
        desired: &watch::Sender<Option<Arc<Desired>>>,
        reports: &Reports,
    ) {
        let Parsed { new, warnings, json } = parsed;
        for warning in warnings {
            tracing::warn!(file, warning, "Configuration");
        }
        tracing::info!(file, names = new.names.len(), "Configuration read");
        reports.configuration(Vec::new(), None);
        self.serve_json.send_replace(json);
        desired.send_replace(Some(Arc::new(new)));
    }

    fn parse(&self, Read { text, keys }: &Read, generation: i64) -> Result<Parsed, String> {
        let text = text.as_ref().map_err(Clone::clone)?;
        let (names, warnings, json) = match &self.kind {
            Kind::Own(_) => (own(text)?, Vec::new(), None),
            Kind::Serve(sidecar) => {
                let (serve, json) = match &sidecar.listeners {
                    Said::File(_) => {
                        let serve = serve::parse(text).map_err(|e| e.to_string())?;
                        (serve, Some(text.clone()))
                    }
                    Said::Here(serve, json) => (serve.clone(), Some(json.clone())),
                    Said::Nowhere => (Serve::default(), None),
                };
                let warnings = serve.warnings.clone();
                (sidecar.names(serve, keys, generation), warnings, json)
            }
        };
        for (key, spec) in &names {
            Plan::new(&spec.name).map_err(|e| format!("names[{key:?}].{e}"))?;
            for (name, service) in &spec.services {
                Plan::within_tailnet(&service.listeners).map_err(|e| format!("Services[{name:?}].{e}"))?;
            }
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

/// What there is to be read.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    text: Result<String, String>,
    /// Another one when there are other keys.
    keys: String,
}

impl Default for Read {
    fn default() -> Self {
        Self {
            text: Ok(String::new()),
            keys: String::new(),
        }
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
    let Shard {
        format: _,
        tailnet,
        names,
        services,
        hosts,
    } = parsed.value;
    if !services.is_empty() || !hosts.is_empty() {
        return Err("services, hosts: they are for the replicas of a cluster; alone, Services of a serve.json are hosted".to_owned());
    }
    let spec = |name| {
        Arc::new(Spec {
            tailnet: tailnet.clone(),
            name,
            services: Services::new(),
        })
    };
    Ok(names.into_iter().map(|(key, name)| (key, spec(name))).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use postern_proxy_config::group::Protocol;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(words: &[&str]) -> Run {
        match Cli::parse_from(["postern-proxy", "run"].iter().chain(words)).command {
            Command::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    fn parse(source: &Source, text: &str, generation: i64) -> Result<Parsed, String> {
        let read = Read {
            text: Ok(text.to_owned()),
            keys: "r1".to_owned(),
        };
        source.parse(&read, generation)
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
        let parsed = parse(&source, r#"{"TCP":{"80":{"HTTP":true}}}"#, 3).unwrap();
        assert!(parsed.warnings[0].contains("404") && parsed.json.is_some());
        let spec = &parsed.new.names["app"];
        assert_eq!(spec.tailnet.control_url, "http://c:1");
        assert_eq!(spec.name.node.tags, ["tag:x"]);
        assert_eq!(spec.name.funnel, None);
        let public = r#"{"TCP":{"443":{"HTTPS":true},"8443":{"HTTPS":true}},
            "AllowFunnel":{"${TS_CERT_DOMAIN}:443":true,"other.example:8443":true}}"#;
        let parsed = parse(&source, public, 4).unwrap();
        let funnel = parsed.new.names["app"].name.funnel.clone().unwrap();
        assert_eq!(funnel.ports, [443].into());
        assert!(funnel.unauthenticated && !funnel.only);
        assert_eq!(spec.name.generation, 3);
        let services = r#"{"Services":{"svc:x":{"TCP":{"443":{"HTTPS":true}},
            "Web":{"x.example.ts.net:443":{"Handlers":{"/":{"Text":"hi"}}}}}}}"#;
        let parsed = parse(&source, services, 5).unwrap();
        let service = &parsed.new.names["app"].services["svc:x"];
        assert_eq!((service.generation, service.listeners.len()), (5, 1));
    }

    #[test]
    fn what_a_serve_json_has_no_words_for_is_said_beside_it() {
        let source = Source::new(&args(&[
            "--serve-config",
            "x",
            "--hostname",
            "app",
            "--user-requests-per-minute",
            "60",
            "--funnel-keys",
            "/keys",
            "--key-concurrent",
            "2",
        ]))
        .unwrap();
        let handlers = r#"{"Handlers":{"/":{"Text":"a"},"/b":{"Text":"b"}}}"#;
        let file = format!(
            r#"{{"TCP":{{"443":{{"HTTPS":true}}}},"Web":{{"${{TS_CERT_DOMAIN}}:443":{handlers}}},
            "Services":{{"svc:x":{{"TCP":{{"80":{{"HTTP":true}}}},"Web":{{"x.ts.net:80":{handlers}}}}}}},
            "AllowFunnel":{{"${{TS_CERT_DOMAIN}}:443":true}}}}"#
        );
        let spec = parse(&source, &file, 1).unwrap().new.names["app"].clone();
        let all = spec
            .name
            .listeners
            .iter()
            .chain(&spec.services["svc:x"].listeners);
        let mut routes = 0;
        for listener in all {
            let (Protocol::Https(http) | Protocol::Http(http)) = &listener.protocol else {
                panic!("{listener:?}")
            };
            for route in &http.routes {
                let quota = route.limits.per_user.unwrap();
                assert_eq!(
                    (quota.requests_per_minute.map(u32::from), quota.concurrent),
                    (Some(60), None)
                );
                routes += 1;
            }
        }
        assert_eq!(routes, 4);
        let funnel = spec.name.funnel.clone().unwrap();
        assert!(!funnel.unauthenticated);
        let keys = funnel.keys.unwrap();
        assert_eq!((keys.name.as_str(), keys.revision.as_str()), ("/keys", "r1"));
        assert_eq!(funnel.limits.per_key.unwrap().concurrent.map(u32::from), Some(2));
    }

    #[test]
    fn unknown_fields_of_people_are_refused() {
        let source = Source::new(&args(&["--config", "x"])).unwrap();
        let json = r#"{"format":1,"tailnet":{"controlUrl":"http://c","typo":1},"names":{}}"#;
        assert_eq!(
            parse(&source, json, 1).unwrap_err(),
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
