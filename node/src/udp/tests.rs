use std::{future::poll_fn, time::Duration};

use super::*;

async fn receive(udp: &UdpReceiver, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), async {
        while got.len() < wanted {
            poll_fn(|cx| udp.poll_recv(cx, |from, d| got.push((from, d.to_vec())))).await;
        }
    })
    .await
    .unwrap();
    got
}

async fn flush(udp: &Udp) {
    poll_fn(|cx| {
        udp.flush();
        udp.poll_blocked(cx);
        if udp.outgoing.lock().outbox.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

#[tokio::test]
async fn batches_arrive_as_the_datagrams_that_were_queued() {
    let stats = Arc::<Stats>::default();
    let (a, _) = Udp::bind(0, stats.clone()).unwrap();
    let (b, received) = Udp::bind(0, stats).unwrap();
    let datagrams: Vec<Vec<u8>> = (0..100_u8).map(|i| vec![i; 1200]).chain([vec![99; 7]]).collect();
    for ip in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
        if ip.is_ipv6() && !a.dual_stack {
            continue;
        }
        a.queue((ip, b.port()).into(), datagrams.iter().cloned().map(Bytes::from));
        flush(&a).await;
        let got = receive(&received, datagrams.len()).await;
        assert!(got.iter().all(|(from, _)| *from == (ip, a.port()).into()));
        assert_eq!(got.into_iter().map(|(_, d)| d).collect::<Vec<_>>(), datagrams);
    }
}

#[tokio::test]
async fn who_still_holds_the_sending_side_after_its_end_keeps_no_port() {
    let stats = Arc::<Stats>::default();
    let (old, receiver) = Udp::bind(0, stats.clone()).unwrap();
    let (there, received) = Udp::bind(0, stats.clone()).unwrap();
    let to = (Ipv4Addr::LOCALHOST, there.port()).into();
    old.queue(to, [Bytes::from_static(b"first")]);
    flush(&old).await;
    old.queue(to, [Bytes::from_static(b"last")]);
    old.close();
    let got = receive(&received, 2).await;
    assert_eq!(got[1].1, b"last", "what waited has left");
    drop(receiver);
    let (new, _) = Udp::bind(old.port(), stats.clone()).unwrap();
    assert_eq!(new.port(), old.port());
    old.queue(to, [Bytes::from_static(b"late")]);
    flush(&old).await;
    assert!(old.outgoing.lock().outbox.is_empty());
    assert_eq!(stats.tx_packets.load(Relaxed), 2);
}
