//! From a relay's entry in the DERP map to a connection that has said hello (Go: `derp/derphttp`).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};

use super::{
    danger,
    session::{self, Connection, SessionError},
};
use crate::{
    derp_map::{DerpAddr, DerpNode},
    key::NodePrivate,
    proxy::{BoxStream, Outbound},
};

/// How long one address may take to answer.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long everything behind the dial may take: TLS, HTTP, the two greetings.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long IPv6 waits for IPv4.
const SECOND_FAMILY_DELAY: Duration = Duration::from_millis(200);
/// Addresses of one family that are tried.
const MAX_ADDRESSES: usize = 4;

/// Why a relay doesn't take us.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("dial: {0}")]
    Dial(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("TLS: {0}")]
    TlsConfig(#[from] rustls::Error),
    #[error("TLS: `{0}` is not a server name")]
    ServerName(String),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("HTTP: the relay answered {0}, not 101")]
    Refused(StatusCode),
    #[error("HTTP: bad host name: {0}")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Handshake(#[from] SessionError),
    #[error("no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
}

/// Connects to `node` and logs in. `ideal` names the region's first node when this isn't it.
pub(super) async fn connect(
    node: &DerpNode,
    ideal: Option<&str>,
    key: &NodePrivate,
    outbound: &Outbound,
) -> Result<Connection, ConnectError> {
    // As in Go a proxy is given the relay's name, whatever addresses control names.
    let tunnel = outbound.tunnel(true, &node.host_name, node.derp_port);
    let tunnel = timeout(HANDSHAKE_TIMEOUT, tunnel);
    let stream = match tunnel.await.map_err(|_| ConnectError::Timeout)? {
        Some(tunnel) => tunnel.map_err(ConnectError::Dial)?,
        None => Box::new(dial(node).await.map_err(ConnectError::Dial)?),
    };
    let login = async {
        let stream = start_tls(node, stream, outbound.tls()).await?;
        let (stream, read) = upgrade(stream, &node.host_name, ideal).await?;
        Ok(session::handshake(stream, BytesMut::from(&read[..]), key).await?)
    };
    timeout(HANDSHAKE_TIMEOUT, login)
        .await
        .map_err(|_| ConnectError::Timeout)?
}

async fn dial(node: &DerpNode) -> io::Result<TcpStream> {
    let mut v4 = pin!(dial_family(node, node.ipv4, IpAddr::is_ipv4));
    let mut v6 = pin!(async {
        sleep(SECOND_FAMILY_DELAY).await;
        dial_family(node, node.ipv6, IpAddr::is_ipv6).await
    });
    let stream = tokio::select! {
        biased;
        first = &mut v4 => match first {
            Ok(stream) => stream,
            // The error of the first family is the one that says something.
            Err(error) => v6.await.map_err(|_| error)?,
        },
        second = &mut v6 => match second {
            Ok(stream) => stream,
            Err(_) => v4.await?,
        },
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn dial_family(
    node: &DerpNode,
    addr: DerpAddr,
    of_family: fn(&IpAddr) -> bool,
) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match addr {
        DerpAddr::Disabled => Vec::new(),
        DerpAddr::Literal(ip) => vec![(ip, node.derp_port).into()],
        DerpAddr::Dns => lookup_host((node.host_name.as_str(), node.derp_port))
            .await?
            .filter(|addr| of_family(&addr.ip()))
            .take(MAX_ADDRESSES)
            .collect(),
    };
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "no address"));
    for addr in addresses {
        match timeout(DIAL_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => result = Err(error),
            Err(_) => result = Err(io::ErrorKind::TimedOut.into()),
        }
    }
    result
}

async fn start_tls(
    node: &DerpNode,
    stream: BoxStream,
    tls: &Arc<ClientConfig>,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ConnectError> {
    let config = danger::client_config(node.cert_name.as_deref(), node.insecure_for_tests, tls)?;
    let name = match node.cert_name.as_deref() {
        Some(name) if !name.starts_with("sha256-raw:") => name,
        _ => &node.host_name,
    };
    let name =
        ServerName::try_from(name.to_owned()).map_err(|_| ConnectError::ServerName(name.to_owned()))?;
    tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(ConnectError::Tls)
}

/// Turns HTTP into DERP; with the stream comes what was already read of it.
async fn upgrade<S>(stream: S, host: &str, ideal: Option<&str>) -> Result<(S, Bytes), ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut request = Request::get("/derp")
        .header(header::HOST, host)
        .header(header::UPGRADE, "DERP")
        .header(header::CONNECTION, "Upgrade");
    if let Some(name) = ideal {
        request = request.header("Ideal-Node", name);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The sender goes with the block: without it the connection ends also when the answer isn't 101.
    let exchange = async move { sender.send_request(request).await.map(|r| r.status()) };
    let (status, parts) = tokio::join!(exchange, connection.without_shutdown());
    match status? {
        StatusCode::SWITCHING_PROTOCOLS => {}
        other => return Err(ConnectError::Refused(other)),
    }
    let parts = parts?;
    Ok((parts.io.into_inner(), parts.read_buf))
}
