//! Against a small server on loopback that writes down what it is asked.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;

/// A request as `METHOD PATH BODY`, and the answers by the beginning of such a line.
struct Server {
    asked: Arc<Mutex<Vec<String>>>,
    url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answers: &'static [(&'static str, u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let log = Arc::clone(&log);
                let service = service_fn(move |request: Request<Incoming>| {
                    let log = Arc::clone(&log);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let line = format!("{} {} {}", head.method, head.uri, String::from_utf8_lossy(&body));
                        let known = answers.iter().find(|(start, ..)| line.starts_with(start));
                        let (_, status, text) = known.unwrap_or(&("", 404, r#"{"message":"nothing here"}"#));
                        log.lock().push(line.trim_end().to_owned());
                        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                        *response.status_mut() = http::StatusCode::from_u16(*status).unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                // One connection after the other is enough here.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        Self { asked, url, task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn api(url: &str, credentials: &[(&str, &str)]) -> Api {
    let tailnet: Tailnet = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "default"},
        "spec": {"loginServer": url, "credentials": {}},
    }))
    .unwrap();
    let data = credentials.iter().map(|(key, value)| {
        (
            key.to_string(),
            k8s_openapi::ByteString(value.as_bytes().to_vec()),
        )
    });
    connect(
        &tailnet,
        &Secret {
            data: Some(data.collect()),
            ..Secret::default()
        },
    )
}

fn device(id: Option<&str>) -> DeviceRef {
    DeviceRef {
        id: id.map(str::to_owned),
        hostname: "a".into(),
        tags: vec!["tag:k8s".into()],
    }
}

const TOKEN: (&str, u16, &str) = (
    "POST /api/v2/oauth/token",
    200,
    r#"{"access_token":"t","expires_in":3600,"x":1}"#,
);
const OAUTH: &[(&str, &str)] = &[(CLIENT_ID, "id&x"), (CLIENT_SECRET, "secret")];

#[tokio::test]
async fn a_key_is_single_use_preauthorized_and_tagged_and_the_token_is_asked_for_once() {
    let server = Server::start(&[
        TOKEN,
        ("POST /api/v2/tailnet/-/keys", 200, r#"{"id":"k1","key":"tskey"}"#),
    ])
    .await;
    let api = api(&server.url, OAUTH);
    let key = api.mint(&["tag:k8s".into()], "postern a").await.unwrap().unwrap();
    assert_eq!((key.id.as_str(), key.key.expose()), ("k1", "tskey"));
    assert_eq!(
        format!("{key:?}").matches("tskey").count(),
        0,
        "a key must not be printed"
    );
    api.mint(&["tag:k8s".into()], "postern a").await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].ends_with("grant_type=client_credentials&client_id=id%26x&client_secret=secret"));
    for part in [
        r#""reusable":false"#,
        r#""ephemeral":false"#,
        r#""preauthorized":true"#,
        r#""tags":["tag:k8s"]"#,
    ] {
        assert!(asked[1].contains(part), "{part} in {}", asked[1]);
    }
}

#[tokio::test]
async fn a_device_is_deleted_by_its_identifier_only_when_it_is_ours() {
    let server = Server::start(&[
        TOKEN,
        (
            "GET /api/v2/device/n1 ",
            200,
            r#"{"nodeId":"n1","hostname":"a","tags":["tag:k8s"]}"#,
        ),
        (
            "GET /api/v2/device/n2 ",
            200,
            r#"{"nodeId":"n2","hostname":"database"}"#,
        ),
        ("DELETE /api/v2/device/n1", 200, ""),
    ])
    .await;
    let api = api(&server.url, OAUTH);
    assert!(api.delete(&device(Some("n1"))).await.unwrap());
    assert!(matches!(
        api.delete(&device(Some("n2"))).await,
        Err(Error::OtherDevice { .. })
    ));
    assert!(
        api.delete(&device(Some("n3"))).await.unwrap(),
        "gone already is a success"
    );
    let deleted: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|line| line.starts_with("DELETE"))
        .collect();
    assert_eq!(deleted, ["DELETE /api/v2/device/n1"]);
}

#[tokio::test]
async fn a_device_without_identifier_is_found_by_name_and_tags() {
    let server = Server::start(&[
        TOKEN,
        (
            "GET /api/v2/tailnet/-/devices",
            200,
            r#"{"devices":[{"nodeId":"n1","hostname":"a"},{"nodeId":"n2","hostname":"a","tags":["tag:k8s","tag:x"]},{"nodeId":"n3","hostname":"b","tags":["tag:k8s"]}]}"#,
        ),
        ("DELETE /api/v2/device/n2", 200, ""),
    ])
    .await;
    assert!(api(&server.url, OAUTH).delete(&device(None)).await.unwrap());
    assert_eq!(server.asked().last().unwrap(), "DELETE /api/v2/device/n2");
}

#[tokio::test]
async fn refused_credentials_are_told_in_the_apis_words() {
    let server = Server::start(&[("POST /api/v2/oauth/token", 401, r#"{"message":"invalid client"}"#)]).await;
    let error = api(&server.url, OAUTH).probe().await.unwrap_err();
    assert!(matches!(&error, Error::Refused { status: 401, .. }), "{error}");
    assert!(error.to_string().contains("invalid client") && !error.to_string().contains("secret"));
}

#[tokio::test]
async fn headscale_nodes_are_deleted_by_number_or_by_name_and_tags() {
    let server = Server::start(&[
        (
            "GET /api/v1/node",
            200,
            r#"{"nodes":[{"id":"7","name":"a","givenName":"a","forcedTags":[],"validTags":["tag:k8s"]},{"id":"8","name":"b","validTags":["tag:k8s"]}]}"#,
        ),
        ("DELETE /api/v1/node/7", 200, "{}"),
    ])
    .await;
    let api = api(&server.url, &[(AUTH_KEY, "k"), (API_KEY, "secret")]);
    assert!(api.delete(&device(Some("7"))).await.unwrap());
    assert!(api.delete(&device(None)).await.unwrap());
    assert!(matches!(
        api.delete(&device(Some("8"))).await,
        Err(Error::OtherDevice { .. })
    ));
    let deleted = server
        .asked()
        .into_iter()
        .filter(|line| line.starts_with("DELETE"))
        .count();
    assert_eq!(deleted, 2);
    assert!(api.mint(&[], "x").await.unwrap().is_none());
}

#[tokio::test]
async fn without_an_api_nobody_deletes() {
    assert!(
        !api("http://127.0.0.1:1", &[(AUTH_KEY, "k")])
            .delete(&device(None))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_service_is_defined_by_its_whole_text_and_one_that_is_missing_is_no_error() {
    let server = Server::start(&[
        TOKEN,
        (
            "GET /api/v2/tailnet/-/vip-services/svc:db ",
            200,
            r#"{"name":"svc:db","addrs":["100.127.0.1"],"tags":null,"displayName":"D"}"#,
        ),
        (
            "GET /api/v2/tailnet/-/vip-services ",
            200,
            r#"{"vipServices":[]}"#,
        ),
        (
            "PUT /api/v2/tailnet/-/vip-services/svc:db ",
            200,
            r#"{"name":"svc:db"}"#,
        ),
        ("DELETE /api/v2/tailnet/-/vip-services/svc:db", 200, "{}"),
    ])
    .await;
    let api = api(&server.url, OAUTH);
    assert!(api.has_services() && api.probe_services().await.unwrap());
    assert!(api.probe_services().await.unwrap());
    assert_eq!(api.definition("svc:none").await.unwrap(), None);
    let definition = api.definition("svc:db").await.unwrap().unwrap();
    assert_eq!(definition.addrs, ["100.127.0.1"]);
    api.define(&definition).await.unwrap().unwrap();
    api.undefine("svc:db").await.unwrap();
    api.undefine("svc:none").await.unwrap();
    let asked = server.asked();
    let listed = asked
        .iter()
        .filter(|line| line.ends_with("/vip-services"))
        .count();
    assert_eq!(listed, 1, "that there are Services is remembered");
    assert!(
        asked.iter().any(|line| line
            == r#"PUT /api/v2/tailnet/-/vip-services/svc:db {"addrs":["100.127.0.1"],"displayName":"D","name":"svc:db"}"#),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_server_without_services_is_told_from_a_refusal() {
    let server = Server::start(&[TOKEN]).await;
    assert!(!api(&server.url, OAUTH).probe_services().await.unwrap());
    let server = Server::start(&[
        TOKEN,
        (
            "GET /api/v2/tailnet/-/vip-services",
            403,
            r#"{"message":"scope"}"#,
        ),
    ])
    .await;
    let refused = api(&server.url, OAUTH).probe_services().await;
    assert!(matches!(refused, Err(Error::Refused { status: 403, .. })));
    assert!(!api("http://127.0.0.1:1", &[]).probe_services().await.unwrap());
}
