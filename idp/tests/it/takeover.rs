//! A directory of tsidp's is taken over once: key, clients and subjects are the same.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use postern_idp::{Arrival, Config, Issuer, Provider, Tsidp, store::MemoryStore};

use crate::tailnet::{ALICE, Tailnet, at, authorize_url, claims, get, query};

const CLIENTS: &str = r#"{"0a": {"client_id":"0a","client_secret":"tsidp-secret","client_name":"Proxmox",
    "redirect_uris":["https://pve.lan:8006"],"created_at":"2025-01-02T03:04:05Z","redirect_uri":"https://pve.lan:8006"}}"#;

#[tokio::test]
async fn clients_of_tsidp_go_on_and_deleted_ones_stay_deleted() {
    let before = Tailnet::new().await;
    let store = Arc::new(MemoryStore::default());
    let start = async || {
        let mut tsidp = Tsidp::default();
        tsidp.add_clients(CLIENTS.as_bytes()).unwrap();
        let config = Config::new(Issuer::new("idp.example.ts.net", 443).unwrap());
        let provider = Provider::start(
            config,
            store.clone(),
            before.people.clone(),
            Some(tsidp),
            Timestamp::now(),
        );
        Tailnet {
            provider: Arc::new(provider.await.unwrap()),
            store: store.clone(),
            ..before.clone()
        }
    };
    let tailnet = start().await;
    let client = [("client_id", "0a"), ("redirect_uri", "https://pve.lan:8006")];
    let location = tailnet.browser(ALICE).authorize(&authorize_url(&client)).await;
    assert!(location.starts_with("https://pve.lan:8006?code="), "{location}");
    let code = query(&location).remove("code").unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", "https://pve.lan:8006"),
        ("client_id", "0a"),
        ("client_secret", "tsidp-secret"),
    ];
    let (status, tokens) = tailnet.post("/token", &form).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    assert_eq!(claims(&tokens["id_token"])["sub"], "userid:1001");

    // A second start finds keys, and takes nothing over again.
    let keys = tailnet
        .send(Arrival::BackChannel, get("/.well-known/jwks.json"))
        .await;
    tailnet
        .people
        .grant(ALICE, &[serde_json::json!({"allow_admin_ui": true})]);
    let mut browser = tailnet.browser(ALICE);
    let page = browser.get("/edit/0a").await;
    let fields = crate::tailnet::hidden(&page);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    form.push(("action", "delete"));
    assert_eq!(
        browser.submit("/edit/0a", &form).await.status(),
        StatusCode::SEE_OTHER
    );
    let again = start().await;
    let same = again
        .send(Arrival::BackChannel, get("/.well-known/jwks.json"))
        .await;
    assert_eq!(same.body(), keys.body());
    let answer = again.send(at(ALICE), get(&authorize_url(&client))).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
}
