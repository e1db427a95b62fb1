use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::access::Access;

/// A client of an IdentityProvider, beside the app that logs its users in by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "OIDCClient",
    plural = "oidcclients",
    singular = "oidcclient",
    namespaced,
    status = "OidcClientStatus",
    derive = "PartialEq",
    category = "postern",
    doc = "A client of an IdentityProvider, beside the app that logs its users in by it.",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.identityProviderRef.name"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName"),
    printcolumn(name = "Client ID", type_ = "string", priority = 1, json_path = ".status.clientID"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type=='Ready')].message"),
    validation = (
        "has(self.spec.secretName) || size(self.metadata.name) <= 248",
        "spec.secretName must be set when metadata.name has more than 248 characters"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct OidcClientSpec {
    /// The IdentityProvider. Its namespace has to allow this one.
    pub identity_provider_ref: IdentityProviderRef,
    /// What the consent page calls the client; the object's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub display_name: Option<String>,
    /// Where browsers may be sent back to, compared as texts. `http` is for loopback addresses alone, whose
    /// port may differ (RFC 8252, section 7.3); other schemes are those of native apps.
    #[serde(rename = "redirectURIs")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 1024),
            regex(pattern = r"^[A-Za-z][A-Za-z0-9+.-]*:[^\s#]+$")
        )
    )]
    #[x_kube(validation = (
        "self.all(uri, !uri.matches('^(?i)http:') || uri.matches('^http://(localhost|127[.]0[.]0[.]1|\\\\[::1\\\\])(:[0-9]+)?(/|$)'))",
        "redirectURIs with http must be of localhost, 127.0.0.1 or [::1]: use https for others"
    ))]
    #[x_kube(validation = (
        "self.all(uri, !uri.matches('^(?i)(javascript|data|blob|file|filesystem|vbscript|about|mailto|ftp|ws|wss|chrome|chrome-extension):'))",
        "redirectURIs must not have a scheme that browsers or mail programs give a meaning of their own"
    ))]
    #[x_kube(validation = (
        "self.all(uri, !uri.matches('^(?i)https:') || uri.matches('^https://[^/?]+'))",
        "redirectURIs with https need a host"
    ))]
    pub redirect_uris: Vec<String>,
    /// A client that can't keep a secret, such as a single-page or native app: it authenticates by PKCE alone.
    #[serde(default)]
    pub public: bool,
    /// Who may log in by this client; absent: whoever reaches the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The Secret that is written for the app: `ISSUER`, `CLIENT_ID`, `CLIENT_SECRET` (not of a public client),
    /// `AUTH_URL`, `TOKEN_URL`, `USERINFO_URL`, `JWKS_URL`, `DISCOVERY_URL`, and `BACK_CHANNEL`, the Service by
    /// which the cluster reaches the issuer, where there is one. The object's name and `-oidc` when absent. One
    /// that exists already is never overwritten. Delete it to get another client secret: the old one stays good
    /// for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "secretName must be a name of a Secret: lower case letters, digits, '-' and '.'"
    ))]
    pub secret_name: Option<String>,
}

/// An IdentityProvider, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the client's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// What is known about an OIDCClient.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcClientStatus {
    /// `Ready`, `Accepted`, `ResolvedRefs`, `Programmed`.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// What the provider calls the client.
    #[serde(default, rename = "clientID", skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The provider's issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The Secret that was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}
