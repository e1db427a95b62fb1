//! ProxyGroup: the one writer of what a group's proxies serve, and of the pods that do it.

pub mod apply;
pub mod dereference;
pub mod plan;
pub mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::{ProxyGroup, Tailnet};
use serde_json::json;

use crate::{
    apply as write,
    context::{Context, Error, is_made_by_default, look_again},
    labels::{GROUP_FINALIZER, UNUSED_SINCE, annotation},
    name::backends,
};

/// Whoever replaces the only object of a cluster shouldn't wait for new pods.
const LINGER: SignedDuration = SignedDuration::from_secs(60);

/// Brings one group a step further.
///
/// # Errors
/// When the API server can't be told; faults of the object are conditions.
pub async fn reconcile(group: Arc<ProxyGroup>, context: Arc<Context>) -> Result<Action, Error> {
    let api = Api::<ProxyGroup>::all(context.client.clone());
    let inputs = dereference::dereference(&context.stores, &group);
    let deleting = group.metadata.deletion_timestamp.is_some();
    let unused = inputs.claims.is_empty() && inputs.records.is_empty();
    if unused && deleting {
        write::finalizer(&api, &*group, GROUP_FINALIZER, false).await?;
        return Ok(Action::await_change());
    }
    if is_made_by_default(&*group) && !deleting {
        match linger(&group, unused, inputs.tailnet.as_deref(), (context.clock)()) {
            Linger::Used => {}
            Linger::Mark(since) => {
                let patch =
                    json!({"metadata": {"annotations": {UNUSED_SINCE: since.map(|s| s.to_string())}}});
                write::merge(&api, &group.name_any(), patch).await?;
            }
            Linger::Wait(time) => return Ok(Action::requeue(time)),
            Linger::Delete => {
                write::delete(&api, &group.name_any()).await?;
                return Ok(Action::await_change());
            }
        }
    }
    if !deleting {
        write::finalizer(&api, &*group, GROUP_FINALIZER, true).await?;
    }

    let valid = validate::validate(&inputs);
    if let Ok(valid) = &valid {
        let addresses = |key: &str| backends::addresses(&context.stores, key);
        let plan = plan::plan(&context.settings, &inputs, valid, (context.clock)(), &addresses);
        apply::apply(&context, &plan).await?;
    }
    status::tell(&context, &api, &inputs, valid.as_ref()).await?;
    Ok(look_again(&*group))
}

/// What to do with a group that the operator made by itself.
#[derive(Debug, PartialEq, Eq)]
enum Linger {
    Used,
    Mark(Option<Timestamp>),
    Wait(Duration),
    Delete,
}

fn linger(group: &ProxyGroup, unused: bool, tailnet: Option<&Tailnet>, now: Timestamp) -> Linger {
    let since = annotation(group, UNUSED_SINCE).and_then(|time| time.parse::<Timestamp>().ok());
    if !unused {
        return if since.is_some() {
            Linger::Mark(None)
        } else {
            Linger::Used
        };
    }
    // A Tailnet that is to go mustn't wait for a group that nobody asked for.
    if tailnet.is_none_or(|tailnet| tailnet.metadata.deletion_timestamp.is_some()) {
        return Linger::Delete;
    }
    let Some(since) = since else {
        return Linger::Mark(Some(now));
    };
    match LINGER - now.duration_since(since) {
        rest if rest.is_positive() => Linger::Wait(Duration::try_from(rest).unwrap_or_default()),
        _ => Linger::Delete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_made_by_default_goes_when_it_was_unused_for_a_while() {
        let now = Timestamp::from_second(1_000).unwrap();
        let mut group = ProxyGroup::new("default", Default::default());
        let tailnet: Tailnet =
            serde_json::from_str(r#"{"metadata":{"name":"default"},"spec":{"credentials":{}}}"#).unwrap();
        let decide = |group: &ProxyGroup, unused| linger(group, unused, Some(&tailnet), now);
        assert_eq!(decide(&group, false), Linger::Used);
        assert_eq!(decide(&group, true), Linger::Mark(Some(now)));
        let mark = |s: i64| {
            Some(
                [(
                    UNUSED_SINCE.to_owned(),
                    Timestamp::from_second(s).unwrap().to_string(),
                )]
                .into(),
            )
        };
        group.metadata.annotations = mark(990);
        assert_eq!(decide(&group, true), Linger::Wait(Duration::from_secs(50)));
        assert_eq!(decide(&group, false), Linger::Mark(None));
        group.metadata.annotations = mark(940);
        assert_eq!(decide(&group, true), Linger::Delete);
        assert_eq!(linger(&group, true, None, now), Linger::Delete);
    }
}
