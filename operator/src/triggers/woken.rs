//! What can be looked at again, by the key that its controller knows it by.

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use postern_crds::{IdentityProvider, OIDCClient, TailnetIngress, TailnetService};

/// Something to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Woken {
    /// By name.
    Tailnet(String),
    /// By name.
    ProxyGroup(String),
    /// By namespace and name.
    TailnetIngress {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    TailnetService {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    IdentityProvider {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    OidcClient {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By namespace and name.
    Ingress {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By the name of its record.
    Device(String),
}

pub(super) fn key(object: &TailnetIngress) -> Woken {
    Woken::TailnetIngress {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

pub(super) fn service_key(object: &TailnetService) -> Woken {
    Woken::TailnetService {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

pub(super) fn provider_key(object: &IdentityProvider) -> Woken {
    Woken::IdentityProvider {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

pub(super) fn client_key(object: &OIDCClient) -> Woken {
    Woken::OidcClient {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

pub(super) fn ingress_key(object: &Ingress) -> Woken {
    Woken::Ingress {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}
