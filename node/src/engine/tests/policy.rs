//! Who gets in: peers, addresses, the packet filter.

use bytes::BytesMut;
use serde_json::json;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::*;

/// Dials until the other side has dropped two SYNs for this reason: no answer comes.
async fn assert_dropped(a: &Side, b: &Side, to: SocketAddr, reason: DropReason) {
    let before = b.dropped(reason);
    tokio::select! {
        answer = a.engine.dial(to) => panic!("there was an answer: {answer:?}"),
        () = within(|| b.dropped(reason) >= before + 2) => {}
    }
}

/// A segment as a peer that makes up its own packets would send it.
pub(super) fn forge(from: SocketAddr, to: SocketAddr, control: TcpControl, seq: i32) -> BytesMut {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (from.ip(), to.ip()) else {
        panic!("IPv4 only")
    };
    let tcp = TcpRepr {
        src_port: from.port(),
        dst_port: to.port(),
        control,
        seq_number: TcpSeqNumber(seq),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let ip = Ipv4Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let mut packet = BytesMut::zeroed(ip.buffer_len() + tcp.buffer_len());
    let caps = smoltcp::phy::ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &caps);
    let header = ip.buffer_len();
    tcp.emit(
        &mut TcpPacket::new_unchecked(&mut packet[header..]),
        &src.into(),
        &dst.into(),
        &caps,
    );
    packet
}

impl Side {
    pub(super) fn inject(&self, to: &Self, packet: BytesMut) {
        let view = self.engine.shared.view.load_full().unwrap();
        let node = view.peer(&to.key.public()).unwrap();
        let peer = self.engine.shared.peers.peer(&node);
        self.engine.shared.send(&peer, vec![packet]);
    }
}

#[tokio::test]
async fn the_filter_decides_and_a_change_of_it_counts() {
    let (a, b) = pair().await;
    let mut listener = b.engine.listen(None, PORT).unwrap();
    b.hear(json!({"PacketFilter": [
        {"SrcIPs": [a.addr_v6(0).ip()], "DstPorts": [{"IP": "*", "Ports": {"First": PORT, "Last": PORT}}]},
    ]}))
    .await;
    assert_dropped(&a, &b, b.addr(PORT), DropReason::Filtered).await;
    assert_dropped(&a, &b, b.addr_v6(81), DropReason::Filtered).await;
    a.engine.dial(b.addr_v6(PORT)).await.unwrap();
    assert_eq!(
        listener.accept().await.unwrap().peer_addr().ip(),
        a.addr_v6(0).ip()
    );
    b.hear(json!({"PacketFilter": allow_all()})).await;
    a.engine.dial(b.addr(PORT)).await.unwrap();
}

#[tokio::test]
async fn the_peer_api_is_let_in_past_the_filter() {
    let (a, b) = pair().await;
    let _listeners = [PORT, 81].map(|port| b.engine.listen(None, port).unwrap());
    b.hear(json!({"PacketFilter": []})).await;
    b.local.send_modify(|local| local.peer_api.v4 = Some(PORT));
    a.engine.dial(b.addr(PORT)).await.unwrap();
    assert_dropped(&a, &b, b.addr_v6(PORT), DropReason::Filtered).await;
    assert_dropped(&a, &b, b.addr(81), DropReason::Filtered).await;
}

#[tokio::test]
async fn a_jailed_peer_starts_nothing_but_is_talked_to() {
    let (a, b) = pair().await;
    let _b = b.engine.listen(None, PORT).unwrap();
    let _a = a.engine.listen(None, PORT).unwrap();
    let mut jailed = a.node();
    jailed["IsJailed"] = true.into();
    b.hear(json!({"PeersChanged": [jailed]})).await;
    assert_dropped(&a, &b, b.addr(PORT), DropReason::Filtered).await;
    b.engine.dial(a.addr(PORT)).await.unwrap();
}

#[tokio::test]
async fn a_removed_peer_loses_its_connections_and_may_come_back() {
    let (a, b) = pair().await;
    let (mut dialled, mut accepted) = connected(&a, &b).await;
    dialled.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
    b.hear(json!({"PeersRemoved": [a.id]})).await;
    let error = accepted.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    drop(accepted);
    within(|| b.engine.open_flows() == 0 && b.engine.shared.peers.live().is_empty()).await;
    let unreachable = b.engine.dial(a.addr(PORT)).await.unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::HostUnreachable);
    // The other side still has a session, whose packets now mean nothing.
    assert_dropped(&a, &b, b.addr(PORT), DropReason::UnknownPeer).await;
    b.hear(json!({"PeersChanged": [a.node()]})).await;
    let _listener = a.engine.listen(None, PORT).unwrap();
    b.engine
        .shared
        .peers
        .peer(
            &b.engine
                .shared
                .view
                .load_full()
                .unwrap()
                .peer(&a.key.public())
                .unwrap(),
        )
        .note_seen(Timestamp::now(), Some(a.endpoint()));
    b.engine.dial(a.addr(PORT)).await.unwrap();
}

#[tokio::test]
async fn a_peer_speaks_only_for_its_own_addresses_and_to_ours() {
    let (a, b) = pair().await;
    let _listener = b.engine.listen(None, PORT).unwrap();
    let _established = a.engine.dial(b.addr(PORT)).await.unwrap();
    let stranger: SocketAddr = "100.64.0.9:1000".parse().unwrap();
    a.inject(&b, forge(stranger, b.addr(PORT), TcpControl::Syn, 1));
    within(|| b.dropped(DropReason::SourceNotAllowed) == 1).await;
    a.inject(&b, forge(a.addr(1000), stranger, TcpControl::Syn, 1));
    within(|| b.dropped(DropReason::NotForUs) == 1).await;
    a.inject(&b, BytesMut::from(&[0x45, 0, 0, 200][..]));
    within(|| b.dropped(DropReason::Malformed) == 1).await;
    // A service's address is one of ours once control has said so and somebody listens on it.
    let mut host = b.node();
    host["CapMap"] = json!({"service-host": [{"svc:x": [stranger.ip()]}]});
    b.hear(json!({"Node": host})).await;
    let _service = b.engine.listen(Some(stranger.ip()), 1000).unwrap();
    a.inject(&b, forge(a.addr(1000), stranger, TcpControl::Syn, 1));
    within(|| b.engine.shared.flows.lock().len() == 2).await;
}

#[tokio::test]
async fn a_peer_that_forgot_a_connection_may_use_its_port_again() {
    let (a, b) = pair().await;
    let mut listener = b.engine.listen(None, PORT).unwrap();
    let dialled = a.engine.dial(b.addr(PORT)).await.unwrap();
    let mut old = listener.accept().await.unwrap();
    // The same SYN again is a duplicate, which harms nobody.
    let isn = old.flow().opened_by.unwrap() as i32;
    a.inject(
        &b,
        forge(dialled.local_addr(), b.addr(PORT), TcpControl::Syn, isn),
    );
    old.write_all(b"x").await.unwrap();
    // Another one is a new beginning.
    a.engine.shared.kill_flows(|_| true);
    let mut dialled = dial_from(&a, dialled.local_addr(), &b).await;
    let error = old.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let mut accepted = listener.accept().await.unwrap();
    assert_eq!(accepted.peer_addr(), dialled.local_addr());
    dialled.write_all(b"question").await.unwrap();
    let mut heard = [0; 8];
    accepted.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"question");
    accepted.write_all(b"answers!").await.unwrap();
    dialled.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"answers!");
}

/// Opens a connection from a port that is named.
async fn dial_from(a: &Side, local: SocketAddr, b: &Side) -> TcpStream {
    let shared = &a.engine.shared;
    let view = shared.view.load_full().unwrap();
    let peer = shared.peers.peer(&view.peer(&b.key.public()).unwrap());
    let key = FlowKey {
        local,
        remote: b.addr(PORT),
    };
    let share = Share::new(peer.memory.clone(), shared.memory.clone());
    let tcp = Tcp::connecting(&key, share, shared.now(), 7).unwrap();
    let open = shared.count_flow(&peer).unwrap();
    let conn = Conn::new(tcp, Stage::Dialling, open, shared.now());
    let flow = Flow::new(key, peer, None, false, conn);
    shared.flows.lock().insert(key, flow.clone());
    shared.mark_dirty(&flow);
    let stream = TcpStream::new(shared.clone(), flow);
    opened(&stream).await.unwrap();
    stream
}

#[tokio::test]
async fn half_open_connections_are_bounded() {
    let (a, b) = pair().await;
    let mut listener = b.engine.listen(None, PORT).unwrap();
    let _session = a.engine.dial(b.addr(PORT)).await.unwrap();
    // The answers must not come back, or they would be refused, which closes the connections.
    a.hear(json!({"PacketFilter": [], "Node": {"ID": 1, "Key": a.key.public(), "Addresses": ["100.64.0.77/32"]}})).await;
    for port in 1..=300 {
        a.inject(&b, forge(a.addr(port), b.addr(PORT), TcpControl::Syn, 1));
    }
    within(|| b.dropped(DropReason::TooManyFlows) == 300 - 128).await;
    assert_eq!(b.engine.shared.half_open.load(Relaxed), 128);
    listener.accept().await.unwrap();
    // They are given up after a while.
    within(|| b.engine.shared.half_open.load(Relaxed) == 0).await;
    assert!(b.engine.open_flows() <= 1);
}

#[tokio::test]
async fn pings_are_answered() {
    let (a, b) = pair().await;
    let (_dialled, _accepted) = connected(&a, &b).await;
    let mut echo = BytesMut::from(&forge(a.addr(1), b.addr(1), TcpControl::None, 0)[..20]);
    echo.extend_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    echo[2..4].copy_from_slice(&28_u16.to_be_bytes());
    echo[9] = 1;
    a.inject(&b, echo);
    // The answer gets as far as to us, who have not asked.
    within(|| a.dropped(DropReason::Unsupported) == 1).await;
}
