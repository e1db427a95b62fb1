//! Requests to backends: pools of connections by everything that changes whom we talk to.

mod connect;
mod forwarded;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use postern_proxy_config::{
    endpoints::Endpoints,
    group::{Backend, Scheme, Timeouts},
};

pub use connect::{ConnectError, Dialled, connect};
use connect::{Connector, TlsConfigs};
pub use forwarded::{Entry, Forwarded};

use crate::http::{Failure, RequestBody};

/// Whom we talk to and how: connections are shared only between requests that are equal in all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where.
    pub place: Place,
    /// Whether and how TLS is spoken.
    pub security: Security,
    /// Which HTTP.
    pub version: Version,
    /// For the connection to stand, TLS included.
    pub connect_timeout: Duration,
}

/// An address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// Tried in this order.
    Addresses(Arc<[SocketAddr]>),
    /// `host:port`, resolved for every connection.
    Host(Arc<str>),
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// None.
    Plain,
    /// Verified against the public roots.
    Verified,
    /// Encrypted only.
    Unverified,
}

/// HTTP towards a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// What ALPN chooses.
    Negotiated,
}

/// What the request itself demands of the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Any,
    /// gRPC.
    Http2,
    /// An upgrade.
    Http1,
}

/// All pools, and where Services are.
#[derive(Debug)]
pub struct Upstreams {
    pools: Mutex<AHashMap<Target, Pool>>,
    endpoints: ArcSwap<Endpoints>,
    tls: TlsConfigs,
    forwarded: Arc<Forwarded>,
}

#[derive(Debug)]
struct Pool {
    client: Client<Connector, RequestBody>,
    used: Instant,
}

impl Upstreams {
    /// No pools yet.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self {
            pools: Mutex::default(),
            endpoints: ArcSwap::default(),
            tls: TlsConfigs::new()?,
            forwarded: Arc::default(),
        })
    }

    /// Connections that carry one client's bytes.
    pub fn forwarded(&self) -> &Arc<Forwarded> {
        &self.forwarded
    }

    /// Services have moved. Pools of addresses that are gone are forgotten after a while.
    pub fn set_endpoints(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }

    /// Forgets pools that were not used for this long.
    pub fn forget_unused(&self, age: Duration) {
        self.pools.lock().retain(|_, pool| pool.used.elapsed() < age);
    }

    /// The target of a backend that is reached over a network.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when it has no address that may be used.
    pub fn target(&self, backend: &Backend, timeouts: &Timeouts, need: Need) -> Result<Target, Failure> {
        let (place, scheme) = match backend {
            Backend::Service { key, scheme } => {
                let endpoints = self.endpoints.load();
                let known = endpoints.backends.get(key).ok_or(Failure::Unavailable)?;
                let usable: Arc<[SocketAddr]> = known
                    .iter()
                    .copied()
                    .filter(|a| may_be_a_service(a.ip()))
                    .collect();
                if usable.is_empty() {
                    return Err(Failure::Unavailable);
                }
                (Place::Addresses(usable), *scheme)
            }
            Backend::Address { address, scheme, .. } => (Place::Host(address.as_str().into()), *scheme),
            Backend::Unix { path } => (Place::Unix(path.into()), Scheme::Http),
            Backend::Text { .. }
            | Backend::Redirect { .. }
            | Backend::Files { .. }
            | Backend::Unavailable { .. } => {
                return Err(Failure::Unavailable);
            }
        };
        let (security, version) = match scheme {
            Scheme::Http if need == Need::Http2 => (Security::Plain, Version::Http2),
            Scheme::Http => (Security::Plain, Version::Http1),
            Scheme::H2c => (Security::Plain, Version::Http2),
            Scheme::Https => (Security::Verified, Version::Negotiated),
            Scheme::HttpsInsecure => (Security::Unverified, Version::Negotiated),
        };
        Ok(Target {
            place,
            security,
            version: if need == Need::Http1 {
                Version::Http1
            } else {
                version
            },
            connect_timeout: Duration::from_millis(timeouts.connect_ms),
        })
    }

    /// Sends a request. Its URI holds the client's authority: HTTP/2 sends it as `:authority`.
    ///
    /// # Errors
    /// [`Failure::BadGateway`] or [`Failure::GatewayTimeout`]; the flag says that the connection stood.
    pub async fn send(
        &self,
        target: &Target,
        request: Request<RequestBody>,
        response_timeout: Duration,
    ) -> Result<Response<Incoming>, (Failure, bool)> {
        let sending = self.client(target).request(request);
        match tokio::time::timeout(target.connect_timeout + response_timeout, sending).await {
            Err(_) => Err((Failure::GatewayTimeout, true)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let failure = if ConnectError::is_timeout(&error) {
                    Failure::GatewayTimeout
                } else {
                    Failure::BadGateway
                };
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    upstream = %target.place,
                    "Backend failed"
                );
                Err((failure, !error.is_connect()))
            }
        }
    }

    fn client(&self, target: &Target) -> Client<Connector, RequestBody> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get_mut(target) {
            pool.used = Instant::now();
            return pool.client.clone();
        }
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .set_host(false)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            // Below the 5 s after which Node.js closes; a connection inside of a cluster costs nothing.
            .pool_idle_timeout(Duration::from_secs(4))
            .pool_max_idle_per_host(256)
            .http1_max_headers(256)
            .http2_only(target.version == Version::Http2)
            .http2_max_header_list_size(64 * 1024)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20));
        let client = builder.build(Connector::new(target.clone(), &self.tls));
        pools.insert(
            target.clone(),
            Pool {
                client: client.clone(),
                used: Instant::now(),
            },
        );
        client
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Addresses(addresses) => match addresses.first() {
                Some(first) => write!(f, "{first}"),
                None => f.write_str("none"),
            },
            Self::Host(host) => f.write_str(host),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A Service that resolves to the proxy's own pod or the node's metadata service is an attack.
fn may_be_a_service(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_never_are_our_own_pod() {
        let upstreams = Upstreams::new().unwrap();
        upstreams.set_endpoints(Endpoints {
            format: 1,
            backends: [
                ("a/ok:80", vec!["127.0.0.1:80", "10.0.0.9:80"]),
                (
                    "a/self:80",
                    vec![
                        "127.0.0.1:80",
                        "[::1]:80",
                        "[::ffff:127.0.0.1]:80",
                        "169.254.169.254:80",
                    ],
                ),
                ("a/none:80", vec![]),
            ]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.into_iter().map(|a| a.parse().unwrap()).collect()))
            .collect(),
        });
        let target = |key: &str| {
            let backend = Backend::Service {
                key: key.to_owned(),
                scheme: Scheme::Http,
            };
            upstreams
                .target(&backend, &Timeouts::default(), Need::Any)
                .map(|t| t.place.to_string())
        };
        assert_eq!(target("a/ok:80").unwrap(), "10.0.0.9:80");
        for key in ["a/self:80", "a/none:80", "a/unknown:80"] {
            assert_eq!(target(key), Err(Failure::Unavailable), "{key}");
        }
    }
}
