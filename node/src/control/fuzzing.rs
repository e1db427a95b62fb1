//! The part of [`crate::fuzzing`] that reads what a control server sends.

use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncReadExt, AsyncWriteExt, empty, join};

use super::{
    early::WithoutEarlyPayload,
    frames::Frames,
    noise::{self, Handshake, NoiseStream},
};
use crate::key::MachinePrivate;

/// A map stream: the messages are the stream without their lengths, however it is cut.
pub fn map_frames(data: &[u8]) {
    let mut whole = Frames::default();
    whole.push(data);
    let mut pieces = Frames::default();
    let mut arriving = data.chunks(3);
    let mut at = 0;
    while let Ok(Some(message)) = whole.next() {
        let start = at + 4;
        at = start + message.len();
        assert_eq!(message, data[start..at]);
        let again = loop {
            match pieces.next().expect("the length was accepted before") {
                Some(again) => break again,
                None => pieces.push(arriving.next().expect("no more than the whole is needed")),
            }
        };
        assert_eq!(again, message);
    }
    assert!(at <= data.len());
}

/// What stands in a Noise session, and what pretends to: only what the server has said comes out.
///
/// The first bytes say how the rest is used: where reads are cut, how long records are, which byte of the
/// sealed stream is damaged (none, if it is beyond it).
pub fn noise_records(data: &[u8]) {
    let Some((&[cut, length, damaged], data)) = data.split_first_chunk() else {
        return;
    };
    without_early_payload(data, cut);

    let client = MachinePrivate::from_bytes([0x48; 32]);
    let server = MachinePrivate::from_bytes([0x58; 32]);
    let (handshake, _) =
        Handshake::initiate(&client, &server.public(), 113).expect("the keys are of the right length");
    let forged = at_once(handshake.complete(join(data, empty())));
    assert!(forged.is_err(), "the server hasn't seen the handshake");

    let (near, far) = session(&client, &server).expect("both sides follow the protocol");
    let mut sealed = Vec::new();
    let mut writer = NoiseStream::new(&mut sealed, far);
    for record in data.chunks(usize::from(length) + 1) {
        at_once(writer.write_all(record)).expect("memory takes everything");
    }
    if let Some(byte) = sealed.get_mut(usize::from(damaged)) {
        *byte ^= 0x11;
    }
    sealed.extend(data);
    let mut got = Vec::new();
    let (first, rest) = sealed.split_at(usize::from(cut).min(sealed.len()));
    let end = at_once(NoiseStream::new(first.chain(rest), near).read_to_end(&mut got));
    assert!(data.starts_with(&got), "only what was sealed comes out");
    assert!(
        end.is_err() || data.is_empty(),
        "the unsealed part was taken for records"
    );
}

/// HTTP/2 comes out as it is, or what follows the early payload.
fn without_early_payload(data: &[u8], cut: u8) {
    let (first, rest) = data.split_at(usize::from(cut).min(data.len()));
    let mut got = Vec::new();
    let end = at_once(WithoutEarlyPayload::new(first.chain(rest)).read_to_end(&mut got));
    let want = match data.strip_prefix(b"\xff\xff\xffTS") {
        None if data.len() >= 9 => Some(data),
        None => None,
        Some(early) => early.split_first_chunk().and_then(|(length, rest)| {
            let length = u32::from_be_bytes(*length);
            rest.get(length as usize..).filter(|_| length <= 10 << 20)
        }),
    };
    assert_eq!(end.is_ok().then_some(&got[..]), want);
}

/// The ciphers of a client and a server that have met.
fn session(
    client: &MachinePrivate,
    server: &MachinePrivate,
) -> Result<(snow::StatelessTransportState, snow::StatelessTransportState), snow::Error> {
    let prologue = noise::prologue(113);
    let public = server.public();
    let mut near = noise::builder(&prologue, client)?
        .remote_public_key(public.as_bytes())?
        .build_initiator()?;
    let mut far = noise::builder(&prologue, server)?.build_responder()?;
    let mut message = [0; 96];
    let n = near.write_message(&[], &mut message)?;
    far.read_message(&message[..n], &mut [])?;
    let n = far.write_message(&[], &mut message)?;
    near.read_message(&message[..n], &mut [])?;
    Ok((
        near.into_stateless_transport_mode()?,
        far.into_stateless_transport_mode()?,
    ))
}

/// The result of a future that only works in memory.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("memory never lets a reader wait"),
    }
}
