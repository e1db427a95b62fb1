//! What one listener answers, and the answers that need no backend.

use std::sync::Arc;

use ahash::AHashSet;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request};
use http_body_util::Full;
use postern_proxy_config::{
    funnel::Funnel,
    group::{Backend, Identity},
};

use super::guard::Admitted;
use crate::route::{Host, Table};

/// A listener's content; swapped whole.
#[derive(Debug)]
pub struct Site {
    /// The name's own full name.
    pub fqdn: String,
    /// Every host that is answered for.
    pub hosts: AHashSet<String>,
    /// What is done with requests.
    pub behaviour: Behaviour,
    /// How the internet gets in.
    pub funnel: Option<Arc<Funnel>>,
}

/// See [`Site`].
#[derive(Debug)]
pub enum Behaviour {
    /// Requests are routed.
    Routes {
        /// By host and path.
        table: Table,
        /// What backends are told.
        identity: Identity,
    },
    /// Everything is redirected to `https://` of the same host.
    RedirectToHttps {
        /// Left out of the URL when 443.
        port: u16,
    },
}

/// To the same host and path over HTTPS; from the short name to the full one, which certificates have.
pub(super) fn redirect_to_https(
    site: &Site,
    head: &request::Parts,
    admitted: &Admitted,
    port: u16,
) -> Response<Full<Bytes>> {
    let port = if port == 443 {
        String::new()
    } else {
        format!(":{port}")
    };
    let host = match admitted.host.as_str() {
        short if !short.contains('.') => &site.fqdn,
        full => full,
    };
    let location = format!("https://{host}{port}{}", path_and_query(head, admitted));
    // 308 keeps the method; for plain requests the older code is the more widely known.
    let status = match head.method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    redirect(status, &location)
}

/// What a backend that is none answers; `None` where a real one has to.
pub(super) fn answer(
    backend: &Backend,
    head: &request::Parts,
    admitted: &Admitted,
) -> Option<Response<Full<Bytes>>> {
    match backend {
        Backend::Text { text } => {
            let mut response = Response::new(Full::from(text.clone()));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            Some(response)
        }
        Backend::Redirect { status, location } => {
            let location = location
                .replace("${HOST}", &admitted.authority)
                .replace("${REQUEST_URI}", &path_and_query(head, admitted));
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FOUND);
            Some(redirect(status, &location))
        }
        Backend::Service { .. }
        | Backend::Address { .. }
        | Backend::Unix { .. }
        | Backend::Files { .. }
        | Backend::Unavailable { .. } => None,
    }
}

fn path_and_query(head: &request::Parts, admitted: &Admitted) -> String {
    match head.uri.query() {
        Some(query) => format!("{}?{query}", admitted.path),
        None => admitted.path.to_string(),
    }
}

fn redirect(status: StatusCode, location: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match HeaderValue::from_str(location) {
        Ok(location) => {
            *response.status_mut() = status;
            response.headers_mut().insert(header::LOCATION, location);
        }
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

impl Site {
    /// Whether requests for `host` are answered.
    pub fn answers_for(&self, host: &Host) -> bool {
        self.hosts.contains(host.as_str())
    }
}
