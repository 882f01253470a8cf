//! One pass: what changed goes into the engine, what it makes of that into the
//! kernel, and the established flows that are denied by then are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use npc_compiler::cluster::group::Lingering;
use npc_compiler::engine::{Contested, Engine, Event};
use npc_compiler::object::Family;
use npc_compiler::plan;
use npc_compiler::plan::Plan;
use npc_compiler::policy::finding::Finding;
use npc_compiler::ruleset::layout::{self, SelfMatch};
use npc_compiler::ruleset::program::InterfaceName;
use npc_compiler::ruleset::text::POD_GROUP;
use tracing::warn;

use super::bridges::{self, UnfilteredBridge};
use super::drift::Repair;
use super::frames::{BridgeState, Frames};
use super::sources::{Asked, Sources};
use super::with_causes;
use super::writer::{Writer, Writes};
use crate::dataplane::audit::Depth;
use crate::dataplane::conntrack::Swept;
use crate::dataplane::iptables::{Hook, Restored};
use crate::dataplane::links::NO_GROUP;
use crate::dataplane::network::Network;
use crate::dataplane::{Error, Failures, Kernel, ipset};
use crate::metrics::Held;
use crate::status::Spoofable;

/// For how long at least a group is kept without endpoints, and at most twice,
/// so that a pod that is replaced by another of its kind writes no rules. Longer
/// than a pod takes to come back.
const LINGER: Duration = Duration::from_secs(60);

/// Whether the kernel was asked what rules may use. The engine commits nothing before
/// it was, in one family at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probed {
    /// It was not, or could not be.
    Not,
    /// In one family it could not be asked, or lacked what policies need; there it is
    /// asked again.
    InPart,
    /// It was, and has what policies need.
    Whole,
}

/// Keeps a kernel equal to what a cluster asks for.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact that stands by itself")]
pub struct Enforcer<K> {
    writer: Writer<K>,
    /// What the state depends on besides the cluster.
    options: layout::Options,
    /// What the kernel lacks of what [`layout::Options::anti_spoof`] takes, where
    /// it was asked for.
    no_anti_spoof: Option<String>,
    /// Ports of bridges are to be held to their pods' addresses, which takes nothing of
    /// iptables.
    hold_ports: bool,
    /// What may come from the interfaces of pods was said once.
    has_sources: bool,
    /// Follows the cluster.
    engine: Engine,
    probed: Probed,
    /// The engine heard of something since the last pass.
    has_news: bool,
    /// Pods changed since it was last asked whose addresses are whose.
    owners_are_stale: bool,
    /// When the engine was last told to let go of groups without endpoints.
    retired: Instant,
    /// The bridges whose frames passed iptables by when that was looked at last.
    unfiltered: BTreeSet<UnfilteredBridge>,
    frames: Frames,
}

/// What a pass did.
#[derive(Debug, Clone)]
pub struct Pass {
    /// How many policies there are in the cluster.
    pub policies: usize,
    /// How many endpoints are on this node.
    pub endpoints: usize,
    /// What the compiler did not understand.
    pub findings: Vec<Finding>,
    /// The groups that are kept though they have no endpoint.
    pub lingering: Vec<Lingering>,
    /// What the rules depend on besides the cluster.
    pub options: layout::Options,
    /// What was written.
    pub writes: Writes,
    /// What became of the flows that the kernel knew, if they had to be judged.
    pub flows: Option<Swept>,
    /// Where the jump to our chains was, in the families where it was not in
    /// its place.
    pub rehooked: Vec<(Family, Hook)>,
    /// Bridges behind which endpoints of this node reach each other past
    /// iptables.
    pub unfiltered_bridges: BTreeSet<UnfilteredBridge>,
    /// How the table of the bridge family stands.
    pub bridge: BridgeState,
    /// How many interfaces of pods are in their device group from now on, and how
    /// many not any more.
    pub regrouped: (usize, usize),
    /// Interfaces of pods that are not in it, and why.
    pub unheld: BTreeMap<InterfaceName, String>,
    /// Whether what is in it is held to the pods' sources.
    pub anti_spoof: bool,
    /// Pods of this node whose forged sources are not dropped, though it was asked
    /// for.
    pub spoofable: Vec<Spoofable>,
    /// Addresses that several pods of the cluster list.
    pub contests: Vec<Contested>,
    /// How much of ours each family of the kernel holds.
    pub held: [(Family, Held); 2],
    /// Since when every first packet of a flow gets the new verdict; flows that
    /// were established are cut, and leftovers cleared away, after that.
    pub enforced: Instant,
    /// How long it took to get to the writes.
    pub compiled: Duration,
    /// How long it took from there to the kernel.
    pub applied: Duration,
}

impl<K: Kernel> Enforcer<K> {
    /// Will write the states of this node to this kernel. Nothing is read or
    /// written yet.
    pub fn new(kernel: K, node: impl Into<String>) -> Self {
        Self {
            writer: Writer::new(kernel),
            options: layout::Options::default(),
            no_anti_spoof: None,
            hold_ports: false,
            has_sources: false,
            engine: Engine::new(&node.into(), layout::Options::default()).with_lingering_groups(),
            probed: Probed::Not,
            has_news: false,
            owners_are_stale: false,
            retired: Instant::now(),
            unfiltered: BTreeSet::new(),
            frames: Frames::default(),
        }
    }

    /// The same, with what whoever runs it has chosen; what the kernel can do
    /// is found out.
    #[must_use]
    pub fn with_options(self, options: layout::Options) -> Self {
        Self { hold_ports: options.anti_spoof, options, ..self }
    }

    /// Takes in what happened in the cluster. Nothing comes of it before the
    /// next pass.
    pub fn hear(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.has_news = true;
            self.owners_are_stale |= matches!(event, Event::Pod(_) | Event::PodGone(_));
            self.engine.apply(event);
        }
    }

    /// Makes the kernel equal to what the cluster asks for, as far as it was
    /// heard of.
    ///
    /// # Errors
    /// If the kernel cannot be read or written. It may then hold a part of the
    /// change, in the order in which a plan is safe; the next pass reads it
    /// again. Where that is so in one family, the other is as it should be.
    pub fn pass(&mut self, network: &Network) -> Result<Pass, Error> {
        let mut failed = Failures::default();
        if self.probed != Probed::Whole {
            self.probe(&mut failed)?;
        }
        let engine = &mut self.engine;
        let begun = Instant::now();
        // By itself, and when rules can be written: members of sets that come in
        // one plan with rules wait as long as these.
        if !std::mem::take(&mut self.has_news) && self.retired.elapsed() >= LINGER && self.writer.can_write_rules() {
            engine.retire();
            self.retired = Instant::now();
        }
        let asked = match &self.options {
            options if options.anti_spoof => Asked::Sources,
            options if options.lacks.device_group => Asked::Nothing,
            _ => Asked::Group,
        };
        let mut sources = Sources::new(asked, network, engine.addresses_here());
        // What leaves is not held to anything when its addresses go; if the rest
        // fails, it joins again with the next pass.
        match self.writer.set_group(&sources.leave, NO_GROUP) {
            Ok(()) => {
                engine.own(sources.own.iter().copied());
                self.has_sources = true;
            }
            Err(error) => {
                // Without any, all that is in the group would be dropped.
                if !std::mem::replace(&mut self.has_sources, true) {
                    engine.own(sources.own.iter().copied());
                }
                warn!(
                    error = with_causes(&error),
                    "interfaces that are no pods' any more count as such, with the sources that they had, until the \
                     kernel lets them out of the device group of pods' interfaces; policies are enforced all the same"
                );
                (sources.join, sources.leave) = Default::default();
            }
        }
        // From here to the writer nothing may fail: it relies on every change.
        let change = engine.commit();
        let compiled = begun.elapsed();
        if std::mem::take(&mut self.owners_are_stale) {
            self.writer.established.owned_as(engine);
        }
        // Nothing is waited for where no sources are held: an error of one family must
        // not let forged ICMP errors through the other.
        if asked == Asked::Group {
            self.join(&mut sources, network);
        }
        let engine = &mut self.engine;
        // One commit of its own, so each frame meets the old table or the new one.
        // Before the rules: what of a flow passes by frames that they do not see
        // would be ESTABLISHED for them. And for a pod that is isolated now, or is
        // new, nothing of it is to come later than its rules.
        self.frames.update(&mut self.writer.kernel, network, engine, self.hold_ports);
        let (writes, rehooked) = self.writer.write_each(change, engine.state(), &mut failed)?;
        let enforced = self.writer.enforced();
        // An interface is of both families, and joins once the sources of both are known.
        if asked == Asked::Sources && failed.is_empty() {
            self.join(&mut sources, network);
        }
        let unfiltered_bridges = self.look_at_bridges(network).clone();
        let flows = self.cut(network)?;
        failed.into_result()?;
        let engine = &self.engine;
        let spoofable = match &self.no_anti_spoof {
            Some(lack) => engine.addresses_here().map(|address| (address, lack.clone())).collect(),
            None if self.options.anti_spoof => {
                let mut all = sources.spoofable(network, engine.addresses_here());
                let told: BTreeSet<_> = all.iter().map(|(address, _)| *address).collect();
                all.extend(self.frames.spoofable(engine.addresses_here().filter(|address| !told.contains(address))));
                all
            }
            None => Vec::new(),
        };
        let spoofable = spoofable.into_iter().filter_map(|(address, reason)| {
            let [namespace, pod, _] = engine.owner(address)?;
            Some(Spoofable { namespace, pod, address, reason })
        });
        Ok(Pass {
            spoofable: spoofable.collect(),
            policies: engine.policies(),
            endpoints: engine.endpoints_here(),
            findings: engine.findings().cloned().collect(),
            lingering: engine.lingering().collect(),
            options: self.options.clone(),
            contests: engine.contests().collect(),
            writes,
            flows,
            rehooked,
            held: Family::ALL.map(|family| (family, held(engine.state().family(family)))),
            unfiltered_bridges,
            bridge: self.frames.state(),
            enforced,
            regrouped: (sources.join.len(), sources.leave.len()),
            unheld: sources.unheld,
            anti_spoof: self.options.anti_spoof,
            compiled,
            applied: begun.elapsed().saturating_sub(compiled),
        })
    }

    /// Finds out what rules may use. No sooner than it is needed, because asking
    /// writes, if only what no packet meets.
    fn probe(&mut self, failed: &mut Failures) -> Result<(), Error> {
        let capabilities = self.writer.kernel.probe_each(failed);
        let Some(capabilities) = capabilities else { return std::mem::take(failed).into_result() };
        let probed = if failed.is_empty() { Probed::Whole } else { Probed::InPart };
        // A family that answers only later has the rules of the first.
        if std::mem::replace(&mut self.probed, probed) != Probed::Not {
            return Ok(());
        }
        let options = &mut self.options;
        options.self_match = if capabilities.bpf { SelfMatch::Bpf } else { SelfMatch::PerEndpoint };
        options.lacks = capabilities.lacks;
        if let Some(missing) = capabilities.no_log.filter(|_| options.log_denied) {
            warn!("denied packets are not told of, because this kernel lacks {missing}");
            options.log_denied = false;
        }
        if let Some(missing) = capabilities.no_anti_spoof.filter(|_| options.anti_spoof) {
            warn!("forged sources are not dropped, because this kernel lacks {missing}");
            options.anti_spoof = false;
            self.no_anti_spoof = Some(format!("this kernel lacks {missing}"));
        }
        self.engine.set_options(options.clone());
        Ok(())
    }

    /// Has the interfaces of pods join their device group.
    fn join(&mut self, sources: &mut Sources, network: &Network) {
        if let Err(error) = self.writer.set_group(&sources.join, POD_GROUP) {
            warn!(
                error = with_causes(&error),
                "forged ICMP errors from new pods, and with --anti-spoof forged sources, are not dropped, until the \
                 kernel lets their interfaces into the device group of pods' interfaces; policies are enforced all the \
                 same"
            );
            sources.not_joined(network, "which the kernel does not let into the device group of pods' interfaces");
        }
    }

    /// Cuts the established flows that the rules forbid, if some may be forbidden.
    fn cut(&mut self, network: &Network) -> Result<Option<Swept>, Error> {
        if self.options.keep_established {
            self.writer.established.let_be();
        }
        if self.writer.established.is_due() { self.writer.cut(&self.engine, network).map(Some) } else { Ok(None) }
    }

    /// Looks which bridges with endpoints of this node behind them iptables does
    /// not see. Cheap, and to be done again and again, because another program can
    /// turn a sysctl and the kernel sends no notification: see
    /// [`Bridge::is_filtered`](crate::dataplane::network::Bridge::is_filtered).
    ///
    /// Where iptables sees one again, the next pass judges all flows: what tracks
    /// connections in the bridge itself has let them begin meanwhile.
    pub fn look_at_bridges(&mut self, network: &Network) -> &BTreeSet<UnfilteredBridge> {
        let endpoints = self.writer.established.addresses();
        let now = bridges::unfiltered(network, endpoints, self.engine.state());
        let before = std::mem::replace(&mut self.unfiltered, now);
        if !before.iter().all(|was| self.unfiltered.iter().any(|is| is.key() == was.key())) {
            self.writer.established.rules_were_lost();
        }
        &self.unfiltered
    }

    /// Whether a pass is due though nothing happened in the cluster: to judge flows.
    pub(super) fn is_to_judge(&self) -> bool {
        self.writer.established.is_due()
    }

    /// Whether a pass is due though nothing happened: to let go of groups that
    /// have had no endpoint for long.
    pub(super) fn is_to_retire(&self) -> bool {
        self.retired.elapsed() >= LINGER && self.engine.lingering().next().is_some()
    }

    /// What it knows of the cluster, as of the last pass.
    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How many established flows were cut since this enforcer began, because
    /// policies denied them by then.
    #[must_use]
    pub fn flows_cut(&self) -> u64 {
        self.writer.established.cut
    }

    /// Whether the kernel, read anew, holds what was to be written last.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn holds(&mut self) -> Result<bool, Error> {
        let held = self.writer.kernel.read()?;
        Ok(self.probed != Probed::Not && Plan::between(&held, self.engine.state()).is_empty())
    }

    /// As [`Writer::audit`]; nothing before the first pass.
    ///
    /// # Errors
    /// If the kernel cannot be looked at.
    pub fn audit(&mut self, depth: Depth) -> Result<Option<Repair>, Error> {
        if self.probed == Probed::Not { Ok(None) } else { self.writer.audit(self.engine.state(), depth) }
    }

    /// As [`Writer::is_in_sync`].
    pub(super) fn is_in_sync(&self) -> bool {
        self.writer.is_in_sync()
    }

    /// As [`Writer::is_proved`].
    pub(super) fn is_proved(&self) -> bool {
        self.writer.is_proved()
    }

    /// Looks whether the kernel still holds the table of the bridge family, and
    /// puts it right; whether another program had changed it, and how it stands
    /// now. Nothing before the first pass.
    ///
    /// The next pass judges the flows that came into being while it was not there.
    pub fn audit_bridge(&mut self) -> Option<(bool, BridgeState)> {
        if self.probed == Probed::Not {
            return None;
        }
        let lacked = self.frames.state().lack.is_some();
        let drifted = self.frames.audit(&mut self.writer.kernel, &self.engine, self.hold_ports);
        let state = self.frames.state();
        if drifted || lacked && state.lack.is_none() {
            self.writer.established.rules_were_lost();
        }
        Some((drifted, state))
    }

    /// The restores since this was asked last, those that failed among them.
    pub fn take_restores(&mut self) -> Vec<Restored> {
        self.writer.kernel.take_restores()
    }

    /// The same of the writes to sets.
    pub fn take_set_writes(&mut self) -> Vec<ipset::Written> {
        self.writer.kernel.take_set_writes()
    }
}

fn held(state: &plan::Held) -> Held {
    Held {
        rules: state.chains.values().map(Vec::len).sum(),
        sets: state.sets.len(),
        entries: state.sets.values().map(|(_, members)| members.len()).sum(),
    }
}
