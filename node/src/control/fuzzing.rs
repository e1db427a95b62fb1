//! The part of [`crate::fuzzing`] that reads what a control server sends.

use std::{
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt, empty, join};

use super::{
    early::WithoutEarlyPayload,
    frames::Frames,
    noise::{self, Handshake, NoiseStream},
    register::{self, Login, Next},
};
use crate::{
    credential::{self, aws},
    key::MachinePrivate,
    tailcfg::RegisterResponse,
};

/// What servers answer on the way to a login and to the login itself: nothing is taken for a token that is none, and
/// nobody can make us wait for long.
pub fn control_answers(data: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<RegisterResponse>(data) {
        for with_auth_key in [false, true] {
            let login = Login {
                with_auth_key,
                ..Login::default()
            };
            let refused = !answer.error.is_empty() || !answer.node_key_signature.is_empty();
            let next = login.next(answer.clone(), true);
            assert_eq!(matches!(next, Next::Refused(_)), refused);
            let done = !refused && !answer.node_key_expired && answer.auth_url.is_empty();
            assert_eq!(matches!(next, Next::Done { .. }), done);
        }
    }
    let of_platforms = [credential::id_token(data), aws::id_token(data)];
    for token in of_platforms.iter().flatten() {
        assert_eq!(token.expose().split('.').count(), 3);
    }
    assert!(credential::access_token(data).is_none_or(|token| !token.expose().is_empty()));
    assert!(credential::minted_key(data).is_none_or(|key| !key.expose().is_empty()));
    for keys in [aws::keys(data), aws::keys_of_role(data)].into_iter().flatten() {
        let ask = aws::ask_id_token(&keys, "eu-central-1", "aud", Timestamp::UNIX_EPOCH);
        assert!(ask.headers.iter().any(|(name, _)| *name == "authorization"));
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        let wait = register::retry_after(&headers, SystemTime::UNIX_EPOCH, 0.5);
        assert!((Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&wait));
    }
}

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
