//! An HTTP proxy (RFC 9110, section 9.3.6, and RFC 9112, section 3.2.2): CONNECT, and requests for `http://` URLs.

use std::{convert::Infallible, io};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, client, server, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{ASK_WITHIN, Outbound};
use crate::{copy::both_ways, http::hop_by_hop, tailnet::Stream};

type Body = Either<Incoming, Full<Bytes>>;

/// Why a request goes nowhere.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("this is a proxy: it takes CONNECT HOST:PORT, and requests for http:// URLs")]
    NoTarget,
    #[error("{0}: {1}")]
    Dial(String, io::Error),
    #[error("{0}: {1}")]
    Answer(String, hyper::Error),
}

/// A CONNECT that has been answered: bytes from then on.
struct Tunnel {
    client: OnUpgrade,
    target: Stream,
}

pub(super) async fn serve(outbound: &Outbound, stream: TcpStream) -> io::Result<()> {
    let tunnel = Mutex::new(None);
    let service = service_fn(|request| async {
        let answer = proxy(outbound, request, &tunnel).await;
        Ok::<_, Infallible>(answer.unwrap_or_else(|refusal| refusal.response()))
    });
    let mut builder = server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(ASK_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    connection.with_upgrades().await.map_err(io::Error::other)?;
    let Some(Tunnel { client, mut target }) = tunnel.into_inner() else {
        return Ok(());
    };
    let mut client = TokioIo::new(client.await.map_err(io::Error::other)?);
    both_ways(&mut client, &mut target).await.map(drop)
}

async fn proxy(
    outbound: &Outbound,
    mut request: Request<Incoming>,
    tunnel: &Mutex<Option<Tunnel>>,
) -> Result<Response<Body>, Refusal> {
    let is_connect = request.method() == Method::CONNECT;
    let is_http = request.uri().scheme_str() == Some("http");
    let authority = request.uri().authority().filter(|_| is_connect || is_http);
    let authority = authority.ok_or(Refusal::NoTarget)?.clone();
    let port = authority.port_u16().or(if is_connect { None } else { Some(80) });
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let dialled = outbound.dial(host, port.ok_or(Refusal::NoTarget)?).await;
    let target = dialled.map_err(|error| Refusal::Dial(authority.to_string(), error))?;
    if is_connect {
        let client = hyper::upgrade::on(&mut request);
        *tunnel.lock() = Some(Tunnel { client, target });
        return Ok(Response::new(Either::Right(Full::default())));
    }
    let answer = pass(outbound, request, authority.as_str(), target).await;
    answer.map_err(|error| Refusal::Answer(authority.to_string(), error))
}

async fn pass(
    outbound: &Outbound,
    mut request: Request<Incoming>,
    authority: &str,
    target: Stream,
) -> Result<Response<Body>, hyper::Error> {
    hop_by_hop::strip_request(request.headers_mut());
    // What the URL says counts, without credentials that may stand in it.
    let host = authority.rsplit('@').next().unwrap_or_default();
    if let Ok(host) = HeaderValue::from_str(host) {
        request.headers_mut().insert(header::HOST, host);
    }
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.version_mut() = http::Version::HTTP_11;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(target)).await?;
    // It ends with the answer's body, which is the client's connection's.
    outbound.tasks.spawn(connection);
    let mut response = sender.send_request(request).await?;
    hop_by_hop::strip_response(response.headers_mut());
    Ok(response.map(Either::Left))
}

impl Refusal {
    fn response(&self) -> Response<Body> {
        let status = match self {
            Self::NoTarget => StatusCode::BAD_REQUEST,
            Self::Dial(_, error) if error.kind() == io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Dial(..) | Self::Answer(..) => StatusCode::BAD_GATEWAY,
        };
        let mut response = Response::new(Either::Right(Full::from(format!("{self}\n"))));
        *response.status_mut() = status;
        response
    }
}
