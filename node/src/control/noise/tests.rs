use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// The server's side, for tests: answers an initiation over `stream`; `None` when it was for another key.
pub(in crate::control) async fn respond<S>(
    server: &MachinePrivate,
    initiation: &[u8],
    mut stream: S,
) -> Option<NoiseStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let version = u16::from_be_bytes([initiation[0], initiation[1]]);
    assert_eq!(initiation[2..5], [TYPE_INITIATION, 0, 96]);
    let prologue = prologue(version);
    let mut state = builder(&prologue, server).unwrap().build_responder().unwrap();
    state.read_message(&initiation[5..], &mut []).ok()?;
    let mut answer = [0; HEADER + RESPONSE];
    answer[..HEADER].copy_from_slice(&[TYPE_RESPONSE, 0, RESPONSE as u8]);
    state.write_message(&[], &mut answer[HEADER..]).unwrap();
    stream.write_all(&answer).await.unwrap();
    Some(NoiseStream::new(
        stream,
        state.into_stateless_transport_mode().unwrap(),
    ))
}

async fn pair() -> (NoiseStream<DuplexStream>, NoiseStream<DuplexStream>) {
    let (near, far) = duplex(1000);
    let client = MachinePrivate::generate().unwrap();
    let server = MachinePrivate::generate().unwrap();
    let (handshake, initiation) = Handshake::initiate(&client, &server.public(), 113).unwrap();
    let (near, far) = tokio::join!(handshake.complete(near), respond(&server, &initiation, far));
    (near.unwrap(), far.unwrap())
}

async fn answer(bytes: &[u8]) -> Result<NoiseStream<DuplexStream>, NoiseError> {
    let (near, mut far) = duplex(1000);
    let client = MachinePrivate::generate().unwrap();
    let (handshake, _) = Handshake::initiate(&client, &client.public(), 113).unwrap();
    far.write_all(bytes).await.unwrap();
    drop(far);
    handshake.complete(near).await
}

#[tokio::test]
async fn bytes_arrive_in_both_directions_in_records_of_the_right_size() {
    let (mut near, mut far) = pair().await;
    let sent: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let mut got = vec![0; sent.len()];
    for _ in 0..2 {
        let (write, read) = tokio::join!(
            async {
                near.write_all(&sent).await?;
                near.flush().await
            },
            far.read_exact(&mut got)
        );
        write.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
        std::mem::swap(&mut near, &mut far);
    }
    assert!(near.tx.counter >= 5 && near.tx.counter == far.rx.counter);
    near.shutdown().await.unwrap();
    drop(near);
    assert_eq!(far.read(&mut got).await.unwrap(), 0);
}

#[tokio::test]
async fn an_empty_record_is_read_over() {
    let (mut near, mut far) = pair().await;
    near.tx.seal(&near.cipher, &[]).unwrap();
    near.flush().await.unwrap();
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    assert_eq!(far.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_refusal_is_told_and_rubbish_is_an_error() {
    let refused = answer(b"\x03\x00\x03old").await.err().unwrap();
    assert!(refused.to_string().contains("old"), "{refused}");
    for bytes in [&b"HTT"[..], b"\x02\x00\x01x", b"\x02\x00", b"\x02\xff\xffx"] {
        assert!(answer(bytes).await.is_err());
    }
    let mut wrong = vec![TYPE_RESPONSE, 0, 48];
    wrong.extend([7; 48]);
    assert!(matches!(answer(&wrong).await, Err(NoiseError::Crypto(_))));
}

#[tokio::test]
async fn a_broken_record_ends_the_stream() {
    for record in [
        &b"\x04\x00\x00"[..],
        b"\x04\x00\x05hello",
        b"\x04\xff\xff",
        b"\x03\x00\x10",
        b"\x04\x00\x10aaaaaaaaaaaaaaaa",
        b"\x04\x00",
    ] {
        let (mut near, far) = pair().await;
        let mut raw = far.stream;
        raw.write_all(record).await.unwrap();
        drop(raw);
        let mut buf = [0; 10];
        assert!(near.read(&mut buf).await.is_err(), "{record:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_from_the_server_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let _ = answer(&bytes).await;
            let (mut near, far) = pair().await;
            let mut raw = far.stream;
            raw.write_all(&bytes).await.unwrap();
            drop(raw);
            let mut all = Vec::new();
            let _ = near.read_to_end(&mut all).await;
        });
    }
}
