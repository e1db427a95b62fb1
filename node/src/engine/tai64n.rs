//! The time in WireGuard's handshake initiations: <https://cr.yp.to/libtai/tai64.html>, without leap seconds, as
//! WireGuard implementations make it. Of one key, a peer ignores initiations whose time isn't newer than the newest that
//! it has seen.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// TAI64's name for the beginning of 1970.
const BASE: u64 = (1 << 62) + 37;

/// Peers notice less than that no more than a lost packet.
const TOLERATED: Duration = Duration::from_secs(1);

/// Twelve bytes as hex.
pub(super) fn encode(at: SystemTime) -> Option<String> {
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Some(format!(
        "{:016x}{:08x}",
        BASE + since.as_secs(),
        since.subsec_nanos()
    ))
}

pub(super) fn decode(text: &str) -> Option<SystemTime> {
    let mut bytes = [0; 12];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    let (seconds, nanos) = bytes.split_first_chunk()?;
    let seconds = u64::from_be_bytes(*seconds).checked_sub(BASE)?;
    let nanos = u32::from_be_bytes(nanos.try_into().ok()?);
    let since = Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))?;
    UNIX_EPOCH.checked_add(since)
}

/// gotatun takes its stamps from the system's clock and can't be told to begin later (`TimeStamper` in
/// `noise/handshake.rs`), so that a clock which was set back can only be complained about.
pub(super) fn warn_of_a_clock_set_back(newest: Option<SystemTime>, now: SystemTime) {
    let ahead = newest.and_then(|newest| newest.duration_since(now).ok());
    if let Some(ahead) = ahead.filter(|ahead| *ahead >= TOLERATED) {
        tracing::warn!(
            seconds = ahead.as_secs(),
            "The clock is behind the last run's: for so many seconds, peers take our WireGuard handshakes for \
             repetitions and only connections that they begin come about; set the clock if it is wrong"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::logged, *};

    #[test]
    fn a_time_is_what_it_was_and_nonsense_is_none() {
        let at = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        // As gotatun has it on the wire.
        assert_eq!(encode(at).unwrap(), "400000006553f125075bcd15");
        assert_eq!(decode("400000006553f125075bcd15"), Some(at));
        let many = "f".repeat(24);
        for text in [
            "",
            "40",
            "400000006553f125075bcd1",
            "000000000000000000000000",
            &many,
            "ä",
        ] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_told_of() {
        let now = SystemTime::now();
        let said = |newest| logged(|| warn_of_a_clock_set_back(newest, now));
        let text = said(Some(now + Duration::from_secs(3600)));
        assert!(text.contains("WARN") && text.contains("seconds=3600"), "{text}");
        for fine in [
            None,
            Some(now - Duration::from_secs(5)),
            Some(now + TOLERATED / 2),
        ] {
            assert_eq!(said(fine), "", "{fine:?}");
        }
    }
}
