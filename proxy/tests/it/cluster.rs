//! In a cluster: what is asked of the API server, and what happens without it.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use postern_idp::{Key, Shard, Swap};
use postern_node::{control::AuthKey, credential::Credential};
use postern_proxy::cluster::{Cluster, Member};
use postern_proxy_config::{
    group::{IdentityProvider, NodeConfig, SecretRef, Signing},
    names,
    report::{Phase, REPORT_KEY, Report},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use crate::front::{FQDN, Front, Nodes, WAIT};

/// Objects by `kind/name`, and every request that was made.
#[derive(Clone)]
struct ApiServer {
    objects: watch::Sender<BTreeMap<String, Value>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl ApiServer {
    fn new() -> Self {
        let server = Self {
            objects: watch::Sender::default(),
            requests: Arc::default(),
        };
        for name in (0..names::SHARDS).map(|i| names::shard("g", i)).chain([
            names::endpoints("g"),
            names::assignment("g"),
            names::report("g-0"),
        ]) {
            server.put(&format!("configmaps/{name}"), json!({}));
        }
        server
    }

    fn put(&self, key: &str, data: Value) {
        self.objects.send_modify(|objects| {
            let version = objects.values().map(|o| version(o) + 1).max().unwrap_or(1);
            let name = key.split('/').next_back().unwrap();
            let object = json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()}, "data": data});
            objects.insert(key.to_owned(), object);
        });
    }

    fn config(&self, text: &str, generation: i64) {
        let shard = json!({"format": 1, "tailnet": {"controlUrl": "http://unused"}, "names": {"app": {
            "owner": {"kind": "Ingress", "namespace": "n", "name": "app", "uid": "uid"}, "generation": generation,
            "node": {"hostname": "app", "state": {"name": "g-app-node"}},
            "listeners": [{"port": 80, "protocol": {"type": "http", "routes": [
                {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "text", "text": text}}]}}]}}});
        let key = format!("configmaps/{}", names::shard("g", names::shard_of("app")));
        self.put(&key, json!({"config.json": shard.to_string()}));
    }

    async fn serve(&self, listener: TcpListener, end: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                () = end.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            let (server, end) = (self.clone(), end.clone());
            tasks.spawn(async move {
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::select! {
                    () = end.cancelled() => {}
                    _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service) => {}
                }
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        self.requests
            .lock()
            .push(format!("{} {path}?{query}", request.method()));
        let key = path.strip_prefix("/api/v1/namespaces/ns/").unwrap().to_owned();
        if key == "configmaps" {
            let name = query
                .split('&')
                .find_map(|q| {
                    q.strip_prefix("fieldSelector=metadata.name%3D")
                        .or_else(|| q.strip_prefix("fieldSelector=metadata.name="))
                })
                .unwrap_or_else(|| panic!("not one named object: {query}"));
            let key = format!("configmaps/{name}");
            if query.contains("watch=true") {
                let since = query
                    .split('&')
                    .find_map(|q| q.strip_prefix("resourceVersion=")?.parse().ok())
                    .unwrap_or_default();
                return self.watch(key, since);
            }
            let objects = self.objects.borrow();
            let newest = objects.values().map(version).max().unwrap_or(1);
            let items: Vec<&Value> = objects.get(&key).into_iter().collect();
            return reply(
                StatusCode::OK,
                &json!({"metadata": {"resourceVersion": newest.to_string()}, "items": items}),
            );
        }
        if !self.objects.borrow().contains_key(&key) {
            return reply(
                StatusCode::NOT_FOUND,
                &json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}),
            );
        }
        if request.method() == Method::PATCH {
            let patch: Value =
                serde_json::from_slice(&request.into_body().collect().await.unwrap().to_bytes()).unwrap();
            let read = &patch["metadata"]["resourceVersion"];
            if read.is_string() && *read != self.objects.borrow()[&key]["metadata"]["resourceVersion"] {
                return reply(
                    StatusCode::CONFLICT,
                    &json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "another was first"}),
                );
            }
            let mut data = self.objects.borrow()[&key]["data"].clone();
            for (field, value) in patch["data"].as_object().unwrap() {
                if value.is_null() {
                    data.as_object_mut().unwrap().remove(field);
                } else {
                    data[field] = value.clone();
                }
            }
            self.put(&key, data);
        }
        reply(StatusCode::OK, &self.objects.borrow()[&key])
    }

    fn watch(&self, key: String, last: u64) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let objects = self.objects.subscribe();
        let stream = futures::stream::unfold((objects, key, last), |(mut objects, key, last)| async move {
            let object = objects
                .wait_for(|o| o.get(&key).is_some_and(|o| version(o) > last))
                .await
                .ok()?[&key]
                .clone();
            let last = version(&object);
            let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
            Some((Ok(Frame::data(Bytes::from(line))), (objects, key, last)))
        });
        Response::new(StreamBody::new(stream).boxed_unsync())
    }

    fn report(objects: &BTreeMap<String, Value>) -> Option<Report> {
        let text = objects["configmaps/g-0-report"]["data"][REPORT_KEY].as_str()?;
        Some(serde_json::from_str(text).unwrap())
    }

    async fn reported(&self, until: impl Fn(&Report) -> bool) -> Report {
        let mut objects = self.objects.subscribe();
        let found = objects.wait_for(|o| Self::report(o).is_some_and(|r| until(&r)));
        let Ok(found) = tokio::time::timeout(WAIT, found).await else {
            panic!("the report stays {:?}", Self::report(&self.objects.borrow()));
        };
        Self::report(&found.unwrap()).unwrap()
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn reply(status: StatusCode, value: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let mut response = Response::new(http_body_util::Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn bind(addr: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn connect(addr: SocketAddr) -> Cluster {
    let mut config = kube::Config::new(format!("http://{addr}").parse().unwrap());
    config.default_retry = false;
    let member = Member {
        group: "g".into(),
        namespace: "ns".into(),
        pod: "g-0".into(),
    };
    Cluster::with_client(member, kube::Client::try_from(config).unwrap())
}

#[tokio::test]
async fn configuration_is_followed_and_serving_needs_no_api_server() {
    let server = ApiServer::new();
    server.put("secrets/g-app-node", json!({}));
    server.config("one", 1);
    let (listener, addr) = bind("127.0.0.1:0").await;
    let up = CancellationToken::new();
    let (serving, until) = (server.clone(), up.clone());
    let running = tokio::spawn(async move { serving.serve(listener, until).await });

    let cluster = connect(addr);
    let front = Front::with_secrets(Arc::new(Nodes::default()), cluster.secrets());
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    cluster.follow(
        front.desired.clone(),
        front.upstreams.clone(),
        front.reports.clone(),
        &tasks,
        &end,
    );
    let served = |generation| {
        move |r: &Report| {
            r.names
                .get("app")
                .is_some_and(|n| n.phase == Phase::Serving && n.applied_generation == generation)
        }
    };
    let report = server.reported(served(1)).await;
    assert_eq!(report.names["app"].assigned_name.as_deref(), Some(FQDN));
    assert_eq!(report.names["app"].owner_uid, "uid");
    assert!(front.get(80, "/").await.ends_with("one"));

    let started = tokio::time::Instant::now();
    server.config("two", 2);
    front.generation(2).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(front.get(80, "/").await.ends_with("two"));

    // A newer format is refused as a whole, and said.
    let key = format!("configmaps/{}", names::shard("g", names::shard_of("app")));
    server.put(&key, json!({"config.json": r#"{"format":99,"surprise":{}}"#}));
    let report = server.reported(|r| r.refused.is_some()).await;
    assert!(report.refused.unwrap().contains("format 99 is newer"));
    assert!(front.get(80, "/").await.ends_with("two"));

    // Without an API server everything stays; when it is back, what has changed is taken.
    up.cancel();
    running.await.unwrap();
    assert!(front.get(80, "/").await.ends_with("two"));
    server.config("three", 3);
    let (listener, _) = bind(&addr.to_string()).await;
    let (serving, until) = (server.clone(), CancellationToken::new());
    tokio::spawn(async move { serving.serve(listener, until).await });
    server.reported(served(3)).await;
    assert!(front.get(80, "/").await.ends_with("three"));

    end.cancel();
    tasks.close();
    tokio::time::timeout(WAIT, tasks.wait()).await.unwrap();
    for request in server.requests.lock().iter() {
        let (method, rest) = request.split_once(' ').unwrap();
        let path = rest
            .split('?')
            .next()
            .unwrap()
            .trim_start_matches("/api/v1/namespaces/ns/");
        let fine = match (method, path) {
            ("GET", "configmaps") => rest.contains("fieldSelector=metadata.name"),
            ("PATCH", "configmaps/g-0-report") | ("GET" | "PATCH", "secrets/g-app-node") => true,
            _ => false,
        };
        assert!(fine, "{request}");
    }
}

#[tokio::test]
async fn state_and_certificates_are_in_their_secrets() {
    let server = ApiServer::new();
    server.put("secrets/s", json!({"authkey": "dHNrZXktMQo="}));
    server.put("secrets/c", json!({"tls.crt": "", "tls.key": ""}));
    server.put("secrets/g-acme", json!({}));
    let (listener, addr) = bind("127.0.0.1:0").await;
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener, CancellationToken::new()).await });
    let secrets = connect(addr).secrets();
    let node: NodeConfig = serde_json::from_value(
        json!({"hostname": "app", "state": {"name": "s"}, "certificate": {"name": "c"}}),
    )
    .unwrap();
    assert_eq!(
        secrets.credential(&node).await.unwrap(),
        Some(Credential::AuthKey(AuthKey::new("tskey-1")))
    );
    let store = secrets.store(&node).unwrap();
    let (crt, key) = (format!("{FQDN}.crt"), format!("{FQDN}.key"));
    for key in ["state", "acme-account.key.pem", &crt, &key] {
        assert_eq!(store.read(key).await.unwrap(), None, "{key}");
        store
            .write(BTreeMap::from([(key.to_owned(), key.as_bytes().to_vec())]))
            .await
            .unwrap();
        assert_eq!(store.read(key).await.unwrap().unwrap(), key.as_bytes());
    }
    let data = |name: &str| server.objects.borrow()[&format!("secrets/{name}")]["data"].clone();
    assert_eq!(data("s")["state"], "c3RhdGU=");
    assert!(data("c")["tls.key"].as_str().is_some_and(|v| !v.is_empty()));
    assert!(data("g-acme").get("acme-account.key.pem").is_some());
    store.clear().await.unwrap();
    assert!(data("s").get("state").is_none());
    assert_eq!(data("c")["tls.crt"], "");
    // A client that isn't understood is left out.
    server.put(
        "secrets/clients",
        json!({
            "app": "eyJmb3JtYXQiOjEsImdlbmVyYXRpb24iOjEsIm5hbWUiOiJBcHAiLCJyZWRpcmVjdFVyaXMiOlsiaHR0cHM6Ly9hLmV4YW1wbGUvIl19",
            "bad": "e30=",
        }),
    );
    let clients = |name: &str| SecretRef {
        name: name.to_owned(),
        revision: "1".to_owned(),
    };
    let read = secrets.clients(&clients("clients")).await.unwrap();
    assert_eq!(read.clients["app"].name, "App");
    assert!(read.clients.len() == 1 && read.refused.contains_key("bad"));
    assert!(secrets.clients(&clients("gone")).await.is_err());
    // A Secret that is gone is an error: taking it for an empty one would make a new machine.
    let gone: NodeConfig =
        serde_json::from_value(json!({"hostname": "x", "state": {"name": "gone"}})).unwrap();
    let error = secrets.store(&gone).unwrap().read("state").await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.starts_with("read secret gone: ") && said.contains("404"),
        "{said}"
    );
}

#[tokio::test]
async fn of_two_replicas_of_an_identity_provider_one_changes_a_document() {
    let server = ApiServer::new();
    server.put("configmaps/g-idp-idp-sessions-00", json!({}));
    server.put("secrets/g-idp-idp-keys", json!({}));
    let (listener, addr) = bind("127.0.0.1:0").await;
    let up = CancellationToken::new();
    let running = tokio::spawn({
        let (server, up) = (server.clone(), up.clone());
        async move { server.serve(listener, up).await }
    });
    let provider = IdentityProvider {
        documents: "g-idp-idp".into(),
        clients: None,
        signing: Signing::Es256,
        token_exchange: false,
        registration_seconds: None,
        back_channel: false,
        token_seconds: 300,
        refresh_seconds: 300,
    };
    let replica = || connect(addr).secrets().documents(&provider).unwrap();
    let (a, b) = (replica(), replica());
    let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    for key in [Key::Sessions(Shard::of(0)), Key::Keys] {
        assert!(a.read(key).await.unwrap().is_none());
        let Swap::Done(first) = a.swap(key, None, bytes("1")).await.unwrap() else {
            panic!("there was none");
        };
        assert_eq!(b.swap(key, None, bytes("2")).await.unwrap(), Swap::Conflict);
        let read = b.read(key).await.unwrap().unwrap();
        assert_eq!((&read.bytes[..], &read.version), (&b"1"[..], &first));
        assert!(matches!(
            b.swap(key, Some(&first), bytes("3")).await.unwrap(),
            Swap::Done(_)
        ));
        assert_eq!(
            a.swap(key, Some(&first), bytes("4")).await.unwrap(),
            Swap::Conflict
        );
    }
    let missing = a.read(Key::Sessions(Shard::of(1))).await.unwrap_err();
    assert!(missing.to_string().contains("sessions-01"), "{missing}");
    assert!(
        server
            .requests
            .lock()
            .iter()
            .all(|request| { request.starts_with("GET ") || request.starts_with("PATCH ") })
    );
    up.cancel();
    running.await.unwrap();
}
