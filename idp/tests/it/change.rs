//! What changes on the tailnet, or is revoked, counts from then on.

use http::{StatusCode, header};
use postern_idp::Arrival;
use serde_json::json;

use crate::tailnet::{ALICE, APP, PROGRAM, Tailnet, claims};

#[tokio::test]
async fn a_refresh_sees_what_has_changed() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    assert_eq!(claims(&tokens["id_token"])["groups"], json!(["group:eng"]));
    tailnet.people.change(ALICE, |peer| {
        let user = peer.user.as_mut().unwrap();
        user.name = "Alice Doe".to_owned();
        user.groups = vec!["group:ops".to_owned()];
    });
    tailnet.people.grant(
        ALICE,
        &[json!({"extraClaims": {"role": "admin"}, "includeInUserInfo": true})],
    );
    let (_, info) = tailnet.user_info(&tokens).await;
    assert_eq!(
        (&info["name"], &info["role"]),
        (&json!("Alice Doe"), &json!("admin"))
    );
    let (status, tokens) = tailnet.refresh(&tokens).await;
    assert_eq!(status, StatusCode::OK);
    let claims = claims(&tokens["id_token"]);
    assert_eq!(
        (&claims["groups"], &claims["role"]),
        (&json!(["group:ops"]), &json!("admin"))
    );
    assert_eq!(claims["sub"], "userid:1001");
}

#[tokio::test]
async fn who_has_left_is_out() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let code = tailnet.code(ALICE, &[]).await;
    tailnet.people.remove(ALICE);
    assert!(!tailnet.is_active(&tokens).await);
    assert_eq!(tailnet.user_info(&tokens).await.0, StatusCode::UNAUTHORIZED);
    let (status, error) = tailnet.refresh(&tokens).await;
    assert_eq!(
        (status, &error["error"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_grant"))
    );
    assert_eq!(tailnet.redeem(&code).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn a_machine_that_became_somebody_elses_is_nobody() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    tailnet
        .people
        .change(ALICE, |peer| peer.user.as_mut().unwrap().id = 2000);
    assert!(!tailnet.is_active(&tokens).await);
    assert_eq!(tailnet.refresh(&tokens).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_refresh_token_is_good_once() {
    let tailnet = Tailnet::new().await;
    let first = tailnet.login(ALICE, &[]).await;
    let (_, second) = tailnet.refresh(&first).await;
    tailnet.wait(30);
    assert_eq!(tailnet.refresh(&first).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(tailnet.refresh(&second).await.0, StatusCode::BAD_REQUEST);
    assert!(!tailnet.is_active(&second).await);
}

#[tokio::test]
async fn another_client_cannot_use_up_a_refresh_token() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let token = tokens["refresh_token"].as_str().unwrap();
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token),
        ("client_id", PROGRAM),
    ];
    assert_eq!(tailnet.post("/token", &form).await.1["error"], "invalid_grant");
    assert_eq!(tailnet.refresh(&tokens).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_revoked_session_is_over_and_only_its_client_revokes_it() {
    let tailnet = Tailnet::new().await;
    for kind in ["refresh_token", "access_token"] {
        let tokens = tailnet.login(ALICE, &[]).await;
        let token = tokens[kind].as_str().unwrap();
        let stranger = [("token", token), ("client_id", PROGRAM)];
        assert_eq!(tailnet.post("/revoke", &stranger).await.0, StatusCode::OK);
        assert!(tailnet.is_active(&tokens).await);
        assert_eq!(
            tailnet.post_as_app("/revoke", &[("token", token)]).await.0,
            StatusCode::OK
        );
        assert!(!tailnet.is_active(&tokens).await, "{kind}");
        assert_eq!(tailnet.refresh(&tokens).await.0, StatusCode::BAD_REQUEST);
    }
    assert_eq!(
        tailnet.post_as_app("/revoke", &[("token", "unknown")]).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn tokens_end_by_themselves() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    assert_eq!(tokens["expires_in"], 300);
    tailnet.wait(301);
    assert!(!tailnet.is_active(&tokens).await);
    let token = tokens["access_token"].as_str().unwrap();
    let request = http::Request::get("/userinfo").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let answer = tailnet
        .send(Arrival::BackChannel, request.body(bytes::Bytes::new()).unwrap())
        .await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
    assert!(
        challenge.starts_with("Bearer error=\"invalid_token\""),
        "{challenge}"
    );
    assert_eq!(tailnet.refresh(&tokens).await.0, StatusCode::OK);
    tailnet.wait(31 * 86_400);
    assert_eq!(tailnet.refresh(&tokens).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn introspection_tells_those_whom_it_concerns() {
    let tailnet = Tailnet::new().await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let token = ("token", tokens["access_token"].as_str().unwrap());
    let (_, told) = tailnet.post_as_app("/introspect", &[token]).await;
    for claim in [
        "client_id",
        "exp",
        "iat",
        "nbf",
        "sub",
        "aud",
        "iss",
        "jti",
        "username",
        "token_type",
        "scope",
        "email",
        "preferred_username",
        "picture",
    ] {
        assert!(told.get(claim).is_some(), "{claim}: {told}");
    }
    assert_eq!(
        (&told["sub"], &told["username"]),
        (&json!("userid:1001"), &json!("alice@example.com"))
    );
    assert!(told["nbf"].as_i64() < told["iat"].as_i64());
    let other = [token, ("client_id", PROGRAM)];
    assert_eq!(
        tailnet.post("/introspect", &other).await.1,
        json!({"active": false})
    );
    let wrong = [token, ("client_id", APP.0), ("client_secret", "wrong")];
    assert_eq!(
        tailnet.post("/introspect", &wrong).await.0,
        StatusCode::UNAUTHORIZED
    );
}
