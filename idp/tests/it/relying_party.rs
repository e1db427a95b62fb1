//! The `openidconnect` crate, which Proxmox uses too, does whole logins: it is strict about issuer, audience,
//! algorithm, nonce and hashes.

use bytes::Bytes;
use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse,
    IssuerUrl, Nonce, OAuth2TokenResponse as _, PkceCodeChallenge, RedirectUrl, Scope, TokenResponse as _,
    core::{
        CoreAuthenticationFlow, CoreClient, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreUserInfoClaims,
    },
};
use postern_idp::Arrival;

use crate::tailnet::{ALICE, APP, BOB, ISSUER, PROGRAM, REDIRECT, Tailnet, query};

#[derive(Debug, thiserror::Error)]
#[error("no such host")]
struct NoSuchHost;

/// Sends requests of the crate to the provider's back channel.
async fn send(tailnet: &Tailnet, request: HttpRequest) -> Result<HttpResponse, NoSuchHost> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.to_string();
    let path = path.strip_prefix(ISSUER).ok_or(NoSuchHost)?;
    head.uri = path.parse().map_err(|_| NoSuchHost)?;
    let request = http::Request::from_parts(head, Bytes::from(body));
    Ok(tailnet
        .send(Arrival::BackChannel, request)
        .await
        .map(|body| body.to_vec()))
}

async fn logs_in(
    tailnet: &Tailnet,
    who: u8,
    client: (&str, Option<&str>),
    redirect: &str,
    alg: CoreJwsSigningAlgorithm,
) {
    let http = |request: HttpRequest| send(tailnet, request);
    let issuer = IssuerUrl::new(ISSUER.to_owned()).unwrap();
    let metadata = CoreProviderMetadata::discover_async(issuer, &http).await.unwrap();
    let secret = client.1.map(|secret| ClientSecret::new(secret.to_owned()));
    let party = CoreClient::from_provider_metadata(metadata, ClientId::new(client.0.to_owned()), secret)
        .set_redirect_uri(RedirectUrl::new(redirect.to_owned()).unwrap());
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state, nonce) = party
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        )
        .add_scope(Scope::new("email".to_owned()))
        .add_scope(Scope::new("profile".to_owned()))
        .set_pkce_challenge(challenge)
        .url();

    let location = tailnet.browser(who).authorize(url.as_str()).await;
    assert!(location.starts_with(redirect), "{location}");
    let mut answer = query(&location);
    assert_eq!(answer["state"], *state.secret());
    assert_eq!(answer["iss"], ISSUER);

    let code = AuthorizationCode::new(answer.remove("code").unwrap());
    let exchange = party.exchange_code(code).unwrap().set_pkce_verifier(verifier);
    let tokens = exchange.request_async(&http).await.unwrap();
    let id_token = tokens.id_token().unwrap();
    let verifier = party.id_token_verifier().set_allowed_algs([alg]);
    let claims = id_token.claims(&verifier, &nonce).unwrap();
    let user = 1000 + i64::from(who);
    assert_eq!(claims.subject().as_str(), format!("userid:{user}"));
    assert!(claims.auth_time().is_some());
    let hash = AccessTokenHash::from_token(
        tokens.access_token(),
        id_token.signing_alg().unwrap(),
        id_token.signing_key(&verifier).unwrap(),
    );
    assert_eq!(claims.access_token_hash(), Some(&hash.unwrap()));
    if who == ALICE {
        assert_eq!(claims.email().unwrap().as_str(), "alice@example.com");
        assert_eq!(claims.email_verified(), Some(true));
    } else {
        assert_eq!(claims.email().unwrap().as_str(), "bob@github.idp.example.ts.net");
        assert_eq!(claims.email_verified(), Some(false));
    }

    let info: CoreUserInfoClaims = party
        .user_info(tokens.access_token().clone(), Some(claims.subject().clone()))
        .unwrap()
        .request_async(&http)
        .await
        .unwrap();
    assert_eq!(info.preferred_username(), claims.preferred_username());

    let refresh = tokens.refresh_token().unwrap();
    let tokens = party
        .exchange_refresh_token(refresh)
        .unwrap()
        .request_async(&http)
        .await
        .unwrap();
    let again = tokens
        .id_token()
        .unwrap()
        .claims(&verifier, |_: Option<&Nonce>| Ok(()))
        .unwrap();
    assert_eq!(again.subject(), claims.subject());
    assert_eq!(again.auth_time(), claims.auth_time());
}

#[tokio::test]
async fn a_server_logs_users_in() {
    let tailnet = Tailnet::new().await;
    let rs256 = CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256;
    for who in [ALICE, BOB] {
        logs_in(&tailnet, who, (APP.0, Some(APP.1)), REDIRECT, rs256.clone()).await;
    }
}

#[tokio::test]
async fn a_program_without_secret_logs_users_in_on_any_port() {
    let tailnet = Tailnet::new().await;
    let es256 = CoreJwsSigningAlgorithm::EcdsaP256Sha256;
    for port in [1025, 49152] {
        let redirect = format!("http://127.0.0.1:{port}/callback");
        logs_in(&tailnet, ALICE, (PROGRAM, None), &redirect, es256.clone()).await;
    }
}
