//! What the proxies say, as the operator reads it.

use postern_proxy_config::{
    names, parse,
    report::{NameReport, REPORT_KEY, Report},
};

use crate::stores::Stores;

/// Reports of a group's replicas. One that can't be read counts as none.
pub fn reports(stores: &Stores, group: &str, replicas: u32) -> Vec<Report> {
    (0..replicas)
        .filter_map(|ordinal| {
            let map = stores.config_map(&names::report(&names::pod(group, ordinal)))?;
            let json = map.data.as_ref()?.get(REPORT_KEY)?;
            parse::parse::<Report>(json).ok().map(|parsed| parsed.value)
        })
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
