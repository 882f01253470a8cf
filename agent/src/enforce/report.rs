//! What an agent says of its work: in the log, in metrics, in its status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use npc_compiler::engine::Contested;
use npc_compiler::policy::finding::Finding;
use npc_compiler::ruleset::program::InterfaceName;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::agent::Settings;
use super::bridges::UnfilteredBridge;
use super::drift::{self, Repair};
use super::enforcer::Pass;
use super::frames::BridgeState;
use crate::dataplane::ipset;
use crate::dataplane::iptables::Restored;
use crate::metrics::{Kind, Metrics};
use crate::source::kube::Notice;
use crate::source::manifests::Positions;
use crate::status::{self, LastChange, Rejected, Shared, Spoofable};

/// More changes than these are not timed one by one, as while a kernel refuses
/// for long.
const TIMED: usize = 1 << 16;

/// For how long an interface may be missing before it is told of.
const SETTLED: Duration = Duration::from_secs(10);

/// Says what is new, each thing once while it holds.
#[derive(Debug)]
pub(super) struct Report {
    metrics: Metrics,
    status: Shared,
    notices: Option<mpsc::UnboundedSender<Notice>>,
    was_ready: bool,
    /// So many lines of the log are known to be lost by who reads it.
    told_lost: u64,
    /// What waits for the kernel, since when.
    waiting: Vec<(Kind, Instant)>,
    /// What sorts of things others changed that are not yet as they were.
    unrepaired: Vec<&'static str>,
    findings: BTreeSet<Finding>,
    /// Where the objects stand, if they are from files.
    positions: Positions,
    bridges: BTreeSet<UnfilteredBridge>,
    unheld: BTreeMap<InterfaceName, String>,
    /// Addresses that several pods list, and who they are.
    contests: BTreeMap<IpAddr, Vec<[String; 2]>>,
    wanted_nodes: watch::Sender<BTreeSet<String>>,
    /// Pods that can forge sources: since when, and whether that was told.
    spoofable: BTreeMap<Spoofable, (Instant, bool)>,
}

impl Report {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            metrics: settings.metrics.clone(),
            status: settings.status.clone(),
            notices: settings.notices.clone(),
            was_ready: false,
            told_lost: 0,
            waiting: Vec::new(),
            unrepaired: Vec::new(),
            findings: BTreeSet::new(),
            positions: Positions::default(),
            bridges: BTreeSet::new(),
            unheld: BTreeMap::new(),
            contests: BTreeMap::new(),
            wanted_nodes: settings.wanted_nodes.clone(),
            spoofable: BTreeMap::new(),
        }
    }

    /// The objects stand here now.
    pub(super) fn placed(&mut self, positions: Positions) {
        self.positions = positions;
    }

    /// Something happened that the kernel is to follow.
    pub(super) fn heard(&mut self, kind: Kind, since: Option<Instant>) {
        if let Some(since) = since.filter(|_| self.waiting.len() < TIMED) {
            self.waiting.push((kind, since));
        }
    }

    /// The kernel is up to date.
    pub(super) fn passed(&mut self, pass: &Pass, generation: u64) {
        for (kind, since) in self.waiting.drain(..) {
            self.metrics.reached_kernel(kind, pass.enforced.saturating_duration_since(since));
        }
        // What an audit could not put right, a pass does, which reads the kernel.
        self.repaired();
        self.bridges(&pass.unfiltered_bridges);
        self.flows(pass);
        for (family, hook) in &pass.rehooked {
            info!(%family, found = ?hook, "put the jump to our chains first in FORWARD");
        }
        self.findings(pass);
        self.bridge_is(&pass.bridge);
        self.unheld(pass);
        self.spoofable(pass);
        self.contested(pass);
        self.publish(pass, generation);
        // Last: who reads of it in the log finds it in the metrics.
        info!(
            generation,
            policies = pass.policies,
            endpoints = pass.endpoints,
            writes = %pass.writes,
            compiled = ?pass.compiled,
            applied = ?pass.applied,
            "the kernel is up to date"
        );
    }

    /// The kernel refused, and is asked again.
    pub(super) fn failed(&self) {
        self.metrics.failed();
    }

    /// The ready file could not be written or removed.
    pub(super) fn ready_file_failed(&self) {
        self.metrics.ready_file_failed();
    }

    /// Says that lines of the log were lost, until that is not lost itself.
    pub(super) fn lost_lines(&mut self) {
        let lost = self.metrics.lost_lines().get();
        if lost > self.told_lost {
            warn!(
                lines = lost - self.told_lost,
                "lines of this log could not be written before this one; is its disk full?"
            );
            if self.metrics.lost_lines().get() == lost {
                self.told_lost = lost;
            }
        }
    }

    /// Others changed what is ours.
    pub(super) fn drifted(&mut self, repair: &Repair) {
        for drift in &repair.found {
            self.metrics.drifted(drift.kind.as_str());
            self.unrepaired.push(drift.kind.as_str());
        }
        if matches!(repair.repaired, Ok(Some(_))) {
            self.repaired();
        }
    }

    /// What others changed is as it was.
    fn repaired(&mut self) {
        self.status.update(|status| status.drift_repaired += self.unrepaired.len() as u64);
        self.unrepaired.drain(..).for_each(|what| self.metrics.repaired(what));
    }

    /// Rules and sets were written.
    pub(super) fn written(&self, restores: &[Restored], set_writes: &[ipset::Written]) {
        for restored in restores {
            self.metrics.restored(restored.took, restored.waited, restored.done);
        }
        for written in set_writes {
            self.metrics.wrote_sets(written.took, written.done);
        }
    }

    /// Whether the agent was not said before to be unready for this reason.
    pub(super) fn is_news(&self, reason: &str) -> bool {
        self.status.now().reason.as_deref() != Some(reason)
    }

    /// The kernel does not, or not yet, hold what policies need.
    pub(super) fn not_ready(&self, reason: &str) {
        self.metrics.ready_is(false);
        self.status.update(|status| {
            status.ready = false;
            status.reason = Some(reason.to_owned());
        });
    }

    /// The kernel holds what the policies ask for.
    pub(super) fn ready(&mut self) {
        if !std::mem::replace(&mut self.was_ready, true) {
            self.notify(Notice::Ready);
        }
        self.metrics.ready_is(true);
        self.status.update(|status| {
            status.ready = true;
            status.reason = None;
        });
    }

    fn flows(&self, pass: &Pass) {
        let Some(flows) = pass.flows else { return };
        self.metrics.cut(flows.cut);
        if flows.cut > 0 {
            info!(cut = flows.cut, judged = flows.judged, "cut the established flows that policies deny by now");
        }
        if flows.stuck > 0 {
            warn!(
                flows = flows.stuck,
                "policies deny these flows by now, but a flowtable or the network card forwards them; they go on"
            );
        }
    }

    fn findings(&mut self, pass: &Pass) {
        let findings: BTreeSet<Finding> = pass.findings.iter().cloned().collect();
        for finding in findings.difference(&self.findings) {
            match self.place(finding) {
                Some(place) => warn!("{place}: {finding}"),
                None => warn!("{finding}"),
            }
            self.notify(Notice::Finding(finding.clone()));
        }
        self.findings = findings;
    }

    fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Who does not listen has no cluster any more.
            let _ = notices.send(notice);
        }
    }

    fn place(&self, finding: &Finding) -> Option<String> {
        let Finding { namespace, name, path, .. } = finding;
        self.positions.locate("NetworkPolicy", namespace, name, path).map(|place| place.to_string())
    }

    /// Iptables does not see what goes from port to port of these bridges.
    pub(super) fn bridges(&mut self, now: &BTreeSet<UnfilteredBridge>) {
        if *now == self.bridges {
            return;
        }
        let is_in = |all: &BTreeSet<UnfilteredBridge>, one: &UnfilteredBridge| all.iter().any(|b| b.key() == one.key());
        // First: who reads of it in the log finds it in the metrics.
        self.metrics.unfiltered(now.iter().filter(|bridge| bridge.evades_policies()).map(|bridge| bridge.family));
        let told = now.iter().map(|bridge| status::UnfilteredBridge {
            bridge: bridge.bridge.clone(),
            family: bridge.family.to_string(),
            ports: bridge.ports,
            isolated: bridge.isolated,
        });
        self.status.update(|status| status.unfiltered_bridges = told.collect());
        for new in now.iter().filter(|new| !is_in(&self.bridges, new)) {
            let UnfilteredBridge { bridge, family, ports, isolated } = new;
            warn!(
                bridge, %family, ports, isolated,
                "pods behind this bridge reach each other past iptables, so policies between them do nothing; \
                 load br_netfilter and set net.bridge.bridge-nf-call-iptables (and -ip6tables) to 1, or nf_call_iptables \
                 (and nf_call_ip6tables) of the bridge"
            );
        }
        for UnfilteredBridge { bridge, family, .. } in self.bridges.iter().filter(|old| !is_in(now, old)) {
            info!(bridge, %family, "iptables sees what pods behind this bridge send to each other");
        }
        self.bridges.clone_from(now);
    }

    /// The table of the bridge family was looked at.
    pub(super) fn bridge_audited(&self, drifted: bool, state: &BridgeState) {
        if drifted {
            let kind = drift::Kind::Bridge;
            warn!(%kind, name = "bridge npc", "another program changed the table of ours for bridges");
            self.metrics.drifted(kind.as_str());
            if state.lack.is_none() {
                info!("the table bridge npc is as it was");
                self.metrics.repaired(kind.as_str());
                self.status.update(|status| status.drift_repaired += 1);
            }
        }
        self.bridge_is(state);
    }

    fn bridge_is(&self, state: &BridgeState) {
        self.metrics.bridge(state.ports, state.held, state.lack.is_some());
        let BridgeState { ports, held, guarded, lack } = state.clone();
        self.status.update(|status| status.bridge = status::Bridge { ports, held, guarded, lack });
    }

    fn unheld(&mut self, pass: &Pass) {
        let (begun, ended) = pass.regrouped;
        if (begun, ended) != (0, 0) {
            info!(begun, ended, "interfaces joined the device group of pods' interfaces, or left it");
        }
        for (interface, reason) in pass.unheld.iter().filter(|(name, _)| !self.unheld.contains_key(*name)) {
            if pass.anti_spoof {
                warn!(%interface, reason, "forged sources from the pods behind this interface are not dropped");
            }
            info!(%interface, reason, "ICMP errors from the pods behind this interface are told from forged ones by length only");
        }
        self.unheld.clone_from(&pass.unheld);
    }

    /// Says once of each address that several pods list it, and which of them
    /// this node takes to have it.
    fn contested(&mut self, pass: &Pass) {
        for contest in pass.contests.iter().filter(|contest| !self.contests.contains_key(&contest.address)) {
            let Contested { address, is_here, .. } = contest;
            let pods = names(&contest.claimants);
            let held_by = names(&contest.holders);
            match (contest.holders.len(), is_here) {
                (1, true) => {
                    info!(%address, pods, held_by, "several pods list one address; this node's own pod has it");
                }
                (1, false) => info!(%address, pods, held_by, "several pods list one address"),
                (_, true) => warn!(
                    %address, pods,
                    "several pods of this node list one address, and nothing tells which of them has it; it is isolated \
                     if any of them is, and admitted only what the policies of each admit"
                ),
                (_, false) => warn!(
                    %address, pods,
                    "several pods list one address, and nothing tells which of them has it; rules of this node admit it \
                     only where they admit each of these pods. Delete the objects of pods that do not run"
                ),
            }
        }
        let contests = pass.contests.iter();
        self.contests = contests.clone().map(|contest| (contest.address, contest.claimants.clone())).collect();
        self.metrics.contested(self.contests.len());
        // Of pods of its own, a node knows by itself; and Nodes of pods about
        // which no rule asks change nothing.
        let wanted = contests.filter(|contest| contest.is_asked && !contest.is_here).flat_map(|contest| &contest.nodes);
        let wanted: BTreeSet<String> = wanted.cloned().collect();
        self.wanted_nodes.send_if_modified(|nodes| {
            let is_other = *nodes != wanted;
            *nodes = wanted;
            is_other
        });
    }

    fn spoofable(&mut self, pass: &Pass) {
        let now = Instant::now();
        let of = |pod: &Spoofable| (pod.clone(), self.spoofable.get(pod).copied().unwrap_or((now, false)));
        self.spoofable = pass.spoofable.iter().map(of).collect();
        let pods: BTreeSet<_> = self.spoofable.keys().map(|pod| (&pod.namespace, &pod.pod)).collect();
        self.metrics.spoofable(pods.len());
    }

    /// Warns of pods that have been able to forge sources for a while. One that
    /// goes has lost its interface when the API still tells of it.
    pub(super) fn tell_spoofable(&mut self) {
        for (pod, (since, told)) in &mut self.spoofable {
            if since.elapsed() >= SETTLED && !std::mem::replace(told, true) {
                let Spoofable { namespace, pod, address, reason } = pod;
                warn!(pod = format!("{namespace}/{pod}"), %address, reason, "forged sources from this pod are not dropped");
            }
        }
    }

    fn publish(&self, pass: &Pass, generation: u64) {
        let policies: BTreeSet<_> = self.findings.iter().map(|found| (&found.namespace, &found.name)).collect();
        self.metrics.synced(pass.policies, policies.len(), pass.endpoints, &pass.held);
        self.metrics.took(pass.compiled, pass.applied);
        let rejected = self.findings.iter().map(|finding| Rejected {
            namespace: finding.namespace.clone(),
            name: finding.name.clone(),
            path: finding.path.clone(),
            problem: finding.problem.clone(),
            effect: finding.effect.to_string(),
            location: self.place(finding),
        });
        let kernel = pass.held.iter().map(|(family, held)| status::Held {
            family: family.to_string(),
            rules: held.rules,
            sets: held.sets,
            entries: held.entries,
        });
        let now = Timestamp::now();
        let micros = |took: std::time::Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.status.update(|status| {
            status.generation = generation;
            status.synced = Some(now);
            status.policies = pass.policies;
            status.endpoints = pass.endpoints;
            status.kernel = kernel.collect();
            status.flows_cut += pass.flows.map_or(0, |flows| flows.cut);
            status.rejected = rejected.collect();
            status.spoofable = self.spoofable.keys().cloned().collect();
            status.contested = pass.contests.iter().map(contested).collect();
            status.options = Some((&pass.options).into());
            status.lingering = pass.lingering.iter().cloned().map(Into::into).collect();
            if !pass.writes.is_nothing() {
                status.last_change = Some(LastChange {
                    at: now,
                    writes: pass.writes.to_string(),
                    compile_micros: micros(pass.compiled),
                    apply_micros: micros(pass.applied),
                });
            }
        });
    }
}

fn name([namespace, name]: &[String; 2]) -> String {
    format!("{namespace}/{name}")
}

fn names(pods: &[[String; 2]]) -> String {
    pods.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn contested(contest: &Contested) -> status::ContestedAddress {
    status::ContestedAddress {
        address: contest.address,
        pods: contest.claimants.iter().map(name).collect(),
        held_by: contest.holders.iter().map(name).collect(),
    }
}
