//! What clients can find out by themselves: OpenID Connect Discovery, RFC 8414, and RFC 9728 for the resource
//! servers behind the provider.

use serde_json::{Value, json};

use crate::{issuer::Issuer, keys::Algorithm, provider::Config, scope::Scope};

/// The provider's metadata: both documents are the same, registered names alone.
///
/// `registration` says whether whoever asks could register a client at all.
pub(crate) fn metadata(config: &Config, registration: bool) -> Value {
    let at = |path: &str| config.issuer.at(path);
    let mut grants = vec!["authorization_code", "refresh_token"];
    if config.token_exchange {
        grants.push(crate::token::EXCHANGE);
    }
    // RS256 is always there: OpenID Connect Discovery wants it named.
    let algorithms = match config.signing {
        Algorithm::Es256 => ["ES256", "RS256"],
        Algorithm::Rs256 => ["RS256", "ES256"],
    };
    let methods = ["client_secret_basic", "client_secret_post", "none"];
    let mut metadata = json!({
        "issuer": config.issuer.as_str(),
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "jwks_uri": at("/.well-known/jwks.json"),
        "introspection_endpoint": at("/introspect"),
        "revocation_endpoint": at("/revoke"),
        "scopes_supported": Scope::ALL.map(Scope::as_str)[..5],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": grants,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
        "token_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_methods_supported": methods[..2],
        "revocation_endpoint_auth_methods_supported": methods,
        "code_challenge_methods_supported": ["S256"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "claims_supported": [
            "sub", "aud", "exp", "iat", "iss", "jti", "nbf", "nonce", "azp", "auth_time", "sid", "at_hash",
            "name", "preferred_username", "username", "picture", "email", "email_verified", "groups",
            "key", "addresses", "nid", "node", "tailnet", "uid",
        ],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "authorization_response_iss_parameter_supported": true,
    });
    if registration && let Some(object) = metadata.as_object_mut() {
        object.insert("registration_endpoint".to_owned(), at("/register").into());
    }
    metadata
}

/// What a resource server says about itself (RFC 9728), so that MCP clients find the provider: to be served at
/// `/.well-known/oauth-protected-resource` of the resource's own host, and named in its `WWW-Authenticate`.
pub fn protected_resource(issuer: &Issuer, resource: &str, name: Option<&str>) -> Value {
    let mut metadata = json!({
        "resource": resource,
        "authorization_servers": [issuer.as_str()],
        "jwks_uri": issuer.at("/.well-known/jwks.json"),
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["openid", "email", "profile", "groups", "offline_access"],
    });
    if let (Some(name), Some(object)) = (name, metadata.as_object_mut()) {
        object.insert("resource_name".to_owned(), name.into());
    }
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_below_the_issuer_and_says_what_there_is() {
        let mut config = Config::new(Issuer::new("idp.example.ts.net", 8443).unwrap());
        let document = metadata(&config, true);
        for (name, value) in document.as_object().unwrap() {
            if name.ends_with("_endpoint") || name.ends_with("_uri") {
                let url = value.as_str().unwrap();
                assert!(
                    url.starts_with("https://idp.example.ts.net:8443/"),
                    "{name}: {url}"
                );
            }
        }
        assert_eq!(document["issuer"], "https://idp.example.ts.net:8443");
        assert_eq!(document["id_token_signing_alg_values_supported"][0], "ES256");
        assert_eq!(document["scopes_supported"][4], "offline_access");
        assert!(document["grant_types_supported"].as_array().unwrap().len() == 2);
        assert!(metadata(&config, false).get("registration_endpoint").is_none());
        config.token_exchange = true;
        assert_eq!(
            metadata(&config, true)["grant_types_supported"][2],
            crate::token::EXCHANGE
        );
    }

    #[test]
    fn a_resource_names_its_provider() {
        let issuer = Issuer::new("idp.example.ts.net", 443).unwrap();
        let document = protected_resource(&issuer, "https://mcp.example.ts.net/mcp", Some("Notes"));
        assert_eq!(document["resource"], "https://mcp.example.ts.net/mcp");
        assert_eq!(
            document["authorization_servers"],
            json!(["https://idp.example.ts.net"])
        );
        assert_eq!(document["resource_name"], "Notes");
    }
}
