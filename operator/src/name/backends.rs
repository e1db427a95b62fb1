//! Services: whether they can be backends, how to speak to them and where they are.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use postern_crds::conditions::reasons;
use postern_proxy_config::group::{Backend, Scheme};

use crate::{
    model::{BackendRef, Port, Problem},
    stores::Stores,
};

/// Finds the Service that an object names in its own namespace.
///
/// # Errors
/// A [`Problem`] that names the object's field.
pub fn resolve(stores: &Stores, namespace: &str, backend: &BackendRef) -> Result<Backend, Problem> {
    let BackendRef {
        field,
        service: name,
        port,
        scheme,
    } = backend;
    let not_found = |part: &str, message: String| {
        Err(Problem::new(
            reasons::BACKEND_NOT_FOUND,
            format!("{field}{part}"),
            message,
        ))
    };
    let Some(service) = stores.service(namespace, name) else {
        return not_found(".name", format!("Service {namespace}/{name} doesn't exist"));
    };
    if let Err(why) = cluster_ips(&service) {
        return Err(Problem::new(
            reasons::UNSUPPORTED_BACKEND,
            format!("{field}.name"),
            format!("Service {namespace}/{name} {why}"),
        ));
    }
    let Some(found) = find_port(&service, port) else {
        let wanted = match port {
            Port::Number(number) => number.to_string(),
            Port::Name(name) => format!("{name:?}"),
        };
        return not_found(
            ".port",
            format!("Service {namespace}/{name} has no TCP port {wanted}"),
        );
    };
    Ok(Backend::Service {
        key: format!("{namespace}/{name}:{}", found.port),
        scheme: scheme.unwrap_or_else(|| scheme_of(found)),
    })
}

/// Where the backend of a key (`NAMESPACE/NAME:PORT`) is now; empty when it is nowhere.
pub fn addresses(stores: &Stores, key: &str) -> Vec<SocketAddr> {
    let find = || {
        let (namespace, rest) = key.split_once('/')?;
        let (name, port) = rest.rsplit_once(':')?;
        let port = port.parse::<u16>().ok()?;
        let service = stores.service(namespace, name)?;
        find_port(&service, &Port::Number(port))?;
        let ips = cluster_ips(&service).ok()?;
        Some(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    };
    find().unwrap_or_default()
}

fn find_port<'a>(service: &'a Service, port: &Port) -> Option<&'a ServicePort> {
    service.spec.as_ref()?.ports.iter().flatten().find(|candidate| {
        candidate.protocol.as_deref().unwrap_or("TCP") == "TCP"
            && match port {
                Port::Number(number) => candidate.port == i32::from(*number),
                Port::Name(name) => candidate.name.as_ref() == Some(name),
            }
    })
}

fn cluster_ips(service: &Service) -> Result<Vec<IpAddr>, &'static str> {
    let spec = service.spec.as_ref().ok_or("has no spec")?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err("is of type ExternalName: only Services with a ClusterIP can be backends");
    }
    let texts = spec.cluster_ips.clone().filter(|ips| !ips.is_empty());
    let texts = texts.unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
    if texts.iter().any(|text| text == "None") {
        return Err("is headless: only Services with a ClusterIP can be backends");
    }
    let ips: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    if ips.is_empty() {
        return Err("has no ClusterIP yet");
    }
    // A proxy must not be talked into reaching itself or its node.
    if ips.iter().any(is_local) {
        return Err("has a loopback, link-local, multicast or unspecified ClusterIP, which is refused");
    }
    Ok(ips)
}

fn is_local(ip: &IpAddr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

fn scheme_of(port: &ServicePort) -> Scheme {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => Scheme::H2c,
        Some("http" | "kubernetes.io/ws") => Scheme::Http,
        Some("https" | "kubernetes.io/wss") => Scheme::HttpsInsecure,
        // As the Tailscale operator does it; certificates of Services are rarely public ones.
        _ if port.port == 443 || port.name.as_deref() == Some("https") => Scheme::HttpsInsecure,
        _ => Scheme::Http,
    }
}
