//! The custom resources of `postern.dev`: Rust types, and the YAML that is generated from them.
//!
//! It is types and constants and nothing else: no client, no decisions. The YAML in
//! `charts/postern/templates/crds/` is written by `POSTERN_UPDATE=1 cargo test -p postern-crds`; without the
//! variable the same test fails when it isn't current.
//!
//! Rules that hold for every kind:
//!
//! - Every list and every text of a spec has a bound, so that CEL rules fit into the API server's budget.
//! - What one object alone can get wrong is refused by the schema; what depends on others is a condition.
//! - Conditions are a list-map by type; their types and reasons are the constants of [`conditions`].
//! - The chart installs a kind only when a controller serves it: an object without any condition would look
//!   as if all were well.

#![expect(unreachable_pub, reason = "KubeSchema repeats each type inside of a function")]

pub mod access;
pub mod conditions;
mod funnel;
mod identity_provider;
mod oidc_client;
mod proxy_class;
mod proxy_group;
mod tailnet;
mod tailnet_ingress;
mod tailnet_service;
pub mod yaml;

pub use funnel::{AddressQuota, Funnel, FunnelAuth, FunnelLimits, KeysFrom, KeysSecret, Quota};
pub use identity_provider::{
    BackChannel, ClientIdMetadataDocuments, ClientNamespaces, ClientNamespacesFrom, ClientRules,
    DynamicRegistration, IdentityProvider, IdentityProviderSpec, IdentityProviderStatus, IssuerFunnel,
    IssuerLimits, Lifetimes, Signing, SigningAlgorithm, TokenExchange,
};
pub use oidc_client::{IdentityProviderRef, OIDCClient, OidcClientSpec, OidcClientStatus};
pub use proxy_class::{ProxyClass, ProxyClassSpec};
pub use proxy_group::{
    AllowedNamespaces, NamespacesFrom, ProxyGroup, ProxyGroupSpec, ProxyGroupStatus, TailnetRef,
};
pub use tailnet::{
    AuthKey, Credentials, HeadscaleApiKey, OauthClient, SecretName, Tailnet, TailnetSpec, TailnetStatus,
};
pub use tailnet_ingress::{
    Backend, Identity, IdentityHeaders, IngressRule, Limits, Path, PathType, Rewrite, Scheme, ServiceBackend,
    TailnetIngress, TailnetIngressSpec, TailnetIngressStatus, Timeouts, Tls,
};
pub use tailnet_service::{
    ProxyProtocol, ServiceProtocol, TailnetService, TailnetServicePort, TailnetServiceSpec,
    TailnetServiceStatus,
};

/// The API group.
pub const GROUP: &str = "postern.dev";

/// The name that a reference has when it isn't given.
pub const DEFAULT: &str = "default";

/// `spec.controller` of our IngressClass.
pub const INGRESS_CONTROLLER: &str = "postern.dev/ingress";
