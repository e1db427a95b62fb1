//! An OpenID Connect and OAuth 2.1 provider whose users are the peers of a tailnet.
//!
//! There is no password and no login form: who asks is known from the connection. The provider asks the
//! [`Identify`] trait at every step, so that who has left the tailnet, or lost a grant, is out at once.
//! What has to outlive a request is behind the [`Store`] trait: a fixed set of small documents, changed by
//! compare-and-swap, so that any number of replicas may serve one issuer.
//!
//! It is not a user directory, knows no tailnet and no Kubernetes, opens no socket and starts no task: a host
//! hands it requests with the place where they came in, and sends its answers.
//!
//! # What is kept, and what is not
//!
//! Authorization codes are sealed, not stored. Redeeming one makes the login's *session*: that there is one
//! already is how all replicas together know a code that comes twice. Access tokens are signed, and name their
//! session. Refresh tokens are a session's name with a counter and a MAC; the store holds the counter. Client
//! secrets are stored as hashes. The one document that is secret holds the keys ([`Key::Keys`]); nothing in the
//! others is worth stealing.
//!
//! Nothing is written before a user has consented, or a client has shown a code that we made.

mod admin;
mod answer;
mod authorize;
mod browser;
mod claims;
mod client;
mod consent;
mod declared;
mod discovery;
mod error;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod grant;
pub mod identify;
mod import;
mod issuer;
mod jwt;
mod keys;
mod pages;
mod params;
pub mod provider;
mod redirect;
mod register;
mod scope;
mod secret;
mod session;
mod state;
pub mod store;
mod token;
mod tokens;

pub use client::{Allow, Client, ClientSecret, Kind, Origin};
pub use declared::Declared;
pub use discovery::protected_resource;
pub use grant::CAPABILITY;
pub use identify::{Identify, Machine, Peer, User};
pub use import::{ImportError, Tsidp};
pub use issuer::{Issuer, NotAnIssuer};
pub use keys::Algorithm;
pub use provider::{Arrival, Config, LARGEST_BODY, Lifetimes, Provider, Registration};
pub use secret::{Hash, Secret};
pub use store::{Document, Key, Shard, Store, StoreError, Swap, Version};
