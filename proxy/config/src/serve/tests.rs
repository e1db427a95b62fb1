use super::{target::proxy_target, *};
use crate::group::Backend;

#[test]
fn the_usual_file_is_read() {
    let serve = parse(
        r#"{
          "TCP": {"443": {"HTTPS": true}, "80": {"HTTP": true},
                  "5432": {"TCPForward": "localhost:5432", "ProxyProtocol": 2},
                  "5433": {"TCPForward": "unix:/run/x", "TerminateTLS": "${TS_CERT_DOMAIN}"}},
          "Web": {
            "${TS_CERT_DOMAIN}:443": {"Handlers": {
              "/": {"Proxy": "http://127.0.0.1:11434", "AcceptAppCaps": ["example.com/cap/x"]},
              "/api": {"Proxy": "3000", "AcceptAppCaps": ["example.com/cap/x"]},
              "/text": {"Text": "hi"}}},
            "${TS_CERT_DOMAIN}:80": {"Handlers": {
              "/": {"Redirect": "301:https://${TS_CERT_DOMAIN}${REQUEST_URI}"}}}
          },
          "AllowFunnel": {"${TS_CERT_DOMAIN}:443": false}, "Foreground": {}
        }"#,
    )
    .unwrap();
    assert!(
        serve.warnings.is_empty() && serve.funnel.is_empty(),
        "{:?}",
        serve.warnings
    );
    insta::assert_yaml_snapshot!(serve.listeners);
}

#[test]
fn targets_follow_go() {
    let target = |text: &str| match proxy_target("x", text) {
        Ok(Backend::Address {
            address,
            scheme,
            path,
        }) => format!("{scheme:?} {address} {path}"),
        Ok(Backend::Unix { path }) => format!("unix {path}"),
        other => format!("{:?}", other.map_err(|e| e.to_string())),
    };
    for (text, want) in [
        ("3000", "Http 127.0.0.1:3000 "),
        ("localhost:3000", "Http localhost:3000 "),
        ("localhost", "Http localhost:80 "),
        ("http://a:1/b/", "Http a:1 /b/"),
        ("https://a", "Https a:443 "),
        ("https://a/", "Https a:443 "),
        ("https+insecure://[::1]:8443/x", "HttpsInsecure [::1]:8443 /x"),
        ("http://[::1]", "Http [::1]:80 "),
        ("unix:/run/app.sock", "unix /run/app.sock"),
    ] {
        assert_eq!(target(text), want, "{text}");
    }
    for bad in [
        "ftp://a",
        "http://",
        "http://a:0",
        "http://a:x",
        "http://u@a",
        "http://a/?x",
        "http://a?x:80",
        "http://::1",
        "http://]:80",
        "http://a b:80",
    ] {
        assert!(proxy_target("x", bad).is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    for (json, want) in [
        (
            r#"{"Services":{"x":{}}}"#,
            r#"Services["x"]: a service is named svc:"#,
        ),
        (
            r#"{"Services":{"svc:x":{"Tun":true}}}"#,
            r#"Services["svc:x"].Tun: "#,
        ),
        (
            r#"{"Services":{"svc:x":{"TCP":{"1":{}}}}}"#,
            r#"Services["svc:x"].TCP["1"]: exactly one"#,
        ),
        (
            r#"{"AllowFunnel":{"a:444":true}}"#,
            r#"AllowFunnel["a:444"]: Funnel has the ports"#,
        ),
        (
            r#"{"TCP":{"443":{"HTTP":true}},"AllowFunnel":{"a:443":true}}"#,
            r#"AllowFunnel["a:443"]: Funnel needs HTTPS"#,
        ),
        (r#"{"TCP":{"x":{"HTTPS":true}}}"#, r#"TCP["x"]: "#),
        (
            r#"{"TCP":{"080":{"HTTP":true},"80":{"HTTP":true}}}"#,
            r#"TCP["80"]: the same port"#,
        ),
        (
            r#"{"TCP":{"80":{"TCPForward":"0.0.0.0/0:80"}}}"#,
            r#"TCP["80"].TCPForward: expected HOST:PORT"#,
        ),
        (r#"{"TCP":{"80":{}}}"#, r#"TCP["80"]: exactly one"#),
        (
            r#"{"TCP":{"80":{"HTTP":true}},"Web":{"a:80":{"Handlers":{"/":{"Path":"srv"}}}}}"#,
            r#"Web["a:80"].Handlers["/"].Path: has to be"#,
        ),
        (r#"{"Web":{"a":{}}}"#, r#"Web["a"]: the key"#),
        (r#"{"Tcp":{}}"#, "unknown field `Tcp`"),
    ] {
        let error = parse(json).unwrap_err().to_string();
        assert!(error.starts_with(want), "{json}: {error}");
    }
    assert_eq!(parse("{}").unwrap(), Serve::default());
    assert_eq!(parse(r#"{"TCP":null,"Web":null}"#).unwrap(), Serve::default());
}

#[test]
fn what_go_passes_over_in_silence_is_said() {
    for (json, want) in [
        (
            r#"{"Web":{"${TS_CERT_DOMAIN}:443":{"Handlers":{"/":{"Text":"x"}}}}}"#,
            r#"Web of port 443 (${TS_CERT_DOMAIN}) is never reached: add TCP["443"]"#,
        ),
        (
            r#"{"TCP":{"80":{"HTTP":true}}}"#,
            r#"TCP["80"]: Web has no HOST:80"#,
        ),
        (
            r#"{"AllowFunnel":{"a:443":true}}"#,
            r#"AllowFunnel["a:443"]: TCP has no port 443"#,
        ),
        (
            r#"{"Services":{"svc:x":{"Web":{"x:80":{"Handlers":{}}}}}}"#,
            r#"Services["svc:x"].Web of port 80 (x) is never reached: add Services["svc:x"].TCP["80"]"#,
        ),
        (
            r#"{"Services":{"svc:x":{"TCP":{"80":{"TCPForward":"a:1"}},"Web":{"y.ts.net:80":{},"X.ts.net:80":{}}}}}"#,
            r#"Services["svc:x"].Web["y.ts.net:80"] is never reached: a Service answers to its own name, x."#,
        ),
    ] {
        let warnings = parse(json).unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(want),
            "{json}: {warnings:?}"
        );
    }
}

#[test]
fn funnel_is_where_the_file_says_so() {
    let serve = parse(
        r#"{
          "TCP": {"443": {"HTTPS": true}, "8443": {"HTTPS": true}, "10000": {"TCPForward": "localhost:1"}},
          "Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Text": "a"}}},
                  "B.example.ts.net.:443": {"Handlers": {"/": {"Text": "b"}}},
                  "${TS_CERT_DOMAIN}:8443": {"Handlers": {"/": {"Text": "c"}}}},
          "AllowFunnel": {"${TS_CERT_DOMAIN}:443": true, "${TS_CERT_DOMAIN}:8443": false,
                          "${TS_CERT_DOMAIN}:10000": true}
        }"#,
    )
    .unwrap();
    let own = BTreeSet::from([CERT_DOMAIN.to_owned()]);
    assert_eq!(serve.funnel, BTreeMap::from([(443, own.clone()), (10_000, own)]));
    assert_eq!(serve.warnings.len(), 2, "{:?}", serve.warnings);
    assert!(serve.warnings[0].contains("everybody on the internet"));
}

#[test]
fn hosts_paths_and_capabilities_are_each_their_own() {
    let serve = parse(
        r#"{
          "TCP": {"443": {"HTTPS": true}},
          "Web": {
            "${TS_CERT_DOMAIN}:443": {"Handlers": {
              "/": {"Proxy": "1", "AcceptAppCaps": ["example.com/cap/a"]},
              "/café %/": {"Proxy": "2"},
              "/f": {"Path": "/srv/f"}, "/d": {"Text": "exact"}, "/d/": {"Text": "below"}}},
            "B.example.ts.net:443": {"Handlers": {"/b": {"Proxy": "3", "AcceptAppCaps": ["example.com/cap/b"]}}}
          },
          "Services": {"svc:db": {"TCP": {"5432": {"TCPForward": "localhost:5432"}}}}
        }"#,
    )
    .unwrap();
    let Protocol::Https(http) = &serve.listeners[0].protocol else {
        panic!("{:?}", serve.listeners)
    };
    let seen: Vec<_> = http
        .routes
        .iter()
        .map(|r| {
            (
                r.host.as_deref().unwrap(),
                format!("{:?}", r.path),
                r.app_capabilities.clone().unwrap(),
            )
        })
        .collect();
    let prefix = |path: &str| format!("{:?}", crate::group::PathMatch::Prefix(path.to_owned()));
    assert_eq!(
        seen,
        [
            (CERT_DOMAIN, prefix("/"), vec!["example.com/cap/a".to_owned()]),
            (CERT_DOMAIN, prefix("/caf%C3%A9%20%25/"), vec![]),
            (CERT_DOMAIN, r#"Exact("/d")"#.to_owned(), vec![]),
            (CERT_DOMAIN, prefix("/d/"), vec![]),
            (CERT_DOMAIN, prefix("/f"), vec![]),
            (
                "b.example.ts.net",
                prefix("/b"),
                vec!["example.com/cap/b".to_owned()]
            ),
        ]
    );
    assert_eq!(serve.services["svc:db"][0].port, 5432);
}
