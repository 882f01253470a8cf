//! What the CNI plugin asked, and how long it took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::seconds;
use crate::dataplane::flow_index::IndexLookup;

/// The counts of the CNI plugin's requests. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Cni {
    adds: Histogram,
    refused: Counter,
    sandboxes: Gauge,
    /// There once the agent is to serve the plugin.
    served: Family<Vec<(String, String)>, Gauge>,
    /// There once the agent has saved something, or could not.
    saved: Family<Vec<(String, String)>, Gauge>,
    lookups: Family<OfAnswer, Counter>,
}

/// How it was found out which flows an address has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    answer: &'static str,
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            adds: seconds(),
            refused: Counter::default(),
            sandboxes: Gauge::default(),
            served: Family::default(),
            saved: Family::default(),
            lookups: Family::default(),
        }
    }
}

impl Cni {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "cni_add_seconds",
            "How long an ADD of the CNI plugin took until the pod's rules were in the kernel",
            self.adds.clone(),
        );
        registry.register(
            "cni_adds_refused",
            "ADDs of the CNI plugin that the agent could not answer in time: the pod did not start, or started open as failurePolicy or openNamespaces ask",
            self.refused.clone(),
        );
        registry.register(
            "cni_sandboxes",
            "Pods of this node whose addresses the CNI plugin reported",
            self.sandboxes.clone(),
        );
        registry.register(
            "cni_served",
            "1 while the agent answers the CNI plugin, 0 while it cannot make its socket",
            self.served.clone(),
        );
        registry.register(
            "cni_saved",
            "1 while what the CNI plugin reported is saved for the next agent, 0 while it cannot be written",
            self.saved.clone(),
        );
        registry.register(
            "cni_flow_lookups",
            "Addresses of new pods in the Node's pod CIDRs: without flows by the index (index), or looked for in the \
             kernel's table of connections (walk)",
            self.lookups.clone(),
        );
    }

    /// The index of addresses that have flows was asked for ADDs.
    pub(crate) fn flow_index_answered(&self, answer: &IndexLookup) {
        let counts = [("index", answer.without_flows.len() as u64), ("walk", answer.others)];
        for (label, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.lookups.get_or_create(&OfAnswer { answer: label }).inc_by(count);
        }
    }

    /// An ADD was answered after this time.
    pub(crate) fn added(&self, took: Duration) {
        self.adds.observe(took.as_secs_f64());
    }

    /// An ADD was not answered in time.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// Whether the agent answers the plugin.
    pub(crate) fn serves(&self, is_served: bool) {
        self.served.get_or_create(&Vec::new()).set(i64::from(is_served));
    }

    /// Whether what the plugin reported is saved.
    pub(crate) fn saves(&self, is_saved: bool) {
        self.saved.get_or_create(&Vec::new()).set(i64::from(is_saved));
    }

    /// Sets how many sandboxes are known.
    pub(crate) fn has(&self, sandboxes: usize) {
        self.sandboxes.set(i64::try_from(sandboxes).unwrap_or(i64::MAX));
    }
}
