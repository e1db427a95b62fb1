//! A listener of the proxy with one connection to it, through memory, and a backend behind a Unix socket.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, ready};
use jiff::Timestamp;
use postern_node::{
    cert::Certificate,
    netmap::{CapMap, UserProfile, WhoIs},
    node::{Error, Status},
    tailcfg,
};
use postern_proxy::{
    certs::{Resolver, Table as Certificates, Usable},
    drain::Drain,
    http::{Behaviour, Gate, Site},
    listen::{Content, Limits, Port, ServerConfigs},
    metrics::Metrics,
    route::Table,
    tailnet::{Accepted, Listener, Node, Stream},
    telemetry::Json,
    upstream::Upstreams,
};
use postern_proxy_config::group::Identity;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::UnixListener,
    runtime::Runtime,
    sync::watch,
};

pub(crate) const FQDN: &str = "app.example.ts.net";
pub(crate) const PEER: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 7)), 40_000);
/// Bytes of an answer's body.
const BODY: usize = 1024;

/// The client's end, and all that is behind it.
pub(crate) struct Served {
    runtime: Runtime,
    client: Stream,
    buffer: Vec<u8>,
    _folder: tempfile::TempDir,
}

impl Served {
    /// With the access log written, though to nowhere, as it is by default.
    pub(crate) fn start(tls: bool, backend: bool) -> Self {
        let _ = tracing_subscriber::fmt()
            .event_format(Json { level: false })
            .with_writer(std::io::sink)
            .try_init();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("backend");
        let backend = if backend {
            let _inside = runtime.enter();
            runtime.spawn(answer(UnixListener::bind(&socket).expect("a socket")));
            json!({"type": "unix", "path": socket})
        } else {
            json!({"type": "text", "text": "a".repeat(BODY)})
        };
        let client = runtime.block_on(connect(tls, &backend));
        Self {
            runtime,
            client,
            buffer: vec![0; 16 << 10],
            _folder: folder,
        }
    }

    /// A request and its whole answer.
    pub(crate) fn get(&mut self) {
        let Self {
            runtime,
            client,
            buffer,
            ..
        } = self;
        runtime.block_on(async {
            let request = format!("GET /bytes HTTP/1.1\r\nHost: {FQDN}\r\nUser-Agent: bench\r\n\r\n");
            client.write_all(request.as_bytes()).await.expect("it is taken");
            let mut filled = 0;
            loop {
                let read = client.read(&mut buffer[filled..]).await.expect("an answer");
                assert_ne!(read, 0, "the proxy closes");
                filled += read;
                let head = buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n");
                if head.is_some_and(|end| filled == end + 4 + BODY) {
                    break;
                }
            }
            assert!(buffer.starts_with(b"HTTP/1.1 200 "));
        });
    }
}

/// A backend that does the least that it can.
async fn answer(listener: UnixListener) {
    let body = "a".repeat(BODY);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n{body}");
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 4096];
        while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
            stream.write_all(answer.as_bytes()).await.expect("it is taken");
        }
    }
}

async fn connect(tls: bool, backend: &serde_json::Value) -> Stream {
    let route = json!({"path": {"type": "prefix", "value": "/"}, "backend": backend});
    let routes = [serde_json::from_value(route).expect("a route")];
    let site = Arc::new(ArcSwap::from_pointee(Site {
        fqdn: FQDN.to_owned(),
        hosts: [FQDN.to_owned()].into_iter().collect(),
        behaviour: Behaviour::Routes {
            table: Table::compile(&routes).expect("routes"),
            identity: Identity::default(),
        },
        funnel: None,
    }));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new([FQDN.to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut certificates = Certificates::default();
    let usable = Usable::new(chain.clone(), key, Timestamp::now()).expect("a usable certificate");
    certificates.add(&[], &usable);
    let resolver = Arc::new(Resolver::default());
    resolver.set(certificates);
    let port = Port {
        name: "app".into(),
        content: if tls {
            Content::Https(site)
        } else {
            Content::Http(site)
        },
        node: Arc::new(OneUser),
        tls: ServerConfigs::new(&resolver).expect("TLS"),
        certificates: resolver,
        upstreams: Arc::new(Upstreams::new().expect("TLS")),
        metrics: Metrics::new(),
        limits: Limits::new(10, 10),
        gate: Arc::new(Gate::default()),
        drain: Drain::default(),
    };
    let (client, server) = tokio::io::duplex(64 << 10);
    tokio::spawn(port.serve(Box::new(Once(Some(server)))));
    if !tls {
        return Box::new(client);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(FQDN).expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    Box::new(connector.connect(name, client).await.expect("a handshake"))
}

/// Accepts one connection, and then nothing more.
struct Once(Option<DuplexStream>);

impl Listener for Once {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        let accepted = self.0.take().map(|stream| Accepted {
            stream: Box::new(stream),
            peer: PEER,
            local: ([100, 64, 0, 1], 443).into(),
            funnel: None,
        });
        match accepted {
            Some(accepted) => Box::pin(ready(Some(accepted))),
            None => Box::pin(std::future::pending()),
        }
    }
}

pub(crate) fn alice() -> WhoIs {
    let node = format!(
        r#"{{"ID":1,"StableID":"n1","Name":"laptop.example.ts.net.","Key":"nodekey:{:064x}"}}"#,
        1
    );
    let node: tailcfg::Node = serde_json::from_str(&node).expect("a node");
    WhoIs {
        node: Arc::new(node.into()),
        user: Arc::new(UserProfile {
            id: 1,
            login_name: "alice@example.com".to_owned(),
            display_name: "Alice Architect".to_owned(),
            profile_pic_url: "https://avatars.example.com/alice.png".to_owned(),
            groups: Vec::new(),
        }),
        caps: CapMap::new(),
    }
}

/// A node on whose tailnet everybody is alice.
struct OneUser;

impl Node for OneUser {
    fn status(&self) -> watch::Receiver<Status> {
        watch::channel(Status::Starting { last_error: None }).1
    }

    fn generation(&self) -> u64 {
        0
    }

    fn listen(&self, _port: u16) -> Result<Box<dyn Listener>, Error> {
        Err(Error::Closed)
    }

    fn listen_funnel(&self, _port: u16) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(ready(Err(Error::Closed)))
    }

    fn whois(&self, _src: IpAddr, _dst: IpAddr) -> Option<WhoIs> {
        Some(alice())
    }

    fn certificate<'a>(&'a self, _domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>> {
        Box::pin(ready(Err(Error::Closed)))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}
