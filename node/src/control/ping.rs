//! Questions that control asks in the map stream (Go: `controlclient.Direct.answerPing`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use tokio::{task::JoinSet, time::timeout};

use super::{
    C2n, Ping, c2n,
    connection::{Client, http1_exchange},
    dial::Dial,
    error::SessionError,
    url::Origin,
};
use crate::tailcfg::{PingRequest, PingResponse};

const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A ping itself ends after 10 s.
const PING_TIMEOUT: Duration = Duration::from_secs(25);
const C2N_TIMEOUT: Duration = Duration::from_secs(60);

/// What answers.
#[derive(Clone)]
pub(super) struct Answerer {
    pub(super) client: Client,
    pub(super) dialer: Arc<dyn Dial>,
    pub(super) server: Origin,
    pub(super) c2n: Arc<dyn C2n>,
}

impl Answerer {
    /// Answers, or gives up after a while; control asks again if it wants to know.
    pub(super) async fn answer(self, ping: PingRequest) {
        let (kind, url) = (ping.types.clone(), ping.url.clone());
        let (limit, what) = if ping.types == "c2n" {
            (C2N_TIMEOUT, "c2n")
        } else if ping.types.is_empty() {
            (HEAD_TIMEOUT, "ping")
        } else {
            (PING_TIMEOUT, "ping")
        };
        let late = SessionError::TimedOut { what, after: limit };
        match timeout(limit, self.try_answer(ping)).await.unwrap_or(Err(late)) {
            Ok(()) => tracing::debug!(kind, url, "Answered a question of control"),
            Err(error) => tracing::debug!(kind, url, %error, "A question of control is unanswered"),
        }
    }

    async fn try_answer(&self, ping: PingRequest) -> Result<(), SessionError> {
        let uri: Uri = ping
            .url
            .parse()
            .map_err(|e| SessionError::Body(format!("the URL: {e}")))?;
        match ping.types.as_str() {
            "" if ping.url_is_noise => {
                self.client.request(Method::HEAD, uri, Vec::new()).await?;
                Ok(())
            }
            "" => self.head(&uri).await,
            "c2n" => {
                let answer = c2n::answer(&ping.payload, &*self.c2n).await?;
                self.client.request(Method::POST, uri, answer).await?;
                Ok(())
            }
            kinds => {
                let to = ping.ip.ok_or_else(|| SessionError::Body("no IP".to_owned()))?;
                self.pings(&uri, ping.url_is_noise, kinds, to).await
            }
        }
    }

    /// Several kinds of ping side by side, each answered by itself.
    async fn pings(&self, uri: &Uri, noise: bool, kinds: &str, to: IpAddr) -> Result<(), SessionError> {
        let mut under_way = JoinSet::new();
        for name in kinds.split(',') {
            let Some(kind) = Ping::named(name) else {
                tracing::debug!(kind = name, "Control asks for an unknown kind of ping");
                continue;
            };
            let (answerer, uri) = (self.clone(), uri.clone());
            under_way.spawn(async move {
                match answerer.c2n.ping(to, kind).await {
                    Some(response) => answerer.post(uri, noise, &response).await,
                    None => Ok(()),
                }
            });
        }
        let mut result = Ok(());
        while let Some(done) = under_way.join_next().await {
            result = result.and(done.unwrap_or(Ok(())));
        }
        result
    }

    async fn post(&self, uri: Uri, noise: bool, response: &PingResponse) -> Result<(), SessionError> {
        let body = serde_json::to_vec(response).map_err(|e| SessionError::Body(e.to_string()))?;
        if noise {
            self.client.request(Method::POST, uri, body).await?;
            return Ok(());
        }
        let origin = origin(&uri)?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        http1_exchange(&*self.dialer, &origin, request, body.into()).await?;
        Ok(())
    }

    async fn head(&self, uri: &Uri) -> Result<(), SessionError> {
        let origin = origin(uri)?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        http1_exchange(&*self.dialer, &origin, Request::head(path), Bytes::new()).await?;
        Ok(())
    }
}

fn origin(uri: &Uri) -> Result<Origin, SessionError> {
    Origin::of(uri).ok_or_else(|| SessionError::Body("the URL is neither http nor https".to_owned()))
}
