//! A hostile peer at the other end of a connection: what `fuzzing::tcp_segments` runs.

use super::{
    segment::{bare, emit},
    *,
};

/// Positions near the ones that matter, one for each value of a byte.
fn near(position: u64, byte: u8) -> u64 {
    position.saturating_add_signed(i64::from(byte as i8) * if byte.is_multiple_of(3) { 997 } else { 1 })
}

/// Reads steps off the input: segments that are almost right, time that passes, and what an owner does.
/// Whatever they are, nothing is sent that cannot be read, memory stays bounded, and no timer stands still.
pub(crate) fn hostile_peer(mut input: &[u8]) {
    let mut next = || {
        let (first, rest) = input.split_first()?;
        input = rest;
        Some(*first)
    };
    let key = FlowKey {
        local: ([100, 64, 0, 1], 80).into(),
        remote: ([100, 64, 0, 2], 5000).into(),
    };
    let (node, peer) = (Pool::new(1 << 20), Pool::new(1 << 20));
    let mut now = Instant::from_secs(1);
    let opens = next().is_some_and(|first| first & 1 != 0);
    let share = Share::new(peer, node);
    let begin = if opens { Tcp::connecting } else { Tcp::listening };
    let mut tcp = begin(&key, share, now, 0xffff_ff00).expect("both are hosts");
    let (mut out, theirs) = (Vec::new(), Origin::new(0xffff_fff0));
    while let Some(step) = next() {
        match step % 8 {
            0..=3 => {
                let Some([flags, seq, ack, window, len, options]) = take6(&mut next) else {
                    break;
                };
                let control = match flags % 8 {
                    0 => TcpControl::Syn,
                    1 => TcpControl::Fin,
                    2 => TcpControl::Rst,
                    3 => TcpControl::Psh,
                    _ => TcpControl::None,
                };
                let peer_key = FlowKey {
                    local: key.remote,
                    remote: key.local,
                };
                let seq = theirs.wire(near(tcp.receiver.next(), seq));
                let ack = near(tcp.sender.unacknowledged(), ack);
                let mut segment = bare(&peer_key, control, seq, (flags < 200).then(|| tcp.own.wire(ack)));
                segment.window_len = u16::from(window) * 257;
                if control == TcpControl::Syn {
                    segment.window_scale = (options & 1 != 0).then_some(options >> 4);
                    segment.sack_permitted = options & 2 != 0;
                    segment.max_seg_size = (options & 4 != 0).then(|| u16::from(options) << 5);
                } else if options & 1 != 0 {
                    let from = near(ack, options);
                    segment.sack_ranges[0] =
                        Some((tcp.own.wire(from), tcp.own.wire(from + u64::from(options) * 50)));
                }
                let data = vec![step; usize::from(len) * 4];
                let packet = emit(key.remote.ip(), key.local.ip(), &segment, [&data, &[]]);
                tcp.ingress(now, &packet, &mut out);
            }
            4 => now += Duration::from_millis(1 << (step >> 4)),
            5 => {
                tcp.write(&vec![step; usize::from(step) * 64]);
            }
            6 => {
                tcp.read(|bytes| bytes.len().min(usize::from(step) * 16));
            }
            _ => match step >> 4 {
                0 => tcp.close(),
                1 => tcp.abort(),
                2 => tcp.release(),
                3 => tcp.ack_at_once(),
                _ => now = now.max(tcp.poll_at().unwrap_or(now)),
            },
        }
        tcp.egress(now, &mut out);
        for packet in out.drain(..) {
            let sent = parse(&packet).expect("whole segments are sent");
            assert!(packet.len() <= crate::netstack::packet::MTU);
            assert_eq!((sent.src_port, sent.dst_port), (80, 5000));
        }
        assert!(tcp.share.held() < 3 << 20);
        assert!(tcp.is_over() == tcp.poll_at().is_none());
        if !tcp.is_over() && tcp.sender.stalled_since().is_some() {
            assert!(
                tcp.sender.deadline().is_some(),
                "something is under way and nobody waits for it"
            );
        }
    }
    // Left alone, every connection comes to its end.
    tcp.close();
    for _ in 0..10_000 {
        tcp.egress(now, &mut out);
        out.clear();
        let Some(at) = tcp.poll_at() else { return };
        assert!(at > now, "a timer stands still at {now}");
        now = at;
    }
    panic!("it never ends");
}

fn take6(next: &mut impl FnMut() -> Option<u8>) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    for byte in &mut bytes {
        *byte = next()?;
    }
    Some(bytes)
}
