//! What the proxies say, as the operator reads it.

use kube::ResourceExt;
use postern_proxy_config::{
    names, parse,
    report::{NameReport, REPORT_KEY, Report, ServiceReport},
};

use crate::{
    labels::{GROUP, label},
    stores::Stores,
};

/// Reports of a group's replicas: of those that it is to have, and of those that are still leaving. One that
/// can't be read counts as none.
pub fn reports(stores: &Stores, group: &str) -> Vec<Report> {
    let replicas = stores
        .proxy_group(group)
        .and_then(|group| u32::try_from(group.spec.replicas).ok())
        .unwrap_or(1);
    let mut pods: Vec<_> = (0..replicas).map(|ordinal| names::pod(group, ordinal)).collect();
    let leaving = stores
        .pods
        .state_filter(|pod| label(pod, GROUP) == Some(group) && !pods.contains(&pod.name_any()));
    pods.extend(leaving.iter().map(|pod| pod.name_any()));
    (pods.iter())
        .filter_map(|pod| {
            let map = stores.config_map(&names::report(pod))?;
            let json = map.data.as_ref()?.get(REPORT_KEY)?;
            parse::parse::<Report>(json).ok().map(|parsed| parsed.value)
        })
        .collect()
}

/// What the replicas say about one service of one object.
pub fn of_service(reports: &[Report], service: &str, owner_uid: &str) -> Vec<ServiceReport> {
    (reports.iter())
        .filter_map(|report| report.services.get(service))
        .filter(|report| report.owner_uid == owner_uid)
        .cloned()
        .collect()
}

/// What is said about one name of one object: by the replica that is furthest with it.
pub fn of_name(reports: &[Report], name: &str, owner_uid: &str) -> Option<NameReport> {
    (reports.iter())
        .filter_map(|report| report.names.get(name))
        .filter(|report| report.owner_uid == owner_uid)
        .max_by_key(|report| report.phase)
        .cloned()
}

/// Why the newest configuration was refused, by any replica.
pub fn refused(reports: &[Report]) -> Option<String> {
    reports.iter().find_map(|report| report.refused.clone())
}
