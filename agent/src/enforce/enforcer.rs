//! One pass: changes go into the engine, and its plan goes to the kernel. Established flows
//! that policies deny now are to be cut then.

mod between_passes;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use npc_compiler::engine::{Engine, Event};
use npc_compiler::object::Family;
use npc_compiler::plan;
use npc_compiler::ruleset::layout::{self, SelfMatch};
use npc_compiler::ruleset::names::seed::Seed;
use tokio::time;
use tracing::{debug, warn};

use super::anti_spoofing::AntiSpoofing;
use super::bridge_table::Frames;
use super::bridges::{self, UnfilteredBridge};
use super::device_group::DeviceGroup;
use super::loading::Loading;
use super::pace::{BESIDE, LARGE};
use super::pass::Pass;
use super::pod_interfaces::{InterfaceQuestion, PodInterfaces};
use super::writer::Writer;
use super::writes::Writes;
use crate::dataplane::network::Network;
use crate::dataplane::probe::Supported;
use crate::dataplane::{Error, Failures, Kernel};
use crate::metrics::RulesetSize;
use crate::status::Spoofable;

/// An empty group is retained for so long at least, and for twice as long at most. So a
/// pod that another of its kind replaces takes no write to a rule. Longer than a pod takes
/// to come back.
const RETAINED_FOR: Duration = Duration::from_secs(60);

/// For so long a pass in which one family failed loads portions of large changes in the other one.
const LOADED_BESIDE_FAILURE: Duration = Duration::from_millis(200);

/// What the engine was given since the last pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Nothing,
    /// No pod changed, so no address has a new owner.
    NoPods,
    Pods,
}

/// Keeps a kernel equal to what a cluster asks for.
#[derive(Debug)]
pub struct Enforcer<K> {
    writer: Writer<K>,
    /// What the ruleset depends on besides the cluster.
    options: layout::RulesetOptions,
    /// What is done about forged sources.
    anti_spoofing: AntiSpoofing,
    /// Groups stand in the dispatch tree by a secret of the node.
    has_secret_places: bool,
    /// Follows the cluster.
    engine: Engine,
    changed: Changed,
    group: DeviceGroup,
    /// When the engine last let empty groups expire.
    retired: time::Instant,
    /// The bridges whose frames passed by iptables at the last check.
    unfiltered: BTreeSet<UnfilteredBridge>,
    frames: Frames,
    /// How much of large changes is loaded at once, and since when they are.
    loading: Loading,
    /// What may make more rules and sets than this is found out beside the loop.
    beside: usize,
    /// The version of the engine's findings that the last pass reported.
    findings_version: Option<u64>,
    /// The last pass came so far that the engine had taken in all that came before it.
    is_committed: bool,
}

impl<K: Kernel> Enforcer<K> {
    /// Will write the rulesets of this node to this kernel. Nothing is read or written yet.
    pub fn new(kernel: K, node: impl Into<String>) -> Self {
        Self {
            writer: Writer::new(kernel),
            options: layout::RulesetOptions::default(),
            anti_spoofing: AntiSpoofing::Off,
            has_secret_places: false,
            engine: Engine::new(&node.into(), layout::RulesetOptions::default()).with_retained_groups(),
            changed: Changed::Nothing,
            group: DeviceGroup::default(),
            retired: time::Instant::now(),
            findings_version: None,
            is_committed: false,
            unfiltered: BTreeSet::new(),
            frames: Frames::default(),
            loading: Loading::default(),
            beside: BESIDE,
        }
    }

    /// The same enforcer, which loads large changes of one namespace first, while those of others go on.
    #[must_use]
    pub fn with_large_changes_first(self) -> Self {
        Self { engine: self.engine.with_large_changes_first(LARGE), ..self }
    }

    /// The same, with changes of more rules and sets than this loaded first, instead of 1,000.
    #[cfg(test)]
    pub(super) fn with_large_changes(self, limit: usize) -> Self {
        Self { engine: self.engine.with_large_changes_first(limit), beside: limit, ..self }
    }

    /// The same enforcer, with the options that the operator chose. At the first pass it leaves out
    /// the options that the kernel does not support.
    #[must_use]
    pub fn with_options(self, options: layout::RulesetOptions) -> Self {
        let anti_spoofing = if options.anti_spoof { AntiSpoofing::On } else { AntiSpoofing::Off };
        Self { options, anti_spoofing, ..self }
    }

    /// The same enforcer, with groups in places of the dispatch tree that no tenant knows. The
    /// secret that decides the places is the one that the kernel keeps, or a new one.
    #[must_use]
    pub fn with_secret_places(self) -> Self {
        Self { has_secret_places: true, ..self }
    }

    /// The same enforcer, with an index in the kernel of the addresses that have flows. The index answers for new pods
    /// without a walk through all flows. It needs the Node's pod CIDRs.
    #[must_use]
    pub fn with_flow_index(mut self) -> Self {
        self.writer.established.index.turn_on();
        self
    }

    /// This node's pods get their addresses from these networks, if that is known apart from the
    /// Nodes among the events.
    pub(super) fn pod_cidrs_are(&mut self, pod_cidrs: &[IpNetwork]) {
        self.writer.established.index.use_networks_of_source(pod_cidrs);
    }

    /// Takes in what happened in the cluster, of each namespace as one change. Nothing comes of it before the
    /// next pass. What makes thousands of rules waits longer, until these are loaded
    /// ([`Engine::offer_all`]).
    pub fn take(&mut self, events: impl IntoIterator<Item = Event>) {
        let events: Vec<Event> = events.into_iter().collect();
        for event in &events {
            let is_of_pod = matches!(event, Event::Pod(_) | Event::PodGone(_));
            self.changed = self.changed.max(if is_of_pod { Changed::Pods } else { Changed::NoPods });
        }
        self.engine.offer_all(events);
    }

    /// Makes the kernel equal to what the cluster asks for, as far as the engine knows it.
    ///
    /// # Errors
    /// If the kernel cannot be read or written. It may then hold a part of the
    /// change, in the order in which a plan is safe; the next pass reads it
    /// again. Where that is so in one family, the other is as it should be.
    pub fn pass(&mut self, network: &Network) -> Result<Pass, Error> {
        let mut failed = Failures::default();
        self.is_committed = false;
        if self.has_secret_places && self.options.seed.is_none() {
            let kept = self.writer.seed()?;
            self.options.seed = Some(kept.unwrap_or_else(new_seed));
        }
        if let Some(capabilities) = self.writer.probe(&mut failed)? {
            self.use_only(capabilities);
        }
        let engine = &mut self.engine;
        let begun = Instant::now();
        // A pass that writes nothing else, because a new pod's set members that are in one plan
        // with rules wait for these. Pods of one namespace could prevent such a pass, so the wait
        // has a limit. And only when rules can be written.
        let patience = if self.changed == Changed::Nothing { RETAINED_FOR } else { 2 * RETAINED_FOR };
        if self.retired.elapsed() >= patience && self.writer.can_write_rules() {
            engine.retire();
            engine.reconsider_bound();
            self.retired = time::Instant::now();
        }
        // Pods that waited may come with this commit.
        if engine.waiting().next().is_some() {
            self.changed = Changed::Pods;
        }
        let asked = match &self.options {
            options if options.anti_spoof => InterfaceQuestion::Sources,
            options if options.lacks.device_group => InterfaceQuestion::Nothing,
            _ => InterfaceQuestion::Group,
        };
        let mut interfaces = PodInterfaces::new(asked, network, engine.local_addresses());
        self.group.leave(&mut interfaces, &mut self.writer, engine);
        // From here to the writer nothing may fail: it relies on every change.
        let change = engine.commit();
        self.is_committed = true;
        let compiled = begun.elapsed();
        if std::mem::replace(&mut self.changed, Changed::Nothing) == Changed::Pods {
            self.writer.established.owned_as(engine);
        }
        // Nothing is waited for where no sources are pinned: an error of one family must
        // not let forged ICMP errors through the other.
        if asked == InterfaceQuestion::Group {
            DeviceGroup::join(&mut interfaces, &mut self.writer, network);
        }
        let engine = &mut self.engine;
        // One commit of its own, so each frame meets the old table or the new one. Before the
        // rules: a flow whose frames pass without meeting the rules would be ESTABLISHED for them.
        // And for a pod that is isolated now, or is new, nothing of it is to come later than its
        // rules.
        self.frames.update(&mut self.writer, network, engine, self.anti_spoofing.pins_ports());
        let (writes, rehooked) = self.writer.write_each(change, engine.state(), engine.is_loading(), &mut failed)?;
        let enforced = self.writer.enforced();
        // An interface is of both families, and joins once the sources of both are known.
        if asked == InterfaceQuestion::Sources && failed.is_empty() {
            DeviceGroup::join(&mut interfaces, &mut self.writer, network);
        }
        let unfiltered_bridges = self.check_bridges(network).clone();
        self.writer.established.index.use_networks_of_node(self.engine.pod_cidrs());
        self.writer.established.enforced(&self.engine, network);
        if self.options.keep_established {
            self.writer.established.let_be();
        }
        let applied = begun.elapsed().saturating_sub(compiled);
        // A family that fails does not hold up the other one.
        let is_load_blocked = !self.load(&mut failed);
        failed.into_result()?;
        self.writer.remove_unneeded_flow_index();
        let engine = &self.engine;
        let version = engine.findings_version();
        let has_new_findings = self.findings_version.replace(version) != Some(version);
        let spoofable = match &self.anti_spoofing {
            AntiSpoofing::PortsOnly { lack } => {
                engine.local_addresses().map(|address| (address, lack.clone())).collect()
            }
            AntiSpoofing::On => {
                let mut all = interfaces.spoofable(network, engine.local_addresses());
                let known: BTreeSet<_> = all.iter().map(|(address, _)| *address).collect();
                let others = engine.local_addresses().filter(|address| !known.contains(address));
                all.extend(self.frames.spoofable(others, self.writer.bridge_lack()));
                all
            }
            AntiSpoofing::Off => Vec::new(),
        };
        let spoofable = spoofable.into_iter().filter_map(|(address, reason)| {
            let [namespace, pod, _] = engine.owner(address)?;
            Some(Spoofable { namespace, pod, address, reason })
        });
        Ok(Pass {
            spoofable: spoofable.collect(),
            policies: engine.policies(),
            endpoints: engine.local_endpoints(),
            findings: has_new_findings.then(|| engine.findings().cloned().collect()),
            retained: engine.retained().collect(),
            options: self.options.clone(),
            loading: self.loading.status(engine),
            is_load_blocked,
            contests: engine.contests().collect(),
            writes,
            rehooked,
            sizes: Family::ALL.map(|family| (family, size_of(engine.state().family(family)))),
            unfiltered_bridges,
            bridge: self.frames.state(self.writer.bridge_lack()),
            enforced,
            regrouped: (interfaces.join.len(), interfaces.leave.len()),
            unpinned: interfaces.unpinned,
            compiled,
            applied,
        })
    }

    /// The last pass failed. Those of these addresses whose part of the ruleset is in the kernel all
    /// the same; their flows are to be judged next.
    ///
    /// With sources to be pinned there are none: the interfaces of new pods are pinned to them only once
    /// everything is written.
    pub(super) fn in_force(&mut self, addresses: &BTreeSet<IpAddr>, network: &Network) -> BTreeSet<IpAddr> {
        if addresses.is_empty() || !self.is_committed || self.options.anti_spoof {
            return BTreeSet::new();
        }
        let in_force = self.writer.in_force(self.engine.state(), addresses);
        self.writer.established.enforced_for(&in_force, network);
        in_force
    }

    /// Loads a portion of the large changes that wait, in the families that have not failed. No
    /// packet meets it yet. Answers whether it could.
    ///
    /// While a family fails, passes are rare, so more than one portion comes with each.
    fn load(&mut self, failed: &mut Failures) -> bool {
        self.loading.note(&self.engine);
        if !self.engine.is_load_due() {
            return true;
        }
        // The lock may be another program's for long, and nothing waits for this but the namespace.
        if !self.writer.can_load(failed) {
            return false;
        }
        let has_failed = !failed.is_empty();
        let begun = Instant::now();
        loop {
            let plan = self.engine.load(self.loading.pace.portion());
            let write_begun = Instant::now();
            self.writer.load(&plan, failed);
            let took = write_begun.elapsed();
            debug!(writes = %Writes::of(&plan), ?took, "loaded a portion of a large change");
            self.loading.pace.took(&plan, took);
            if plan.is_empty() || failed.is_of_all() || !has_failed || begun.elapsed() > LOADED_BESIDE_FAILURE {
                return true;
            }
        }
    }

    /// Has rules use what this kernel supports, and nothing else.
    fn use_only(&mut self, capabilities: Supported) {
        let options = &mut self.options;
        options.self_match = if capabilities.bpf { SelfMatch::Bpf } else { SelfMatch::PerEndpoint };
        options.lacks = capabilities.lacks;
        if let Some(missing) = capabilities.no_log.filter(|_| options.log_denied) {
            warn!("denied flows are not logged, because this kernel lacks {missing}");
            options.log_denied = false;
        }
        if let Some(missing) = capabilities.no_anti_spoof.filter(|_| options.anti_spoof) {
            warn!("forged sources are not dropped, because this kernel lacks {missing}");
            options.anti_spoof = false;
            self.anti_spoofing = AntiSpoofing::PortsOnly { lack: format!("this kernel lacks {missing}") };
        }
        self.engine.set_options(options.clone());
    }

    /// Finds the bridges with endpoints of this node behind them whose frames iptables does not
    /// filter. It is cheap, and must be called again and again, because another program can change
    /// a sysctl and the kernel sends no notification of it: see
    /// [`Bridge::is_filtered`](crate::dataplane::network::Bridge::is_filtered).
    ///
    /// Once iptables filters a bridge's frames again, all flows are judged after the next pass: connection tracking in
    /// the bridge itself has let them begin meanwhile.
    pub fn check_bridges(&mut self, network: &Network) -> &BTreeSet<UnfilteredBridge> {
        let endpoints = self.writer.established.addresses();
        let now = bridges::unfiltered(network, endpoints, self.engine.state());
        let before = std::mem::replace(&mut self.unfiltered, now);
        self.writer.established.index.is_bypassed(!self.unfiltered.is_empty());
        if !before.iter().all(|was| self.unfiltered.iter().any(|is| is.key() == was.key())) {
            self.writer.established.rules_were_lost();
        }
        &self.unfiltered
    }
}

/// A secret that no other node has. The standard library asks the kernel for the keys of its
/// hashes, 128 bits.
fn new_seed() -> Seed {
    let keys = RandomState::new();
    let mut bytes = [0; 32];
    for (number, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&keys.hash_one(number).to_ne_bytes());
    }
    Seed::from_bytes(bytes)
}

fn size_of(state: &plan::FamilyState) -> RulesetSize {
    RulesetSize {
        rules: state.chains.values().map(Vec::len).sum(),
        sets: state.sets.len(),
        entries: state.sets.values().map(|(_, members)| members.len()).sum(),
    }
}
