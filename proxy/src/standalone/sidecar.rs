//! The one name of a sidecar: what a `serve.json` or the command line, and the environment make of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use postern_proxy_config::{
    funnel::{Funnel, FunnelLimits},
    group::{Listener, Name, NodeConfig, Owner, Protocol, Route, SecretRef, Service, Tailnet},
    serve::{CERT_DOMAIN, Serve, is_label},
};

use super::{StandaloneError, forward, secrets};
use crate::{
    args::{Bounds, Extra, NodeArgs},
    serve::Spec,
};

/// The one name of a sidecar.
#[derive(Debug)]
pub(super) struct Sidecar {
    hostname: String,
    tags: Vec<String>,
    tailnet: Tailnet,
    /// Ports that go on to the same ports of this machine where the rest leaves them free.
    forward: BTreeSet<u16>,
    bounds: Bounds,
    pub(super) listeners: Said,
}

/// Where a sidecar's listeners are said.
#[derive(Debug)]
pub(super) enum Said {
    /// In a `serve.json`.
    File(PathBuf),
    /// On the command line, with the text that says the same.
    Here(Serve, String),
    /// Nowhere: ports are forwarded, or there is but the way out.
    Nowhere,
}

const TAILSCALE: &str = "https://controlplane.tailscale.com";

impl Sidecar {
    pub(super) fn new(
        node: &NodeArgs,
        forward: BTreeSet<u16>,
        listeners: Said,
    ) -> Result<Self, StandaloneError> {
        let extra = Extra::parse(&node.extra_args).map_err(StandaloneError::Extra)?;
        for word in &extra.ignored {
            tracing::info!(
                argument = word,
                "Ignored: it has no meaning without a network interface"
            );
        }
        let tailnet = Tailnet {
            control_url: extra
                .login_server
                .or_else(|| node.login_server.clone())
                .unwrap_or_else(|| TAILSCALE.to_owned()),
            // SSL_CERT_FILE is read where TLS is set up.
            ca_bundle: None,
            acme_directory: node.acme_directory.clone(),
            derp_only: false,
        };
        Ok(Self {
            hostname: hostname(extra.hostname.or_else(|| node.hostname.clone()))?,
            tags: extra.tags,
            tailnet,
            forward,
            bounds: node.bounds.clone(),
            listeners,
        })
    }

    /// Another text when the keys of Funnel are others.
    pub(super) async fn keys_revision(&self) -> String {
        match &self.bounds.funnel_keys {
            Some(dir) => secrets::revision(dir).await,
            None => String::new(),
        }
    }

    /// What is to be served, by its key. `keys`: see [`Self::keys_revision`].
    pub(super) fn names(&self, serve: Serve, keys: &str, generation: i64) -> BTreeMap<String, Arc<Spec>> {
        // Funnel's edge asks for the node's own name.
        let is_own = |host: &String| host == CERT_DOMAIN || host.split('.').next() == Some(&self.hostname);
        let ports = serve.funnel.iter().filter(|(_, hosts)| hosts.iter().any(is_own));
        let ports: BTreeSet<u16> = ports.map(|(port, _)| *port).collect();
        let mut listeners: Vec<Listener> = serve.listeners;
        for listener in listeners
            .iter_mut()
            .filter(|listener| ports.contains(&listener.port))
        {
            if let Protocol::Https(http) = &mut listener.protocol {
                let own = |route: &&mut Route| route.host.as_ref().is_none_or(is_own);
                http.routes
                    .iter_mut()
                    .filter(own)
                    .for_each(|route| route.funnel = true);
            }
        }
        let funnel = (!ports.is_empty()).then(|| self.funnel(ports, keys));
        self.bound(&mut listeners);
        forward::add(&mut listeners, &self.forward);
        let hostname = &self.hostname;
        let secret = |what: &str| SecretRef {
            name: format!("{hostname}-{what}"),
            revision: String::new(),
        };
        let owner = Owner {
            kind: "File".to_owned(),
            namespace: String::new(),
            name: hostname.clone(),
            uid: String::new(),
        };
        let service = |mut listeners: Vec<Listener>| {
            self.bound(&mut listeners);
            Service {
                owner: owner.clone(),
                generation,
                listeners,
                certificate: Some(secret("tls")),
                certificates: Vec::new(),
            }
        };
        let services = serve.services.into_iter();
        let services = services.map(|(name, listeners)| (name, Arc::new(service(listeners))));
        let services = services.collect();
        let name = Name {
            owner,
            generation,
            node: NodeConfig {
                hostname: hostname.clone(),
                tags: self.tags.clone(),
                state: secret("node"),
                certificate: Some(secret("tls")),
            },
            listeners,
            funnel,
            certificates: Vec::new(),
        };
        let spec = Spec {
            tailnet: self.tailnet.clone(),
            name,
            services,
        };
        [(hostname.clone(), Arc::new(spec))].into()
    }

    /// The file says what is public; for a lock it has no word.
    fn funnel(&self, ports: BTreeSet<u16>, keys: &str) -> Funnel {
        let dir = self.bounds.funnel_keys.as_ref();
        Funnel {
            ports,
            unauthenticated: dir.is_none(),
            keys: dir.map(|dir| SecretRef {
                name: dir.display().to_string(),
                revision: keys.to_owned(),
            }),
            limits: FunnelLimits {
                per_key: self.bounds.per_key(),
                ..FunnelLimits::default()
            },
            ..Funnel::default()
        }
    }

    fn bound(&self, listeners: &mut [Listener]) {
        for listener in listeners {
            if let Protocol::Https(http) | Protocol::Http(http) = &mut listener.protocol {
                for route in &mut http.routes {
                    route.limits.per_user = self.bounds.per_user();
                }
            }
        }
    }
}

/// The name that was asked for, else the machine's.
fn hostname(given: Option<String>) -> Result<String, StandaloneError> {
    if let Some(given) = given.filter(|name| !name.is_empty()) {
        let name = given.to_ascii_lowercase();
        return is_label(&name)
            .then_some(name)
            .ok_or(StandaloneError::BadHostname(given));
    }
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = machine
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    is_label(&label)
        .then_some(label)
        .ok_or_else(|| StandaloneError::NoHostname(machine.trim().to_owned()))
}
