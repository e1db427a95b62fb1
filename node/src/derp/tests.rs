//! The client against a relay in this process that speaks the server's side.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use bytes::BytesMut;
use crypto_box::{PublicKey, SalsaBox, SecretKey, aead::Aead};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;
use crate::derp_map::{DerpAddr, DerpNode};

const HOST: &str = "derp.example.com";

/// A relay server before its first client.
struct Relay {
    listener: TcpListener,
    tls: TlsAcceptor,
    cert: CertificateDer<'static>,
    key: SecretKey,
}

/// One client's connection, logged in.
struct Accepted<S = TlsStream<TcpStream>> {
    stream: S,
    buf: BytesMut,
    client: NodePublic,
    info: serde_json::Value,
    request: String,
}

impl Relay {
    async fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
        let cert = params.self_signed(&key).unwrap().der().clone();
        let config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
            tls: TlsAcceptor::from(Arc::new(config)),
            cert,
            key: SecretKey::from([42; 32]),
        }
    }

    fn node(&self) -> DerpNode {
        DerpNode {
            name: "1a".to_owned(),
            host_name: HOST.to_owned(),
            ipv4: DerpAddr::Literal(Ipv4Addr::LOCALHOST.into()),
            ipv6: DerpAddr::Disabled,
            derp_port: self.listener.local_addr().unwrap().port(),
            ..DerpNode::default()
        }
    }

    fn roots(&self) -> Arc<rustls::RootCertStore> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        Arc::new(roots)
    }

    /// The next client that gets through TLS, greeted with `server_info`.
    async fn accept(&self, server_info: &str) -> Accepted {
        loop {
            let (tcp, _) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(tcp).await {
                return self.greet(stream, server_info).await;
            }
        }
    }

    async fn greet(&self, mut stream: TlsStream<TcpStream>, server_info: &str) -> Accepted {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n";
        let request = String::from_utf8(request).unwrap();
        let accepted = log_in(stream, &self.key, response, server_info).await;
        Accepted { request, ..accepted }
    }
}

/// A relay's side of the greetings. What comes before them is sent in one piece with the first, as it may be.
async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    key: &SecretKey,
    before: &str,
    server_info: &str,
) -> Accepted<S> {
    let mut accepted = Accepted {
        stream,
        buf: BytesMut::new(),
        client: NodePublic::from_bytes([0; 32]),
        info: serde_json::Value::Null,
        request: String::new(),
    };
    let mut out = BytesMut::from(before);
    frame::server::put_server_key(&mut out, key.public_key().as_bytes());
    accepted.stream.write_all(&out).await.unwrap();
    accepted.stream.flush().await.unwrap();

    let (kind, body) = accepted.frame().await;
    assert_eq!(kind, 2);
    let client: [u8; 32] = body[..32].try_into().unwrap();
    let shared = SalsaBox::new(&PublicKey::from(client), key);
    let nonce: [u8; 24] = body[32..56].try_into().unwrap();
    accepted.info = serde_json::from_slice(&shared.decrypt(&nonce.into(), &body[56..]).unwrap()).unwrap();
    accepted.client = NodePublic::from_bytes(client);

    let nonce = [3; 24];
    let sealed = shared.encrypt(&nonce.into(), server_info.as_bytes()).unwrap();
    accepted.send(3, &[&nonce[..], &sealed].concat()).await;
    accepted
}

impl<S: AsyncRead + AsyncWrite + Unpin> Accepted<S> {
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if self.buf.len() >= 5 {
                let length = u32::from_be_bytes(self.buf[1..5].try_into().unwrap()) as usize;
                if self.buf.len() >= 5 + length {
                    let frame = self.buf.split_to(5 + length);
                    return (frame[0], frame[5..].to_vec());
                }
            }
            assert_ne!(self.stream.read_buf(&mut self.buf).await.unwrap(), 0, "closed");
        }
    }

    /// The next frame that isn't the client's ping.
    async fn frame_but_ping(&mut self) -> (u8, Vec<u8>) {
        loop {
            let frame = self.frame().await;
            if frame.0 != 0x12 {
                return frame;
            }
        }
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut out = BytesMut::new();
        frame::server::put_raw(&mut out, kind, body);
        self.stream.write_all(&out).await.unwrap();
        self.stream.flush().await.unwrap();
    }
}

/// A client whose region 1 has these nodes and is home.
fn outbound(roots: Arc<rustls::RootCertStore>) -> Outbound {
    Outbound::new(roots, crate::proxy::Proxies::default())
}

struct Clients {
    clients: DerpClients,
    map: Arc<DerpMap>,
    events: mpsc::Receiver<DerpEvent>,
    key: NodePrivate,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Clients {
    fn new(nodes: Vec<DerpNode>, roots: Arc<rustls::RootCertStore>) -> Self {
        let (sender, events) = mpsc::channel(16);
        let key = NodePrivate::from_bytes([8; 32]);
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let clients = DerpClients::new(
            key.clone(),
            outbound(roots),
            sender,
            tasks.clone(),
            cancel.clone(),
        );
        let region = DerpRegion {
            id: 1,
            nodes,
            ..DerpRegion::default()
        };
        let map = Arc::new(DerpMap {
            regions: BTreeMap::from([(1, region)]),
            region_score: BTreeMap::new(),
        });
        let mut this = Self {
            clients,
            map,
            events,
            key,
            tasks,
            cancel,
        };
        this.clients.set_regions(&this.map, &[1]);
        this
    }

    async fn event(&mut self) -> DerpEvent {
        within(self.events.recv()).await.unwrap()
    }

    async fn expect_state(&mut self, connected: bool) {
        assert_eq!(self.event().await, DerpEvent::State { region: 1, connected });
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("in time")
}

fn peer() -> NodePublic {
    NodePublic::from_bytes([9; 32])
}

#[tokio::test]
async fn logs_in_and_moves_packets_both_ways() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    // Queued before there is a connection.
    assert!(clients.clients.send(1, peer(), Bytes::from_static(b"early")));
    let mut server = within(relay.accept(r#"{"version":2}"#)).await;
    assert!(
        server.request.starts_with("GET /derp HTTP/1.1\r\n"),
        "{}",
        server.request
    );
    assert!(server.request.contains("upgrade: DERP\r\n"), "{}", server.request);
    assert_eq!(server.client, clients.key.public());
    assert_eq!(
        server.info,
        serde_json::json!({"version": 2, "CanAckPings": true})
    );
    clients.expect_state(true).await;
    // Home is said first.
    assert_eq!(within(server.frame_but_ping()).await, (7, vec![1]));
    let packet = [peer().as_bytes(), &b"early"[..]].concat();
    assert_eq!(within(server.frame_but_ping()).await, (4, packet));

    server.send(5, &[peer().as_bytes(), &b"hello"[..]].concat()).await;
    server.send(8, &[peer().as_bytes(), &[1][..]].concat()).await;
    let packet = Bytes::from_static(b"hello");
    let (region, from) = (1, peer());
    assert_eq!(clients.event().await, DerpEvent::Packet { region, from, packet });
    assert_eq!(clients.event().await, DerpEvent::PeerGone { region, peer: from });

    assert!(!clients.clients.send(2, peer(), Bytes::new()));
    let too_long = vec![0; frame::MAX_PACKET + 1];
    assert!(!clients.clients.send(1, peer(), too_long.into()));
}

#[tokio::test]
async fn answers_pings_tells_a_changed_home_and_tolerates_what_is_new() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    let mut server = within(relay.accept("{}")).await;
    assert_eq!(within(server.frame_but_ping()).await, (7, vec![1]));
    for (kind, body) in [
        (0x14, &b"trouble"[..]),
        (0x15, &[0; 8]),
        (0x09, &[1; 32]),
        (0x77, b"?"),
        (6, b""),
    ] {
        server.send(kind, body).await;
    }
    server.send(0x12, b"12345678").await;
    assert_eq!(
        within(server.frame_but_ping()).await,
        (0x13, b"12345678".to_vec())
    );

    // Another region becomes home; this one is still wanted.
    let map = Arc::clone(&clients.map);
    clients.clients.set_regions(&map, &[2, 1]);
    assert_eq!(within(server.frame_but_ping()).await, (7, vec![0]));
    clients.clients.set_regions(&map, &[]);
    assert_eq!(
        within(server.stream.read_buf(&mut server.buf)).await.unwrap_or(0),
        0
    );
}

#[tokio::test]
async fn comes_back_after_a_break_and_with_a_new_key() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    let server = within(relay.accept("{}")).await;
    clients.expect_state(true).await;
    drop(server);
    clients.expect_state(false).await;
    let server = within(relay.accept("{}")).await;
    clients.expect_state(true).await;

    let key = NodePrivate::from_bytes([16; 32]);
    clients.clients.set_key(key.clone());
    let again = within(relay.accept("{}")).await;
    assert_eq!(again.client, key.public());
    clients.expect_state(true).await;
    drop(server);

    clients.cancel.cancel();
    clients.tasks.close();
    within(clients.tasks.wait()).await;
}

#[tokio::test]
async fn each_attempt_that_fails_is_told() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    drop(relay);
    for _ in 0..3 {
        clients.expect_state(false).await;
    }
}

#[tokio::test]
async fn an_oversized_frame_ends_the_connection() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    let mut server = within(relay.accept("{}")).await;
    clients.expect_state(true).await;
    server.stream.write_all(&[5, 0xff, 0, 0, 0]).await.unwrap();
    server.stream.flush().await.unwrap();
    clients.expect_state(false).await;
}

#[tokio::test]
async fn the_next_node_is_tried_when_the_first_fails() {
    let relay = Relay::new().await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dead = DerpNode {
        name: "1dead".to_owned(),
        derp_port: closed.local_addr().unwrap().port(),
        ..relay.node()
    };
    drop(closed);
    let stun_only = DerpNode {
        name: "1stun".to_owned(),
        stun_only: true,
        ..relay.node()
    };
    let _clients = Clients::new(vec![stun_only, dead, relay.node()], relay.roots());
    let server = within(relay.accept("{}")).await;
    assert!(
        server.request.contains("ideal-node: 1dead\r\n"),
        "{}",
        server.request
    );
}

#[tokio::test]
async fn certificates_count_unless_the_map_says_otherwise() {
    use aws_lc_rs::digest::{SHA256, digest};
    let relay = Relay::new().await;
    let pin = format!("sha256-raw:{}", hex::encode(digest(&SHA256, &relay.cert)));
    let wrong_pin = format!("sha256-raw:{}", "00".repeat(32));
    let empty = || Arc::new(rustls::RootCertStore::empty());
    let node = |cert_name: Option<&str>, insecure_for_tests| DerpNode {
        cert_name: cert_name.map(str::to_owned),
        insecure_for_tests,
        ..relay.node()
    };
    let other_host = DerpNode {
        host_name: "other.example.com".to_owned(),
        ..relay.node()
    };
    let named = DerpNode {
        cert_name: Some(HOST.to_owned()),
        ..other_host.clone()
    };
    let rows = [
        (node(None, false), relay.roots(), true),
        (node(None, false), empty(), false),
        (other_host, relay.roots(), false),
        (named, relay.roots(), true),
        (node(Some(&pin), false), empty(), true),
        (node(Some(&wrong_pin), true), relay.roots(), false),
        (node(Some("sha256-raw:00"), true), relay.roots(), false),
        (node(None, true), empty(), true),
    ];
    let key = NodePrivate::from_bytes([8; 32]);
    for (node, roots, good) in rows {
        let outbound = outbound(roots);
        let connect = connect::connect(&node, None, &key, &outbound);
        let accept = async {
            let (tcp, _) = relay.listener.accept().await.unwrap();
            if let Ok(stream) = relay.tls.accept(tcp).await {
                relay.greet(stream, "{}").await;
            }
        };
        let result = within(async {
            tokio::select! {
                biased;
                result = connect => result,
                // Whether TLS is refused is known to the client first.
                () = async { accept.await; std::future::pending().await } => unreachable!(),
            }
        })
        .await;
        assert_eq!(result.is_ok(), good, "{node:?}: {:?}", result.err());
    }
}

#[tokio::test]
async fn a_full_channel_drops_packets_and_counts_them() {
    let relay = Relay::new().await;
    let mut clients = Clients::new(vec![relay.node()], relay.roots());
    let mut server = within(relay.accept("{}")).await;
    clients.expect_state(true).await;
    for _ in 0..40 {
        server.send(5, &[peer().as_bytes(), &b"x"[..]].concat()).await;
    }
    server.send(0x12, b"12345678").await;
    within(async { while server.frame().await.0 != 0x13 {} }).await;
    assert_eq!(clients.clients.dropped(), 24);
}

/// A session over a pipe: without real sockets time may be virtual.
async fn session(server_info: &str) -> (session::Connection, Accepted<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let relay_key = SecretKey::from([42; 32]);
    let key = NodePrivate::from_bytes([8; 32]);
    let (connection, server) = tokio::join!(
        session::handshake(ours, BytesMut::new(), &key),
        log_in(theirs, &relay_key, "", server_info),
    );
    (connection.unwrap(), server)
}

/// How the session ends, when nobody sends anything or as many packets as are queued.
async fn serve(connection: session::Connection, packets: Vec<Bytes>) -> session::SessionError {
    let shared = client::Shared {
        outbound: Outbound::default(),
        events: mpsc::channel(1).0,
        dropped: AtomicU64::new(0),
    };
    let (_home, mut home) = watch::channel(false);
    let (sender, mut queue) = mpsc::channel(QUEUE);
    for packet in packets {
        sender.try_send((peer(), packet)).unwrap();
    }
    session::serve(connection, 1, &shared, &mut home, &mut queue, &mut None).await
}

#[tokio::test(start_paused = true)]
async fn a_silent_relay_is_left() {
    for answers in [true, false] {
        let (connection, mut server) = session("{}").await;
        let since = tokio::time::Instant::now();
        let pings = async {
            let first = server.frame().await;
            assert_eq!(first.0, 0x12);
            if answers {
                server.send(0x13, &first.1).await;
            }
            assert_eq!(server.frame().await.0, 0x12);
            assert_eq!(since.elapsed().as_secs(), 25);
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            error = serve(connection, Vec::new()) => error,
            () = pings => unreachable!(),
        };
        assert!(matches!(error, session::SessionError::Silent(_)), "{error}");
        assert_eq!(since.elapsed().as_secs(), if answers { 35 } else { 120 });
    }
}

#[tokio::test(start_paused = true)]
async fn the_relays_limit_is_respected() {
    let info = r#"{"version":2,"TokenBucketBytesPerSecond":1000,"TokenBucketBytesBurst":3000}"#;
    let (connection, mut server) = session(info).await;
    let packets = vec![Bytes::from(vec![0; 1000]); 10];
    let arrived = async {
        for _ in 0..3 {
            assert_eq!(server.frame_but_ping().await.0, 4);
        }
        server.frame_but_ping().await
    };
    tokio::select! {
        biased;
        error = serve(connection, packets) => assert!(matches!(error, session::SessionError::Silent(_))),
        frame = arrived => panic!("a fourth packet: {frame:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_takes_nothing_is_left() {
    let (connection, _server) = session("{}").await;
    let packets = vec![Bytes::from(vec![0; 60_000]); 100];
    let error = serve(connection, packets).await;
    assert!(matches!(error, session::SessionError::Stuck), "{error}");
}
