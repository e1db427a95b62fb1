//! The proxy under test, over nodes that are loopback sockets with a settable whois.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use postern_idp::store::MemoryStore as MemoryDocuments;
use postern_node::{
    cert::Certificate,
    credential::Credential,
    funnel::FunnelError,
    netmap::{self, CapMap, PeerApi, UserProfile, WhoIs},
    node::{Config, Error, Identity, Status},
    service::{ServiceError, ServiceName, ServiceStatus},
    state::{MemoryStore, StateError, StateStore},
};
use postern_proxy::{
    drain::Drain,
    listen::Limits,
    metrics::Metrics,
    report::Reports,
    serve::{Context, Desired, HostSpec, PemPair, SecretError, Secrets, Served, Services, Spec},
    tailnet::{Accepted, Listener, Node, StartNode, Stream},
    upstream::Upstreams,
};
use postern_proxy_config::{
    FORMAT,
    group::{IdentityProvider, Name, NodeConfig, SecretRef, Service, Shard},
    keys::Keys,
    report::{NameReport, Phase, Report, ServiceReport, Stage},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub const FQDN: &str = "app.example.ts.net";
/// A port of the fake node on Funnel is this much higher.
pub const FUNNEL: u16 = 20_000;
/// Whoever comes through it.
pub const INTERNET: &str = "203.0.113.7:1234";
pub const WAIT: Duration = Duration::from_secs(20);

/// The proxy, serving one shard.
pub struct Front {
    pub nodes: Arc<Nodes>,
    pub metrics: Metrics,
    pub reports: Reports,
    pub drain: Drain,
    pub upstreams: Arc<Upstreams>,
    pub desired: watch::Sender<Option<Arc<Desired>>>,
}

impl Front {
    /// Serves listeners (JSON) as the name `app` and waits until it does.
    pub async fn serving(listeners: serde_json::Value) -> Self {
        let front = Self::start();
        front.set(listeners, 1);
        front.phase(Phase::Serving).await;
        front
    }

    pub fn start() -> Self {
        Self::with_nodes(Nodes::default())
    }

    pub fn with_nodes(nodes: Nodes) -> Self {
        let nodes = Arc::new(nodes);
        Self::with_secrets(nodes.clone(), nodes)
    }

    pub fn with_secrets(nodes: Arc<Nodes>, secrets: Arc<dyn Secrets>) -> Self {
        let (metrics, reports, drain) = (Metrics::new(), Reports::new("g-0"), Drain::default());
        let upstreams = Arc::new(Upstreams::new().unwrap());
        let context = Context {
            start: nodes.clone(),
            secrets,
            upstreams: upstreams.clone(),
            metrics: metrics.clone(),
            reports: reports.clone(),
            limits: Limits::new(1000, 500),
            drain_deadline: Duration::from_secs(5),
        };
        let (desired, receiver) = watch::channel(None);
        let served = Served::new(Arc::new(context), drain.clone());
        drain.tasks.spawn(served.follow(receiver));
        Self {
            nodes,
            metrics,
            reports,
            drain,
            upstreams,
            desired,
        }
    }

    pub fn set(&self, listeners: serde_json::Value, generation: i64) {
        self.set_name(listeners, serde_json::json!([]), generation);
    }

    pub fn set_name(&self, listeners: serde_json::Value, certificates: serde_json::Value, generation: i64) {
        self.set_app(
            serde_json::json!({ "listeners": listeners, "certificates": certificates }),
            generation,
        );
    }

    /// The name `app` with these fields.
    pub fn set_app(&self, fields: serde_json::Value, generation: i64) {
        let mut app = serde_json::json!({
            "owner": {"kind": "Ingress", "namespace": "n", "name": "app", "uid": "uid"},
            "generation": generation,
            "node": {"hostname": "app", "state": {"name": "s"}, "certificate": {"name": "c"}},
        });
        let fields = fields.as_object().unwrap().clone();
        app.as_object_mut().unwrap().extend(fields);
        let shard: Shard = serde_json::from_value(serde_json::json!({
            "format": FORMAT, "tailnet": {"controlUrl": "http://unused"}, "names": {"app": app}
        }))
        .unwrap();
        self.set_names(shard.names, &shard.tailnet);
    }

    /// The Service `svc:web` with these listeners, on a host of its own, of a replica that leads or doesn't.
    pub fn set_service(&self, listeners: serde_json::Value, leads: bool, generation: i64) {
        let shard: Shard = serde_json::from_value(serde_json::json!({
            "format": FORMAT, "tailnet": {"controlUrl": "http://unused"},
            "services": {"svc:web": {
                "owner": {"kind": "TailnetService", "namespace": "n", "name": "web", "uid": "uid"},
                "generation": generation, "certificate": {"name": "g-web.svc-tls"}, "listeners": listeners,
            }},
            "hosts": {"g-0": {
                "owner": {"kind": "ProxyGroup", "namespace": "", "name": "g", "uid": "group"},
                "node": {"hostname": "g-0-host", "tags": ["tag:k8s"], "state": {"name": "h"}},
            }},
        }))
        .unwrap();
        let host = HostSpec {
            tailnet: shard.tailnet,
            host: shard.hosts["g-0"].clone(),
            leads,
        };
        let services = shard
            .services
            .into_iter()
            .map(|(key, service)| (key, Arc::new(service)));
        self.desired.send_replace(Some(Arc::new(Desired {
            hosts: [("g-0-host".to_owned(), Arc::new(host))].into(),
            services: Arc::new(services.collect()),
            ..Desired::default()
        })));
    }

    /// The name `app` alone, whose own node hosts the Service `svc:web` too.
    pub fn set_sidecar(&self, listeners: serde_json::Value, of_service: serde_json::Value) {
        self.set(listeners, 1);
        let service: Service = serde_json::from_value(serde_json::json!({
            "owner": {"kind": "File", "namespace": "", "name": "app", "uid": ""},
            "generation": 1, "certificate": {"name": "app-tls"}, "listeners": of_service,
        }))
        .unwrap();
        self.desired.send_modify(|desired| {
            let desired = Arc::make_mut(desired.as_mut().unwrap());
            let spec = Arc::make_mut(desired.names.get_mut("app").unwrap());
            spec.services = [("svc:web".to_owned(), Arc::new(service))].into();
        });
    }

    pub async fn stage(&self, stage: Stage) -> ServiceReport {
        let mut report = self.reports.subscribe();
        let reached = |report: &Report| report.services.get("svc:web").is_some_and(|s| s.stage == stage);
        match tokio::time::timeout(WAIT, report.wait_for(reached)).await {
            Ok(found) => found.unwrap().services["svc:web"].clone(),
            Err(_) => panic!(
                "the report stays {:?}",
                self.reports.subscribe().borrow().services
            ),
        }
    }

    pub fn set_names(&self, names: BTreeMap<String, Name>, tailnet: &postern_proxy_config::group::Tailnet) {
        let names = names
            .into_iter()
            .map(|(key, name)| {
                (
                    key,
                    Arc::new(Spec {
                        tailnet: tailnet.clone(),
                        name,
                        services: Services::new(),
                    }),
                )
            })
            .collect();
        self.desired.send_replace(Some(Arc::new(Desired {
            names,
            ..Desired::default()
        })));
    }

    pub async fn phase(&self, phase: Phase) -> NameReport {
        self.report(|r| r.phase == phase).await
    }

    pub async fn generation(&self, generation: i64) -> NameReport {
        self.report(|r| r.applied_generation == generation && r.phase == Phase::Serving)
            .await
    }

    pub async fn report(&self, until: impl Fn(&NameReport) -> bool) -> NameReport {
        let mut report = self.reports.subscribe();
        let found =
            tokio::time::timeout(WAIT, report.wait_for(|r| r.names.get("app").is_some_and(&until))).await;
        match found {
            Ok(found) => found.unwrap().names["app"].clone(),
            Err(_) => panic!("the report stays {:?}", self.reports.subscribe().borrow().names),
        }
    }

    /// A plain connection to a port.
    pub async fn connect(&self, port: u16) -> TcpStream {
        TcpStream::connect(self.nodes.addr(port)).await.unwrap()
    }

    /// Sends bytes and returns everything until the proxy closes.
    pub async fn raw(&self, port: u16, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect(port).await;
        // The proxy may have answered and closed already.
        let _ = stream.write_all(bytes.as_ref()).await;
        let mut out = Vec::new();
        let _ = tokio::time::timeout(WAIT, stream.read_to_end(&mut out))
            .await
            .expect("the proxy closes");
        String::from_utf8_lossy(&out).into_owned()
    }

    /// A simple GET of a path; head and body.
    pub async fn get(&self, port: u16, path: &str) -> String {
        self.raw(
            port,
            format!("GET {path} HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    /// A TLS connection with this SNI that trusts whatever the fake node issues.
    pub async fn tls(
        &self,
        port: u16,
        sni: &str,
        alpn: &[&str],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        for cert in self.nodes.issued.lock().iter() {
            roots.add(cert.clone()).unwrap();
        }
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, self.connect(port).await)
            .await
    }

    /// An HTTP/2 connection over TLS.
    pub async fn h2<B>(&self, port: u16, sni: &str) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.tls(port, sni, &["h2"]).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        sender
    }

    pub async fn h2_get(&self, port: u16, request: Request<()>) -> Response<Incoming> {
        let mut sender = self.h2::<Full<bytes::Bytes>>(port, FQDN).await;
        sender
            .send_request(request.map(|()| Full::default()))
            .await
            .unwrap()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.drain.start.cancel();
        self.drain.abort.cancel();
    }
}

/// Makes fake nodes and keeps what they share.
#[derive(Debug)]
pub struct Nodes {
    pub ports: Arc<Mutex<BTreeMap<u16, SocketAddr>>>,
    pub issued: Arc<Mutex<Vec<CertificateDer<'static>>>>,
    pub whois: Arc<Mutex<Option<WhoIs>>>,
    pub generation: Arc<AtomicU64>,
    pub secrets: Mutex<BTreeMap<String, PemPair>>,
    pub keys: Mutex<BTreeMap<String, Keys>>,
    /// Of identity providers.
    pub documents: Arc<MemoryDocuments>,
    pub status: watch::Sender<Status>,
    pub started: AtomicU64,
    pub certificates: Arc<AtomicU64>,
    /// What the policy lacks for Funnel.
    pub no_funnel: Arc<Mutex<Option<FunnelError>>>,
    /// Where names of the tailnet are.
    pub tailnet: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    /// The node has no tags.
    pub untagged: Arc<AtomicBool>,
    /// What control knows of hosted Services.
    pub hosted: watch::Sender<Vec<ServiceStatus>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::named(FQDN)
    }
}

impl Nodes {
    pub fn named(name: &str) -> Self {
        Self {
            ports: Arc::default(),
            issued: Arc::default(),
            whois: Arc::default(),
            generation: Arc::default(),
            secrets: Mutex::default(),
            keys: Mutex::default(),
            documents: Arc::default(),
            status: watch::Sender::new(Status::Running(Identity {
                stable_id: "nTEST".into(),
                name: name.into(),
                addrs: vec![[127, 0, 0, 1].into()],
                cert_domains: vec![name.into()],
                funnel: Ok(()),
            })),
            started: AtomicU64::new(0),
            certificates: Arc::default(),
            no_funnel: Arc::default(),
            tailnet: Arc::default(),
            untagged: Arc::default(),
            hosted: watch::Sender::default(),
        }
    }

    /// Control approves the host of each Service, or approves it no longer, and sends clients to it or elsewhere.
    pub fn approve(&self, approved: bool, routed: bool) {
        self.hosted.send_modify(|hosted| {
            for service in hosted {
                service.addrs = approved.then(|| [100, 127, 0, 1].into()).into_iter().collect();
                service.routed = routed;
            }
        });
    }

    pub fn addr(&self, port: u16) -> SocketAddr {
        *self
            .ports
            .lock()
            .get(&port)
            .unwrap_or_else(|| panic!("nothing listens on {port}"))
    }

    /// The peer is this user from now on.
    pub fn user(&self, login: &str, name: &str, picture: &str, tags: &[&str]) {
        *self.whois.lock() = Some(WhoIs {
            node: Arc::new(node(tags)),
            user: Arc::new(UserProfile {
                id: 1,
                login_name: login.into(),
                display_name: name.into(),
                profile_pic_url: picture.into(),
                groups: vec!["group:eng".into()],
            }),
            caps: CapMap::from([(
                "example.com/cap/x".to_owned(),
                vec![serde_json::value::RawValue::from_string("{\"n\": 1.0}".into()).unwrap()],
            )]),
        });
        self.generation.fetch_add(1, SeqCst);
    }
}

fn node(tags: &[&str]) -> netmap::Node {
    netmap::Node {
        id: 1,
        stable_id: "nPEER".into(),
        name: "peer.example.ts.net".into(),
        user: 1,
        key: postern_node::key::NodePublic::from_bytes([1; 32]),
        key_expiry: None,
        expired: false,
        machine: None,
        disco: None,
        addresses: vec![],
        allowed_ips: vec![],
        endpoints: vec![],
        home_derp: None,
        machine_authorized: true,
        tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        cap: 100,
        cap_map: CapMap::new(),
        online: Some(true),
        unsigned_peer_api_only: false,
        is_jailed: false,
        peer_api: PeerApi::default(),
        hostname: "peer".into(),
        os: "linux".into(),
        details: None,
    }
}

impl StartNode for Nodes {
    fn start(&self, _config: Config) -> BoxFuture<'_, Result<Arc<dyn Node>, Error>> {
        self.started.fetch_add(1, SeqCst);
        let node = Loopback {
            ports: self.ports.clone(),
            issued: self.issued.clone(),
            whois: self.whois.clone(),
            generation: self.generation.clone(),
            status: self.status.subscribe(),
            certificates: self.certificates.clone(),
            no_funnel: self.no_funnel.clone(),
            tailnet: self.tailnet.clone(),
            untagged: self.untagged.clone(),
            hosted: self.hosted.clone(),
        };
        Box::pin(async { Ok(Arc::new(node) as Arc<dyn Node>) })
    }
}

impl Secrets for Nodes {
    fn store(&self, _node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        Ok(Arc::new(MemoryStore::default()))
    }

    fn credential<'a>(
        &'a self,
        _node: &'a NodeConfig,
    ) -> BoxFuture<'a, Result<Option<Credential>, SecretError>> {
        Box::pin(async { Ok(None) })
    }

    fn certificate<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<PemPair, SecretError>> {
        Box::pin(async {
            self.secrets
                .lock()
                .get(&secret.name)
                .cloned()
                .ok_or_else(|| missing(secret))
        })
    }

    fn keys<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Keys, SecretError>> {
        let keys = self.keys.lock().get(&secret.name).cloned();
        Box::pin(async { keys.ok_or_else(|| missing(secret)) })
    }

    fn documents(&self, _provider: &IdentityProvider) -> Option<Arc<dyn postern_idp::Store>> {
        Some(self.documents.clone())
    }
}

fn missing(secret: &SecretRef) -> SecretError {
    SecretError::Missing {
        name: secret.name.clone(),
        missing: "it",
    }
}

struct Loopback {
    ports: Arc<Mutex<BTreeMap<u16, SocketAddr>>>,
    issued: Arc<Mutex<Vec<CertificateDer<'static>>>>,
    whois: Arc<Mutex<Option<WhoIs>>>,
    generation: Arc<AtomicU64>,
    status: watch::Receiver<Status>,
    certificates: Arc<AtomicU64>,
    no_funnel: Arc<Mutex<Option<FunnelError>>>,
    tailnet: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    untagged: Arc<AtomicBool>,
    hosted: watch::Sender<Vec<ServiceStatus>>,
}

impl Loopback {
    fn bind(&self, port: u16, funnel: Option<Arc<str>>) -> Result<Box<dyn Listener>, Error> {
        let io = |source| Error::Io {
            what: "listen",
            source,
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(io)?;
        listener.set_nonblocking(true).map_err(io)?;
        self.ports.lock().insert(port, listener.local_addr().map_err(io)?);
        Ok(Box::new(Port {
            port,
            funnel,
            ports: self.ports.clone(),
            listener: TcpListener::from_std(listener).map_err(io)?,
        }))
    }
}

impl Node for Loopback {
    fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    fn listen(&self, port: u16) -> Result<Box<dyn Listener>, Error> {
        self.bind(port, None)
    }

    fn listen_funnel(&self, port: u16) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        let refused = self.no_funnel.lock().clone();
        let listener = match refused {
            Some(error) => Err(error.into()),
            None => self.bind(port + FUNNEL, Some(FQDN.into())),
        };
        Box::pin(async { listener })
    }

    fn listen_service<'a>(
        &'a self,
        service: &'a ServiceName,
        port: u16,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, Error>> {
        if self.untagged.load(SeqCst) {
            return Box::pin(async { Err(ServiceError::Untagged.into()) });
        }
        self.hosted.send_modify(|hosted| {
            if !hosted.iter().any(|known| known.name == *service) {
                hosted.push(ServiceStatus {
                    name: service.clone(),
                    fqdn: service.fqdn("example.ts.net"),
                    ports: Vec::new(),
                    advertised: false,
                    told: true,
                    addrs: Vec::new(),
                    routed: false,
                });
            }
            hosted.iter_mut().for_each(|known| known.ports.push(port));
        });
        Box::pin(async move { self.bind(port, None) })
    }

    fn advertise_service(&self, service: &ServiceName, on: bool) {
        self.hosted.send_if_modified(|hosted| {
            let known = hosted.iter_mut().find(|known| known.name == *service);
            known.is_some_and(|known| std::mem::replace(&mut known.advertised, on) != on)
        });
    }

    fn services(&self) -> watch::Receiver<Vec<ServiceStatus>> {
        self.hosted.subscribe()
    }

    fn dial<'a>(&'a self, host: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Option<Stream>>> {
        let addr = self.tailnet.lock().get(host).copied();
        Box::pin(async move {
            Ok(match addr {
                Some(addr) => Some(Box::new(TcpStream::connect(addr).await?) as Stream),
                None => None,
            })
        })
    }

    fn whois(&self, _src: IpAddr, _dst: IpAddr) -> Option<WhoIs> {
        self.whois.lock().clone()
    }

    fn certificate<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>> {
        Box::pin(async move {
            self.certificates.fetch_add(1, SeqCst);
            let (cert, key) = self_signed(&[domain]);
            let chain = cert.der().clone();
            self.issued.lock().push(chain.clone());
            Ok(Arc::new(Certificate {
                chain: vec![chain],
                key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                not_after: jiff::Timestamp::now() + Duration::from_secs(86_400),
            }))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

pub fn self_signed(names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let cert = rcgen::CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (cert, key)
}

struct Port {
    port: u16,
    funnel: Option<Arc<str>>,
    ports: Arc<Mutex<BTreeMap<u16, SocketAddr>>>,
    listener: TcpListener,
}

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        Box::pin(async {
            let (stream, peer) = self.listener.accept().await.ok()?;
            let local = stream.local_addr().ok()?;
            Some(Accepted {
                stream: Box::new(stream),
                peer: match self.funnel {
                    Some(_) => INTERNET.parse().unwrap(),
                    None => peer,
                },
                local,
                funnel: self.funnel.clone(),
            })
        })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.ports.lock().remove(&self.port);
    }
}
