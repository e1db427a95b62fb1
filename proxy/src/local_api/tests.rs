use std::net::IpAddr;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use postern_node::{
    cert::Certificate,
    netmap::{Merger, Netmap, WhoIs},
    node::{Config, Error, Identity, Status},
    tailcfg::MapResponse,
};
use serde_json::{Value, json};

use super::*;
use crate::tailnet::{Listener, Node, StartNode};

/// A tailnet of a user's laptop, a tagged server, and ourselves.
fn netmap() -> Arc<Netmap> {
    let node = |id: i64, name: &str, user: i64, more: Value| {
        let mut node = json!({
            "ID": id, "StableID": format!("n{id}"), "Name": format!("{name}.example.ts.net."), "User": user,
            "Key": format!("nodekey:{id:064x}"), "Addresses": [format!("100.64.0.{id}/32")],
            "HomeDERP": 1, "MachineAuthorized": true, "Created": "2026-01-02T03:04:05Z",
            "Hostinfo": {"OS": "linux", "Hostname": name, "Unknown": {"x": [1]}},
        });
        let all = node.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        node
    };
    let response = json!({
        "Node": node(1, "app", 10, json!({"CapMap": {"service-host": [{"svc:db": ["100.99.0.1"]}], "https": null}})),
        "Peers": [
            node(2, "laptop", 20, json!({"Online": true, "Hostinfo": {"OS": "macOS", "Hostname": "Alice's Mac"}})),
            node(3, "ci", 30, json!({"Tags": ["tag:ci"], "KeyExpiry": "2099-01-01T00:00:00Z"})),
            node(4, "orphan", 99, json!({})),
        ],
        "UserProfiles": [
            {"ID": 10, "LoginName": "owner@example.com", "DisplayName": "Owner"},
            {"ID": 20, "LoginName": "alice@example.com", "DisplayName": "Alice", "ProfilePicURL": "https://pic/a"},
            {"ID": 30, "LoginName": "tagged-devices", "DisplayName": "Tagged Devices"},
        ],
        "Domain": "example.com",
        "DNSConfig": {"Proxied": true, "CertDomains": ["app.example.ts.net"]},
        "DERPMap": {"Regions": {"1": {"RegionID": 1, "RegionCode": "fra", "Nodes": []}}},
        "PacketFilter": [
            {"SrcIPs": ["100.64.0.2"], "CapGrant": [{"Dsts": ["100.64.0.1/32"], "CapMap": {"example.com/cap/x": [{"n": 1}]}}]},
            {"SrcIPs": ["100.64.0.2"], "CapGrant": [{"Dsts": ["100.99.0.1/32"], "CapMap": {"example.com/cap/db": null}}]},
        ],
    });
    let response = MapResponse::from_json(response.to_string().as_bytes()).unwrap();
    let mut merger = Merger::keeping_details();
    merger.apply(response, jiff::Timestamp::now()).unwrap().unwrap()
}

/// With whether each start was to log in anew.
#[derive(Debug, Default)]
struct Fake(Mutex<Vec<bool>>);

impl StartNode for Fake {
    fn start(&self, config: Config) -> BoxFuture<'_, Result<Arc<dyn Node>, Error>> {
        assert!(config.keep_details);
        self.0.lock().push(config.force_login);
        Box::pin(async { Ok(Arc::new(Fixed(netmap())) as Arc<dyn Node>) })
    }
}

struct Fixed(Arc<Netmap>);

impl Node for Fixed {
    fn status(&self) -> watch::Receiver<Status> {
        let identity = Identity {
            stable_id: "n1".into(),
            name: "app.example.ts.net".into(),
            addrs: vec![[100, 64, 0, 1].into()],
            cert_domains: vec![],
            funnel: Ok(()),
        };
        watch::channel(Status::Running(identity)).1
    }

    fn generation(&self) -> u64 {
        1
    }

    fn listen(&self, _port: u16) -> Result<Box<dyn Listener>, Error> {
        Err(Error::Closed)
    }

    fn listen_funnel(&self, _port: u16) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async { Err(Error::Closed) })
    }

    fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        self.0.whois(src, dst)
    }

    fn netmap(&self) -> Option<Arc<Netmap>> {
        Some(self.0.clone())
    }

    fn certificate<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![domain.to_owned()]).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let not_after = jiff::Timestamp::now();
        Box::pin(async move {
            Ok(Arc::new(Certificate {
                chain,
                key,
                not_after,
            }))
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct Lab {
    api: Arc<LocalApi>,
    forwarded: Arc<Forwarded>,
    _node: Arc<dyn Node>,
}

impl Lab {
    async fn new() -> Self {
        let nodes = Nodes::new(Arc::new(Fake::default()), TaskTracker::new(), false);
        let node = nodes.start(Config::default()).await.unwrap();
        let forwarded = Arc::<Forwarded>::default();
        let api = LocalApi::new(nodes, forwarded.clone(), watch::channel(Some("{}".to_owned())).1);
        Self {
            api,
            forwarded,
            _node: node,
        }
    }

    async fn ask(&self, client: Client, headers: &[(&str, &str)], path: &str) -> (u16, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.api.answer(client, None, &request.body(()).unwrap()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let client = Client { uid: Some(12_345) };
        self.ask(client, &[("host", HOST)], &format!("/localapi/v0/{path}"))
            .await
    }

    async fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

#[tokio::test]
async fn a_login_is_forced_once_for_each_node() {
    let fake = Arc::new(Fake::default());
    let nodes = Nodes::new(fake.clone(), TaskTracker::new(), true);
    for hostname in ["a", "a", "b"] {
        let hostname = hostname.to_owned();
        nodes
            .start(Config {
                hostname,
                ..Config::default()
            })
            .await
            .unwrap();
    }
    assert_eq!(*fake.0.lock(), [true, false, true]);
}

#[tokio::test]
async fn whois_answers_as_gos_daemon() {
    let lab = Lab::new().await;
    // Livebook's question: the port is always 1.
    let who = lab.json("whois?addr=100.64.0.2:1").await;
    assert_eq!(
        who,
        json!({
            "Node": {
                "ID": 2, "StableID": "n2", "Name": "laptop.example.ts.net.", "User": 20,
                "Key": format!("nodekey:{:064x}", 2),
                "Addresses": ["100.64.0.2/32"], "AllowedIPs": ["100.64.0.2/32"], "HomeDERP": 1,
                "Hostinfo": {"OS": "macOS", "Hostname": "Alice's Mac"},
                "Created": "2026-01-02T03:04:05Z", "Online": true, "MachineAuthorized": true,
                "ComputedName": "laptop", "ComputedNameWithHost": "laptop (alices-mac)",
            },
            "UserProfile": {
                "ID": 20, "LoginName": "alice@example.com", "DisplayName": "Alice", "ProfilePicURL": "https://pic/a",
            },
            "CapMap": {"example.com/cap/x": [{"n": 1}]},
        })
    );
    let tagged = lab.json("whois?addr=100.64.0.3").await;
    assert_eq!(tagged["Node"]["Tags"], json!(["tag:ci"]));
    assert_eq!(tagged["Node"]["KeyExpiry"], "2099-01-01T00:00:00Z");
    assert_eq!(tagged["CapMap"], Value::Null);
    // What we don't know ourselves passes through.
    assert_eq!(tagged["Node"]["Hostinfo"]["Unknown"], json!({"x": [1]}));
    let by_key = lab.json(&format!("whois?addr=nodekey:{:064x}", 4)).await;
    assert_eq!(
        by_key["UserProfile"],
        json!({"ID": 0, "LoginName": "", "DisplayName": ""})
    );
    let service = lab.json("whois?addr=100.64.0.2&svc_name=svc:db").await;
    assert_eq!(service["CapMap"], json!({"example.com/cap/db": null}));
    let elsewhere = lab.json("whois?addr=100.64.0.2&dst_ip=100.99.0.1").await;
    assert_eq!(elsewhere["CapMap"], json!({"example.com/cap/db": null}));
    for (path, status, text) in [
        ("whois", 400, "missing 'addr' parameter\n"),
        ("whois?addr=nobody", 400, "invalid 'addr' parameter\n"),
        (
            "whois?addr=nodekey:12",
            400,
            "invalid nodekey in 'addr' parameter\n",
        ),
        ("whois?addr=100.64.0.2&svc_name=db", 400, "invalid svc_name\n"),
        ("whois?addr=100.64.0.2&dst_ip=x", 400, "invalid dst_ip\n"),
        ("whois?addr=100.64.0.9:1", 404, "no match for IP:port\n"),
        // A machine whose user nobody described is not shown as nobody.
        ("whois?addr=100.64.0.4:1", 404, "no match for IP:port\n"),
    ] {
        assert_eq!(lab.get(path).await, (status, text.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn whois_knows_the_client_behind_a_connection_that_we_forwarded() {
    let lab = Lab::new().await;
    let local = "127.0.0.1:40123".parse().unwrap();
    assert_eq!(lab.get("whois?addr=127.0.0.1:40123").await.0, 404);
    let entry = lab.forwarded.enter(local, [100, 64, 0, 2].into());
    let who = lab.json("whois?addr=127.0.0.1:40123&proto=tcp").await;
    assert_eq!(who["UserProfile"]["LoginName"], "alice@example.com");
    assert_eq!(lab.get("whois?addr=127.0.0.1:40123&proto=udp").await.0, 404);
    drop(entry);
    // The backend may ask before the connection is entered.
    let late = {
        let forwarded = lab.forwarded.clone();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            let entry = forwarded.enter(local, [100, 64, 0, 2].into());
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            drop(entry);
        })
    };
    assert_eq!(lab.get("whois?addr=127.0.0.1:40123").await.0, 200);
    late.abort();
}

#[tokio::test]
async fn status_has_every_machine() {
    let lab = Lab::new().await;
    let status = lab.json("status").await;
    assert_eq!(status["BackendState"], "Running");
    assert_eq!(status["TailscaleIPs"], json!(["100.64.0.1"]));
    assert_eq!(
        status["CurrentTailnet"],
        json!({"Name": "example.com", "MagicDNSSuffix": "example.ts.net", "MagicDNSEnabled": true})
    );
    assert_eq!(status["Self"]["DNSName"], "app.example.ts.net.");
    assert_eq!(status["Self"]["Capabilities"][1], "https");
    assert_eq!(status["Peer"].as_object().unwrap().len(), 3);
    let laptop = &status["Peer"][format!("nodekey:{:064x}", 2)];
    assert_eq!(laptop["HostName"], "Alice's Mac");
    assert_eq!(laptop["Relay"], "fra");
    assert_eq!(laptop["LastSeen"], "0001-01-01T00:00:00Z");
    assert_eq!(status["User"]["20"]["LoginName"], "alice@example.com");
    let alone = lab.json("status?peers=false").await;
    assert_eq!(alone["Peer"], Value::Null);
    assert_eq!(
        alone["User"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["10"]
    );
    assert_eq!(lab.json("cert-domains").await, json!(["app.example.ts.net"]));
    assert_eq!(lab.json("serve-config").await, json!({}));
}

#[tokio::test]
async fn pages_and_other_hosts_are_refused_and_keys_are_for_our_user() {
    let lab = Lab::new().await;
    let me = Client {
        uid: Some(rustix::process::geteuid().as_raw()),
    };
    let other = Client { uid: Some(12_345) };
    let status = "/localapi/v0/status";
    for headers in [
        &[("host", "evil.example")][..],
        &[("host", "localhost:80")],
        &[("host", HOST), ("origin", "http://evil.example")],
        &[("host", HOST), ("referer", "http://evil.example/")],
    ] {
        let answer = lab.ask(me, headers, status).await;
        assert_eq!(
            answer,
            (403, "invalid localapi request\n".to_owned()),
            "{headers:?}"
        );
    }
    let host = &[("host", HOST)][..];
    assert_eq!(lab.ask(other, host, status).await.0, 200);
    assert_eq!(lab.ask(Client { uid: None }, host, status).await.0, 403);
    let cert = "/localapi/v0/cert/app.example.ts.net?type=pair";
    assert_eq!(
        lab.ask(other, host, cert).await,
        (403, "cert access denied\n".to_owned())
    );
    let (code, pair) = lab.ask(me, host, cert).await;
    assert_eq!(code, 200);
    assert!(
        pair.starts_with("-----BEGIN PRIVATE KEY-----\n") && pair.contains("-----BEGIN CERTIFICATE-----\n")
    );
    assert_eq!(lab.ask(me, host, "/").await, (200, "tailscaled\n".to_owned()));
    assert_eq!(lab.ask(me, host, "/localapi/v0/logout").await.0, 404);
    let post = Request::post(status).header("host", HOST).body(()).unwrap();
    assert_eq!(lab.api.answer(me, None, &post).await.status(), 405);
}

#[tokio::test]
async fn over_tcp_the_password_opens_and_loopback_is_a_host() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let lab = Lab::new().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let password = Password::write_new(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let ask = async |host: &str, password_sent: Option<&str>| {
        let mut request = Request::get("/localapi/v0/status").header("host", host);
        if let Some(sent) = password_sent {
            request = request.header(
                "authorization",
                format!("Basic {}", STANDARD.encode(format!(":{sent}"))),
            );
        }
        let request = request.body(()).unwrap();
        let client = Client { uid: None };
        lab.api
            .answer(client, Some(&password), &request)
            .await
            .status()
            .as_u16()
    };
    assert_eq!(ask("127.0.0.1:41112", Some(&text)).await, 200);
    assert_eq!(ask("[::1]:41112", Some(&text)).await, 200);
    assert_eq!(ask("localhost:41112", Some(&text)).await, 200);
    assert_eq!(ask("127.0.0.1:41112", None).await, 401);
    assert_eq!(ask("127.0.0.1:41112", Some("wrong")).await, 403);
    assert_eq!(ask("rebound.example:41112", Some(&text)).await, 403);
}

/// What forward auth says of a client, with its headers.
#[tokio::test]
async fn forward_auth_keeps_the_contract_of_nginx_auth() {
    let lab = Lab::new().await;
    let auth = crate::forward_auth::ForwardAuth::new(lab.api.clone());
    let seen: Mutex<Vec<(String, String)>> = Mutex::default();
    let ask = async |headers: &[(&'static str, &str)]| {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.insert(*name, value.parse().unwrap());
        }
        let response = auth.answer(&all).await;
        *seen.lock() = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        response.status().as_u16()
    };
    assert_eq!(
        ask(&[("remote-addr", "100.64.0.2"), ("remote-port", "1")]).await,
        204
    );
    for (name, value) in [
        ("tailscale-user", "alice@example.com"),
        ("tailscale-login", "alice"),
        ("tailscale-name", "Alice"),
        ("tailscale-profile-picture", "https://pic/a"),
        ("tailscale-tailnet", "example.ts.net."),
    ] {
        assert!(
            seen.lock().contains(&(name.to_owned(), value.to_owned())),
            "{name}: {:?}",
            seen.lock()
        );
    }
    let _entry = lab
        .forwarded
        .enter("127.0.0.1:4000".parse().unwrap(), [100, 64, 0, 2].into());
    for (headers, status) in [
        (&[("remote-addr", "127.0.0.1"), ("remote-port", "4000")][..], 204),
        (&[("remote-addr", "127.0.0.1"), ("remote-port", "4001")], 401),
        (&[("remote-addr", "100.64.0.9"), ("remote-port", "1")], 401),
        (&[("remote-addr", "x"), ("remote-port", "1")], 401),
        (&[("remote-addr", "100.64.0.2")], 400),
        (&[], 400),
        (&[("remote-addr", "100.64.0.3"), ("remote-port", "1")], 403),
        (
            &[
                ("remote-addr", "100.64.0.2"),
                ("remote-port", "1"),
                ("expected-tailnet", "other.ts.net"),
            ],
            403,
        ),
        (
            &[
                ("remote-addr", "100.64.0.2"),
                ("remote-port", "1"),
                ("expected-tailnet", "example.ts.net"),
            ],
            204,
        ),
    ] {
        assert_eq!(ask(headers).await, status, "{headers:?}");
    }
}
