//! Certificates by SNI, and what may be asked over which connection.

use std::sync::atomic::Ordering::SeqCst;

use http::Request;
use http_body_util::Full;
use postern_proxy::serve::PemPair;
use serde_json::json;

use crate::front::{FQDN, Front, self_signed};

fn https() -> serde_json::Value {
    json!([{"port": 443, "protocol": {"type": "https", "routes": [
        {"path": {"type": "prefix", "value": "/"}, "backend": {"type": "text", "text": "tailnet"}},
        {"host": "shop.example.com", "path": {"type": "prefix", "value": "/"},
         "backend": {"type": "text", "text": "shop"}}]}}])
}

#[tokio::test]
async fn the_certificate_follows_the_sni() {
    let front = Front::start();
    let (cert, key) = self_signed(&["shop.example.com", "www.example.com"]);
    front.nodes.issued.lock().push(cert.der().clone());
    front.nodes.secrets.lock().insert(
        "shop".into(),
        PemPair {
            chain: cert.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        },
    );
    let own = json!([{"secret": {"name": "shop", "revision": "1"}}]);
    front.set_name(https(), own.clone(), 1);
    front.generation(1).await;
    front
        .report(|r| r.certificate_error.is_empty() && r.certificate_expires.is_some())
        .await;

    for (sni, want) in [
        (FQDN, "tailnet"),
        ("shop.example.com", "shop"),
        ("www.example.com", "tailnet"),
    ] {
        // The own one is there at once, the tailnet's when it is issued.
        let mut sender = loop {
            match front.tls(443, sni, &["h2"]).await {
                Ok(stream) => {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let (sender, connection) =
                        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                    tokio::spawn(connection);
                    break sender;
                }
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = Request::get(format!("https://{sni}/"))
            .body(Full::<bytes::Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(body, want, "{sni}");
        // The same certificate is for both shop names; the tailnet's isn't.
        let foreign = if sni == FQDN { "shop.example.com" } else { FQDN };
        let request = Request::get(format!("https://{foreign}/"))
            .body(Full::default())
            .unwrap();
        assert_eq!(
            sender.send_request(request).await.unwrap().status(),
            421,
            "{sni} {foreign}"
        );
        if sni == "shop.example.com" {
            let request = Request::get("https://www.example.com/")
                .body(Full::default())
                .unwrap();
            assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        }
    }
    for unknown in ["other.example.com", "app"] {
        let error = front.tls(443, unknown, &["h2"]).await.unwrap_err();
        assert!(error.to_string().contains("alert"), "{error}");
    }
    assert_eq!(
        front.nodes.certificates.load(SeqCst),
        1,
        "no handshake asks for a certificate"
    );

    // A renewal that can't be used leaves the one before.
    front.nodes.secrets.lock().insert(
        "shop".into(),
        PemPair {
            chain: b"x".to_vec(),
            key: b"y".to_vec(),
        },
    );
    front.set_name(https(), json!([{"secret": {"name": "shop", "revision": "2"}}]), 2);
    let report = front.report(|r| !r.certificate_error.is_empty()).await;
    assert!(
        report.certificate_error.starts_with("secret shop: tls.crt: "),
        "{}",
        report.certificate_error
    );
    assert!(front.tls(443, "shop.example.com", &["h2"]).await.is_ok());
}

#[tokio::test]
async fn http1_and_http2_are_chosen_by_alpn() {
    let front = Front::serving(https()).await;
    for (offer, want) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = front.tls(443, FQDN, offer).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), want);
    }
}
