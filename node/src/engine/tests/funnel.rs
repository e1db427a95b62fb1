//! Funnel's way in, played by a peer as an ingress node plays it.

use serde_json::{Value, json};

use super::*;
use crate::{
    funnel::{FunnelListener, FunnelStream, Funnels},
    peerapi::PeerApi,
};

const HOST: &str = "n2.example.ts.net";

impl Side {
    /// Starts the PeerAPI; with the capability that peers have it is told to `hear`.
    fn serve_peer_api(&self) -> Funnels {
        let funnels = Funnels::new(self.local.clone());
        let peer_api = PeerApi {
            engine: self.engine.clone(),
            netmap: self.netmap(),
            local: self.local.clone(),
            funnels: funnels.clone(),
        };
        tokio::spawn(peer_api.run(self.cancel()));
        funnels
    }

    async fn peer_api_port(&self) -> u16 {
        within(|| self.local.borrow().peer_api.v4.is_some()).await;
        self.local.borrow().peer_api.v4.unwrap()
    }
}

/// What control says to b: who the users are, and which of its peers may bring connections from the internet.
fn grants(ingress: &[&Side]) -> Value {
    let srcs: Vec<String> = ingress.iter().map(|side| side.addr(0).ip().to_string()).collect();
    let grant = json!({"Dsts": ["0.0.0.0/0", "::/0"], "Caps": ["https://tailscale.com/cap/ingress"]});
    json!({
        "UserProfiles": [{"ID": 1, "LoginName": "ann@example.com", "DisplayName": "Ann"}],
        "DNSConfig": {"CertDomains": [HOST, "web.example.ts.net"]},
        "PacketFilter": [{"SrcIPs": srcs, "CapGrant": [grant]}],
    })
}

fn request(b: &Side, port: u16, target: &str) -> String {
    format!(
        "POST /v0/ingress HTTP/1.1\r\nHost: {}\r\nTailscale-Ingress-Src: 203.0.113.7:1234\r\nTailscale-Ingress-Target: {target}\r\n\r\n",
        b.addr(port)
    )
}

/// The answer's head and what has come with it.
async fn answer(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(said).unwrap()
}

async fn ask(a: &Side, b: &Side, text: &str) -> (TcpStream, String) {
    let mut stream = a.engine.dial(b.addr(b.peer_api_port().await)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let said = answer(&mut stream).await;
    (stream, said)
}

async fn accept(listener: &mut FunnelListener) -> FunnelStream {
    tokio::time::timeout(PATIENCE, listener.accept())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn the_internet_comes_in_by_an_ingress_node_and_by_nobody_else() {
    let (a, b) = pair().await;
    let funnels = b.serve_peer_api();
    b.hear(grants(&[&a])).await;
    let port = b.peer_api_port().await;
    assert_eq!(b.local.borrow().peer_api.v6, Some(port));
    let target = format!("{HOST}:443");
    let good = request(&b, port, &target);

    // Nobody listens yet.
    let (mut stream, said) = ask(&a, &b, &good).await;
    assert!(said.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{said}");
    let mut body = String::new();
    stream.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, "denied\n");

    let mut listener = funnels.listen(HOST.to_owned(), 443, None).unwrap();
    assert!(b.local.borrow().ingress_enabled);
    assert_eq!(
        funnels.listen(HOST.to_owned(), 443, None).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    // The client's first bytes may come with the request.
    let (mut edge, said) = ask(&a, &b, &format!("{good}hello")).await;
    assert_eq!(said, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    let mut accepted = accept(&mut listener).await;
    assert!(accepted.is_funnel());
    assert_eq!(accepted.peer_addr(), "203.0.113.7:1234".parse().unwrap());
    assert_eq!(accepted.host(), Some(HOST));
    edge.write_all(b" world").await.unwrap();
    edge.shutdown().await.unwrap();
    let mut got = String::new();
    accepted.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "hello world");
    accepted.write_all(b"bye").await.unwrap();
    accepted.shutdown().await.unwrap();
    got.clear();
    edge.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "bye");

    // Another port, another name of ours, a name of somebody.
    for target in [
        format!("{HOST}:8443"),
        "web.example.ts.net:443".into(),
        "example.com:443".into(),
    ] {
        let (_, said) = ask(&a, &b, &request(&b, port, &target)).await;
        assert!(said.starts_with("HTTP/1.1 403 "), "{target}: {said}");
    }
    // The capability is taken away.
    b.hear(grants(&[])).await;
    let (mut stream, said) = ask(&a, &b, &good).await;
    assert!(said.starts_with("HTTP/1.1 403 "), "{said}");
    body.clear();
    stream.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, "denied; no ingress cap\n");

    drop(listener);
    assert!(!b.local.borrow().ingress_enabled);
    funnels.prepare(true);
    assert!(b.local.borrow().wire_ingress);
}

#[tokio::test]
async fn an_ingress_node_reaches_the_peer_api_and_nothing_else() {
    let (a, b) = pair().await;
    let funnels = b.serve_peer_api();
    let _web = b.engine.listen(None, PORT).unwrap();
    b.hear(grants(&[&a])).await;
    let mut edge = a.node();
    edge["UnsignedPeerAPIOnly"] = true.into();
    b.hear(json!({"PeersChanged": [edge]})).await;
    let mut listener = funnels.listen(HOST.to_owned(), 443, None).unwrap();
    let port = b.peer_api_port().await;
    let (_edge, said) = ask(&a, &b, &request(&b, port, &format!("{HOST}:443"))).await;
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    accept(&mut listener).await;
    let before = b.dropped(DropReason::Filtered);
    tokio::select! {
        answer = a.engine.dial(b.addr(PORT)) => panic!("there was an answer: {answer:?}"),
        () = within(|| b.dropped(DropReason::Filtered) > before) => {}
    }
}

#[tokio::test]
async fn a_funnel_listener_may_serve_the_tailnet_too_and_ends_with_the_node() {
    let (a, b) = pair().await;
    let funnels = b.serve_peer_api();
    let tailnet = b.engine.listen(None, 443).unwrap();
    let mut listener = funnels.listen(HOST.to_owned(), 443, Some(tailnet)).unwrap();
    let dialled = a.engine.dial(b.addr(443)).await.unwrap();
    let accepted = accept(&mut listener).await;
    assert!(!accepted.is_funnel());
    assert_eq!(accepted.peer_addr(), dialled.local_addr());
    b.stop().await;
    assert!(
        tokio::time::timeout(PATIENCE, listener.accept())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn callers_that_say_nothing_are_bounded_and_let_others_through() {
    let (a, b) = pair().await;
    let funnels = b.serve_peer_api();
    b.hear(grants(&[&a])).await;
    let mut listener = funnels.listen(HOST.to_owned(), 443, None).unwrap();
    let port = b.peer_api_port().await;
    let mut idle = Vec::new();
    for _ in 0..128 {
        idle.push(a.engine.dial(b.addr(port)).await.unwrap());
    }
    // One more is reset at once; when the silent ones have been given up, there is room again.
    let mut surplus = a.engine.dial(b.addr(port)).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(5), surplus.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
        ),
        "{error}"
    );
    assert_eq!(idle[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    let (_edge, said) = ask(&a, &b, &request(&b, port, &format!("{HOST}:443"))).await;
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    accept(&mut listener).await;
}
