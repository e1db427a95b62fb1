//! Definitions of Services. The API has no versions, so an update is a read and a write that may cross
//! another's; looking again puts that right.

use http::Method;
use jiff::SignedDuration;

use super::{V2, escape};
use crate::{
    model::SERVICE_PREFIX,
    tailnet_api::{
        Definition, Error,
        https::{Answer, Body},
    },
};

const PATH: &str = "/api/v2/tailnet/-/vip-services";
/// An answer to whether there are Services counts for this long.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(5);

impl V2 {
    pub(in crate::tailnet_api) async fn probe_services(&self) -> Result<bool, Error> {
        let mut known = self.services.lock().await;
        let now = (self.clock)();
        if known.is_some_and(|at| now.duration_since(at) < REMEMBERED) {
            return Ok(true);
        }
        let listed = self.found("list Services", Method::GET, PATH, Body::None).await?;
        *known = listed.is_some().then_some(now);
        Ok(listed.is_some())
    }

    pub(in crate::tailnet_api) async fn definition(
        &self,
        service: &str,
    ) -> Result<Option<Definition>, Error> {
        let path = path(service);
        let found = self.found("get a Service", Method::GET, &path, Body::None);
        found.await?.map(|answer| answer.json()).transpose()
    }

    pub(in crate::tailnet_api) async fn define(&self, definition: &Definition) -> Result<Definition, Error> {
        let what = "define a Service";
        let body = serde_json::to_value(definition).map_err(|source| Error::Answer { what, source })?;
        let (token, path) = (self.token().await?, path(&definition.name));
        let body = Body::Json(&body);
        let asked = self.https.ask(what, Method::PUT, &path, Some(&token), body);
        asked.await?.json()
    }

    pub(in crate::tailnet_api) async fn undefine(&self, service: &str) -> Result<(), Error> {
        self.delete_path("delete a Service", &path(service)).await
    }

    /// Asks; what isn't there is `None`.
    async fn found(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Option<Answer>, Error> {
        let token = self.token().await?;
        match self.https.ask(what, method, path, Some(&token), body).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Failed { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// With its colon as it is, as Go's clients send it.
fn path(service: &str) -> String {
    let label = service.strip_prefix(SERVICE_PREFIX).unwrap_or(service);
    format!("{PATH}/{SERVICE_PREFIX}{}", escape(label))
}
