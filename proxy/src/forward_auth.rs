//! Who a reverse proxy beside us is serving: nginx's `auth_request`, Traefik's and Envoy's forward auth, with
//! the contract of Tailscale's nginx-auth (Go: `cmd/nginx-auth`).
//!
//! In: `Remote-Addr` and `Remote-Port`, the client as the reverse proxy sees it (a tailnet address, or our end
//! of a connection that we forwarded), and maybe `Expected-Tailnet`. Out: 204 with `Tailscale-User`, `-Login`,
//! `-Name`, `-Tailnet`, `-Profile-Picture`; 400 when the request says nothing, 401 when nobody is known there,
//! 403 for tagged machines and for users of another tailnet.
//!
//! Invariant: on a unix socket or a loopback port alone, since it believes an address that a header names.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    local::Socket,
    local_api::{Found, LocalApi},
};

/// See the module.
#[derive(Debug, Clone)]
pub struct ForwardAuth(Arc<LocalApi>);

/// The user to be let in, as headers.
#[derive(Debug, PartialEq, Eq)]
struct User {
    login: String,
    name: String,
    picture: String,
    tailnet: String,
}

/// Why nobody is let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("set Remote-Addr to $remote_addr and Remote-Port to $remote_port in the reverse proxy")]
    Unset,
    #[error("Remote-Addr and Remote-Port are no address and port")]
    NoAddress,
    #[error("nobody of the tailnet is known at {0}:{1}")]
    Unknown(IpAddr, u16),
    #[error("the machine is tagged and acts for no user")]
    Tagged,
    #[error("the user is of the tailnet {0:?}")]
    OtherTailnet(String),
}

impl ForwardAuth {
    /// By what the LocalAPI knows.
    pub fn new(api: Arc<LocalApi>) -> Self {
        Self(api)
    }

    /// Answers every request on the socket, whatever its path.
    pub fn serve(&self, socket: Socket, tasks: &TaskTracker, end: CancellationToken) {
        let auth = self.clone();
        socket.serve(tasks, end, move |_client, request| {
            let auth = auth.clone();
            async move { auth.answer(request.headers()).await }
        });
    }

    pub(crate) async fn answer(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        match self.user(headers).await {
            Ok(user) => {
                *response.status_mut() = StatusCode::NO_CONTENT;
                user.write(response.headers_mut());
            }
            Err(refusal) => {
                tracing::debug!(reason = %refusal, "Forward auth refused");
                *response.status_mut() = refusal.status();
            }
        }
        response
    }

    async fn user(&self, headers: &HeaderMap) -> Result<User, Refusal> {
        let text = |name| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
        };
        let (addr, port) = (text("remote-addr"), text("remote-port"));
        if addr.is_empty() || port.is_empty() {
            return Err(Refusal::Unset);
        }
        let addr: IpAddr = addr.parse().map_err(|_| Refusal::NoAddress)?;
        let port: u16 = port.parse().map_err(|_| Refusal::NoAddress)?;
        let found = self.0.by_address(addr, port, true).await;
        let user = User::of(&found.ok_or(Refusal::Unknown(addr, port))?)?;
        let expected = text("expected-tailnet");
        if expected.is_empty() || expected.trim_end_matches('.') == user.tailnet.trim_end_matches('.') {
            Ok(user)
        } else {
            Err(Refusal::OtherTailnet(user.tailnet))
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unset => StatusCode::BAD_REQUEST,
            Self::NoAddress | Self::Unknown(..) => StatusCode::UNAUTHORIZED,
            Self::Tagged | Self::OtherTailnet(_) => StatusCode::FORBIDDEN,
        }
    }
}

impl User {
    fn of(found: &Found) -> Result<Self, Refusal> {
        if found.node.is_tagged() {
            return Err(Refusal::Tagged);
        }
        Ok(Self {
            login: found.user.login_name.clone(),
            name: found.user.display_name.clone(),
            picture: found.user.profile_pic_url.clone(),
            tailnet: found.tailnet(),
        })
    }

    fn write(&self, headers: &mut HeaderMap) {
        let short = self.login.split('@').next().unwrap_or_default();
        for (name, value) in [
            ("tailscale-login", short),
            ("tailscale-user", &self.login),
            ("tailscale-name", &self.name),
            ("tailscale-profile-picture", &self.picture),
            ("tailscale-tailnet", &self.tailnet),
        ] {
            // As UTF-8, like Go; what can't stand in a header is left empty.
            let value = HeaderValue::from_bytes(value.as_bytes());
            let value = value.unwrap_or_else(|_| HeaderValue::from_static(""));
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
