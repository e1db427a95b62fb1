//! What a request is called in the access log, towards its backend and on error pages.

use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use uuid::Builder;

/// A UUID of version 7 (RFC 9562): later ones sort behind earlier ones.
#[derive(Debug, Clone)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Where backends and clients find it.
    pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

    /// A new one. It need not be hard to guess, so no system call is made for it.
    pub fn new(now: SystemTime) -> Self {
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        let id = Builder::from_unix_timestamp_millis(since.as_millis() as u64, &random).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("")))
    }

    /// As a field's value.
    pub fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_their_time() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let ids: Vec<_> = [1_763_800_000_000, 1_763_800_000_001, 1_763_800_000_001]
            .map(|ms| RequestId::new(at(ms)))
            .into();
        for (id, ms) in ids.iter().zip([0, 1, 1]) {
            let uuid: uuid::Uuid = id.as_str().parse().unwrap();
            assert_eq!(uuid.get_version_num(), 7);
            let (seconds, nanos) = uuid.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos), (1_763_800_000, ms * 1_000_000));
        }
        assert!(ids[0].as_str() < ids[1].as_str());
        assert_ne!(ids[1].as_str(), ids[2].as_str());
    }
}
