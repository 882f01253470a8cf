//! What watches and directories of manifests count.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::object_kind::ObjectKind;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: ObjectKind,
}

/// The part of an agent's metrics that its source writes.
#[derive(Debug, Clone, Default)]
pub struct Watches {
    restarts: Family<OfKind, Counter>,
    failures: Family<OfKind, Counter>,
    last_event: Family<OfKind, Gauge>,
    last_bytes: Family<OfKind, Gauge<f64, AtomicU64>>,
    held: Family<OfKind, Gauge>,
    unreadable: Family<OfKind, Gauge>,
    manifest_errors: Gauge,
}

impl Watches {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("watch_restarts", "How often a kind was listed anew", self.restarts.clone());
        registry.register("watch_failures", "Failures of a watch, each tried again", self.failures.clone());
        registry.register(
            "watch_last_event_timestamp_seconds",
            "When a watch last delivered an object",
            self.last_event.clone(),
        );
        registry.register(
            "watch_last_heard_timestamp_seconds",
            "When the API server last said anything in a watch or a list",
            self.last_bytes.clone(),
        );
        registry.register(
            "source_held",
            "Objects that a doubtful list lacks, whose removal is held back",
            self.held.clone(),
        );
        registry.register(
            "source_unreadable",
            "Objects that cannot be read as the API server sent them",
            self.unreadable.clone(),
        );
        registry.register(
            "manifest_errors",
            "Errors in the files of --manifests that kept objects or files from being read",
            self.manifest_errors.clone(),
        );
    }

    /// Sets how many removals of a kind are held back.
    pub fn held(&self, kind: ObjectKind, objects: usize) {
        self.held.get_or_create(&OfKind { kind }).set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Sets how many objects of a kind cannot be read.
    pub(crate) fn unreadable(&self, kind: ObjectKind, objects: usize) {
        self.unreadable.get_or_create(&OfKind { kind }).set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Sets how many errors are in the files of a followed directory.
    pub fn manifest_errors(&self, errors: usize) {
        self.manifest_errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
    }

    /// A watch delivered an event.
    pub(crate) fn event(&self, kind: ObjectKind) {
        self.last_event.get_or_create(&OfKind { kind }).set(i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX));
    }

    /// The API server sent anything for a kind, if only a bookmark.
    pub(crate) fn bytes(&self, kind: ObjectKind) {
        self.last_bytes.get_or_create(&OfKind { kind }).set(since_1970().as_secs_f64());
    }

    /// A watch begins with a list.
    pub(crate) fn lists(&self, kind: ObjectKind) {
        self.restarts.get_or_create(&OfKind { kind }).inc();
    }

    /// A watch failed.
    pub(crate) fn failed(&self, kind: ObjectKind) {
        self.failures.get_or_create(&OfKind { kind }).inc();
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
