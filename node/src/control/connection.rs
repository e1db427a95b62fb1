//! A connection to the control server: HTTP/1.1 upgraded to Noise, HTTP/2 inside.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    CAPABILITY_VERSION, dial::Dial, early::WithoutEarlyPayload, error::SessionError, noise::Handshake,
    url::Origin,
};
use crate::{
    key::{MachinePrivate, MachinePublic, NodePublic},
    tailcfg::ServerKeys,
};

const PROTOCOL: &str = "tailscale-control-protocol";
const KEY_LIMIT: usize = 64 << 10;
/// The answers of everything but the map.
const ANSWER_LIMIT: usize = 1 << 20;
/// A dead TCP connection is noticed after twice this time, also while control has nothing to say.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Asks the server for the key of its Noise side. This request's certificate check is what all later trust
/// in the server stands on.
pub(super) async fn fetch_key(dialer: &dyn Dial, server: &Origin) -> Result<MachinePublic, SessionError> {
    let request = Request::get(format!("/key?v={CAPABILITY_VERSION}"));
    let response = http1_exchange(dialer, server, request, Bytes::new()).await?;
    let failed = |reason| SessionError::Key {
        from: server.to_string(),
        reason,
    };
    let (status, body) = response;
    if status != StatusCode::OK {
        return Err(failed(format!("it answered {status}")));
    }
    let keys: ServerKeys =
        serde_json::from_slice(&body).map_err(|e| failed(format!("no JSON with a publicKey: {e}")))?;
    if keys.public_key.is_zero() {
        return Err(failed("the server is too old".to_owned()));
    }
    Ok(keys.public_key)
}

/// A request over a connection of its own, outside of Noise.
pub(super) async fn http1_exchange(
    dialer: &dyn Dial,
    to: &Origin,
    request: http::request::Builder,
    body: Bytes,
) -> Result<(StatusCode, Bytes), SessionError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(dial(dialer, to).await?)).await?;
    let request = request
        .header(header::HOST, to.authority())
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|e| SessionError::Body(e.to_string()))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, read_limited(response.into_body(), KEY_LIMIT).await?))
    };
    drive(connection, exchange).await
}

async fn dial(dialer: &dyn Dial, to: &Origin) -> Result<super::dial::BoxStream, SessionError> {
    dialer.dial(to).await.map_err(|source| SessionError::Dial {
        to: to.to_string(),
        source,
    })
}

/// Runs `exchange`, and the connection that it needs as long as that takes.
async fn drive<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = connection => exchange.await,
    }
}

async fn read_limited(body: Incoming, limit: usize) -> Result<Bytes, SessionError> {
    let body = Limited::new(body, limit).collect().await;
    Ok(body.map_err(|e| SessionError::Body(e.to_string()))?.to_bytes())
}

/// An HTTP/2 connection inside Noise. Its tasks end with it.
pub(super) struct Connection {
    client: Client,
    cancel: CancellationToken,
    _end: DropGuard,
}

/// Sends requests over a [`Connection`].
#[derive(Clone)]
pub(super) struct Client {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
}

impl Connection {
    pub(super) async fn open(
        dialer: &dyn Dial,
        server: &Origin,
        key: &MachinePublic,
        machine: MachinePrivate,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, SessionError> {
        let (handshake, initiation) = Handshake::initiate(&machine, key, CAPABILITY_VERSION)?;
        let upgraded = upgrade(dialer, server, &initiation).await?;
        let noise = handshake.complete(TokioIo::new(upgraded)).await?;
        let end = cancel.clone().drop_guard();
        let executor = Executor {
            tasks: tasks.clone(),
            cancel: cancel.clone(),
        };
        let (sender, connection) = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(WithoutEarlyPayload::new(noise)))
            .await?;
        let ended = cancel.clone();
        tasks.spawn(async move {
            if let Some(Err(error)) = ended.run_until_cancelled(connection).await {
                tracing::debug!(%error, "Connection to control ended");
            }
        });
        Ok(Self {
            client: Client {
                sender,
                authority: server.authority(),
            },
            cancel,
            _end: end,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Cancelled when the connection is dropped: for tasks that use its client.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }
}

async fn upgrade(
    dialer: &dyn Dial,
    server: &Origin,
    initiation: &[u8],
) -> Result<hyper::upgrade::Upgraded, SessionError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(dial(dialer, server).await?)).await?;
    let request = Request::post("/ts2021")
        .header(header::HOST, server.authority())
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .header("x-tailscale-handshake", STANDARD.encode(initiation))
        .body(Full::<Bytes>::default())
        .map_err(|e| SessionError::Body(e.to_string()))?;
    let server = server.to_string();
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let protocol = response.headers().get(header::UPGRADE);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS
            || protocol.is_none_or(|p| !p.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
        {
            return Err(SessionError::Upgrade {
                server,
                status: response.status(),
            });
        }
        Ok(hyper::upgrade::on(response).await?)
    };
    // Boxed: else the compiler can't see that the whole is `Send` (rust-lang/rust#102211).
    let connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>> =
        Box::pin(connection.with_upgrades());
    drive(connection, exchange).await
}

impl Client {
    /// Posts JSON to a path of the control server. `node_keys` help its load balancer.
    pub(super) async fn post_json(
        &self,
        path: &str,
        node_keys: &[NodePublic],
        body: &impl Serialize,
    ) -> Result<Response<Incoming>, SessionError> {
        let uri = format!("https://{}{path}", self.authority);
        let mut request = Request::post(uri).header(header::CONTENT_TYPE, "application/json");
        for key in node_keys {
            request = request.header("ts-lb", key.to_string());
        }
        let body = serde_json::to_vec(body).map_err(|e| SessionError::Body(e.to_string()))?;
        self.send(request, body).await
    }

    /// A request to a URL that control named.
    pub(super) async fn request(
        &self,
        method: Method,
        uri: Uri,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, SessionError> {
        self.send(Request::builder().method(method).uri(uri), body).await
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, SessionError> {
        let request = request
            .header(header::USER_AGENT, HeaderValue::from_static("postern"))
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| SessionError::Body(e.to_string()))?;
        Ok(self.sender.clone().send_request(request).await?)
    }
}

/// The body of an answer; an error unless its status is 200.
pub(super) async fn expect_ok(
    what: &'static str,
    response: Response<Incoming>,
) -> Result<Bytes, SessionError> {
    let status = response.status();
    let body = read_limited(response.into_body(), ANSWER_LIMIT).await;
    if status == StatusCode::OK {
        return body;
    }
    Err(SessionError::Answer {
        what,
        status,
        text: beginning(&body.unwrap_or_default()),
    })
}

/// What of an error's body is worth showing.
pub(super) fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

/// hyper's own tasks are owned and ended as ours are.
#[derive(Clone)]
struct Executor {
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }
}
