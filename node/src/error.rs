//! What can go wrong with a node.

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state could not be read or written.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
    /// The configuration makes no sense; names the field.
    #[error("{field}: {reason}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The network refused something locally, e.g. a port in use.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A request to control failed.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// A certificate could not be had; says why and when it is tried again.
    #[error("certificate for {domain}: {reason}")]
    Certificate {
        /// The name.
        domain: String,
        /// Why.
        reason: String,
        /// Not before this time, when the CA asked for a pause.
        retry_at: Option<jiff::Timestamp>,
    },
    /// Control gives this node no certificates.
    #[error("TLS needs HTTPS certificates: enable HTTPS in the DNS settings of the tailnet")]
    NoHttps,
    /// The tailnet's policy doesn't let this node use Funnel; says what it lacks.
    #[error(transparent)]
    Funnel(#[from] crate::funnel::FunnelError),
    /// This node can't host a Tailscale Service.
    #[error(transparent)]
    Service(#[from] crate::service::ServiceError),
    /// Control refused the login.
    #[error("the control server refused the login: {reason}")]
    Refused {
        /// What control said.
        reason: String,
    },
    /// The node is closed.
    #[error("the node is closed")]
    Closed,
}
