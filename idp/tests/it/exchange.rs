//! Resources and token exchange: the tailnet's policy decides.

use http::StatusCode;
use serde_json::{Value, json};

use crate::tailnet::{ALICE, APP, BOB, REDIRECT, Tailnet, claims, location, query};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const API: &str = "https://api.example.com";
const MCP: &str = "https://mcp.example.com/mcp";

async fn tailnet() -> Tailnet {
    let tailnet = Tailnet::with(|config| config.token_exchange = true).await;
    tailnet.people.grant(
        ALICE,
        &[json!({"users": ["alice@example.com"], "resources": [API, MCP]})],
    );
    tailnet
}

async fn exchange(tailnet: &Tailnet, tokens: &Value, more: &[(&str, &str)]) -> (StatusCode, Value) {
    let mut form = vec![
        ("grant_type", GRANT),
        ("subject_token", tokens["access_token"].as_str().unwrap()),
        ("subject_token_type", ACCESS_TOKEN),
    ];
    form.extend(more);
    tailnet.post_as_app("/token", &form).await
}

#[tokio::test]
async fn tokens_are_for_the_resources_that_were_asked_for() {
    let tailnet = tailnet().await;
    let tokens = tailnet.login(ALICE, &[("resource", MCP)]).await;
    assert_eq!(claims(&tokens["access_token"])["aud"], MCP);
    let id_token = claims(&tokens["id_token"]);
    assert_eq!(
        (&id_token["aud"], &id_token["azp"]),
        (&json!([APP.0, MCP]), &json!(APP.0))
    );
    // Not more at a refresh than at the login.
    let token = tokens["refresh_token"].as_str().unwrap();
    let wider = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token),
        ("resource", API),
    ];
    let (status, error) = tailnet.post_as_app("/token", &wider).await;
    assert_eq!(
        (status, &error["error"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_target"))
    );
    // Named at the token endpoint alone, as tsidp has it.
    let code = tailnet.code(ALICE, &[]).await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT),
        ("resource", API),
        ("resource", MCP),
    ];
    let (_, tokens) = tailnet.post_as_app("/token", &form).await;
    assert_eq!(claims(&tokens["access_token"])["aud"], json!([API, MCP]));
    // Without any, the client itself.
    let tokens = tailnet.login(ALICE, &[]).await;
    assert_eq!(claims(&tokens["access_token"])["aud"], APP.0);
}

#[tokio::test]
async fn what_the_policy_does_not_grant_is_refused() {
    let tailnet = tailnet().await;
    let url = crate::tailnet::authorize_url(&[("resource", API)]);
    let refused = location(&tailnet.browser(BOB).get(&url).await);
    assert_eq!(query(&refused)["error"], "invalid_target");
    // And what it grants no longer.
    let tokens = tailnet.login(ALICE, &[("resource", MCP)]).await;
    tailnet.people.grant(ALICE, &[]);
    assert_eq!(tailnet.refresh(&tokens).await.1["error"], "invalid_target");
}

#[tokio::test]
async fn a_server_gets_a_token_for_the_server_behind_it() {
    let tailnet = tailnet().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let (status, exchanged) = exchange(&tailnet, &tokens, &[("audience", API)]).await;
    assert_eq!(status, StatusCode::OK, "{exchanged}");
    assert_eq!(exchanged["issued_token_type"], ACCESS_TOKEN);
    assert!(exchanged.get("refresh_token").is_none());
    let told = claims(&exchanged["access_token"]);
    assert_eq!((&told["aud"], &told["sub"]), (&json!(API), &json!("userid:1001")));
    let actor = ("actor_token", tokens["access_token"].as_str().unwrap());
    let (_, exchanged) = exchange(&tailnet, &tokens, &[("audience", API), actor]).await;
    assert_eq!(
        claims(&exchanged["access_token"])["act"],
        json!({"sub": "userid:1001", "client_id": APP.0})
    );
    // It ends with the session that it came of.
    let token = tokens["refresh_token"].as_str().unwrap();
    tailnet.post_as_app("/revoke", &[("token", token)]).await;
    assert!(!tailnet.is_active(&exchanged).await);
}

#[tokio::test]
async fn exchange_is_refused_where_it_should_be() {
    let tailnet = tailnet().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let other = "https://other.example.com";
    let (status, error) = exchange(&tailnet, &tokens, &[("audience", other)]).await;
    assert_eq!(
        (status, &error["error"]),
        (StatusCode::FORBIDDEN, &json!("access_denied"))
    );
    assert_eq!(
        exchange(&tailnet, &tokens, &[]).await.1["error"],
        "invalid_request"
    );
    let made_up = json!({"access_token": "made-up"});
    assert_eq!(
        exchange(&tailnet, &made_up, &[("audience", API)]).await.1["error"],
        "invalid_grant"
    );
    // A token that another client was given.
    let stolen = json!({"access_token": tokens["access_token"]});
    let form = [
        ("grant_type", GRANT),
        ("subject_token", stolen["access_token"].as_str().unwrap()),
        ("subject_token_type", ACCESS_TOKEN),
        ("audience", API),
        ("client_id", crate::tailnet::PROGRAM),
    ];
    assert_eq!(
        tailnet.post("/token", &form).await.1["error"],
        "unauthorized_client"
    );
    let without = Tailnet::new().await;
    let tokens = without.login(ALICE, &[]).await;
    let (_, error) = exchange(&without, &tokens, &[("audience", API)]).await;
    assert_eq!(error["error"], "unsupported_grant_type");
}
