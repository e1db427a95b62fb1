//! Dynamic client registration.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

use crate::tailnet::{ALICE, BOB, Tailnet, at, get, text};

async fn register(tailnet: &Tailnet, who: u8, body: &str, origin: Option<&str>) -> (StatusCode, Value) {
    let mut request = Request::post("/register").header(header::CONTENT_TYPE, "application/json");
    if let Some(origin) = origin {
        request = request.header(header::ORIGIN, origin);
    }
    let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
    let answer = tailnet.send(at(who), request).await;
    (answer.status(), serde_json::from_slice(answer.body()).unwrap())
}

async fn tailnet() -> Tailnet {
    let tailnet = Tailnet::new().await;
    tailnet.people.grant(ALICE, &[json!({"allow_dcr": true})]);
    tailnet
}

#[tokio::test]
async fn a_client_registers_itself_and_users_are_told_so() {
    let tailnet = tailnet().await;
    let body =
        json!({"redirect_uris": ["https://new.example.com/cb"], "client_name": "<b>Bank</b>"}).to_string();
    let (status, client) = register(&tailnet, ALICE, &body, None).await;
    assert_eq!(status, StatusCode::CREATED, "{client}");
    assert_eq!(client["token_endpoint_auth_method"], "client_secret_basic");
    assert_eq!(client["client_secret_expires_at"], 0);
    assert!(client["client_id_issued_at"].is_i64() && client["client_secret"].is_string());
    let id = client["client_id"].as_str().unwrap();
    let path =
        format!("/authorize?response_type=code&client_id={id}&redirect_uri=https://new.example.com/cb");
    let page = text(&tailnet.send(at(BOB), get(&path)).await);
    assert!(
        page.contains("has registered itself") && !page.contains("<b>Bank"),
        "{page}"
    );

    let program = r#"{"redirect_uris":["http://localhost/callback"],"token_endpoint_auth_method":"none"}"#;
    let (_, client) = register(&tailnet, ALICE, program, None).await;
    assert_eq!(client["token_endpoint_auth_method"], "none");
    // Some clients give up when they are given one.
    assert!(client.get("client_secret").is_none());
}

#[tokio::test]
async fn registration_needs_the_grant_and_sense() {
    let tailnet = tailnet().await;
    let good = r#"{"redirect_uris":["https://a.example/cb"]}"#;
    assert_eq!(register(&tailnet, BOB, good, None).await.0, StatusCode::FORBIDDEN);
    for (body, error) in [
        ("", "invalid_request"),
        ("[]", "invalid_client_metadata"),
        ("{}", "invalid_client_metadata"),
        (r#"{"redirect_uris":[]}"#, "invalid_client_metadata"),
        (r#"{"redirect_uris":["https://a/#x"]}"#, "invalid_redirect_uri"),
        (r#"{"redirect_uris":["http://a.lan/"]}"#, "invalid_redirect_uri"),
        (
            r#"{"redirect_uris":["https://a/"],"token_endpoint_auth_method":"private_key_jwt"}"#,
            "invalid_client_metadata",
        ),
        (
            r#"{"redirect_uris":["https://a/"],"response_types":["token"]}"#,
            "invalid_client_metadata",
        ),
    ] {
        let (status, answer) = register(&tailnet, ALICE, body, None).await;
        assert_eq!(
            (status, &answer["error"]),
            (StatusCode::BAD_REQUEST, &json!(error)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn pages_of_others_cannot_register_through_a_visitors_browser() {
    let tailnet = tailnet().await;
    let body = r#"{"redirect_uris":["https://evil.example/cb"]}"#;
    for origin in ["https://evil.example", "https://app.example.ts.net", "null"] {
        assert_eq!(
            register(&tailnet, ALICE, body, Some(origin)).await.0,
            StatusCode::FORBIDDEN,
            "{origin}"
        );
    }
    for origin in ["http://localhost:6274", "https://idp.example.ts.net"] {
        assert_eq!(
            register(&tailnet, ALICE, body, Some(origin)).await.0,
            StatusCode::CREATED,
            "{origin}"
        );
    }
}

#[tokio::test]
async fn there_is_room_for_so_many_and_not_forever() {
    let tailnet = Tailnet::with(|config| {
        config.registration.most_per_shard = 1;
        config.registration.expire_after = Some(100);
    })
    .await;
    tailnet.people.grant(ALICE, &[json!({"allow_dcr": true})]);
    let body = r#"{"redirect_uris":["https://a.example/cb"]}"#;
    let mut made = 0;
    for _ in 0..40 {
        let (status, client) = register(&tailnet, ALICE, body, None).await;
        if status == StatusCode::CREATED {
            made += 1;
            assert_eq!(
                client["client_secret_expires_at"].as_i64().unwrap(),
                client["client_id_issued_at"].as_i64().unwrap() + 100
            );
        }
    }
    assert!((1..=16).contains(&made), "{made}");
    tailnet.wait(101);
    assert_eq!(register(&tailnet, ALICE, body, None).await.0, StatusCode::CREATED);
}
