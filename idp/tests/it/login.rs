//! The authorization endpoint and the consent page.

use http::{Method, StatusCode, header};

use crate::tailnet::{
    ALICE, APP, BOB, ISSUER, PROGRAM, PROGRAM_REDIRECT, REDIRECT, SERVER, STRANGER, Tailnet, authorize_url,
    claims, form_request, hidden, location, query, text,
};

#[tokio::test]
async fn the_first_login_at_a_client_asks_and_the_next_does_not() {
    let tailnet = Tailnet::new().await;
    let mut browser = tailnet.browser(ALICE);
    let page = browser.get(&authorize_url(&[])).await;
    assert_eq!(page.status(), StatusCode::OK);
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        assert_eq!(page.headers()[&name], value);
    }
    let policy = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"));
    for shown in [
        "The App",
        "app.example.com",
        "alice@example.com",
        "alice.example.ts.net",
        "e-mail",
    ] {
        assert!(text(&page).contains(shown), "{shown}");
    }

    let first = browser.authorize(&authorize_url(&[])).await;
    assert!(
        first.starts_with("https://app.example.com/cb?tenant=1&code="),
        "{first}"
    );
    assert_eq!(query(&first)["state"], "a state");
    assert_eq!(query(&first)["iss"], ISSUER);
    let answer = browser.get(&authorize_url(&[])).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    // Another user, more scopes: asked again.
    assert_eq!(
        tailnet.browser(BOB).get(&authorize_url(&[])).await.status(),
        StatusCode::OK
    );
    let more = authorize_url(&[("scope", "openid email profile groups")]);
    assert_eq!(browser.get(&more).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_client_can_have_the_user_asked_or_left_alone() {
    let tailnet = Tailnet::new().await;
    let mut browser = tailnet.browser(ALICE);
    let silent = authorize_url(&[("prompt", "none")]);
    assert!(location(&browser.get(&silent).await).contains("error=consent_required"));
    let first = tailnet.login(ALICE, &[]).await;
    assert!(location(&browser.get(&silent).await).contains("code="));
    tailnet.wait(10);
    for url in [
        authorize_url(&[("prompt", "login")]),
        authorize_url(&[("max_age", "5")]),
    ] {
        assert_eq!(browser.get(&url).await.status(), StatusCode::OK);
    }
    let silent = authorize_url(&[("prompt", "none"), ("max_age", "5")]);
    assert!(location(&browser.get(&silent).await).contains("error=login_required"));
    let second = tailnet.login(ALICE, &[("max_age", "1000")]).await;
    assert_eq!(
        claims(&first["id_token"])["auth_time"],
        claims(&second["id_token"])["auth_time"]
    );
    let third = tailnet.login(ALICE, &[("prompt", "login")]).await;
    assert!(
        claims(&third["id_token"])["auth_time"].as_i64() > claims(&first["id_token"])["auth_time"].as_i64()
    );
}

#[tokio::test]
async fn a_post_to_authorize_is_as_good_as_a_get() {
    let tailnet = Tailnet::new().await;
    let form: Vec<_> = query(&authorize_url(&[])).into_iter().collect();
    let form: Vec<(&str, &str)> = form.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let page = tailnet
        .browser(ALICE)
        .send(form_request("/authorize", &form))
        .await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(text(&page).contains("The App"));
}

#[tokio::test]
async fn nothing_is_sent_to_a_place_that_is_not_registered() {
    let tailnet = Tailnet::new().await;
    for more in [
        &[("client_id", "unknown")][..],
        &[("client_id", "")],
        &[("redirect_uri", "")],
        &[("redirect_uri", "https://app.example.com/cb")],
        &[("redirect_uri", "https://app.example.com/cb?tenant=1&x=2")],
        &[("redirect_uri", "https://app.example.com.evil.example/cb?tenant=1")],
        &[("redirect_uri", "https://app.example.com/cb?tenant=1#f")],
        &[("redirect_uri", "javascript:alert(1)")],
        &[("client_id", PROGRAM), ("redirect_uri", REDIRECT)],
    ] {
        let answer = tailnet.browser(ALICE).get(&authorize_url(more)).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{more:?}");
        assert!(answer.headers().get(header::LOCATION).is_none(), "{more:?}");
        assert!(!text(&answer).contains("<script"));
    }
    let evil = authorize_url(&[("redirect_uri", "https://x/\"><script>alert(1)</script>")]);
    assert!(!text(&tailnet.browser(ALICE).get(&evil).await).contains("<script"));
}

#[tokio::test]
async fn who_is_nobody_cannot_log_in() {
    let tailnet = Tailnet::new().await;
    let answer = tailnet.browser(STRANGER).get(&authorize_url(&[])).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let tagged = location(&tailnet.browser(SERVER).get(&authorize_url(&[])).await);
    assert_eq!(query(&tagged)["error"], "access_denied");
    assert_eq!(
        query(&tagged)["error_description"],
        "tagged node doesn't have a user identity"
    );
}

#[tokio::test]
async fn a_program_needs_pkce() {
    let tailnet = Tailnet::new().await;
    let program = [("client_id", PROGRAM), ("redirect_uri", PROGRAM_REDIRECT)];
    let refused = location(&tailnet.browser(ALICE).get(&authorize_url(&program)).await);
    assert_eq!(query(&refused)["error"], "invalid_request");
}

#[tokio::test]
async fn consent_is_bound_to_page_browser_and_user() {
    let tailnet = Tailnet::new().await;
    let mut alice = tailnet.browser(ALICE);
    let page = alice.get(&authorize_url(&[])).await;
    let fields = hidden(&page);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    form.push(("decision", "allow"));

    // From another application of the same tailnet, which is same-site.
    for origin in [
        "https://app.example.ts.net",
        "null",
        "https://idp.example.ts.net.evil.example",
    ] {
        let mut request = form_request("/consent", &form);
        request
            .headers_mut()
            .insert(header::ORIGIN, origin.parse().unwrap());
        assert_eq!(
            alice.send(request).await.status(),
            StatusCode::FORBIDDEN,
            "{origin}"
        );
    }
    assert_eq!(
        alice.send(form_request("/consent", &form)).await.status(),
        StatusCode::FORBIDDEN
    );
    // By another user, with the first one's cookie.
    let mut bob = tailnet.browser(BOB);
    bob.cookie.clone_from(&alice.cookie);
    assert_eq!(
        bob.submit("/consent", &form).await.status(),
        StatusCode::FORBIDDEN
    );
    // By another browser of the same user.
    let mut other = tailnet.browser(ALICE);
    other.get(&authorize_url(&[])).await;
    assert_eq!(
        other.submit("/consent", &form).await.status(),
        StatusCode::FORBIDDEN
    );
    // Not sealed by us.
    let forged: Vec<_> = form
        .iter()
        .map(|(k, v)| (*k, if *k == "request" { "AAAA" } else { *v }))
        .collect();
    assert_eq!(
        alice.submit("/consent", &forged).await.status(),
        StatusCode::BAD_REQUEST
    );
    // Nothing of this was kept as consent.
    assert_eq!(alice.get(&authorize_url(&[])).await.status(), StatusCode::OK);
    // After some time.
    tailnet.wait(601);
    assert_eq!(
        alice.submit("/consent", &form).await.status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn declining_tells_the_client() {
    let tailnet = Tailnet::new().await;
    let mut alice = tailnet.browser(ALICE);
    let page = alice.get(&authorize_url(&[])).await;
    let fields = hidden(&page);
    let mut form: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    form.push(("decision", "deny"));
    let refused = query(&location(&alice.submit("/consent", &form).await));
    assert_eq!(
        (refused["error"].as_str(), refused["state"].as_str()),
        ("access_denied", "a state")
    );
}

#[tokio::test]
async fn the_token_endpoint_refuses_what_is_not_right() {
    let tailnet = Tailnet::new().await;
    let code = tailnet.code(ALICE, &[]).await;
    let redeem = async |form: &[(&str, &str)]| {
        let (status, body) = tailnet.post("/token", form).await;
        (status, body["error"].as_str().map(str::to_owned))
    };
    let error = |status, code: &str| (status, Some(code.to_owned()));
    let grant = ("grant_type", "authorization_code");
    let (id, secret) = (("client_id", APP.0), ("client_secret", APP.1));
    let (code, uri) = (("code", code.as_str()), ("redirect_uri", REDIRECT));
    let unauthorized = StatusCode::UNAUTHORIZED;
    let bad = StatusCode::BAD_REQUEST;
    assert_eq!(
        redeem(&[grant, id, code, uri]).await,
        error(unauthorized, "invalid_client")
    );
    assert_eq!(
        redeem(&[grant, id, ("client_secret", "wrong"), code, uri]).await,
        error(unauthorized, "invalid_client")
    );
    assert_eq!(
        redeem(&[grant, ("client_id", "unknown"), secret, code, uri]).await,
        error(unauthorized, "invalid_client")
    );
    assert_eq!(
        redeem(&[grant, ("client_id", PROGRAM), code, uri]).await,
        error(bad, "invalid_grant")
    );
    assert_eq!(
        redeem(&[grant, id, secret, uri]).await,
        error(bad, "invalid_request")
    );
    assert_eq!(
        redeem(&[grant, id, secret, code]).await,
        error(bad, "invalid_grant")
    );
    assert_eq!(
        redeem(&[
            grant,
            id,
            secret,
            code,
            ("redirect_uri", "https://other.example.com")
        ])
        .await,
        error(bad, "invalid_grant")
    );
    for unsupported in ["password", "client_credentials", "implicit", "x"] {
        assert_eq!(
            redeem(&[("grant_type", unsupported), id, secret]).await,
            error(bad, "unsupported_grant_type")
        );
    }
    // None of this has used the code up.
    assert_eq!(redeem(&[grant, id, secret, code, uri]).await.0, StatusCode::OK);

    let late = tailnet.code(ALICE, &[]).await;
    tailnet.wait(61);
    assert_eq!(tailnet.redeem(&late).await.1["error"], "invalid_grant");
}

#[tokio::test]
async fn other_methods_and_paths_are_answered() {
    let tailnet = Tailnet::new().await;
    let mut browser = tailnet.browser(ALICE);
    for (method, path, status) in [
        (Method::GET, "/token", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/authorize", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/consent", StatusCode::METHOD_NOT_ALLOWED),
        (Method::OPTIONS, "/token", StatusCode::NO_CONTENT),
        (Method::OPTIONS, "/.well-known/jwks.json", StatusCode::NO_CONTENT),
        (Method::GET, "/nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/style.css", StatusCode::OK),
    ] {
        let request = http::Request::builder().method(method.clone()).uri(path);
        let answer = browser.send(request.body(bytes::Bytes::new()).unwrap()).await;
        assert_eq!(answer.status(), status, "{method} {path}");
    }
}
