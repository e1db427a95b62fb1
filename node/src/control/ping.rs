//! Questions that control asks in the map stream (Go: `controlclient.Direct.answerPing`).

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Uri};
use tokio::time::timeout;

use super::{
    C2n, c2n,
    connection::{Client, http1_exchange},
    dial::Dial,
    error::SessionError,
    url::Origin,
};
use crate::tailcfg::PingRequest;

const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const C2N_TIMEOUT: Duration = Duration::from_secs(60);

/// What answers.
#[derive(Clone)]
pub(super) struct Answerer {
    pub(super) client: Client,
    pub(super) dialer: Arc<dyn Dial>,
    pub(super) c2n: Arc<dyn C2n>,
}

impl Answerer {
    /// Answers, or gives up after a while; control asks again if it wants to know.
    pub(super) async fn answer(self, ping: PingRequest) {
        let (kind, url) = (ping.types.clone(), ping.url.clone());
        let (limit, what) = if ping.types == "c2n" {
            (C2N_TIMEOUT, "c2n")
        } else {
            (HEAD_TIMEOUT, "ping")
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
            other => Err(SessionError::Body(format!("unknown kind {other}"))),
        }
    }

    async fn head(&self, uri: &Uri) -> Result<(), SessionError> {
        let origin = Origin::of(uri)
            .ok_or_else(|| SessionError::Body("the URL is neither http nor https".to_owned()))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        http1_exchange(&*self.dialer, &origin, Request::head(path)).await?;
        Ok(())
    }
}
