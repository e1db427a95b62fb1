//! What is counted.

use std::sync::{Arc, atomic::AtomicU64};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    controller: &'static str,
    category: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

/// All metrics of the operator.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Controller, Counter<u64, AtomicU64>>,
    errors: Family<Failure, Counter<u64, AtomicU64>>,
    durations: Family<Controller, Histogram>,
    status_patches: Family<KindLabel, Counter<u64, AtomicU64>>,
    watch_errors: Family<KindLabel, Counter<u64, AtomicU64>>,
    leader: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("postern_operator");
        let metrics = Self {
            reconciles: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 4.0, 8))),
            status_patches: Family::default(),
            watch_errors: Family::default(),
            leader: Gauge::default(),
            registry: Mutex::default(),
        };
        registry.register("reconciles", "Reconciles that ended", metrics.reconciles.clone());
        registry.register(
            "reconcile_errors",
            "Reconciles that failed",
            metrics.errors.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time of a reconcile",
            metrics.durations.clone(),
        );
        registry.register(
            "status_patches",
            "Statuses written",
            metrics.status_patches.clone(),
        );
        registry.register("watch_errors", "Watches that broke", metrics.watch_errors.clone());
        registry.register("leader", "1 in the replica that acts", metrics.leader.clone());
        *metrics.registry.lock() = registry;
        Arc::new(metrics)
    }

    /// A reconcile ended; `category` is why it failed.
    pub fn reconciled(&self, controller: &'static str, seconds: f64, category: Option<&'static str>) {
        let label = Controller { controller };
        self.reconciles.get_or_create_owned(&label).inc();
        self.durations.get_or_create_owned(&label).observe(seconds);
        if let Some(category) = category {
            self.errors
                .get_or_create_owned(&Failure { controller, category })
                .inc();
        }
    }

    /// A status was written.
    pub fn status_patch(&self, kind: &str) {
        self.status_patches
            .get_or_create_owned(&KindLabel {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// A watch broke.
    pub fn watch_error(&self, kind: &str) {
        self.watch_errors
            .get_or_create_owned(&KindLabel {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Whether this replica acts.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string can't fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}
