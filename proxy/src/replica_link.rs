//! The link between the replicas of a group: over it a replica hands datagrams and flows that still arrive
//! to the one that owns their name now. This module settles who may speak; the relay follows.
//!
//! A peer that could inject packets here could be anybody on the tailnet, so both sides prove that they
//! know the group's key (32 random bytes in a Secret that only the group's pods read):
//!
//! ```text
//! caller → listener   hello  = version, group, caller's pod, nonce A (32 bytes)
//! listener → caller   answer = listener's pod, nonce B, HMAC(key, "listener", transcript)
//! caller → listener   proof  = HMAC(key, "caller", transcript)
//! ```
//!
//! The transcript is every field of hello and answer, each with its length, so a proof is good for these
//! two pods, this direction and this connection alone. Both derive the session's frame keys from it, one for
//! each direction; frames carry a counter and a tag.

use std::net::SocketAddr;

use aws_lc_rs::{constant_time, hmac, rand};
use futures::future::BoxFuture;
use postern_proxy_config::assignment::REPLICA_LINK_PORT;

/// Where a replica listens for its group.
pub const PORT: u16 = REPLICA_LINK_PORT;
const VERSION: u8 = 1;
/// Bytes of keys, nonces and proofs.
pub const SIZE: usize = 32;

/// Takes what still arrives here to the replica that owns the name now.
pub trait Relay: Send + Sync {
    /// A datagram for a device name's node, as it came from `from`.
    fn datagram<'a>(&'a self, name: &'a str, from: SocketAddr, payload: &'a [u8]) -> BoxFuture<'a, ()>;
    /// A decrypted IP packet of a flow that was ours, for a `svc:` name.
    fn packet<'a>(&'a self, name: &'a str, packet: &'a [u8]) -> BoxFuture<'a, ()>;
}

/// The group's key. Its `Debug` prints nothing.
#[derive(Clone)]
pub struct GroupKey(hmac::Key);

impl GroupKey {
    /// From the Secret's value.
    ///
    /// # Errors
    /// When it isn't 32 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, LinkError> {
        if bytes.len() != SIZE {
            return Err(LinkError::Key(bytes.len()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }
}

impl std::fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a link isn't made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The Secret is wrong.
    #[error("the replica link's key has {0} bytes instead of {SIZE}")]
    Key(usize),
    /// Another layout.
    #[error("the other replica speaks version {0} of the replica link, this one {VERSION}")]
    Version(u8),
    /// Another group's replica.
    #[error("the other replica is of group {0}")]
    Group(String),
    /// It doesn't know the key, or isn't who it says.
    #[error("the other replica could not prove that it is of this group")]
    Proof,
    /// The system has no randomness.
    #[error("no randomness")]
    Random,
}

/// A fresh random value.
///
/// # Errors
/// When the system has none.
pub fn nonce() -> Result<[u8; SIZE], LinkError> {
    let mut nonce = [0; SIZE];
    rand::fill(&mut nonce).map_err(|_| LinkError::Random)?;
    Ok(nonce)
}

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The layout that the caller speaks.
    pub version: u8,
    /// The ProxyGroup.
    pub group: String,
    /// The caller's pod.
    pub pod: String,
    /// Random.
    pub nonce: [u8; SIZE],
}

impl Hello {
    /// A call.
    pub fn new(group: &str, pod: &str, nonce: [u8; SIZE]) -> Self {
        Self {
            version: VERSION,
            group: group.to_owned(),
            pod: pod.to_owned(),
            nonce,
        }
    }
}

/// The second message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The listener's pod.
    pub pod: String,
    /// Random.
    pub nonce: [u8; SIZE],
    /// That the listener knows the key.
    pub proof: [u8; SIZE],
}

/// What both sides hold after the handshake.
#[derive(Clone)]
pub struct Session {
    to_listener: hmac::Key,
    to_caller: hmac::Key,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the caller.
    ToListener,
    /// From the listener.
    ToCaller,
}

/// The listener's answer to a call, and the session that begins when [`admit`] accepts the caller's proof.
///
/// # Errors
/// When the caller is of another group or version.
pub fn answer(
    key: &GroupKey,
    hello: &Hello,
    group: &str,
    pod: &str,
    nonce: [u8; SIZE],
) -> Result<Answer, LinkError> {
    if hello.version != VERSION {
        return Err(LinkError::Version(hello.version));
    }
    if hello.group != group {
        return Err(LinkError::Group(hello.group.clone()));
    }
    let transcript = transcript(hello, pod, &nonce);
    Ok(Answer {
        pod: pod.to_owned(),
        nonce,
        proof: prove(key, b"listener", &transcript),
    })
}

/// The caller's side: checks that `answer` is of the pod that was called, and proves itself.
///
/// # Errors
/// [`LinkError::Proof`].
pub fn accept(
    key: &GroupKey,
    hello: &Hello,
    called: &str,
    answer: &Answer,
) -> Result<([u8; SIZE], Session), LinkError> {
    let transcript = transcript(hello, &answer.pod, &answer.nonce);
    verify(&prove(key, b"listener", &transcript), &answer.proof)?;
    if answer.pod != called {
        return Err(LinkError::Proof);
    }
    Ok((prove(key, b"caller", &transcript), session(key, &transcript)))
}

/// The listener's side of the caller's proof.
///
/// # Errors
/// [`LinkError::Proof`].
pub fn admit(
    key: &GroupKey,
    hello: &Hello,
    answer: &Answer,
    proof: &[u8; SIZE],
) -> Result<Session, LinkError> {
    let transcript = transcript(hello, &answer.pod, &answer.nonce);
    verify(&prove(key, b"caller", &transcript), proof)?;
    Ok(session(key, &transcript))
}

impl Session {
    /// The tag of the frame with this number in this direction.
    pub fn tag(&self, direction: Direction, counter: u64, frame: &[u8]) -> [u8; SIZE] {
        let key = match direction {
            Direction::ToListener => &self.to_listener,
            Direction::ToCaller => &self.to_caller,
        };
        let mut context = hmac::Context::with_key(key);
        context.update(&counter.to_be_bytes());
        context.update(frame);
        bytes(&context.sign())
    }

    /// Checks a frame.
    ///
    /// # Errors
    /// [`LinkError::Proof`].
    pub fn check(
        &self,
        direction: Direction,
        counter: u64,
        frame: &[u8],
        tag: &[u8; SIZE],
    ) -> Result<(), LinkError> {
        verify(&self.tag(direction, counter, frame), tag)
    }
}

fn session(key: &GroupKey, transcript: &[u8]) -> Session {
    let derive = |label| hmac::Key::new(hmac::HMAC_SHA256, &prove(key, label, transcript));
    Session {
        to_listener: derive(b"to listener"),
        to_caller: derive(b"to caller"),
    }
}

fn transcript(hello: &Hello, listener: &str, nonce: &[u8; SIZE]) -> Vec<u8> {
    let mut out = b"postern replica link".to_vec();
    out.push(hello.version);
    for field in [
        hello.group.as_bytes(),
        hello.pod.as_bytes(),
        &hello.nonce,
        listener.as_bytes(),
        nonce,
    ] {
        out.extend((field.len() as u64).to_be_bytes());
        out.extend(field);
    }
    out
}

fn prove(key: &GroupKey, label: &[u8], transcript: &[u8]) -> [u8; SIZE] {
    let mut context = hmac::Context::with_key(&key.0);
    context.update(&(label.len() as u64).to_be_bytes());
    context.update(label);
    context.update(transcript);
    bytes(&context.sign())
}

fn bytes(tag: &hmac::Tag) -> [u8; SIZE] {
    let mut out = [0; SIZE];
    out.copy_from_slice(tag.as_ref());
    out
}

fn verify(want: &[u8; SIZE], got: &[u8; SIZE]) -> Result<(), LinkError> {
    constant_time::verify_slices_are_equal(want, got).map_err(|_| LinkError::Proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_prove_themselves_and_share_a_session() {
        let key = GroupKey::new(&[7; SIZE]).unwrap();
        let hello = Hello::new("g", "g-0", nonce().unwrap());
        let reply = answer(&key, &hello, "g", "g-1", nonce().unwrap()).unwrap();
        let (proof, ours) = accept(&key, &hello, "g-1", &reply).unwrap();
        let theirs = admit(&key, &hello, &reply, &proof).unwrap();
        let tag = ours.tag(Direction::ToListener, 1, b"frame");
        assert!(theirs.check(Direction::ToListener, 1, b"frame", &tag).is_ok());
        for (direction, counter, frame) in [
            (Direction::ToCaller, 1, &b"frame"[..]),
            (Direction::ToListener, 2, b"frame"),
            (Direction::ToListener, 1, b"other"),
        ] {
            assert_eq!(
                theirs.check(direction, counter, frame, &tag),
                Err(LinkError::Proof)
            );
        }
        assert_eq!(format!("{key:?}{ours:?}"), "[redacted][redacted]");
    }

    #[test]
    fn strangers_replays_and_reflections_are_refused() {
        let (key, other) = (
            GroupKey::new(&[7; SIZE]).unwrap(),
            GroupKey::new(&[8; SIZE]).unwrap(),
        );
        let hello = Hello::new("g", "g-0", [1; SIZE]);
        let reply = answer(&key, &hello, "g", "g-1", [2; SIZE]).unwrap();
        let refused = |result: Result<([u8; SIZE], Session), _>| result.unwrap_err();
        assert_eq!(refused(accept(&other, &hello, "g-1", &reply)), LinkError::Proof);
        assert_eq!(refused(accept(&key, &hello, "g-2", &reply)), LinkError::Proof);
        // The listener's own proof, sent back.
        assert_eq!(
            admit(&key, &hello, &reply, &reply.proof).unwrap_err(),
            LinkError::Proof
        );
        // A proof of an earlier connection.
        let (proof, _) = accept(&key, &hello, "g-1", &reply).unwrap();
        let later = answer(&key, &hello, "g", "g-1", [3; SIZE]).unwrap();
        assert_eq!(admit(&key, &hello, &later, &proof).unwrap_err(), LinkError::Proof);
        assert_eq!(
            answer(&key, &hello, "h", "h-1", [2; SIZE]),
            Err(LinkError::Group("g".to_owned()))
        );
        assert_eq!(GroupKey::new(&[0; 16]).unwrap_err(), LinkError::Key(16));
    }
}
