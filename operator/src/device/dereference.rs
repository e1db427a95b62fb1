//! Reads what decides about a device, from the stores.

use jiff::Timestamp;
use kube::ResourceExt;
use postern_proxy_config::report::NameReport;

use crate::{
    config,
    context::Context,
    labels,
    record::Record,
    report,
    stores::Stores,
    tailnet_api::{AUTH_KEY, Api, SecretText},
};

/// All that decides about a device.
pub struct Inputs {
    /// Its record.
    pub record: Record,
    /// Nobody wants it any more since then.
    pub released: Option<Timestamp>,
    /// The reusable key of its Tailnet, and the version of the Secret that it is from.
    pub reusable: Option<(SecretText, String)>,
    /// The management API; absent while there are no credentials.
    pub api: Option<Api>,
    /// What the proxy says about it.
    pub report: Option<NameReport>,
    /// It is still in the configuration.
    pub configured: bool,
    /// A replica that is there still speaks of it.
    pub in_use: bool,
    /// The time.
    pub now: Timestamp,
}

/// Reads.
pub fn dereference(context: &Context, record: Record, now: Timestamp) -> Inputs {
    let stores = &context.stores;
    let group = stores.proxy_group(&record.group);
    let tailnet_name = group
        .as_ref()
        .map_or(&record.tailnet, |group| &group.spec.tailnet_ref.name);
    let credentials = stores.secret(&labels::credentials(tailnet_name));
    let tailnet = stores.tailnet(tailnet_name);
    let reports = report::reports(stores, &record.group);
    let pods = stores
        .pods
        .state_filter(|pod| labels::label(pod, labels::GROUP) == Some(&record.group));
    Inputs {
        // A group that is gone without a word can't release its devices itself.
        released: record.released.or_else(|| group.is_none().then_some(now)),
        reusable: credentials.as_ref().and_then(|secret| {
            Some((
                SecretText::of(secret, AUTH_KEY)?,
                labels::annotation(&**secret, labels::SOURCE)?.to_owned(),
            ))
        }),
        api: match (&tailnet, &credentials) {
            (Some(tailnet), Some(secret)) => Some(context.tailnets.api(tailnet_name, tailnet, secret)),
            // Without its Tailnet nothing can be done about a device that is to go.
            (None, _) => Some(Api::None),
            (Some(_), None) => None,
        },
        report: report::of_name(&reports, &record.hostname, &record.owner_uid),
        configured: group.is_some() && is_configured(stores, &record),
        in_use: (reports.iter())
            .filter(|report| pods.iter().any(|pod| pod.name_any() == report.replica))
            .any(|report| report.names.contains_key(&record.hostname)),
        record,
        now,
    }
}

fn is_configured(stores: &Stores, record: &Record) -> bool {
    config::shards(stores, &record.group).iter().any(|shard| {
        let name = shard.names.get(&record.hostname).map(|name| &name.owner);
        let host = || {
            let host = shard
                .hosts
                .values()
                .find(|host| host.node.hostname == record.hostname);
            host.map(|host| &host.owner)
        };
        name.or_else(host)
            .is_some_and(|owner| owner.uid == record.owner_uid)
    })
}
