//! The admin pages.

use http::StatusCode;
use serde_json::json;

use crate::tailnet::{
    ALICE, BOB, Browser, Tailnet, authorize_url, form_request, hidden, location, query, text,
};

async fn tailnet() -> (Tailnet, Browser) {
    let tailnet = Tailnet::new().await;
    tailnet.people.grant(ALICE, &[json!({"allow_admin_ui": true})]);
    let browser = tailnet.browser(ALICE);
    (tailnet, browser)
}

/// Sends the page's form at `path` with these fields.
async fn submit(browser: &mut Browser, path: &str, fields: &[(&str, &str)]) -> (StatusCode, String) {
    let page = browser.get(path).await;
    let token = hidden(&page);
    let mut form: Vec<(&str, &str)> = token.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    form.extend(fields);
    let answer = browser.submit(path, &form).await;
    (answer.status(), text(&answer))
}

fn shown(page: &str, before: &str) -> String {
    let (_, rest) = page
        .split_once(before)
        .unwrap_or_else(|| panic!("{before}: {page}"));
    rest.split('<').next().unwrap().to_owned()
}

const SECRET: &str = "<code class=\"secret\">";
const ID: &str = "<dt>Client ID</dt><dd><code>";
const CB: &str = "https://g.example/cb";

#[tokio::test]
async fn an_administrator_makes_changes_and_deletes_clients() {
    let (tailnet, mut browser) = tailnet().await;
    let fields = [
        ("name", "Grafana & <co>"),
        ("redirect_uris", CB),
        ("kind", "confidential"),
        ("signing", "RS256"),
    ];
    let (status, page) = submit(&mut browser, "/new", &fields).await;
    assert_eq!(status, StatusCode::CREATED);
    let (id, secret) = (shown(&page, ID), shown(&page, SECRET));
    let list = text(&browser.get("/").await);
    assert!(
        list.contains("Grafana &#38; &#60;co&#62;") && list.contains(&id) && !list.contains(&secret),
        "{list}"
    );

    // It works.
    let login = async |tailnet: &Tailnet| {
        let url = authorize_url(&[("client_id", &id), ("redirect_uri", CB)]);
        query(&tailnet.browser(BOB).authorize(&url).await)
            .remove("code")
            .unwrap()
    };
    let redeem = async |tailnet: &Tailnet, secret: &str| {
        let code = login(tailnet).await;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", CB),
            ("client_id", &id),
            ("client_secret", secret),
        ];
        tailnet.post("/token", &form).await.0
    };
    assert_eq!(redeem(&tailnet, &secret).await, StatusCode::OK);

    let edit = format!("/edit/{id}");
    let page = text(&browser.get(&edit).await);
    assert!(page.contains("Grafana") && !page.contains(SECRET));
    let (_, page) = submit(&mut browser, &edit, &[("action", "rotate"), ("old", "day")]).await;
    let second = shown(&page, SECRET);
    assert_ne!(second, secret);
    assert_eq!(redeem(&tailnet, &secret).await, StatusCode::OK);
    assert_eq!(redeem(&tailnet, &second).await, StatusCode::OK);
    let (_, page) = submit(&mut browser, &edit, &[("action", "rotate"), ("old", "now")]).await;
    assert_eq!(redeem(&tailnet, &second).await, StatusCode::UNAUTHORIZED);
    assert_eq!(redeem(&tailnet, &shown(&page, SECRET)).await, StatusCode::OK);

    let bad = [
        ("action", "save"),
        ("name", "x"),
        ("redirect_uris", "http://a.lan/"),
    ];
    let (status, page) = submit(&mut browser, &edit, &bad).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("http is for loopback addresses alone"), "{page}");

    let (status, _) = submit(&mut browser, &edit, &[("action", "delete")]).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert!(!text(&browser.get("/").await).contains(&id));
    assert_eq!(browser.get(&edit).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn tokens_of_a_deleted_client_end() {
    let (tailnet, mut browser) = tailnet().await;
    let fields = [("redirect_uris", CB), ("kind", "confidential")];
    let (_, page) = submit(&mut browser, "/new", &fields).await;
    let (id, secret) = (shown(&page, ID), shown(&page, SECRET));
    let url = authorize_url(&[("client_id", &id), ("redirect_uri", CB)]);
    let code = query(&tailnet.browser(BOB).authorize(&url).await)
        .remove("code")
        .unwrap();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", CB),
        ("client_id", &id),
        ("client_secret", &secret),
    ];
    let (_, tokens) = tailnet.post("/token", &form).await;
    assert_eq!(tailnet.user_info(&tokens).await.0, StatusCode::OK);
    submit(&mut browser, &format!("/edit/{id}"), &[("action", "delete")]).await;
    assert_eq!(tailnet.user_info(&tokens).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn only_administrators_get_in_and_only_from_our_pages() {
    let (tailnet, mut alice) = tailnet().await;
    for path in ["/", "/new", "/edit/app"] {
        assert_eq!(
            tailnet.browser(BOB).get(path).await.status(),
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
    let page = alice.get("/new").await;
    let fields = hidden(&page);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    // What the host's configuration declares is shown, and isn't changed here.
    let list = text(&alice.get("/").await);
    assert!(
        list.contains("The App") && list.contains("Configuration") && !list.contains("/edit/app"),
        "{list}"
    );
    assert_eq!(alice.get("/edit/app").await.status(), StatusCode::NOT_FOUND);
    for action in ["delete", "rotate", "save"] {
        let form = [&form[..], &[("action", action), ("redirect_uris", CB)]].concat();
        assert_eq!(
            alice.submit("/edit/app", &form).await.status(),
            StatusCode::NOT_FOUND,
            "{action}"
        );
    }
    form.push(("redirect_uris", CB));
    for origin in [None, Some("https://app.example.ts.net"), Some("null")] {
        let mut request = form_request("/new", &form);
        if let Some(origin) = origin {
            request
                .headers_mut()
                .insert(http::header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(
            alice.send(request).await.status(),
            StatusCode::FORBIDDEN,
            "{origin:?}"
        );
    }
    // A token for the consent form is none for this one.
    let consent = alice.get(&authorize_url(&[])).await;
    let token = hidden(&consent)
        .into_iter()
        .find(|(name, _)| name == "token")
        .unwrap()
        .1;
    let answer = alice
        .submit("/new", &[("token", &token), ("redirect_uris", CB)])
        .await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(alice.submit("/new", &form).await.status(), StatusCode::CREATED);
    let _ = location(&alice.get(&authorize_url(&[("prompt", "none")])).await);
}
