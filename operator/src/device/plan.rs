//! The next step of a device. Pure.
//!
//! A device goes in this order: its name is out of the configuration, then out of what the proxies report,
//! then it is deleted at the coordination server, then its Secrets go, and then the object's finalizer.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use postern_proxy_config::report::Phase;

use crate::{device::dereference::Inputs, tailnet_api::Api};

/// A proxy that hangs must not keep a device for ever.
const LEAVE_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Refused credentials must not keep an object for ever: what is left behind is named in an Event.
const DELETE_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// The first time that a key is replaced after it was refused; it doubles with every key.
const REPLACE_KEY_AFTER: SignedDuration = SignedDuration::from_secs(30);
const LONGEST_DOUBLING: u32 = 7;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Look again after this time.
    Wait(Duration),
    /// Mint a key and put it in.
    Mint,
    /// Put the Tailnet's reusable key in.
    PutReusable,
    /// Take the key out: the node is on the tailnet.
    ClearKey,
    /// The device's identifier became known; an older one that it had is deleted.
    NoteNode {
        /// New.
        id: String,
        /// Old.
        old: Option<String>,
    },
    /// Delete the device, then its Secrets.
    Remove {
        /// After a refusal, leave the device and say so.
        give_up: bool,
    },
}

/// Decides.
pub fn plan(inputs: &Inputs) -> Step {
    match inputs.released {
        Some(since) => leave(inputs, since),
        None => join(inputs),
    }
}

fn leave(inputs: &Inputs, since: Timestamp) -> Step {
    if inputs.configured || inputs.api.is_none() {
        return Step::Wait(Duration::from_secs(5));
    }
    let waited = inputs.now.duration_since(since);
    if inputs.in_use && waited < LEAVE_WITHIN {
        let rest = LEAVE_WITHIN - waited;
        return Step::Wait(Duration::try_from(rest).unwrap_or(Duration::from_secs(1)));
    }
    Step::Remove {
        give_up: waited > DELETE_WITHIN,
    }
}

fn join(inputs: &Inputs) -> Step {
    let record = &inputs.record;
    if let Some(id) = inputs.report.as_ref().and_then(|report| report.node_id.clone())
        && record.node_id.as_ref() != Some(&id)
    {
        return Step::NoteNode {
            id,
            old: record.node_id.clone(),
        };
    }
    if !record.has_state && !record.has_key {
        return provide(inputs);
    }
    let phase = inputs.report.as_ref().map(|report| report.phase);
    match phase {
        Some(Phase::NeedsLogin) => replace(inputs),
        Some(Phase::Certificate | Phase::Serving)
            if record.has_key && record.has_state && record.node_id.is_some() =>
        {
            Step::ClearKey
        }
        _ => Step::Nothing,
    }
}

fn provide(inputs: &Inputs) -> Step {
    match (&inputs.reusable, &inputs.api) {
        (Some(_), _) => Step::PutReusable,
        (None, Some(Api::V2(_))) => Step::Mint,
        // The Tailnet's condition says what is missing; its Secret wakes us.
        (None, _) => Step::Wait(Duration::from_secs(30)),
    }
}

/// The proxy has no use of its key any more: it was used up, it is expired, or the device was deleted.
fn replace(inputs: &Inputs) -> Step {
    let record = &inputs.record;
    if let Some((_, source)) = &inputs.reusable {
        // The same key again would be refused again, unless the node had state and never tried it.
        let tried = record.has_key && record.key_source.as_ref() == Some(source);
        return if tried { Step::Nothing } else { Step::PutReusable };
    }
    let doublings = record.key_revision.saturating_sub(1).min(LONGEST_DOUBLING);
    let pause = REPLACE_KEY_AFTER * 2_i32.pow(doublings);
    let since = record
        .key_time
        .map_or(pause, |time| inputs.now.duration_since(time));
    if since < pause {
        return Step::Wait(Duration::try_from(pause - since).unwrap_or(Duration::from_secs(1)));
    }
    provide(inputs)
}

#[cfg(test)]
mod tests;
