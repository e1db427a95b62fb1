//! What a `serve.json` says is what is served: hosts, paths, files, capabilities, and who is behind a
//! forwarded connection.

use std::fs;

use postern_proxy_config::serve;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::{
    backend::{Recorder, Wire},
    front::{FQDN, Front, WAIT},
};

/// Serves this file's listeners.
async fn serving(file: serde_json::Value) -> Front {
    let serve = serve::parse(&file.to_string()).unwrap();
    Front::serving(serde_json::to_value(serve.listeners).unwrap()).await
}

fn http(handlers: serde_json::Value) -> serde_json::Value {
    json!({"TCP": {"80": {"HTTP": true}}, "Web": {"${TS_CERT_DOMAIN}:80": {"Handlers": handlers}}})
}

fn ask(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.split("\r\n").take_while(|line| !line.is_empty());
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn each_host_has_its_own_handlers() {
    let front = serving(json!({
        "TCP": {"80": {"HTTP": true}},
        "Web": {
            "${TS_CERT_DOMAIN}:80": {"Handlers": {"/": {"Text": "own"}}},
            "Other.example.ts.net:80": {"Handlers": {"/x": {"Text": "other"}}},
        }
    }))
    .await;
    let get = async |host: &str, path: &str| front.raw(80, ask(host, path)).await;
    assert!(get(FQDN, "/x").await.ends_with("own"));
    assert!(
        get("app", "/").await.ends_with("own"),
        "the short form is the own name"
    );
    assert!(get("other.example.ts.net", "/x/y").await.ends_with("other"));
    // A host's missing path is not another host's.
    assert_eq!(status(&get("other.example.ts.net", "/").await), "404");
    assert_eq!(status(&get("third.example.ts.net", "/").await), "421");
}

#[tokio::test]
async fn mounts_are_taken_off_as_go_takes_them_off() {
    let backend = Recorder::start().await;
    let target = format!("http://{}", backend.addr);
    let front = serving(http(json!({
        "/": {"Proxy": target}, "/foo": {"Proxy": format!("{target}/base")}, "/bar/": {"Proxy": target},
        "/d": {"Text": "exact"}, "/d/": {"Proxy": target}, "/caf\u{e9}": {"Proxy": target},
    })))
    .await;
    for (path, seen) in [
        ("/", "/"),
        ("/foox", "/foox"),
        ("/foo", "/base"),
        ("/foo/", "/base/"),
        ("/foo/a%20b?c=d", "/base/a%20b?c=d"),
        ("/bar", "/"),
        ("/bar/x", "/x"),
        ("/d/x", "/x"),
        ("/d/", "/"),
        ("/caf%C3%A9/x", "/x"),
    ] {
        let answer = front.get(80, path).await;
        assert_eq!(status(&answer), "200", "{path}: {answer}");
        assert_eq!(backend.last().target, seen, "{path}");
    }
    assert!(front.get(80, "/d").await.ends_with("exact"));
}

#[tokio::test]
async fn each_target_is_spoken_to_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("app.sock");
    let (plain, behind_tls) = (Recorder::start().await, Recorder::behind_tls().await);
    let on_unix = Recorder::on_unix(&socket);
    let (port, tls_port) = (plain.addr.port(), behind_tls.addr.port());
    let front = serving(http(json!({
        "/port": {"Proxy": port.to_string()}, "/http": {"Proxy": format!("http://localhost:{port}/base")},
        "/insecure": {"Proxy": format!("https+insecure://localhost:{tls_port}")},
        "/secure": {"Proxy": format!("https://localhost:{tls_port}")},
        "/unix": {"Proxy": format!("unix:{}", socket.display())},
    })))
    .await;
    for (path, backend, seen) in [
        ("/port/x", &plain, "/x"),
        ("/http/x", &plain, "/base/x"),
        ("/insecure/x", &behind_tls, "/x"),
        ("/unix/x", &on_unix, "/x"),
    ] {
        let answer = front.get(80, path).await;
        assert_eq!(status(&answer), "200", "{path}: {answer}");
        assert_eq!(backend.last().target, seen, "{path}");
    }
    // Go says the same to a program behind a unix socket.
    assert_eq!(on_unix.last().header("host"), Some("localhost"));
    assert_eq!(behind_tls.last().header("host"), Some(FQDN));
    let answer = front.get(80, "/secure").await;
    assert_eq!(
        status(&answer),
        "502",
        "nobody has signed its certificate: {answer}"
    );
    assert_eq!(behind_tls.seen().len(), 1);
}

#[tokio::test]
async fn each_handler_passes_on_the_capabilities_that_it_accepts() {
    let backend = Recorder::start().await;
    let target = format!("http://{}", backend.addr);
    let front = serving(http(json!({
        "/with": {"Proxy": target, "AcceptAppCaps": ["example.com/cap/x"]},
        "/other": {"Proxy": target, "AcceptAppCaps": ["example.com/cap/y"]},
        "/without": {"Proxy": target},
    })))
    .await;
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    for (path, caps) in [
        ("/with", Some(r#"{"example.com/cap/x":[{"n":1.0}]}"#)),
        ("/other", Some("{}")),
        ("/without", None),
    ] {
        front.get(80, path).await;
        assert_eq!(
            backend.last().header("tailscale-app-capabilities"),
            caps,
            "{path}"
        );
    }
}

#[tokio::test]
async fn files_are_served_as_go_serves_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir_all(dir.path().join("site/sub")).unwrap();
    fs::create_dir_all(dir.path().join("list/b")).unwrap();
    fs::write(at("file.txt"), "0123456789").unwrap();
    fs::write(at("secret"), "secret").unwrap();
    fs::write(at("site/index.html"), "<p>index").unwrap();
    fs::write(at("site/sub/a b.css"), "css").unwrap();
    fs::write(at("list/<a>"), "x").unwrap();
    let front = serving(http(json!({
        "/f": {"Path": at("file.txt")}, "/site/": {"Path": at("site")}, "/list/": {"Path": at("list")},
        "/gone": {"Path": at("gone")},
    })))
    .await;
    let get = async |path: &str| front.get(80, path).await;
    let file = get("/f").await;
    assert_eq!(
        (status(&file), header(&file, "content-type")),
        ("200", Some("text/plain")),
        "{file}"
    );
    assert!(file.ends_with("0123456789") && header(&file, "content-length") == Some("10"));
    for path in ["/f/", "/f/x", "/gone", "/site/none", "/site/index.html/"] {
        assert_eq!(status(&get(path).await), "404", "{path}");
    }
    let part = format!("GET /f HTTP/1.1\r\nHost: {FQDN}\r\nRange: bytes=2-4\r\nConnection: close\r\n\r\n");
    let part = front.raw(80, part).await;
    assert!(status(&part) == "206" && part.ends_with("\r\n\r\n234"), "{part}");
    assert!(get("/site/").await.ends_with("<p>index"));
    assert!(get("/site/sub/a%20b.css").await.ends_with("css"));
    let to_mount = get("/site").await;
    assert_eq!(
        (status(&to_mount), header(&to_mount, "location")),
        ("302", Some("/site/"))
    );
    let to_dir = get("/site/sub").await;
    assert_eq!(
        (status(&to_dir), header(&to_dir, "location")),
        ("301", Some("/site/sub/"))
    );
    let list = get("/list/").await;
    assert_eq!(header(&list, "content-type"), Some("text/html; charset=utf-8"));
    assert!(
        list.ends_with("<pre>\n<a href=\"%3Ca%3E\">&lt;a&gt;</a>\n<a href=\"b/\">b/</a>\n</pre>\n"),
        "{list}"
    );
    // Nothing above the directory can be named.
    for path in [
        "/site/../secret",
        "/site/%2e%2e/secret",
        "/site/..%2fsecret",
        "/site//secret",
    ] {
        let answer = get(path).await;
        assert!(
            status(&answer).starts_with('4') && !answer.ends_with("secret"),
            "{path}: {answer}"
        );
    }
    let post = format!("POST /f HTTP/1.1\r\nHost: {FQDN}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&front.raw(80, post).await), "405");
}

#[tokio::test]
async fn the_client_behind_a_forwarded_connection_is_known_while_it_lasts() {
    let backend = Wire::answering(b"hello").await;
    let front = serving(json!({"TCP": {"5432": {"TCPForward": backend.addr.to_string()}}})).await;
    let mut client = front.connect(5432).await;
    client.write_all(b"\r\n\r\n").await.unwrap();
    let mut answer = [0; 5];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut client, &mut answer);
    tokio::time::timeout(WAIT, reading).await.unwrap().unwrap();
    let forwarded = front.upstreams.forwarded();
    let ours = *backend.peers.lock().last().unwrap();
    assert_eq!(forwarded.client(ours), Some(client.local_addr().unwrap().ip()));
    drop(client);
    let gone = async {
        while forwarded.client(ours).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, gone).await.unwrap();
}
