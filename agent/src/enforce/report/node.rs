//! What the agent reports of its node: bridges, interfaces of pods, and addresses that
//! several pods list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::engine::Contested;
use tracing::{info, warn};

use super::Reporter;
use crate::enforce::bridge_table::BridgeState;
use crate::enforce::bridges::UnfilteredBridge;
use crate::enforce::pass::Pass;
use crate::metrics::DriftKind;
use crate::status::{self, Spoofable};

/// How long a pod can forge sources before the agent logs it. A pod that goes has lost its
/// interface when the API still has it.
const SETTLED: Duration = Duration::from_secs(10);

impl Reporter {
    /// Reports the bridges where iptables filters no frame that goes from port to port.
    pub(in crate::enforce) fn bridges(&mut self, now: &BTreeSet<UnfilteredBridge>) {
        if *now == self.bridges {
            return;
        }
        let is_in =
            |all: &BTreeSet<UnfilteredBridge>, one: &UnfilteredBridge| all.iter().any(|other| other.key() == one.key());
        // First: a reader of the lines below finds it in the metrics.
        self.metrics.unfiltered(now.iter().filter(|bridge| bridge.evades_policies()).map(|bridge| bridge.family));
        let bridges = now.iter().map(|bridge| status::UnfilteredBridgeStatus {
            bridge: bridge.bridge.clone(),
            family: bridge.family.to_string(),
            ports: bridge.ports,
            isolated: bridge.isolated,
        });
        self.status.update(|status| status.unfiltered_bridges = bridges.collect());
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

    /// The table of the bridge family was audited.
    pub(in crate::enforce) fn bridge_audited(&self, drifted: bool, state: &BridgeState) {
        if drifted {
            let kind = DriftKind::Bridge;
            let name = "bridge npc";
            warn!(%kind, name, found = "another program changed the table", by = "unknown", "drift found");
            self.metrics.drifted(kind);
            if state.lack.is_none() {
                info!(%kind, name, "drift repaired");
                self.metrics.repaired(kind);
                self.status.update(|status| status.drift_repaired += 1);
            }
        }
        self.bridge_is(state);
    }

    pub(super) fn bridge_is(&self, state: &BridgeState) {
        self.metrics.bridge(state.ports, state.pinned, state.lack.is_some());
        let BridgeState { ports, pinned, guarded, lack } = state.clone();
        self.status.update(|status| status.bridge = status::BridgeStatus { ports, held: pinned, guarded, lack });
    }

    pub(super) fn unpinned(&mut self, pass: &Pass) {
        let (joined, left) = pass.regrouped;
        if (joined, left) != (0, 0) {
            info!(joined, left, "changed which interfaces are marked as those of pods (their device group)");
        }
        for (interface, reason) in pass.unpinned.iter().filter(|(name, _)| !self.unpinned.contains_key(*name)) {
            if pass.options.anti_spoof {
                warn!(%interface, reason, "forged sources from the pods behind this interface are not dropped");
            }
            info!(%interface, reason, "forged ICMP errors from the pods behind this interface are dropped by their length only");
        }
        self.unpinned.clone_from(&pass.unpinned);
    }

    /// Logs which addresses several pods list, and which of the pods has each as this node sees it.
    /// While the same pods list an address, the log has it once.
    pub(super) fn contested(&mut self, pass: &Pass) {
        // One line for pods that share an address of each family.
        let mut new = BTreeMap::<_, Vec<String>>::new();
        for contest in pass.contests.iter().filter(|contest| !self.contests.contains_key(&contest.address)) {
            let Contested { address, is_here, claimants, holders, .. } = contest;
            new.entry((claimants, holders, is_here)).or_default().push(address.to_string());
        }
        for ((claimants, holders, is_here), addresses) in new {
            let (address, pods, held_by) = (addresses.join(", "), names(claimants), names(holders));
            match (holders.len(), is_here) {
                (1, true) => {
                    info!(address, pods, held_by, "several pods list one address; this node's own pod has it");
                }
                (1, false) => info!(address, pods, held_by, "several pods list one address"),
                (_, true) => warn!(
                    address,
                    pods,
                    "several pods of this node list one address, and no object shows which of them has it; the address \
                     is isolated if one of these pods is, and receives and sends only what the policies of each of them allow"
                ),
                (_, false) => warn!(
                    address,
                    pods,
                    "several pods list one address, and no object shows which of them has it; rules of this node admit \
                     the address only where they admit each of these pods. Delete the objects of pods that do not run"
                ),
            }
        }
        let contests = pass.contests.iter();
        self.contests = contests.clone().map(|contest| (contest.address, contest.claimants.clone())).collect();
        self.metrics.contested(self.contests.len());
        // A node knows its own pods without a Node. If no rule asks about the pods of a Node,
        // that Node changes nothing.
        let wanted = contests.filter(|contest| contest.is_asked && !contest.is_here).flat_map(|contest| &contest.nodes);
        let wanted: BTreeSet<String> = wanted.cloned().collect();
        self.wanted_nodes.send_if_modified(|nodes| {
            let is_other = *nodes != wanted;
            *nodes = wanted;
            is_other
        });
    }

    pub(super) fn spoofable(&mut self, pass: &Pass) {
        let now = Instant::now();
        let of = |pod: &Spoofable| (pod.clone(), self.spoofable.get(pod).copied().unwrap_or((now, false)));
        self.spoofable = pass.spoofable.iter().map(of).collect();
        let pods: BTreeSet<_> = self.spoofable.keys().map(|pod| (&pod.namespace, &pod.pod)).collect();
        self.metrics.spoofable(pods.len());
    }

    /// Warns of pods that can forge sources, once each of them has been able to for a while.
    pub(in crate::enforce) fn spoofable_for_long(&mut self) {
        for (pod, (since, is_logged)) in &mut self.spoofable {
            if since.elapsed() >= SETTLED && !std::mem::replace(is_logged, true) {
                let Spoofable { namespace, pod, address, reason } = pod;
                warn!(pod = format!("{namespace}/{pod}"), %address, reason, "forged sources from this pod are not dropped");
            }
        }
    }
}

pub(super) fn name([namespace, name]: &[String; 2]) -> String {
    format!("{namespace}/{name}")
}

fn names(pods: &[[String; 2]]) -> String {
    pods.iter().map(name).collect::<Vec<_>>().join(", ")
}
