//! Conditions: what is said, and when its time changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// API limit of a condition's message.
const MESSAGE_LIMIT: usize = 32_768;

/// A condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// One of [`postern_crds::conditions`].
    pub type_: &'static str,
    /// `True`, `False`, `Unknown`.
    pub status: Status,
    /// One of [`postern_crds::conditions::reasons`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// See [`Said`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It doesn't.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Said {
    /// It holds.
    pub fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: Status::True,
            reason,
            message: message.into(),
        }
    }

    /// It doesn't hold.
    pub fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: Status::False,
            reason,
            message: message.into(),
        }
    }

    /// Nobody knows yet.
    pub fn unknown(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            status: Status::Unknown,
            reason,
            message: message.into(),
        }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.status == Status::True
    }
}

/// The conditions to write. A transition's time changes with the status alone.
pub fn merge(old: &[Condition], said: &[Said], generation: i64, now: Timestamp) -> Vec<Condition> {
    said.iter()
        .map(|said| {
            let status = said.status.as_str();
            let before = old.iter().find(|c| c.type_ == said.type_ && c.status == status);
            let mut message = said.message.clone();
            if message.len() > MESSAGE_LIMIT {
                message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
            }
            Condition {
                type_: said.type_.into(),
                status: status.into(),
                reason: said.reason.into(),
                message,
                observed_generation: Some(generation),
                last_transition_time: before.map_or_else(
                    // What the API keeps is whole seconds; more would look like a change each time.
                    || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
                    |c| c.last_transition_time.clone(),
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status_alone() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let first = merge(&[], &[Said::no("Ready", "Pending", "a")], 1, at(10));
        let second = merge(&first, &[Said::no("Ready", "Invalid", "b")], 2, at(20));
        assert_eq!(second[0].last_transition_time.0, at(10));
        assert_eq!(
            (second[0].reason.as_str(), second[0].observed_generation),
            ("Invalid", Some(2))
        );
        let third = merge(&second, &[Said::yes("Ready", "Ready", "")], 2, at(30));
        assert_eq!(third[0].last_transition_time.0, at(30));
    }
}
