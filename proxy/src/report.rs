//! What this replica says about itself: one value, written by those who know, read by whoever publishes it.

use postern_proxy_config::{
    FORMAT,
    report::{NameReport, Report, ServiceReport},
};
use tokio::sync::watch;

/// The report under construction; clones share it.
#[derive(Debug, Clone)]
pub struct Reports(watch::Sender<Report>);

impl Reports {
    /// An empty report of `replica`.
    pub fn new(replica: impl Into<String>) -> Self {
        Self(watch::Sender::new(Report {
            format: FORMAT,
            replica: replica.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Report::default()
        }))
    }

    /// The report and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Report> {
        self.0.subscribe()
    }

    /// Changes a name's part; nobody is woken when that changes nothing.
    pub fn name(&self, key: &str, change: impl FnOnce(&mut NameReport)) {
        self.0.send_if_modified(|report| {
            let before = report.names.get(key).cloned();
            let name = report.names.entry(key.to_owned()).or_default();
            change(name);
            before.as_ref() != Some(name)
        });
    }

    /// The name isn't served here any more.
    pub fn remove(&self, key: &str) {
        self.0
            .send_if_modified(|report| report.names.remove(key).is_some());
    }

    /// Changes a Service's part; nobody is woken when that changes nothing.
    pub fn service(&self, key: &str, change: impl FnOnce(&mut ServiceReport)) {
        self.0.send_if_modified(|report| {
            let before = report.services.get(key).cloned();
            let service = report.services.entry(key.to_owned()).or_default();
            change(service);
            before.as_ref() != Some(service)
        });
    }

    /// The Service isn't hosted here any more.
    pub fn remove_service(&self, key: &str) {
        self.0
            .send_if_modified(|report| report.services.remove(key).is_some());
    }

    /// What is to be said about the configuration as a whole.
    pub fn configuration(&self, unknown_fields: Vec<String>, refused: Option<String>) {
        self.0.send_if_modified(|report| {
            let changed = report.unknown_fields != unknown_fields || report.refused != refused;
            report.unknown_fields = unknown_fields;
            report.refused = refused;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_news() {
        let reports = Reports::new("group-0");
        let mut seen = reports.subscribe();
        reports.name("app", |n| n.reason = "x".to_owned());
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        reports.name("app", |n| n.reason = "x".to_owned());
        reports.remove("other");
        reports.configuration(vec![], None);
        assert!(!seen.has_changed().unwrap());
        reports.remove("app");
        assert!(seen.has_changed().unwrap());
    }
}
