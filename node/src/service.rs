//! Tailscale Services (`svc:` names): several hosts serve one name at addresses of its own, and control sends each
//! client to one of them (Go: `tsnet.Server.ListenService`, `ipn/ipnlocal/serve.go`).
//!
//! Control learns that the list of services has changed by its hash, and then asks for the list by c2n. It answers
//! with the service's addresses in the node's capability `service-host`, once somebody has approved this host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use aws_lc_rs::digest;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    control::LocalState,
    engine::{TcpListener, TcpStream},
    netmap::Netmap,
    tls_listener::{MaybeTls, TlsListener},
};

mod name;

pub use name::ServiceName;

/// Why a service can't be hosted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Not the name of a service.
    #[error("{name:?} is no name of a Service: it has to be svc: and a DNS label, like svc:web")]
    Name {
        /// What was given.
        name: String,
    },
    /// A port has to be named.
    #[error("port 0: a Service is served on a port that its definition names")]
    Port,
    /// Users' nodes are refused as hosts.
    #[error("hosts of Services must be tagged nodes: log this node in with an auth key that has tags")]
    Untagged,
}

/// How a port of a service is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceMode {
    /// Bytes as they come. HTTPS is the caller's, with [`crate::node::Node::cert`].
    Tcp {
        /// A port that the service's definition names.
        port: u16,
    },
    /// TLS is ended here, with a certificate for the service's name.
    TerminateTls {
        /// A port that the service's definition names.
        port: u16,
    },
}

impl ServiceMode {
    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Self::Tcp { port } | Self::TerminateTls { port } => port,
        }
    }
}

/// Accepts connections to one port of a service. Dropping it withdraws the port, and with its last port the service:
/// connections that are open go on, new ones find another host.
#[derive(Debug)]
pub struct ServiceListener {
    /// Goes before the listener: whoever listens on the port next would be withdrawn with us.
    hosting: Hosting,
    listener: Listener,
    fqdn: String,
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Tls(TlsListener<TcpStream>),
}

impl ServiceListener {
    pub(crate) fn new(listener: Listener, fqdn: String, hosting: Hosting) -> Self {
        Self {
            listener,
            fqdn,
            hosting,
        }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.hosting.name
    }

    /// The service's full name, without trailing dot.
    pub fn fqdn(&self) -> &str {
        &self.fqdn
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.hosting.port
    }

    /// The next connection; `None` when the node is closed. It comes to the service's address: whois is asked with
    /// both addresses of [`MaybeTls::get_ref`]. Cancel safe.
    pub async fn accept(&mut self) -> Option<MaybeTls<TcpStream>> {
        match &mut self.listener {
            Listener::Tcp(listener) => listener.accept().await.map(MaybeTls::Plain),
            Listener::Tls(listener) => listener.accept().await.map(Box::new).map(MaybeTls::Tls),
        }
    }
}

/// Where a service stands on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// The service.
    pub name: ServiceName,
    /// Its full name, without trailing dot.
    pub fqdn: String,
    /// The ports that this node serves.
    pub ports: Vec<u16>,
    /// Control is told to send clients here.
    pub advertised: bool,
    /// Control has asked for all this since it changed last.
    pub told: bool,
    /// The service's addresses; none until control has approved this node as a host.
    pub addrs: Vec<IpAddr>,
    /// Control sends clients here, as far as it says so to the node itself.
    pub routed: bool,
}

impl ServiceStatus {
    /// Control has approved this node as a host.
    pub fn is_approved(&self) -> bool {
        !self.addrs.is_empty()
    }
}

/// The services that a node hosts.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    hosted: Arc<Mutex<BTreeMap<ServiceName, Hosted>>>,
    local: watch::Sender<LocalState>,
    /// Hash of the list that control has asked for last.
    told: watch::Sender<String>,
}

#[derive(Debug)]
struct Hosted {
    ports: BTreeSet<u16>,
    advertised: bool,
}

/// A port's place among what is hosted.
#[derive(Debug)]
pub(crate) struct Hosting {
    name: ServiceName,
    port: u16,
    services: Services,
}

impl Drop for Hosting {
    fn drop(&mut self) {
        self.services.change(|hosted| {
            if let Some(service) = hosted.get_mut(&self.name) {
                service.ports.remove(&self.port);
                if service.ports.is_empty() {
                    hosted.remove(&self.name);
                }
            }
        });
    }
}

impl Services {
    pub(crate) fn new(local: watch::Sender<LocalState>) -> Self {
        Self {
            hosted: Arc::default(),
            local,
            told: watch::Sender::default(),
        }
    }

    /// Adds a port, and advertises a service that is new here.
    pub(crate) fn host(&self, name: ServiceName, port: u16) -> Hosting {
        self.change(|hosted| {
            let service = hosted.entry(name.clone()).or_insert_with(|| Hosted {
                ports: BTreeSet::new(),
                advertised: true,
            });
            service.ports.insert(port);
        });
        Hosting {
            name,
            port,
            services: self.clone(),
        }
    }

    /// Whether control should send clients here. `false` when the service has no listener.
    pub(crate) fn advertise(&self, name: &ServiceName, on: bool) -> bool {
        self.change(|hosted| {
            let service = hosted.get_mut(name);
            service.map(|service| service.advertised = on).is_some()
        })
    }

    /// Where they stand.
    fn status(&self, netmap: &Netmap) -> Vec<ServiceStatus> {
        let mut approved = netmap.self_node.service_hosts();
        let told = *self.told.borrow() == self.local.borrow().services_hash;
        let routes = &netmap.self_node.allowed_ips;
        let status = |(name, service): (&ServiceName, &Hosted)| {
            let addrs = approved.remove(name.as_str()).unwrap_or_default();
            ServiceStatus {
                name: name.clone(),
                fqdn: name.fqdn(&netmap.magic_dns_suffix),
                ports: service.ports.iter().copied().collect(),
                advertised: service.advertised,
                told,
                routed: addrs
                    .iter()
                    .any(|addr| routes.iter().any(|net| net.contains(addr))),
                addrs,
            }
        };
        self.hosted.lock().iter().map(status).collect()
    }

    /// The answer to control's question: JSON of `C2NVIPServicesResponse`.
    pub(crate) fn c2n(&self) -> String {
        let list = list(&self.hosted.lock());
        let hash = hash(&list);
        let answer = match list.as_str() {
            // As Go, which leaves out a list that is empty.
            NONE => r#"{"ServicesHash":""}"#.to_owned(),
            _ => format!(r#"{{"VIPServices":{list},"ServicesHash":"{hash}"}}"#),
        };
        self.told.send_replace(hash);
        answer
    }

    /// Publishes where they stand until the node is closed.
    pub(crate) async fn follow(
        self,
        mut netmap: watch::Receiver<Option<Arc<Netmap>>>,
        status: watch::Sender<Vec<ServiceStatus>>,
        cancel: CancellationToken,
    ) {
        let (mut local, mut told) = (self.local.subscribe(), self.told.subscribe());
        loop {
            let newest = netmap.borrow_and_update().clone();
            local.mark_unchanged();
            told.mark_unchanged();
            let now = newest.map_or_else(Vec::new, |netmap| self.status(&netmap));
            status.send_if_modified(|status| {
                let changed = *status != now;
                *status = now;
                changed
            });
            let changed = async {
                tokio::select! {
                    changed = netmap.changed() => changed,
                    changed = local.changed() => changed,
                    changed = told.changed() => changed,
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                changed = changed => if changed.is_err() { return },
            }
        }
    }

    /// Changes what is hosted, and lets control notice.
    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<ServiceName, Hosted>) -> R) -> R {
        let mut hosted = self.hosted.lock();
        let result = change(&mut hosted);
        let hash = hash(&list(&hosted));
        self.local.send_if_modified(|local| {
            let changed = local.services_hash != hash;
            local.services_hash = hash;
            changed
        });
        result
    }
}

/// Go: `tailcfg.VIPService`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VipService<'a> {
    name: &'a str,
    ports: Vec<String>,
    active: bool,
}

fn list(hosted: &BTreeMap<ServiceName, Hosted>) -> String {
    let services: Vec<VipService<'_>> = hosted
        .iter()
        .map(|(name, service)| VipService {
            name: name.as_str(),
            ports: ranges(&service.ports),
            active: service.advertised,
        })
        .collect();
    serde_json::to_string(&services).expect("texts and truths have a JSON form")
}

/// Go: `ServiceConfigView.ServicePortRange`, in the text form of `ProtoPortRange`.
fn ranges(ports: &BTreeSet<u16>) -> Vec<String> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let text = |(first, last): (u16, u16)| match first == last {
        true => format!("tcp:{first}"),
        false => format!("tcp:{first}-{last}"),
    };
    ranges.into_iter().map(text).collect()
}

/// The list without services.
const NONE: &str = "[]";

/// Opaque to control, as long as it changes with the list; Go's is over the list with a line feed.
fn hash(list: &str) -> String {
    if list == NONE {
        return String::new();
    }
    let hash = digest::digest(&digest::SHA256, format!("{list}\n").as_bytes());
    hex::encode(hash.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.parse().unwrap()
    }

    #[test]
    fn control_sees_what_is_hosted_and_when_it_changes() {
        let local = watch::Sender::new(LocalState::default());
        let services = Services::new(local.clone());
        let hash = || local.borrow().services_hash.clone();
        assert_eq!(services.c2n(), r#"{"ServicesHash":""}"#);

        let web: Vec<_> = [443, 80, 82, 81]
            .map(|port| services.host(name("svc:web"), port))
            .into();
        let db = services.host(name("svc:db"), 5432);
        // What Go's JSON encoder and `vipServiceHash` make of the same list.
        let list = r#"[{"Name":"svc:db","Ports":["tcp:5432"],"Active":true},{"Name":"svc:web","Ports":["tcp:80-82","tcp:443"],"Active":true}]"#;
        let before = hash();
        assert_eq!(
            services.c2n(),
            format!(r#"{{"VIPServices":{list},"ServicesHash":"{before}"}}"#)
        );
        assert_eq!(before.len(), 64);

        assert!(services.advertise(&name("svc:db"), false));
        assert_ne!(hash(), before);
        assert!(services.c2n().contains(r#"["tcp:5432"],"Active":false"#));
        assert!(services.advertise(&name("svc:db"), true));
        assert_eq!(hash(), before);
        assert!(!services.advertise(&name("svc:other"), true));

        drop(web);
        assert!(!services.c2n().contains("svc:web"));
        drop(db);
        assert_eq!(hash(), "");
    }

    #[test]
    fn a_hash_is_gos() {
        // printf '[{"Name":"svc:web","Ports":["tcp:443"],"Active":true}]\n' | sha256sum
        let list = r#"[{"Name":"svc:web","Ports":["tcp:443"],"Active":true}]"#;
        assert_eq!(
            hash(list),
            "0ae8c333a548c3fad3d9a2edb4201bcf862bc9563079549579721b60204f2207"
        );
    }
}
