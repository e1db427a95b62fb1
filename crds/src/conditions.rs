//! Types and reasons of conditions, and of the Events that say the same about a native Ingress.

/// The summary: everything below is true and the newest generation is served.
pub const READY: &str = "Ready";
/// The object is valid, allowed and its name is its own.
pub const ACCEPTED: &str = "Accepted";
/// What it names exists and can be used.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// The newest generation has reached the proxies.
pub const PROGRAMMED: &str = "Programmed";
/// The tailnet issues HTTPS certificates.
pub const HTTPS_AVAILABLE: &str = "HTTPSAvailable";
/// The tailnet's policy lets nodes be on Funnel.
pub const FUNNEL_AVAILABLE: &str = "FunnelAvailable";
/// The coordination service lets us define Services.
pub const SERVICES_AVAILABLE: &str = "ServicesAvailable";

/// The internet reaches what the object opens to it.
pub const FUNNEL_READY: &str = "FunnelReady";

/// The coordination service has the Service's definition, and it is ours or shared with us.
pub const DEFINED: &str = "Defined";
/// A replica has offered itself as a host of the Service.
pub const OFFERED: &str = "Offered";
/// The tailnet's policy or an administrator has accepted a host.
pub const APPROVED: &str = "Approved";
/// The certificate of the Service's name is there.
pub const CERTIFICATE_READY: &str = "CertificateReady";
/// A host is advertised: connections may be sent to it.
pub const ADVERTISED: &str = "Advertised";
/// A host answers with the newest generation.
pub const SERVING: &str = "Serving";

/// Reasons: `CamelCase`, stable, since alerts match on them.
pub mod reasons {
    /// All is well with [`super::ACCEPTED`].
    pub const ACCEPTED: &str = "Accepted";
    /// All is well with [`super::RESOLVED_REFS`].
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// All is well with [`super::PROGRAMMED`].
    pub const PROGRAMMED: &str = "Programmed";
    /// All is well with [`super::READY`].
    pub const READY: &str = "Ready";
    /// All is well with [`super::DEFINED`].
    pub const DEFINED: &str = "Defined";
    /// All is well with [`super::OFFERED`].
    pub const OFFERED: &str = "Offered";
    /// All is well with [`super::APPROVED`].
    pub const APPROVED: &str = "Approved";
    /// All is well with [`super::CERTIFICATE_READY`].
    pub const CERTIFICATE_READY: &str = "CertificateReady";
    /// No port needs a certificate.
    pub const NO_CERTIFICATE_NEEDED: &str = "NoCertificateNeeded";
    /// All is well with [`super::ADVERTISED`].
    pub const ADVERTISED: &str = "Advertised";
    /// All is well with [`super::SERVING`].
    pub const SERVING: &str = "Serving";

    /// All is well with [`super::FUNNEL_READY`].
    pub const FUNNEL_READY: &str = "FunnelReady";

    /// A field of the object can't be understood; the message names it.
    pub const INVALID: &str = "Invalid";
    /// An older object has the name, or the coordination server gave it to another machine.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The Service has owners that we don't know, and the object doesn't say `shared`.
    pub const OWNED_ELSEWHERE: &str = "OwnedElsewhere";
    /// The coordination server has no API of Services.
    pub const SERVICES_UNAVAILABLE: &str = "ServicesUnavailable";
    /// The allow lists of the ProxyGroup, or of the IdentityProvider, leave the object out.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// The ProxyGroup doesn't exist.
    pub const PROXY_GROUP_NOT_FOUND: &str = "ProxyGroupNotFound";
    /// The Tailnet doesn't exist.
    pub const TAILNET_NOT_FOUND: &str = "TailnetNotFound";
    /// The IdentityProvider doesn't exist.
    pub const IDENTITY_PROVIDER_NOT_FOUND: &str = "IdentityProviderNotFound";
    /// The ProxyClass doesn't exist.
    pub const PROXY_CLASS_NOT_FOUND: &str = "ProxyClassNotFound";
    /// A Service or its port doesn't exist or has no ClusterIP.
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    /// A Service that can't be a backend.
    pub const UNSUPPORTED_BACKEND: &str = "UnsupportedBackend";
    /// The operator may not read a certificate's Secret.
    pub const SECRET_NOT_READABLE: &str = "SecretNotReadable";
    /// The operator may not write a Secret into the namespace.
    pub const SECRET_NOT_WRITABLE: &str = "SecretNotWritable";
    /// A Secret doesn't exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A Secret lacks what it should hold.
    pub const INVALID_SECRET: &str = "InvalidSecret";
    /// A Secret of the name that we need isn't ours.
    pub const SECRET_NOT_OWNED: &str = "SecretNotOwned";
    /// Something isn't there yet.
    pub const PENDING: &str = "Pending";
    /// The coordination server asks for a login, or refused the auth key.
    pub const NEEDS_LOGIN: &str = "NeedsLogin";
    /// An administrator of the tailnet has to approve the machine.
    pub const NEEDS_APPROVAL: &str = "NeedsApproval";
    /// The coordination server issues no certificates, and the object brings none.
    pub const CERTIFICATE_REQUIRED: &str = "CertificateRequired";
    /// The certificate isn't there.
    pub const CERTIFICATE_PENDING: &str = "CertificatePending";
    /// The proxy refused the configuration; the one before it still serves.
    pub const REFUSED: &str = "Refused";
    /// The coordination server's API refused the credentials.
    pub const CREDENTIALS_REFUSED: &str = "CredentialsRefused";
    /// The coordination server's API can't be reached or failed.
    pub const API_UNAVAILABLE: &str = "APIUnavailable";
    /// The object is being deleted but others use it.
    pub const IN_USE: &str = "InUse";
    /// The object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// An annotation is unknown or can't be honoured.
    pub const IGNORED_ANNOTATION: &str = "IgnoredAnnotation";
    /// Funnel would open the name to the internet without a lock, and the object doesn't say that this is meant. A
    /// native Ingress can't say either.
    pub const FUNNEL_NEEDS_LOCK: &str = "FunnelNeedsLock";
    /// The tailnet doesn't let the name be on Funnel.
    pub const FUNNEL_UNAVAILABLE: &str = "FunnelUnavailable";
    /// A rule of a native Ingress isn't served.
    pub const IGNORED_RULE: &str = "IgnoredRule";
    /// Nothing can be deleted by the operator here: what remains is named.
    pub const DEVICE_LEFT: &str = "DeviceLeft";
    /// The operator couldn't take a Service's definition away: what remains is named.
    pub const DEFINITION_LEFT: &str = "DefinitionLeft";
    /// Nobody serves the object any more.
    pub const UNINSTALLED: &str = "Uninstalled";
    /// Not known yet.
    pub const UNKNOWN: &str = "Unknown";
}
