//! The keys of a tailnet node and their text forms (Go: `types/key/*.go`).
//!
//! Public keys print themselves (`nodekey:` and 64 hex digits); private keys never do: their `Debug`
//! is `[redacted]` and their memory is zeroised when they are dropped.

use std::{fmt, str::FromStr};

use gotatun::x25519::{PublicKey, StaticSecret};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The text was not a key of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `{prefix}` and 64 hex digits")]
pub struct KeyError {
    prefix: &'static str,
}

fn decode(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    let digits = text.strip_prefix(prefix).ok_or(KeyError { prefix })?;
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| KeyError { prefix })?;
    Ok(bytes)
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key from its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the key.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The all-zero key stands for "none" in the control protocol.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;

                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("`", $prefix, "` and 64 hex digits"))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }

                d.deserialize_str(Text)
            }
        }
    };
}

macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident => $public:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// A new key from the system's random source, clamped as X25519 wants it.
            ///
            /// # Errors
            /// When the system has no randomness to give.
            pub fn generate() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes)?;
                bytes[0] &= 248;
                bytes[31] = (bytes[31] & 127) | 64;
                Ok(Self(bytes))
            }

            /// The key from its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The secret bytes: for the cryptography, never for a log.
            pub const fn expose_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The text form that Go's state files use, `privkey:` and 64 hex digits.
            pub fn expose_text(&self) -> String {
                format!("privkey:{}", hex::encode(self.0))
            }

            /// The matching public key.
            pub fn public(&self) -> $public {
                $public(PublicKey::from(&StaticSecret::from(self.0)).to_bytes())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[redacted]")
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                decode(text, "privkey:").map(Self)
            }
        }

        /// For the state store only: this writes the secret.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.expose_text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

public_key!(
    /// Who a node is to its peers: its WireGuard key. It changes when the node logs in again.
    NodePublic,
    "nodekey:"
);
public_key!(
    /// Who a machine is to the control server. It stays for the life of the state.
    MachinePublic,
    "mkey:"
);
public_key!(
    /// Who sent a disco message.
    DiscoPublic,
    "discokey:"
);
private_key!(
    /// The WireGuard private key.
    NodePrivate => NodePublic
);
private_key!(
    /// The private key of the Noise session with the control server.
    MachinePrivate => MachinePublic
);
private_key!(
    /// The private key of disco messages.
    DiscoPrivate => DiscoPublic
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip_and_secrets_stay_hidden() {
        let private = NodePrivate::generate().unwrap();
        let public = private.public();
        assert_eq!(public.to_string().parse::<NodePublic>().unwrap(), public);
        assert_eq!(
            private.expose_text().parse::<NodePrivate>().unwrap().public(),
            public
        );
        assert_eq!(format!("{private:?}"), "[redacted]");
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let node = NodePrivate::generate().unwrap().public().to_string();
        assert!(node.parse::<MachinePublic>().is_err());
        assert!("nodekey:00".parse::<NodePublic>().is_err());
    }
}
