//! The metrics of an agent. Names follow the conventions of Prometheus
//! (<https://prometheus.io/docs/practices/naming/>), with the prefix `npc_`;
//! `docs/operate.md` has them as a table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use npc_compiler::object::Family as IpFamily;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

mod cni;
mod cni_installer;
mod conntrack;
mod labels;
mod packets;

pub use cni::Cni;
pub use cni_installer::CniInstaller;
pub use conntrack::{Conntrack, Last, TableChange};
pub use labels::DriftKind;
use labels::{OfFamily, OfKind, OfStage, OfWhat, family_name};
pub use packets::Packets;

use crate::source::ObjectKind;
use crate::source::watch_metrics::Watches;

/// The content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How much of ours one family of a kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RulesetSize {
    /// How many rules.
    pub rules: usize,
    /// How many sets.
    pub sets: usize,
    /// How many members all sets have together.
    pub entries: usize,
}

/// How many NetworkPolicies there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PolicyCounts {
    pub(crate) all: usize,
    /// Of these, those that were not understood in part.
    pub(crate) rejected: usize,
    /// Those whose rules are left out, because they are over a bound.
    pub(crate) oversized: usize,
}

/// The counts and times of one agent. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Metrics {
    ready: Gauge,
    policies: Gauge,
    rejected: Gauge,
    oversized: Gauge,
    endpoints: Gauge,
    spoofable: Gauge,
    unfiltered: Family<OfFamily, Gauge>,
    contested: Gauge,
    bridge_ports: Gauge,
    bridge_held: Gauge,
    bridge_missing: Gauge,
    loading: Gauge,
    loading_since: Gauge,
    rules: Family<OfFamily, Gauge>,
    sets: Family<OfFamily, Gauge>,
    entries: Family<OfFamily, Gauge>,
    event_to_kernel: Family<OfKind, Histogram, fn() -> Histogram>,
    passes: Family<OfStage, Histogram, fn() -> Histogram>,
    failures: Counter,
    last_sync: Gauge,
    cut: Counter,
    drift_found: Family<OfWhat, Counter>,
    drift_repaired: Family<OfWhat, Counter>,
    restores: Histogram,
    restore_failures: Counter,
    lock_waits: Histogram,
    set_writes: Histogram,
    set_failures: Counter,
    ready_file_failures: Counter,
    lost_lines: Counter,
    packets: Packets,
    watches: Watches,
    cni: Cni,
    conntrack: Conntrack,
    cni_installer: CniInstaller,
}

/// From 50 µs to 26 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            ready: Gauge::default(),
            policies: Gauge::default(),
            rejected: Gauge::default(),
            oversized: Gauge::default(),
            endpoints: Gauge::default(),
            spoofable: Gauge::default(),
            unfiltered: Family::default(),
            contested: Gauge::default(),
            bridge_ports: Gauge::default(),
            bridge_held: Gauge::default(),
            bridge_missing: Gauge::default(),
            loading: Gauge::default(),
            loading_since: Gauge::default(),
            rules: Family::default(),
            sets: Family::default(),
            entries: Family::default(),
            event_to_kernel: Family::new_with_constructor(seconds),
            passes: Family::new_with_constructor(seconds),
            failures: Counter::default(),
            last_sync: Gauge::default(),
            cut: Counter::default(),
            drift_found: Family::default(),
            drift_repaired: Family::default(),
            restores: seconds(),
            restore_failures: Counter::default(),
            lock_waits: seconds(),
            set_writes: seconds(),
            set_failures: Counter::default(),
            ready_file_failures: Counter::default(),
            lost_lines: Counter::default(),
            packets: Packets::default(),
            watches: Watches::default(),
            cni: Cni::default(),
            conntrack: Conntrack::default(),
            cni_installer: CniInstaller::default(),
        };
        // Prometheus counts no increase in a counter that appears with its first event, so no alert
        // would fire for that event.
        for kind in DriftKind::ALL {
            let of = OfWhat { what: kind.as_str() };
            drop(metrics.drift_found.get_or_create(&of));
            drop(metrics.drift_repaired.get_or_create(&of));
        }
        metrics.unfiltered(std::iter::empty());
        for kind in ObjectKind::ALL {
            metrics.watches.held(kind, 0);
            metrics.watches.unreadable(kind, 0);
        }
        metrics
    }
}

impl Metrics {
    /// Makes all of them readable.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("npc");
        registry.register("build", "The agent's version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge(
            "ready",
            "1 while what the policies ask for is proved to be in the kernel, as far as it is known",
            &self.ready,
        );
        gauge("policies", "NetworkPolicies in the cluster", &self.policies);
        gauge("rejected_policies", "NetworkPolicies that npc did not fully understand", &self.rejected);
        gauge(
            "oversized_policies",
            "NetworkPolicies whose rules this node leaves out, because they are over a bound",
            &self.oversized,
        );
        gauge("endpoints", "Pods of this node that policies can select", &self.endpoints);
        gauge("spoofable_endpoints", "Of these, those whose forged sources are not dropped", &self.spoofable);
        gauge("contested_addresses", "Addresses that several pods of the cluster list", &self.contested);
        gauge(
            "bridge_ports",
            "Ports of bridges from which only plain frames come in, because they are pods'",
            &self.bridge_ports,
        );
        gauge("bridge_held_ports", "Ports of bridges that are held to their pods' own addresses", &self.bridge_held);
        gauge(
            "bridge_table_missing",
            "1 while foreign frames between bridged pods pass, because the kernel refuses the table of the bridge family",
            &self.bridge_missing,
        );
        gauge(
            "loading_namespaces",
            "Namespaces whose large changes are being loaded and are not in force yet",
            &self.loading,
        );
        gauge(
            "loading_since_timestamp_seconds",
            "Since when the change waits that waits longest for what is loaded; 0 if none does",
            &self.loading_since,
        );
        gauge("last_sync_timestamp_seconds", "When the kernel was last brought up to date", &self.last_sync);
        let mut by_family = |name, help, gauges: &Family<_, Gauge>| registry.register(name, help, gauges.clone());
        by_family("unfiltered_bridges", "Bridges by which isolated pods are reached past iptables", &self.unfiltered);
        by_family("rules", "npc's rules in the filter table", &self.rules);
        by_family("sets", "npc's sets", &self.sets);
        by_family("set_entries", "Entries of all of npc's sets", &self.entries);
        registry.register(
            "event_to_kernel_seconds",
            "From the watch event of a change to the new verdict of every new flow",
            self.event_to_kernel.clone(),
        );
        registry.register("pass_duration_seconds", "How long the stages of an update took", self.passes.clone());
        registry.register("pass_failures", "Updates that the kernel refused", self.failures.clone());
        registry.register(
            "conntrack_entries_cut",
            "Established flows cut because policies deny them now",
            self.cut.clone(),
        );
        registry.register("drift_found", "Changes of npc's rules or sets by other programs", self.drift_found.clone());
        registry.register("drift_repaired", "Of these, those repaired", self.drift_repaired.clone());
        registry.register("restore_duration_seconds", "How long an iptables-restore took", self.restores.clone());
        registry.register("restore_failures", "Of these, refused", self.restore_failures.clone());
        registry.register(
            "xtables_lock_wait_seconds",
            "How long an iptables-restore waited for other programs that write rules",
            self.lock_waits.clone(),
        );
        registry.register(
            "ipset_duration_seconds",
            "How long writing to sets took, all that could go at once",
            self.set_writes.clone(),
        );
        registry.register("ipset_failures", "Of these, refused", self.set_failures.clone());
        registry.register(
            "ready_file_failures",
            "Times that the ready file could not be written or removed",
            self.ready_file_failures.clone(),
        );
        registry.register("log_lines_lost", "Lines of the log that could not be written", self.lost_lines.clone());
        self.packets.register(&mut registry);
        self.watches.register(&mut registry);
        self.cni.register(&mut registry);
        self.conntrack.register(&mut registry);
        self.cni_installer.register(&mut registry);
        registry
    }

    /// All metrics as text for Prometheus, of type [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Never, as writing to a `String` does not fail; the library says so.
    pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, registry)?;
        Ok(text)
    }

    /// The metrics of packets that the kernel counts.
    #[must_use]
    pub fn packets(&self) -> &Packets {
        &self.packets
    }

    /// What the server of the CNI plugin writes.
    #[must_use]
    pub fn cni(&self) -> Cni {
        self.cni.clone()
    }

    /// How full the kernel's connection tracking is.
    #[must_use]
    pub fn conntrack(&self) -> &Conntrack {
        &self.conntrack
    }

    /// What the installer of the CNI plugin reports.
    #[must_use]
    pub fn cni_installer(&self) -> CniInstaller {
        self.cni_installer.clone()
    }

    /// The metrics that the watches write.
    #[must_use]
    pub fn watches(&self) -> Watches {
        self.watches.clone()
    }

    /// Counts the lines of the log that could not be written.
    #[must_use]
    pub fn lost_lines(&self) -> Counter {
        self.lost_lines.clone()
    }

    /// Counts what was lost before there were metrics, too.
    #[must_use]
    pub fn with_lost_lines(self, lost_lines: Counter) -> Self {
        Self { lost_lines, ..self }
    }

    /// The ready file could not be written or removed.
    pub(crate) fn ready_file_failed(&self) {
        self.ready_file_failures.inc();
    }

    /// The kernel is up to date.
    pub(crate) fn synced(&self, policies: PolicyCounts, endpoints: usize, sizes: &[(IpFamily, RulesetSize)]) {
        self.policies.set(count(policies.all));
        self.rejected.set(count(policies.rejected));
        self.oversized.set(count(policies.oversized));
        self.endpoints.set(count(endpoints));
        self.last_sync.set(now());
        for (family, size) in sizes {
            let of = OfFamily { family: family_name(*family) };
            self.rules.get_or_create(&of).set(count(size.rules));
            self.sets.get_or_create(&of).set(count(size.sets));
            self.entries.get_or_create(&of).set(count(size.entries));
        }
    }

    /// Sets how many endpoints can forge sources although `--anti-spoof` is on.
    pub(crate) fn spoofable(&self, endpoints: usize) {
        self.spoofable.set(count(endpoints));
    }

    /// Packets get past policies over bridges, one for each of these families.
    pub(crate) fn unfiltered(&self, bridges: impl Iterator<Item = IpFamily>) {
        let mut counts = [0; 2];
        bridges.for_each(|family| counts[family as usize] += 1);
        for family in IpFamily::ALL {
            let of = OfFamily { family: family_name(family) };
            self.unfiltered.get_or_create(&of).set(counts[family as usize]);
        }
    }

    /// Sets how many addresses several pods list.
    pub(crate) fn contested(&self, addresses: usize) {
        self.contested.set(count(addresses));
    }

    /// Since when the namespaces wait whose large changes are being loaded, as Unix times.
    pub(crate) fn loading(&self, since: impl Iterator<Item = i64>) {
        let all: Vec<i64> = since.collect();
        self.loading.set(count(all.len()));
        self.loading_since.set(all.into_iter().min().unwrap_or_default());
    }

    /// What the table of the bridge family holds, and whether it is missing.
    pub(crate) fn bridge(&self, ports: usize, pinned: usize, missing: bool) {
        self.bridge_ports.set(count(ports));
        self.bridge_held.set(count(pinned));
        self.bridge_missing.set(i64::from(missing));
    }

    /// Whether the agent is ready.
    pub(crate) fn ready_is(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// How long an update took.
    pub(crate) fn took(&self, compiled: Duration, applied: Duration) {
        for (stage, took) in [("compile", compiled), ("apply", applied)] {
            self.passes.get_or_create(&OfStage { stage }).observe(took.as_secs_f64());
        }
    }

    /// A change that the agent received this long ago is in the kernel.
    pub(crate) fn reached_kernel(&self, kind: ObjectKind, after: Duration) {
        self.event_to_kernel.get_or_create(&OfKind { kind }).observe(after.as_secs_f64());
    }

    /// The kernel refused an update.
    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    /// Established flows were cut.
    pub(crate) fn cut(&self, flows: u64) {
        self.cut.inc_by(flows);
    }

    /// Drift was found.
    pub(crate) fn drifted(&self, kind: DriftKind) {
        self.drift_found.get_or_create(&OfWhat { what: kind.as_str() }).inc();
    }

    /// Drift was repaired.
    pub(crate) fn repaired(&self, kind: DriftKind) {
        self.drift_repaired.get_or_create(&OfWhat { what: kind.as_str() }).inc();
    }

    /// Rules were written, or refused, after a wait for the xtables lock.
    pub(crate) fn restored(&self, took: Duration, waited: Duration, done: bool) {
        self.restores.observe(took.as_secs_f64());
        self.lock_waits.observe(waited.as_secs_f64());
        if !done {
            self.restore_failures.inc();
        }
    }

    /// Members of sets were written, or refused.
    pub(crate) fn wrote_sets(&self, took: Duration, done: bool) {
        self.set_writes.observe(took.as_secs_f64());
        if !done {
            self.set_failures.inc();
        }
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

fn now() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_those_of_the_table() {
        let metrics = Metrics::default();
        let registry = metrics.registry();
        metrics.synced(
            PolicyCounts { all: 3, rejected: 1, oversized: 2 },
            7,
            &[(IpFamily::V4, RulesetSize { rules: 10, sets: 2, entries: 5 })],
        );
        metrics.ready_is(true);
        metrics.took(Duration::from_millis(1), Duration::from_millis(2));
        metrics.reached_kernel(ObjectKind::Pod, Duration::from_micros(300));
        metrics.cut(4);
        metrics.wrote_sets(Duration::from_millis(1), true);
        metrics.wrote_sets(Duration::from_millis(1), false);
        metrics.drifted(DriftKind::Hook);
        metrics.drifted(DriftKind::Set);
        metrics.repaired(DriftKind::Hook);
        metrics.watches().lists(ObjectKind::NetworkPolicy);
        let text = Metrics::text(&registry).expect("a String takes it");
        for line in [
            "npc_ready 1",
            "npc_policies 3",
            "npc_rejected_policies 1",
            "npc_oversized_policies 2",
            "npc_endpoints 7",
            "npc_rules{family=\"IPv4\"} 10",
            "npc_set_entries{family=\"IPv4\"} 5",
            "npc_event_to_kernel_seconds_count{kind=\"Pod\"} 1",
            "npc_pass_duration_seconds_count{stage=\"apply\"} 1",
            "npc_conntrack_entries_cut_total 4",
            "npc_ipset_duration_seconds_count 2",
            "npc_ipset_failures_total 1",
            "npc_drift_found_total{what=\"hook\"} 1",
            "npc_drift_repaired_total{what=\"hook\"} 1",
            "npc_drift_repaired_total{what=\"set\"} 0",
            "npc_watch_restarts_total{kind=\"NetworkPolicy\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("npc_build_info{version="));
        assert!(text.ends_with("# EOF\n"));
    }
}
