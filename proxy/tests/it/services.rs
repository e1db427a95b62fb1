//! A replica as one of several hosts of a Tailscale Service.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use postern_node::node::{Identity, Status};
use postern_proxy_config::report::{Phase, Stage};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    backend::{Recorder, address, everything_to},
    front::{FQDN, Front, Nodes, WAIT, self_signed},
};

const WEB: &str = "web.example.ts.net";

/// A host for which control offers certificates of `svc:web`.
fn host() -> Front {
    let nodes = Nodes::named("g-0-host.example.ts.net");
    nodes.status.send_replace(Status::Running(Identity {
        stable_id: "nHOST".into(),
        name: "g-0-host.example.ts.net".into(),
        addrs: vec![[127, 0, 0, 1].into()],
        cert_domains: vec!["g-0-host.example.ts.net".into(), WEB.into()],
        funnel: Ok(()),
    }));
    Front::with_nodes(nodes)
}

async fn get(front: &Front, more: &str) -> String {
    let mut stream = front.tls(443, WEB, &["http/1.1"]).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn advertised(front: &Front) -> bool {
    front
        .nodes
        .hosted
        .borrow()
        .iter()
        .all(|service| service.advertised)
}

#[tokio::test]
async fn a_service_is_advertised_once_it_is_approved_and_has_its_certificate() {
    let backend = Recorder::start().await;
    let front = host();
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    front.set_service(everything_to(&backend.backend()), true, 3);
    // Control is told of every port at once, and sends nobody here yet.
    let report = front.stage(Stage::Offered).await;
    assert_eq!((report.applied_generation, report.owner_uid.as_str()), (3, "uid"));
    assert_eq!(front.nodes.hosted.borrow()[0].ports, [80, 443]);
    assert!(!advertised(&front));
    assert_eq!(front.nodes.certificates.load(SeqCst), 0);

    front.nodes.approve(true, true);
    let report = front.stage(Stage::Serving).await;
    assert!(advertised(&front));
    assert_eq!(report.assigned_name.as_deref(), Some(WEB));
    assert!(report.certificate_expires.is_some());
    assert_eq!(front.nodes.certificates.load(SeqCst), 1);
    let answer = get(&front, "Connection: close\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        backend.last().header("tailscale-user-login"),
        Some("alice@example.com")
    );

    // A bad configuration is refused by name, and the last good one stays advertised.
    front.set_service(
        json!([{"port": 80, "protocol": {"type": "tcp", "backend": {"type": "text", "text": "x"}}}]),
        true,
        4,
    );
    let mut reports = front.reports.subscribe();
    let refused = reports.wait_for(|r| r.services["svc:web"].reason.contains("listeners[0].backend"));
    let report = tokio::time::timeout(WAIT, refused)
        .await
        .unwrap()
        .unwrap()
        .services["svc:web"]
        .clone();
    assert_eq!((report.stage, report.applied_generation), (Stage::Serving, 3));
    assert!(advertised(&front));
}

#[tokio::test]
async fn a_replica_that_does_not_lead_reads_the_certificate_and_gets_none() {
    let backend = Recorder::start().await;
    let front = host();
    front.set_service(everything_to(&backend.backend()), false, 1);
    front.stage(Stage::Offered).await;
    front.nodes.approve(true, false);
    let report = front.stage(Stage::Approved).await;
    assert!(!advertised(&front));
    let mut reports = front.reports.subscribe();
    let waits = reports.wait_for(|r| r.services["svc:web"].certificate_error.contains("g-web.svc-tls"));
    tokio::time::timeout(WAIT, waits).await.unwrap().unwrap();
    assert_eq!(report.certificate_expires, None);

    let (cert, key) = self_signed(&[WEB]);
    front.nodes.issued.lock().push(cert.der().clone());
    let pair = postern_proxy::serve::PemPair {
        chain: cert.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    };
    front.nodes.secrets.lock().insert("g-web.svc-tls".into(), pair);
    front.stage(Stage::Serving).await;
    assert_eq!(front.nodes.certificates.load(SeqCst), 0);
    assert!(get(&front, "Connection: close\r\n").await.contains(" 200 "));
}

#[tokio::test]
async fn a_host_that_leaves_is_withdrawn_and_serves_until_clients_have_gone() {
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = backend.local_addr().unwrap();
    let front = host();
    front.set_service(everything_to(&address(addr)), true, 1);
    front.stage(Stage::Offered).await;
    front.nodes.approve(true, true);
    front.stage(Stage::Serving).await;
    let (mut busy, mut fresh) = (front.connect(80).await, front.connect(80).await);
    let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
    busy.write_all(request.as_bytes()).await.unwrap();
    let (mut at_backend, _) = backend.accept().await.unwrap();
    let mut buffer = [0; 4096];
    assert!(at_backend.read(&mut buffer).await.unwrap() > 0);

    let drain = front.drain.clone();
    let draining = tokio::spawn(async move { drain.finish_within(Duration::from_secs(60)).await });
    front.stage(Stage::Draining).await;
    assert!(!advertised(&front));
    // Until control has sent clients elsewhere, whoever comes has one request; so has who has come.
    let mut new = front.connect(80).await;
    for stream in [&mut new, &mut fresh] {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut at_backend, _) = backend.accept().await.unwrap();
        assert!(at_backend.read(&mut buffer).await.unwrap() > 0);
        at_backend
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::time::timeout(WAIT, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    front.nodes.approve(true, false);
    at_backend
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await
        .unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WAIT, busy.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.ends_with("ok"), "{answer}");
    tokio::time::timeout(WAIT, draining).await.unwrap().unwrap();
    assert!(front.nodes.ports.lock().is_empty(), "nothing listens any more");
}

#[tokio::test]
async fn a_service_that_is_taken_away_goes_at_once_and_out_of_the_report() {
    let backend = Recorder::start().await;
    let front = host();
    front.set_service(everything_to(&backend.backend()), true, 1);
    front.stage(Stage::Offered).await;
    front.nodes.approve(true, true);
    front.stage(Stage::Serving).await;
    let started = std::time::Instant::now();
    front.desired.send_replace(Some(std::sync::Arc::default()));
    let mut reports = front.reports.subscribe();
    let gone = reports.wait_for(|report| report.services.is_empty() && report.names.is_empty());
    tokio::time::timeout(WAIT, gone).await.unwrap().unwrap();
    // Nobody else has it, so there is nobody to wait for.
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
}

/// A sidecar for which control offers certificates of its own name and of `svc:web`.
fn sidecar() -> Front {
    let nodes = Nodes::default();
    nodes.status.send_replace(Status::Running(Identity {
        stable_id: "nAPP".into(),
        name: FQDN.into(),
        addrs: vec![[127, 0, 0, 1].into()],
        cert_domains: vec![FQDN.into(), WEB.into()],
        funnel: Ok(()),
    }));
    Front::with_nodes(nodes)
}

fn text(port: u16) -> serde_json::Value {
    json!([{"port": port, "protocol": {"type": "http", "routes": [
        {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "text", "text": "own"}}]}}])
}

#[tokio::test]
async fn a_sidecars_own_node_hosts_a_service_and_leaves_it_in_order() {
    let backend = Recorder::start().await;
    let front = sidecar();
    front.set_sidecar(text(81), everything_to(&backend.backend()));
    front.stage(Stage::Offered).await;
    assert!(!advertised(&front));
    front.nodes.approve(true, true);
    let report = front.stage(Stage::Serving).await;
    assert!(advertised(&front));
    assert_eq!(report.assigned_name.as_deref(), Some(WEB));
    assert_eq!(front.nodes.started.load(SeqCst), 1, "it is one node");
    assert!(
        get(&front, "Connection: close\r\n")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(front.get(81, "/").await.ends_with("own"));

    let drain = front.drain.clone();
    let draining = tokio::spawn(async move { drain.finish_within(Duration::from_secs(60)).await });
    front.stage(Stage::Draining).await;
    assert!(!advertised(&front));
    // Whoever still comes is served; the own name has no other host to wait for.
    assert!(get(&front, "").await.starts_with("HTTP/1.1 200 "));
    let own = async {
        while front.nodes.ports.lock().contains_key(&81) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, own).await.unwrap();
    front.nodes.approve(true, false);
    tokio::time::timeout(WAIT, draining).await.unwrap().unwrap();
    assert!(front.nodes.ports.lock().is_empty(), "nothing listens any more");
}

#[tokio::test]
async fn a_node_without_tags_says_so_and_serves_its_own_name() {
    let front = sidecar();
    front.nodes.untagged.store(true, SeqCst);
    front.set_sidecar(text(81), text(80));
    front.phase(Phase::Serving).await;
    assert!(front.get(81, "/").await.ends_with("own"));
    let mut reports = front.reports.subscribe();
    let said = reports.wait_for(|report| {
        (report.services.get("svc:web"))
            .is_some_and(|service| service.reason.contains("auth key that has tags"))
    });
    let report = tokio::time::timeout(WAIT, said).await.unwrap().unwrap().clone();
    assert_eq!(report.services["svc:web"].stage, Stage::Connecting);
    // With a login that has tags it goes on by itself.
    front.nodes.untagged.store(false, SeqCst);
    front.stage(Stage::Offered).await;
}
