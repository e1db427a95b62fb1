//! Documents with a meaning, and the one way in which they are changed.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::store::{Document, Key, MAX_DOCUMENT, Store, StoreError, Swap};

/// What stands in a document.
pub(crate) trait Content: Serialize + DeserializeOwned + Default {
    /// Drops what has expired; seconds since 1970.
    fn prune(&mut self, now: i64);
}

/// The layout of all documents but the keys'.
const FORMAT: u32 = 1;
/// So many writers in a row can be first.
const ATTEMPTS: u32 = 32;

#[derive(Serialize)]
struct Out<'a, T> {
    format: u32,
    content: &'a T,
}

#[derive(Deserialize)]
struct In<T> {
    content: T,
}

/// The content as it is, or was a moment ago.
pub(crate) async fn read<T: Content>(store: &dyn Store, key: Key) -> Result<T, StoreError> {
    let document = store.read(key).await?;
    parse_or_empty(key, document.as_ref())
}

/// Changes the content by a decision that may have to be taken again, if somebody else was first. Nothing is
/// written when it leaves everything as it is.
pub(crate) async fn change<T: Content, R>(
    store: &dyn Store,
    key: Key,
    now: i64,
    mut decide: impl FnMut(&mut T) -> R,
) -> Result<R, StoreError> {
    for _ in 0..ATTEMPTS {
        let document = store.read(key).await?;
        let mut content: T = parse_or_empty(key, document.as_ref())?;
        let before = write(key, &content)?;
        content.prune(now);
        let decision = decide(&mut content);
        let after = write(key, &content)?;
        if after == before {
            return Ok(decision);
        }
        if after.len() > MAX_DOCUMENT && after.len() > before.len() {
            return Err(StoreError::Full {
                document: key.to_string(),
                reason: "remove clients that nobody needs, or shorten the life of sessions",
            });
        }
        let version = document.as_ref().map(|document| &document.version);
        match store.swap(key, version, after).await? {
            Swap::Done(_) => return Ok(decision),
            Swap::Conflict => {}
        }
    }
    Err(StoreError::Contended {
        document: key.to_string(),
    })
}

/// Parses a document that says its format.
pub(crate) fn parse<T: DeserializeOwned>(
    key: Key,
    document: &Document,
    newest: u32,
) -> Result<T, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let broken = |error: serde_json::Error| {
        // The message of a type error quotes the value.
        let (line, column) = (error.line(), error.column());
        invalid(
            key,
            format!("line {line} column {column} makes no sense; restore it, or remove it to start anew"),
        )
    };
    let Format { format } = serde_json::from_slice(&document.bytes).map_err(broken)?;
    if format > newest {
        let reason = format!("its format {format} is newer than {newest}; run the version that wrote it");
        return Err(invalid(key, reason));
    }
    serde_json::from_slice(&document.bytes).map_err(broken)
}

fn parse_or_empty<T: Content>(key: Key, document: Option<&Document>) -> Result<T, StoreError> {
    match document {
        None => Ok(T::default()),
        Some(document) => parse::<In<T>>(key, document, FORMAT).map(|read| read.content),
    }
}

fn write<T: Serialize>(key: Key, content: &T) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let out = Out {
        format: FORMAT,
        content,
    };
    let bytes = serde_json::to_vec(&out).map_err(|error| invalid(key, error.to_string()))?;
    Ok(Zeroizing::new(bytes))
}

fn invalid(key: Key, reason: String) -> StoreError {
    StoreError::Invalid {
        document: key.to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{BoxFuture, join_all};

    use super::*;
    use crate::store::{MemoryStore, Shard, Version};

    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Numbers(Vec<u32>);

    impl Content for Numbers {
        fn prune(&mut self, now: i64) {
            self.0.retain(|n| i64::from(*n) >= now);
        }
    }

    fn key() -> Key {
        Key::Sessions(Shard::of(0))
    }

    #[tokio::test]
    async fn no_change_of_many_writers_is_lost() {
        let store = MemoryStore::default();
        let writers =
            (0..20).map(|n| change(&store, key(), 0, move |numbers: &mut Numbers| numbers.0.push(n)));
        for result in join_all(writers).await {
            result.unwrap();
        }
        let mut numbers: Numbers = read(&store, key()).await.unwrap();
        numbers.0.sort_unstable();
        assert_eq!(numbers.0, (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_has_expired_goes_with_the_next_write_and_nothing_is_written_for_nothing() {
        let store = MemoryStore::default();
        change(&store, key(), 0, |n: &mut Numbers| n.0 = vec![1, 9])
            .await
            .unwrap();
        let version = async || store.read(key()).await.unwrap().unwrap().version;
        let before = version().await;
        change(&store, key(), 1, |_: &mut Numbers| {}).await.unwrap();
        assert_eq!(version().await, before);
        change(&store, key(), 5, |_: &mut Numbers| {}).await.unwrap();
        assert_eq!(read::<Numbers>(&store, key()).await.unwrap().0, [9]);
    }

    #[tokio::test]
    async fn a_full_document_takes_no_more_but_can_shrink() {
        let store = MemoryStore::default();
        let fill = |n: &mut Numbers| n.0 = vec![1_000_000_000; MAX_DOCUMENT / 11 - 5];
        change(&store, key(), 0, fill).await.unwrap();
        let more = change(&store, key(), 0, |n: &mut Numbers| {
            n.0.extend([1_000_000_000; 10])
        })
        .await;
        assert!(matches!(more, Err(StoreError::Full { .. })));
        change(&store, key(), 0, |n: &mut Numbers| n.0.truncate(1))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused_and_stays() {
        for (text, reason) in [
            (r#"{"format":2,"content":[]}"#, "newer than 1"),
            (r#"{"format":1,"content":["secret"]}"#, "makes no sense"),
            ("", "makes no sense"),
        ] {
            let store = MemoryStore::default();
            let bytes = Zeroizing::new(text.as_bytes().to_vec());
            store.swap(key(), None, bytes).await.unwrap();
            let error = change(&store, key(), 0, |_: &mut Numbers| {})
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
            assert_eq!(
                &store.read(key()).await.unwrap().unwrap().bytes[..],
                text.as_bytes()
            );
        }
    }

    /// Somebody else is always first.
    #[derive(Debug)]
    struct Contended;

    impl Store for Contended {
        fn read(&self, _: Key) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
            Box::pin(async { Ok(None) })
        }

        fn swap<'a>(
            &'a self,
            _: Key,
            _: Option<&'a Version>,
            _: Zeroizing<Vec<u8>>,
        ) -> BoxFuture<'a, Result<Swap, StoreError>> {
            Box::pin(async { Ok(Swap::Conflict) })
        }
    }

    #[tokio::test]
    async fn losing_every_race_ends() {
        let lost = change(&Contended, key(), 0, |n: &mut Numbers| n.0.push(1)).await;
        assert!(matches!(lost, Err(StoreError::Contended { .. })));
    }
}
