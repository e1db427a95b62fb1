//! Addresses of Tailscale Services, and UDP.

use serde_json::json;

use super::*;
use crate::service::{Listener, ServiceListener, ServiceName, Services};

const VIP: &str = "100.127.0.1";

impl Side {
    /// Control lets this node host `svc:x`, and says so to it.
    async fn may_host(&self, may: bool) {
        let mut host = self.node();
        if may {
            host["CapMap"] = json!({"service-host": [{"svc:x": [VIP]}]});
        }
        self.hear(json!({"Node": host})).await;
    }

    /// The node as its peers see it while control routes the service to it.
    fn host(&self) -> serde_json::Value {
        let mut host = self.node();
        let allowed = host["AllowedIPs"].as_array_mut().unwrap();
        allowed.push(json!(format!("{VIP}/32")));
        host
    }
}

fn vip(port: u16) -> SocketAddr {
    (VIP.parse::<IpAddr>().unwrap(), port).into()
}

#[tokio::test]
async fn a_service_is_hosted_once_control_says_so_and_on_its_own_ports() {
    let (a, b) = pair().await;
    a.hear(json!({"PeersChanged": [b.host()]})).await;
    let mut service = b.engine.listen_service("svc:x", PORT).unwrap();
    let _of_the_node = b.engine.listen(None, 81).unwrap();
    let before = b.dropped(DropReason::NotForUs);
    tokio::select! {
        answer = a.engine.dial(vip(PORT)) => panic!("there was an answer: {answer:?}"),
        () = within(|| b.dropped(DropReason::NotForUs) > before) => {}
    }
    b.may_host(true).await;
    let mut dialled = a.engine.dial(vip(PORT)).await.unwrap();
    let mut accepted = service.accept().await.unwrap();
    assert_eq!(accepted.local_addr(), vip(PORT));
    // The node's own ports are not the service's.
    let refused = a.engine.dial(vip(81)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(
        b.engine.listen_service("svc:x", PORT).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );

    // Given up: what is open goes on, what is new is not answered, so that it finds the next host.
    drop(service);
    let before = b.dropped(DropReason::NotForUs);
    tokio::select! {
        answer = a.engine.dial(vip(PORT)) => panic!("there was an answer: {answer:?}"),
        () = within(|| b.dropped(DropReason::NotForUs) > before) => {}
    }
    b.may_host(false).await;
    dialled.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    accepted.write_all(b"y").await.unwrap();
    accepted.flush().await.unwrap();
    assert_eq!(dialled.read_u8().await.unwrap(), b'y');
}

#[tokio::test]
async fn a_host_reaches_its_own_service_and_itself() {
    let (_a, b) = pair().await;
    b.may_host(true).await;
    let mut service = b.engine.listen_service("svc:x", PORT).unwrap();
    let mut own = b.engine.listen(None, PORT).unwrap();
    for to in [vip(PORT), b.addr(PORT), b.addr_v6(PORT)] {
        let listener = if to == vip(PORT) { &mut service } else { &mut own };
        let dialled = b.engine.dial(to).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        assert_eq!((accepted.local_addr(), dialled.peer_addr()), (to, to));
        assert_eq!(accepted.peer_addr(), dialled.local_addr());
        assert_eq!(accepted.peer_key(), b.key.public());
        // A new netmap ends nothing, and nothing leaves for a peer, whatever the filter says.
        b.hear(json!({"PacketFilter": []})).await;
        tokio::join!(echo(accepted), assert_echo(dialled, 1 << 20));
    }
    let refused = b.engine.dial(b.addr(81)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    within(|| b.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn a_service_that_is_not_served_here_is_reached_at_its_other_host() {
    let (a, b) = pair().await;
    a.hear(json!({"PeersChanged": [b.host()]})).await;
    a.may_host(true).await;
    b.may_host(true).await;
    let mut there = b.engine.listen_service("svc:x", PORT).unwrap();
    let here = a.engine.listen_service("svc:x", PORT).unwrap();
    let own = a.engine.dial(vip(PORT)).await.unwrap();
    assert_eq!(own.peer_key(), a.key.public());
    drop((own, here));
    let dialled = a.engine.dial(vip(PORT)).await.unwrap();
    assert_eq!(dialled.peer_key(), b.key.public());
    let accepted = there.accept().await.unwrap();
    assert_eq!(
        (accepted.local_addr(), accepted.peer_key()),
        (vip(PORT), a.key.public())
    );
    tokio::join!(echo(accepted), assert_echo(dialled, 1 << 16));
    // Datagrams go where connections go.
    let question = b.engine.bind_udp(vip(53)).unwrap();
    let client = a.engine.connect_udp(vip(53)).unwrap();
    client.send(b"question").unwrap();
    let (_, from) = question.recv_from(&mut [0; 10]).await.unwrap();
    assert_eq!(from, client.local_addr());
    // There is no other host any more.
    a.hear(json!({"PeersChanged": [b.node()]})).await;
    let nowhere = a.engine.dial(vip(PORT)).await.unwrap_err();
    assert_eq!(nowhere.kind(), io::ErrorKind::HostUnreachable);
}

#[tokio::test]
async fn datagrams_go_both_ways_and_only_where_they_may() {
    let (a, b) = pair().await;
    let server = b.engine.bind_udp(b.addr(53)).unwrap();
    assert_eq!(
        b.engine.bind_udp(b.addr(53)).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    assert_eq!(
        b.engine.bind_udp(a.addr(53)).unwrap_err().kind(),
        io::ErrorKind::AddrNotAvailable
    );
    let client = a.engine.connect_udp(b.addr(53)).unwrap();
    let mut buf = [0; 2000];
    client.send(b"question").unwrap();
    let (len, from) = server.recv_from(&mut buf).await.unwrap();
    assert_eq!((&buf[..len], from), (&b"question"[..], client.local_addr()));

    // a lets nobody in, but answers are none who come in.
    a.hear(json!({"PacketFilter": []})).await;
    server.send_to(b"answer", from).unwrap();
    let len = client.recv(&mut buf).await.unwrap();
    assert_eq!(&buf[..len], b"answer");
    let other = a.engine.bind_udp(a.addr(99)).unwrap();
    server.send_to(b"?", other.local_addr()).unwrap();
    within(|| a.dropped(DropReason::Filtered) == 1).await;

    // IPv6, and all addresses at once.
    let any = b.engine.bind_udp("[::]:53".parse().unwrap()).unwrap();
    let client = a.engine.connect_udp(b.addr_v6(53)).unwrap();
    let largest = vec![7; UdpSocket::MAX_PAYLOAD];
    client.send(&largest).unwrap();
    let (len, from) = any.recv_from(&mut buf).await.unwrap();
    assert_eq!(buf[..len], largest);
    any.send_to(&largest, from).unwrap();
    assert_eq!(client.recv(&mut buf).await.unwrap(), largest.len());
    let error = client.send(&[0; UdpSocket::MAX_PAYLOAD + 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);

    client.send_to(b"x", b.addr_v6(54)).unwrap();
    within(|| b.dropped(DropReason::NoSocket) == 1).await;
    let nobody = client.send_to(b"x", "[fd7a::99]:1".parse().unwrap()).unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::HostUnreachable);
    b.stop().await;
    assert!(server.recv_from(&mut buf).await.is_err());
}

#[tokio::test]
async fn datagrams_reach_ourselves_at_our_addresses_and_our_services() {
    let (_a, b) = pair().await;
    b.may_host(true).await;
    b.hear(json!({"PacketFilter": []})).await; // which is about others
    let mut buf = [0; 100];
    for to in [b.addr(53), b.addr_v6(53), vip(53)] {
        let server = b.engine.bind_udp(to).unwrap();
        let client = b.engine.connect_udp(to).unwrap();
        client.send(b"question").unwrap();
        let (len, from) = server.recv_from(&mut buf).await.unwrap();
        assert_eq!((&buf[..len], from), (&b"question"[..], client.local_addr()));
        server.send_to(b"answer", from).unwrap();
        let len = client.recv(&mut buf).await.unwrap();
        assert_eq!(&buf[..len], b"answer");
        for _ in 0..300 {
            client.send(b"flood").unwrap();
        }
        drop(server);
        let to_nobody = client.send(b"to nobody");
        if to == vip(53) {
            assert_eq!(to_nobody.unwrap_err().kind(), io::ErrorKind::HostUnreachable);
        } else {
            to_nobody.unwrap();
        }
    }
    assert!(b.dropped(DropReason::PacketQueueFull) > 0);
    assert_eq!(b.dropped(DropReason::NoSocket), 2);
}

#[tokio::test]
async fn a_flood_of_datagrams_is_counted_and_bounded() {
    let (a, b) = pair().await;
    let server = b.engine.bind_udp(b.addr(53)).unwrap();
    let client = a.engine.connect_udp(b.addr(53)).unwrap();
    let mut buf = [0; 10];
    client.send(b"first").unwrap();
    server.recv_from(&mut buf).await.unwrap();
    within(|| {
        client.send(b"flood").unwrap();
        b.dropped(DropReason::PacketQueueFull) > 0
    })
    .await;
    assert_eq!(server.recv_from(&mut buf).await.unwrap().0, 5);
}

#[tokio::test]
async fn whoever_takes_over_a_port_at_once_is_advertised() {
    let side = Side::start(1, Vec::new());
    let services = Services::new(side.local.clone());
    let name: ServiceName = "svc:x".parse().unwrap();
    let host = || {
        let listener = side.engine.listen_service(name.as_str(), PORT)?;
        let hosting = services.host(name.clone(), PORT);
        Ok::<_, io::Error>(ServiceListener::new(
            Listener::Tcp(listener),
            String::new(),
            hosting,
        ))
    };
    let mut listener = host().unwrap();
    for _ in 0..1_000 {
        listener = std::thread::scope(|scope| {
            scope.spawn(|| drop(listener));
            loop {
                if let Ok(next) = host() {
                    break next;
                }
            }
        });
        assert!(services.c2n().contains("svc:x"));
    }
}
