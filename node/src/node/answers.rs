//! Answers to control's questions about the node.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{sync::watch, time::timeout};

use crate::{
    cert::CertStore,
    control::{Answer, C2n, Ping},
    engine::Engine,
    magicsock::Path,
    netmap::{Netmap, Node},
    service::Services,
    tailcfg::PingResponse,
};

/// How long a PeerAPI may take to answer (Go: `LocalBackend.pingPeerAPI`).
const PEER_API_TIMEOUT: Duration = Duration::from_secs(10);

type NetmapWatch = watch::Receiver<Option<Arc<Netmap>>>;

/// The session that asks is also what certificates are issued through, so it is there before what answers.
pub(super) struct Answers {
    pub(super) certs: OnceLock<CertStore>,
    pub(super) engine: OnceLock<(Engine, NetmapWatch)>,
    services: Services,
}

impl Answers {
    pub(super) fn new(services: Services) -> Self {
        Self {
            certs: OnceLock::new(),
            engine: OnceLock::new(),
            services,
        }
    }
}

impl C2n for Answers {
    fn vip_services(&self) -> String {
        self.services.c2n()
    }

    fn tls_cert_status(&self, domain: &str) -> Answer<String> {
        let (certs, domain) = (self.certs.get().cloned(), domain.to_owned());
        Box::pin(async move {
            match certs {
                Some(certs) => certs.tls_cert_status(&domain).await,
                None => r#"{"Missing":true}"#.to_owned(),
            }
        })
    }

    fn ping(&self, to: IpAddr, kind: Ping) -> Answer<Option<PingResponse>> {
        let parts = self.engine.get().cloned();
        Box::pin(async move {
            let (engine, netmap) = parts?;
            let netmap = netmap.borrow().clone()?;
            ping(&engine, &netmap, to, kind).await
        })
    }
}

/// As in Go a ping that is not answered is not talked about.
async fn ping(engine: &Engine, netmap: &Netmap, to: IpAddr, kind: Ping) -> Option<PingResponse> {
    let response = PingResponse {
        r#type: kind.name(),
        ip: to.to_string(),
        ..PingResponse::default()
    };
    if netmap.self_node.ips().any(|own| own == to) {
        return Some(PingResponse {
            err: format!("{to} is local Tailscale IP"),
            is_local_ip: true,
            ..response
        });
    }
    let node = netmap.node_by_ip(to);
    let response = PingResponse {
        node_ip: to.to_string(),
        node_name: node.map(|node| node.name.split('.').next().unwrap_or_default().to_owned())?,
        ..response
    };
    match kind {
        Ping::PeerApi => {
            let start = Instant::now();
            let answered = ping_peer_api(engine, node?, to).await;
            Some(PingResponse {
                latency_seconds: start.elapsed().as_secs_f64(),
                err: answered.err().map(|error| error.to_string()).unwrap_or_default(),
                ..response
            })
        }
        Ping::Packet(kind) => {
            let pong = engine.ping(to, kind).await.ok()?;
            let (endpoint, derp_region_id) = match pong.path {
                Path::Direct(addr) => (addr.to_string(), 0),
                Path::Derp(region) => (String::new(), region),
                Path::None => Default::default(),
            };
            let region = netmap.derp.regions.get(&derp_region_id);
            Some(PingResponse {
                latency_seconds: pong.latency.as_secs_f64(),
                endpoint,
                derp_region_id,
                derp_region_code: region.map(|region| region.code.clone()).unwrap_or_default(),
                peer_api_port: pong.peer_api_port,
                ..response
            })
        }
    }
}

async fn ping_peer_api(engine: &Engine, node: &Node, to: IpAddr) -> io::Result<()> {
    let port = if to.is_ipv4() {
        node.peer_api.v4
    } else {
        node.peer_api.v6
    };
    let port = port.ok_or_else(|| io::Error::other("the peer has no PeerAPI"))?;
    let exchange = async {
        let stream = engine.dial((to, port).into()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let request = Request::head("/")
            .header(header::HOST, std::net::SocketAddr::new(to, port).to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(io::Error::other)?;
        let exchange = async move { sender.send_request(request).await };
        let (response, _) = tokio::join!(exchange, connection);
        match response.map_err(io::Error::other)?.status() {
            StatusCode::OK => Ok(()),
            status => Err(io::Error::other(format!("HTTP status {status}"))),
        }
    };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    timeout(PEER_API_TIMEOUT, exchange).await.map_err(|_| late())?
}
