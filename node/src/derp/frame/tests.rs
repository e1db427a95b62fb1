use proptest::prelude::*;

use super::{server::*, *};

fn all(mut buf: BytesMut) -> Vec<Frame> {
    std::iter::from_fn(|| decode(&mut buf).unwrap()).collect()
}

#[test]
fn every_frame_of_a_server_is_understood() {
    let peer = NodePublic::from_bytes([7; 32]);
    let mut buf = BytesMut::new();
    put_server_key(&mut buf, &[1; 32]);
    put_raw(&mut buf, 0x03, &[&[2; 24][..], b"box"].concat());
    put_raw(&mut buf, 0x05, &[&[7; 32][..], b"packet"].concat());
    put_raw(&mut buf, 0x06, &[]);
    put_raw(&mut buf, 0x08, &[&[7; 32][..], &[1]].concat());
    put_raw(&mut buf, 0x12, &[3; 8]);
    put_raw(&mut buf, 0x13, &[4; 8]);
    put_raw(&mut buf, 0x14, b"too many connections");
    put_raw(&mut buf, 0x15, &[0, 0, 1, 0, 0, 0, 2, 0]);
    put_raw(&mut buf, 0x09, &[7; 32]);
    put_raw(&mut buf, 0xee, b"from the future");
    let frames = vec![
        Frame::ServerKey([1; 32]),
        Frame::ServerInfo {
            nonce: [2; 24],
            sealed: Bytes::from_static(b"box"),
        },
        Frame::Packet {
            from: peer,
            packet: Bytes::from_static(b"packet"),
        },
        Frame::KeepAlive,
        Frame::PeerGone(peer),
        Frame::Ping([3; 8]),
        Frame::Pong([4; 8]),
        Frame::Health("too many connections".to_owned()),
        Frame::Restarting { reconnect_in: 256 },
        Frame::Other(0x09),
        Frame::Other(0xee),
    ];
    assert_eq!(all(buf), frames);
}

#[test]
fn malformed_bodies_and_oversized_packets_are_skipped() {
    let mut buf = BytesMut::new();
    put_raw(&mut buf, 0x01, b"not the magic");
    put_raw(&mut buf, 0x05, &[7; 31]);
    put_raw(&mut buf, 0x05, &vec![0; 32 + MAX_PACKET + 1]);
    put_raw(&mut buf, 0x06, &[]);
    assert_eq!(
        all(buf),
        [
            Frame::Other(1),
            Frame::Other(5),
            Frame::Other(5),
            Frame::KeepAlive
        ]
    );
}

#[test]
fn an_oversized_frame_is_fatal_before_its_body_is_read() {
    let mut buf = BytesMut::from(&[5, 0, 0x10, 0, 1][..]);
    assert_eq!(decode(&mut buf), Err(FrameTooLong((1 << 20) + 1)));
}

#[test]
fn what_we_send_has_the_layout_of_the_specification() {
    let mut buf = BytesMut::new();
    let key = NodePublic::from_bytes([7; 32]);
    put_packet(&mut buf, &key, b"ab");
    assert_eq!(buf[..], [&[4, 0, 0, 0, 34][..], &[7; 32], b"ab"].concat());
    buf.clear();
    put_note_preferred(&mut buf, true);
    put_note_preferred(&mut buf, false);
    assert_eq!(buf[..], [7, 0, 0, 0, 1, 1, 7, 0, 0, 0, 1, 0]);
    buf.clear();
    put_client_info(&mut buf, &key, &[9; 24], b"box");
    assert_eq!(
        buf[..],
        [&[2, 0, 0, 0, 59][..], &[7; 32], &[9; 24], b"box"].concat()
    );
}

proptest! {
    #[test]
    fn frames_survive_any_split_of_the_stream(
        bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..90)), 0..20),
        cuts in prop::collection::vec(1usize..60, 1..40),
    ) {
        let mut stream = BytesMut::new();
        for (kind, body) in &bodies {
            put_raw(&mut stream, *kind, body);
        }
        let whole = all(stream.clone());
        prop_assert_eq!(whole.len(), bodies.len());

        let (mut buf, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.iter().cycle());
        while !stream.is_empty() {
            let n = (*cuts.next().unwrap()).min(stream.len());
            buf.put(stream.split_to(n));
            while let Some(frame) = decode(&mut buf).unwrap() {
                got.push(frame);
            }
        }
        prop_assert_eq!(got, whole);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut buf = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut buf) {}
    }
}
