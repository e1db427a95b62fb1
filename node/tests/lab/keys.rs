//! New WireGuard keys, of Go's implementation with ours.

use std::{cell::Cell, time::Duration};

use jiff::Timestamp;
use postern_node::{engine::TcpListener, key::NodePublic, magicsock::Path, node::Node};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::lab::{Lab, eventually, up, with_lab};

/// One datagram of a hundred, but of the relay's STUN.
const LOSS: &str = "iptables --append INPUT --protocol udp --match multiport ! --ports 9978 --match statistic \
    --mode random --probability 0.01 --jump DROP";

/// The times of two exchanges are told apart by this much: each is known to a quarter of a second.
const APART: Duration = Duration::from_millis(600);

/// Sends the first connection's bytes back, and tells whose it is.
async fn echo(mut listener: TcpListener, caller: &Cell<Option<NodePublic>>) {
    let stream = listener.accept().await.unwrap();
    caller.set(Some(stream.peer_key()));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// Sends random bytes, as many as go, and finds each of them in what comes back; ends after `enough`. How many.
async fn load(stream: TcpStream, enough: &Cell<bool>) -> usize {
    const CHUNK: usize = 1 << 14;
    let (mut reader, mut writer) = stream.into_split();
    let chunks = || {
        let mut random = fastrand::Rng::with_seed(5);
        std::iter::repeat_with(move || {
            let mut chunk = vec![0; CHUNK];
            random.fill(&mut chunk);
            chunk
        })
    };
    let last = Cell::new(None);
    let sending = async {
        for (number, chunk) in chunks().enumerate() {
            last.set(enough.get().then_some(number));
            writer.write_all(&chunk).await.unwrap();
            if last.get().is_some() {
                return number;
            }
        }
        unreachable!("there are always more chunks")
    };
    let receiving = async {
        let mut came = vec![0; CHUNK];
        for (number, chunk) in chunks().enumerate() {
            reader.read_exact(&mut came).await.unwrap();
            assert!(came == chunk, "another chunk {number} than was sent");
            if last.get() == Some(number) {
                return;
            }
        }
    };
    let (number, ()) = tokio::join!(sending, receiving);
    (number + 1) * CHUNK
}

/// Lets Go's keys with this node be worn out.
async fn wear_out(lab: &Lab, host: &str, fully: bool) {
    let key = lab.device(host).await["key"].as_str().unwrap().to_owned();
    let path = format!("/nodes/alice/worn-keys?key={key}&fully={fully}");
    let (status, said) = lab.client("POST", &path).await;
    assert_eq!(status, 200, "{said}");
}

/// Waits until there are newer keys than before `wanted`.
async fn newer(node: &Node, peer: &NodePublic, wanted: impl Future<Output = ()>) {
    let last = || node.traffic(peer).last_handshake.unwrap_or(Timestamp::UNIX_EPOCH);
    eventually("keys can be told from newer ones", async || {
        Timestamp::now() > last() + APART
    })
    .await;
    let before = last();
    wanted.await;
    eventually("there are new keys", async || last() > before + APART / 2).await;
}

/// Has keys made anew all the time; how often.
async fn rekey(lab: &Lab, node: &Node, host: &str, peer: &NodePublic) -> usize {
    let mut times = 0;
    for (we, they) in [(true, false), (false, true), (true, true)] {
        for _ in 0..3 {
            let wanted = async {
                if they {
                    wear_out(lab, host, true).await;
                }
                if we {
                    node.rekey(peer);
                }
            };
            newer(node, peer, wanted).await;
            times += 1;
        }
    }
    // While it may still send, Go lets 5 s pass between two handshakes.
    newer(node, peer, wear_out(lab, host, false)).await;
    times + 1
}

#[test]
fn new_keys_under_load_and_loss_cost_no_byte_whichever_side_wants_them() {
    with_lab(async |lab| {
        lab.start_clients().await;
        let (node, _) = up(lab.config("rekeyed", Some("tskey-auth-bob"))).await;
        let (caller, enough) = (Cell::new(None), Cell::new(false));
        let listener = node.listen(7).unwrap();
        let loading = async {
            let mut stream = None;
            eventually("a connection", async || {
                stream = lab.tunnel("rekeyed:7").await;
                stream.is_some()
            })
            .await;
            load(stream.unwrap(), &enough).await
        };
        let rekeying = async {
            let direct = |peer: &NodePublic| matches!(node.traffic(peer).path, Path::Direct(_));
            eventually("the path is direct", async || {
                caller.get().as_ref().is_some_and(direct)
            })
            .await;
            lab.network(LOSS);
            let times = rekey(lab, &node, "rekeyed", &caller.get().unwrap()).await;
            enough.set(true);
            times
        };
        let (bytes, times, ()) = tokio::join!(loading, rekeying, echo(listener, &caller));
        println!("{bytes} bytes came back while keys were made anew {times} times");
        assert!(bytes >= 10 << 20, "{bytes} bytes are no load");
        node.close().await;
    });
}
