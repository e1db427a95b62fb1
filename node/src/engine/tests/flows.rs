//! What a TCP connection does.

use tokio::task::JoinSet;

use super::*;

async fn bulk_both_ways() {
    let (a, b) = pair().await;
    let (dialled, accepted) = connected(&a, &b).await;
    assert_eq!(accepted.peer_key(), a.key.public());
    assert_eq!(accepted.peer_addr(), dialled.local_addr());
    assert_eq!(dialled.peer_addr(), b.addr(PORT));
    const BYTES: usize = 16 << 20;
    let (mut r1, mut w1) = tokio::io::split(dialled);
    let (mut r2, mut w2) = tokio::io::split(accepted);
    tokio::join!(
        send_pattern(&mut w1, BYTES),
        send_pattern(&mut w2, BYTES),
        assert_pattern(&mut r1, BYTES),
        assert_pattern(&mut r2, BYTES),
    );
    drop((r1, r2, w1, w2));
    within(|| a.engine.open_flows() == 0 && b.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn sixteen_mebibytes_each_way() {
    bulk_both_ways().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn sixteen_mebibytes_each_way_on_several_threads() {
    bulk_both_ways().await;
}

#[tokio::test]
async fn addresses_are_of_the_family_that_was_dialled() {
    let (a, b) = pair().await;
    let mut tasks = JoinSet::new();
    serve_echo(&b, &mut tasks);
    let stream = a.engine.dial(b.addr_v6(PORT)).await.unwrap();
    assert_eq!(stream.local_addr().ip(), a.addr_v6(0).ip());
    assert_echo(stream, 100_000).await;
}

#[tokio::test]
async fn each_half_closes_on_its_own() {
    let (a, b) = pair().await;
    let (mut dialled, mut accepted) = connected(&a, &b).await;
    dialled.shutdown().await.unwrap();
    assert_eq!(accepted.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(
        dialled.write(b"x").await.unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
    // The other half stays open as long as its owner wants.
    send_pattern(&mut accepted, 300_000).await;
    assert_pattern(&mut dialled, 300_000).await;
    // At the end both know that it was an orderly one.
    assert_eq!(accepted.read(&mut [0; 1]).await.unwrap(), 0);
    within(|| a.engine.shared.flows.lock().is_empty()).await;
}

#[tokio::test]
async fn what_is_written_leaves_without_a_flush() {
    let (a, b) = pair().await;
    let (mut dialled, mut accepted) = connected(&a, &b).await;
    let mut got = [0; 5];
    let slices = [&b"he"[..], b"", b"llo"].map(io::IoSlice::new);
    let (written, read) = tokio::join!(dialled.write_vectored(&slices), accepted.read_exact(&mut got));
    assert_eq!((written.unwrap(), read.unwrap()), (5, 5));
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_dropped_stream_delivers_what_was_written() {
    let (a, b) = pair().await;
    let (mut dialled, mut accepted) = connected(&a, &b).await;
    dialled.write_all(&pattern(90_000)).await.unwrap();
    drop(dialled);
    assert_pattern(&mut accepted, 90_000).await;
    drop(accepted);
    within(|| a.engine.open_flows() == 0 && b.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn dropping_a_stream_with_unread_data_resets_it() {
    let (a, b) = pair().await;
    let (mut dialled, accepted) = connected(&a, &b).await;
    dialled.write_all(b"never read").await.unwrap();
    within(|| accepted.flow().conn.lock().tcp.has_unread()).await;
    drop(accepted);
    let error = dialled.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    drop(dialled);
    within(|| a.engine.open_flows() == 0 && b.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_writer_back() {
    let (a, b) = pair().await;
    let (mut dialled, mut accepted) = connected(&a, &b).await;
    const BYTES: usize = 4 << 20;
    let mut writing = tokio::spawn(async move { send_pattern(&mut dialled, BYTES).await });
    within(|| accepted.flow().conn.lock().tcp.has_unread()).await;
    let blocked = tokio::time::timeout(Duration::from_millis(300), &mut writing).await;
    assert!(blocked.is_err(), "4 MiB went into buffers of less");
    assert_pattern(&mut accepted, BYTES).await;
    writing.await.unwrap();
}

#[tokio::test]
async fn many_connections_at_once_and_one_after_the_other() {
    let (a, b) = pair().await;
    let mut service = JoinSet::new();
    serve_echo(&b, &mut service);
    let to = b.addr(PORT);
    for round in 0..3 {
        let mut clients = JoinSet::new();
        for i in 0..100 {
            let engine = a.engine.clone();
            clients.spawn(async move {
                assert_echo(engine.dial(to).await.unwrap(), 1 + round * 1000 + i * 97).await
            });
        }
        clients.join_all().await;
    }
    within(|| a.engine.open_flows() == 0 && b.engine.open_flows() == 0).await;
    assert_eq!(b.engine.stats().flows.load(Relaxed), 300);
}

#[tokio::test]
async fn a_port_without_a_listener_refuses() {
    let (a, b) = pair().await;
    let error = a.engine.dial(b.addr(PORT)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // The listener's end is the port's end.
    drop(b.engine.listen(None, PORT).unwrap());
    let error = a.engine.dial(b.addr(PORT)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    within(|| a.engine.open_flows() == 0).await;
}

#[tokio::test]
async fn a_listener_on_one_address_comes_before_the_one_on_all() {
    let (a, b) = pair().await;
    let mut all = b.engine.listen(None, PORT).unwrap();
    let mut one = b.engine.listen(Some(b.addr(0).ip()), PORT).unwrap();
    let taken = b.engine.listen(None, PORT).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    let _v4 = a.engine.dial(b.addr(PORT)).await.unwrap();
    let _v6 = a.engine.dial(b.addr_v6(PORT)).await.unwrap();
    assert_eq!(one.accept().await.unwrap().local_addr(), b.addr(PORT));
    assert_eq!(all.accept().await.unwrap().local_addr(), b.addr_v6(PORT));
}

#[tokio::test]
async fn a_full_accept_queue_answers_no_syn() {
    let (a, b) = pair().await;
    let mut listener = b.engine.listen(None, PORT).unwrap();
    let to = b.addr(PORT);
    let mut dials = JoinSet::new();
    for _ in 0..300 {
        let engine = a.engine.clone();
        dials.spawn(async move { engine.dial(to).await });
    }
    within(|| b.dropped(DropReason::AcceptQueueFull) > 0).await;
    // Those beyond the queue come in when there is room again: the SYN is repeated.
    let mut accepted = Vec::new();
    while accepted.len() < 300 {
        accepted.push(
            tokio::time::timeout(PATIENCE, listener.accept())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(dials.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn closing_the_engine_wakes_everybody() {
    let (a, b) = pair().await;
    let (_dialled, mut accepted) = connected(&a, &b).await;
    let mut listener = b.engine.listen(None, 81).unwrap();
    let (read, next, ()) = tokio::join!(accepted.read_u8(), listener.accept(), b.stop());
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(next.is_none());
    assert!(b.engine.listen(None, 82).is_err());
    assert!(b.engine.dial(a.addr(PORT)).await.is_err());
}
