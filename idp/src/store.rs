//! What outlives a request: a fixed set of documents, each changed as a whole by compare-and-swap.
//!
//! The set is fixed so that in a cluster every document can be an object made beforehand, and the rights to
//! them bound by name. What there is much of is spread over [`Shard::COUNT`] documents, so that writers seldom
//! meet and no document outgrows [`MAX_DOCUMENT`].

mod directory;
mod memory;

use std::fmt;

use futures::future::BoxFuture;
use zeroize::Zeroizing;

pub use directory::DirectoryStore;
pub use memory::MemoryStore;

/// No document is written larger than this many bytes: etcd takes 1.5 MiB, a ConfigMap 1 MiB.
pub const MAX_DOCUMENT: usize = 900 * 1024;

/// A place for documents.
///
/// The caller reads a document, makes a new one of it, and swaps: of several writers one wins, the others read
/// again. That is all that replicas need to agree.
pub trait Store: Send + Sync + fmt::Debug {
    /// The document as it is, or was a moment ago: an answer may come from a watch. After a
    /// [`Swap::Conflict`] it has to be newer than the one that lost. `None`: never written.
    fn read(&self, key: Key) -> BoxFuture<'_, Result<Option<Document>, StoreError>>;

    /// Replaces the document if it still is the `read` one (`None`: if there is none).
    fn swap<'a>(
        &'a self,
        key: Key,
        read: Option<&'a Version>,
        bytes: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>>;
}

/// Which document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Signing keys and the key that seals codes. **Secret**, the only one that is.
    Keys,
    /// Registered clients, by client id.
    Clients(Shard),
    /// What users have consented to, by user.
    Consents(Shard),
    /// Logins with their refresh tokens' counters, and marks of codes that were redeemed, by login.
    Sessions(Shard),
}

impl Key {
    /// Every document that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let kinds = [Self::Clients, Self::Consents, Self::Sessions];
        let sharded = kinds.into_iter().flat_map(|kind| Shard::all().map(kind));
        std::iter::once(Self::Keys).chain(sharded)
    }

    /// Whether the document must be kept as a secret.
    pub fn is_secret(self) -> bool {
        self == Self::Keys
    }
}

/// The document's name: a part of file and object names.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, shard) = match self {
            Self::Keys => return f.write_str("keys"),
            Self::Clients(shard) => ("clients", shard),
            Self::Consents(shard) => ("consents", shard),
            Self::Sessions(shard) => ("sessions", shard),
        };
        write!(f, "{kind}-{shard}")
    }
}

/// One of the parts that a kind of document is split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// How many there are of a kind. Never to change: what is stored would not be found again.
    pub const COUNT: u8 = 16;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Where the thing with this evenly distributed byte belongs.
    pub fn of(byte: u8) -> Self {
        Self(byte % Self::COUNT)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// A document as it was read.
#[derive(Clone)]
pub struct Document {
    /// JSON.
    pub bytes: Zeroizing<Vec<u8>>,
    /// For [`Store::swap`].
    pub version: Version,
}

/// Its content may be secret.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("length", &self.bytes.len())
            .field("version", &self.version)
            .finish()
    }
}

/// What a store tells versions of a document apart by; of no meaning to others (`resourceVersion`, a hash).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// How a swap went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The document is the new one, in this version.
    Done(Version),
    /// Somebody else was first: read again.
    Conflict,
}

/// Why a store failed. The provider answers 503 and changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The place itself.
    #[error("{action} the document {document}")]
    Io {
        /// What was tried: "read", "write", "lock".
        action: &'static str,
        /// Its name.
        document: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The content makes no sense to us.
    #[error("understand the document {document}: {reason}")]
    Invalid {
        /// Its name.
        document: String,
        /// What is wrong and what to do; never a part of the content.
        reason: String,
    },
    /// [`MAX_DOCUMENT`].
    #[error("the document {document} has no room left: {reason}")]
    Full {
        /// Its name.
        document: String,
        /// What to do.
        reason: &'static str,
    },
    /// Too many others change it.
    #[error("the document {document} is changed by too many at once")]
    Contended {
        /// Its name.
        document: String,
    },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_can_be_parts_of_object_names() {
        let names: BTreeSet<String> = Key::all().map(|key| key.to_string()).collect();
        assert_eq!(names.len(), 1 + 3 * usize::from(Shard::COUNT));
        assert!(names.contains("clients-00") && names.contains("sessions-15"));
        let is_label = |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        assert!(names.iter().all(is_label));
        assert_eq!(Key::all().filter(|key| key.is_secret()).count(), 1);
    }

    #[test]
    fn contents_are_not_shown() {
        let document = Document {
            bytes: Zeroizing::new(b"secret".to_vec()),
            version: Version("1".to_owned()),
        };
        assert!(!format!("{document:?}").contains("secret"));
    }

    async fn of_two_writers_one_wins(store: &dyn Store) {
        let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        let key = Key::Sessions(Shard::of(3));
        assert!(store.read(key).await.unwrap().is_none());
        let Swap::Done(first) = store.swap(key, None, bytes("1")).await.unwrap() else {
            panic!("there was none");
        };
        assert_eq!(store.swap(key, None, bytes("2")).await.unwrap(), Swap::Conflict);
        let read = store.read(key).await.unwrap().unwrap();
        assert_eq!((&read.bytes[..], &read.version), (&b"1"[..], &first));
        let Swap::Done(second) = store.swap(key, Some(&first), bytes("3")).await.unwrap() else {
            panic!("nobody else has written");
        };
        assert_ne!(first, second);
        assert_eq!(
            store.swap(key, Some(&first), bytes("4")).await.unwrap(),
            Swap::Conflict
        );
        assert_eq!(&store.read(key).await.unwrap().unwrap().bytes[..], b"3");
        assert!(store.read(Key::Keys).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn of_two_writers_one_wins_in_memory() {
        of_two_writers_one_wins(&MemoryStore::default()).await;
    }

    #[tokio::test]
    async fn of_two_writers_one_wins_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        of_two_writers_one_wins(&DirectoryStore::open(dir.path()).unwrap()).await;
    }
}
