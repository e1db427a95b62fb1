//! Who sends a handshake initiation, and when it was made. gotatun keeps the time to itself and forgets it with the
//! peer, after which everything that the peer ever sent would be new again.

use snow::{Builder, Error};

use crate::key::{NodePrivate, NodePublic};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Where the Noise message is, after type and index, and before the two MACs.
const NOISE: std::ops::Range<usize> = 8..116;

/// The stamp of an initiation: a later one is greater.
pub(super) type Tai64n = [u8; 12];

/// Opens an initiation for the owner of `key`. It is authentic, but anybody can have sent a copy.
pub(super) fn open(key: &NodePrivate, initiation: &[u8]) -> Result<(NodePublic, Tai64n), Error> {
    let mut responder = Builder::new(PATTERN.parse()?)
        .prologue(PROLOGUE)?
        .local_private_key(key.expose_bytes())?
        .build_responder()?;
    let mut stamp = Tai64n::default();
    let message = initiation.get(NOISE).ok_or(Error::Input)?;
    let length = responder.read_message(message, &mut stamp)?;
    let sender = responder.get_remote_static().and_then(|key| key.try_into().ok());
    match sender {
        Some(sender) if length == stamp.len() => Ok((NodePublic::from_bytes(sender), stamp)),
        _ => Err(Error::Input),
    }
}
