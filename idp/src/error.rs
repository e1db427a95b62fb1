//! What goes wrong, in OAuth's words. One place gives each its status.

use std::borrow::Cow;

use aws_lc_rs::error::Unspecified;
use http::StatusCode;
use serde::Serialize;

use crate::store::StoreError;

/// An error for a client: a registered code and a sentence that names the parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code:?}: {description}")]
pub(crate) struct Error {
    #[serde(rename = "error")]
    pub(crate) code: Code,
    #[serde(rename = "error_description")]
    pub(crate) description: Cow<'static, str>,
}

/// The codes of RFC 6749 (4.1.2.1, 5.2), 6750 (3.1), 7009, 7591 (3.2.2), 8693, 8707 and OpenID Connect Core
/// (3.1.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    InvalidTarget,
    InvalidToken,
    InvalidRedirectUri,
    InvalidClientMetadata,
    InsufficientScope,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
    AccessDenied,
    LoginRequired,
    ConsentRequired,
    RequestNotSupported,
    RequestUriNotSupported,
    TemporarilyUnavailable,
    ServerError,
}

impl Code {
    /// As it stands in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidToken => "invalid_token",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::InsufficientScope => "insufficient_scope",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::AccessDenied => "access_denied",
            Self::LoginRequired => "login_required",
            Self::ConsentRequired => "consent_required",
            Self::RequestNotSupported => "request_not_supported",
            Self::RequestUriNotSupported => "request_uri_not_supported",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::ServerError => "server_error",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest
            | Self::InvalidGrant
            | Self::InvalidTarget
            | Self::InvalidRedirectUri
            | Self::InvalidClientMetadata
            | Self::UnauthorizedClient
            | Self::UnsupportedGrantType
            | Self::UnsupportedResponseType
            | Self::LoginRequired
            | Self::ConsentRequired
            | Self::RequestNotSupported
            | Self::RequestUriNotSupported => StatusCode::BAD_REQUEST,
            Self::InvalidClient | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::AccessDenied | Self::InsufficientScope => StatusCode::FORBIDDEN,
            Self::TemporarilyUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::ServerError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// With a sentence.
    pub(crate) fn because(self, description: impl Into<Cow<'static, str>>) -> Error {
        Error {
            code: self,
            description: description.into(),
        }
    }
}

/// The cause is for the log: it names files and documents.
impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "The identity provider's store failed"
        );
        Code::TemporarilyUnavailable.because("the provider can't reach its state; try again")
    }
}

impl From<Unspecified> for Error {
    fn from(_: Unspecified) -> Self {
        tracing::error!("The cryptographic library failed");
        Code::ServerError.because("the provider can't do its cryptography")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_json_and_in_redirects_agree() {
        for code in [
            Code::InvalidRedirectUri,
            Code::AccessDenied,
            Code::RequestUriNotSupported,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
