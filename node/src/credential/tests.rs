use super::*;

fn choose(explicit: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<Credential>, CredentialError> {
    let explicit = explicit.map(AuthKey::new);
    Credential::choose(explicit.as_ref(), environment(variables))
}

/// An environment that has these variables and no others.
pub(crate) fn environment(variables: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    |name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

fn key(text: &str) -> Option<Credential> {
    Some(Credential::AuthKey(AuthKey::new(text)))
}

#[test]
fn credentials_are_taken_in_the_order_of_tsnet() {
    let all = [
        ("TS_AUTHKEY", "one"),
        ("TS_AUTH_KEY", "two"),
        ("TS_CLIENT_SECRET", "tskey-client-three"),
        ("TS_CLIENT_ID", "four"),
        ("TS_ID_TOKEN", "a.b.c"),
    ];
    assert_eq!(choose(Some("zero"), &all).unwrap(), key("zero"));
    assert_eq!(choose(None, &all).unwrap(), key("one"));
    assert_eq!(choose(None, &all[1..]).unwrap(), key("two"));
    let Ok(Some(Credential::OAuth(client))) = choose(None, &all[2..]) else {
        panic!()
    };
    assert_eq!(client.secret.expose(), "tskey-client-three");
    let Ok(Some(Credential::WorkloadIdentity(identity))) = choose(None, &all[3..]) else {
        panic!()
    };
    assert_eq!(identity.token, IdToken::Text(Secret::new("a.b.c")));
    assert_eq!(choose(None, &[("TS_AUTHKEY", "")]).unwrap(), None);
    // An auth key may be a client's secret, and then is one.
    assert!(matches!(
        choose(None, &[("TS_AUTH_KEY", "tskey-client-x?ephemeral=false")]),
        Ok(Some(Credential::OAuth(_)))
    ));
}

#[test]
fn halves_of_a_workload_identity_are_refused() {
    for variables in [
        &[("TS_CLIENT_ID", "id")][..],
        &[("TS_ID_TOKEN", "a.b.c")],
        &[("TS_AUDIENCE", "aud")],
        &[
            ("TS_CLIENT_ID", "id"),
            ("TS_ID_TOKEN", "a.b.c"),
            ("TS_AUDIENCE", "aud"),
        ],
    ] {
        assert!(
            matches!(choose(None, variables), Err(CredentialError::Incomplete(_))),
            "{variables:?}"
        );
    }
}

#[test]
fn a_file_is_read_now_for_a_key_and_later_for_a_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "tskey-auth-x\n").unwrap();
    let path = file.path().display().to_string();
    assert_eq!(
        choose(None, &[("TS_AUTHKEY", &format!("file:{path}"))]).unwrap(),
        key("tskey-auth-x")
    );
    let error = choose(None, &[("TS_AUTHKEY", "file:/nowhere")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere"), "{error}");
    let later = choose(None, &[("TS_CLIENT_ID", "id"), ("TS_ID_TOKEN", "file:/later")]).unwrap();
    let Some(Credential::WorkloadIdentity(identity)) = later else {
        panic!()
    };
    assert_eq!(*identity.token(), IdToken::File("/later".into()));
}

/// Go's table (`feature/oauthkey`, `feature/identityfederation`).
#[test]
fn attributes_behind_a_secret_are_those_of_go() {
    let oauth =
        |text: &str| OAuthClient::parse(text).map(|c| (c.grant.ephemeral, c.grant.preauthorized, c.base_url));
    assert_eq!(oauth("tskey-client-x"), Ok((true, false, API.to_owned())));
    assert_eq!(
        oauth("tskey-client-x?ephemeral=false&preauthorized=true&baseURL=https%3A%2F%2Fapi.example.com/"),
        Ok((false, true, "https://api.example.com".to_owned()))
    );
    assert_eq!(
        oauth("tskey-client-x?ephemeral="),
        Ok((true, false, API.to_owned()))
    );
    assert_eq!(
        oauth("x?other=1"),
        Err(CredentialError::Attribute("other".to_owned()))
    );
    assert!(matches!(
        oauth("x?ephemeral=maybe"),
        Err(CredentialError::Boolean { .. })
    ));
    let identity = |id: &str| {
        let identity = WorkloadIdentity::new(id, IdToken::Audience("a".to_owned()))?;
        Ok((
            identity.client_id.clone(),
            identity.grant.ephemeral,
            identity.grant.preauthorized,
        ))
    };
    assert_eq!(identity("id"), Ok(("id".to_owned(), true, false)));
    assert_eq!(
        identity("id?preauthorized=true"),
        Ok(("id".to_owned(), false, true))
    );
    assert_eq!(
        identity("id?baseURL=x"),
        Err(CredentialError::Attribute("baseURL".to_owned()))
    );
}

#[test]
fn requests_are_those_that_the_api_takes() {
    let client = OAuthClient::parse("tskey-client-a+b&c?baseURL=http://api.test").unwrap();
    let ask = client.ask_token();
    assert_eq!(ask.url, "http://api.test/api/v2/oauth/token");
    assert_eq!(
        ask.body.unwrap().expose(),
        "grant_type=client_credentials&client_id=some-client-id&client_secret=tskey-client-a%2Bb%26c"
    );
    let identity = WorkloadIdentity::new("id", IdToken::Audience("a".to_owned())).unwrap();
    let ask = identity.ask_token("https://control.test/", &Secret::new("a.b.c"));
    assert_eq!(ask.url, "https://control.test/api/v2/oauth/token-exchange");
    assert_eq!(
        ask.body.unwrap().expose(),
        "grant_type=authorization_code&code=&client_id=id&jwt=a.b.c"
    );
    let ask = Ask::auth_key(
        "http://api.test",
        &Secret::new("t"),
        client.grant(),
        &["tag:a".to_owned()],
    );
    assert_eq!(ask.url, "http://api.test/api/v2/tailnet/-/keys");
    assert_eq!(ask.headers[1].1.expose(), "Basic dDo=");
    let body: serde_json::Value = serde_json::from_str(ask.body.as_ref().unwrap().expose()).unwrap();
    let create = &body["capabilities"]["devices"]["create"];
    assert_eq!(
        *create,
        serde_json::json!({"reusable": false, "ephemeral": true, "preauthorized": false, "tags": ["tag:a"]})
    );
    assert!(
        !format!("{ask:?} {client:?}").contains("dDo="),
        "secrets are not shown"
    );
}

#[test]
fn tokens_of_platforms_are_asked_for_and_read() {
    let github = |name: &str| match name {
        "ACTIONS_ID_TOKEN_REQUEST_URL" => Some("https://gh.test/token?v=1".to_owned()),
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN" => Some("t".to_owned()),
        _ => None,
    };
    assert_eq!(
        Ask::github_token("a/b", github).unwrap().url,
        "https://gh.test/token?v=1&audience=a%2Fb"
    );
    assert!(Ask::github_token("a", |_| None).is_none());
    assert!(
        Ask::google_token("x")
            .url
            .ends_with("/identity?audience=x&format=full")
    );
    assert_eq!(
        id_token(br#"{"value":"a.b.c","count":1}"#).unwrap().expose(),
        "a.b.c"
    );
    assert_eq!(id_token(b" a.b.c\n").unwrap().expose(), "a.b.c");
    for bad in [&b""[..], b"<html>", br#"{"value":""}"#, b"\xff"] {
        assert!(id_token(bad).is_none());
    }
    assert_eq!(
        access_token(br#"{"access_token":"t","token_type":"Bearer"}"#)
            .unwrap()
            .expose(),
        "t"
    );
    assert!(access_token(br#"{"access_token":""}"#).is_none() && access_token(b"{}").is_none());
    assert_eq!(
        minted_key(br#"{"id":"k","key":"tskey-auth-k"}"#)
            .unwrap()
            .expose(),
        "tskey-auth-k"
    );
    assert!(minted_key(br#"{"message":"no"}"#).is_none());
}
