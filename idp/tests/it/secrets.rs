//! What is stored is worth nothing to whoever reads it.

use postern_idp::Key;
use serde_json::json;

use crate::tailnet::{ALICE, APP, Tailnet, hidden};

#[tokio::test]
async fn no_secret_stands_in_a_document_in_clear() {
    let tailnet = Tailnet::new().await;
    tailnet.people.grant(ALICE, &[json!({"allow_admin_ui": true})]);
    let mut browser = tailnet.browser(ALICE);
    let page = browser.get("/new").await;
    let fields = hidden(&page);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    form.push(("redirect_uris", "https://a.example/cb"));
    let page = browser.submit("/new", &form).await;
    let page = crate::tailnet::text(&page);
    let secret = page
        .split("<code class=\"secret\">")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap();
    let code = tailnet.code(ALICE, &[]).await;
    let (_, tokens) = tailnet.redeem(&code).await;
    let (_, refreshed) = tailnet.refresh(&tokens).await;

    let mut written = 0;
    for key in Key::all().filter(|key| !key.is_secret()) {
        let Some(document) = tailnet.store.read(key).await.unwrap() else {
            continue;
        };
        written += 1;
        let text = String::from_utf8(document.bytes.to_vec()).unwrap();
        for secret in [
            secret,
            APP.1,
            &code,
            tokens["access_token"].as_str().unwrap(),
            tokens["refresh_token"].as_str().unwrap(),
            refreshed["refresh_token"]
                .as_str()
                .unwrap()
                .rsplit('.')
                .next()
                .unwrap(),
            "alice@example.com",
        ] {
            assert!(!text.contains(secret), "{key}: {text}");
        }
    }
    assert_eq!(written, 3);
}
