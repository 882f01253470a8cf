//! What the agent's loop asks of an enforcer between passes: whether something is due, what the kernel
//! holds, and what is to be found out beside the loop.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::engine::{CountQuestion, Counts, Engine, Preview, Previewed};
use npc_compiler::plan::conntrack::FlowKey;

use super::{Enforcer, RETAINED_FOR};
use crate::dataplane::audit::AuditScope;
use crate::dataplane::iptables::Restored;
use crate::dataplane::{Error, Flows, Kernel, ipset};
use crate::enforce::bridge_table::BridgeState;
use crate::enforce::drift::Repair;
use crate::enforce::flows::Established;

impl<K: Kernel> Enforcer<K> {
    /// Whether large changes wait until all that they make is loaded, or sets of earlier changes
    /// have still to be removed. Each pass loads a portion.
    pub fn is_loading(&self) -> bool {
        self.engine.is_loading()
    }

    /// Whether the next pass has something to do for them; otherwise they wait for [`Enforcer::preview`].
    pub(in crate::enforce) fn is_load_due(&self) -> bool {
        self.engine.is_load_due()
    }

    /// Has all that takes long to find out about large changes be found out by [`Enforcer::preview`].
    pub(in crate::enforce) fn find_out_beside(&mut self) {
        self.engine.find_out_beside(self.beside);
    }

    /// As [`Engine::preview`].
    pub(in crate::enforce) fn preview(&mut self) -> Option<Preview> {
        self.engine.preview()
    }

    /// As [`Engine::count`].
    pub(in crate::enforce) fn count(&mut self, asked: &CountQuestion) -> Counts {
        self.engine.count(asked)
    }

    /// As [`Engine::previewed`].
    pub(in crate::enforce) fn previewed(&mut self, previewed: Previewed) {
        self.engine.previewed(previewed);
    }

    /// How many events have waited for large changes so far.
    pub(in crate::enforce) fn waited(&self) -> u64 {
        self.engine.waited()
    }

    /// Whether events of a pod with one of these addresses, or of its namespace, wait that did so
    /// when [`Enforcer::waited`] was this.
    pub(in crate::enforce) fn waits_for(&self, addresses: &BTreeSet<IpAddr>, until: u64) -> bool {
        addresses.iter().any(|address| self.engine.waits_for(*address, until))
    }

    /// Whether flows have to be judged, though nothing happened in the cluster.
    pub(in crate::enforce) fn must_check_flows(&self) -> bool {
        self.writer.established.is_due()
    }

    /// Which flows are to be judged, and as whose.
    pub(in crate::enforce) fn established(&self) -> &Established {
        &self.writer.established
    }

    /// Which flows are to be judged, and as whose, to be changed; and the flows that the kernel knows.
    pub(in crate::enforce) fn established_and_flows(&mut self) -> (&mut Established, impl Fn() -> Box<dyn Flows>) {
        self.writer.established_and_flows()
    }

    /// Whether the rules of the last pass forbid these flows.
    pub(in crate::enforce) fn forbidden(&self, flows: &[FlowKey]) -> Vec<bool> {
        self.writer.established.forbidden(&self.engine, flows)
    }

    /// Whether empty groups have expired, or policies that are over the bound on set members are to
    /// be chosen anew.
    pub(in crate::enforce) fn is_retirement_due(&self) -> bool {
        let is_any = || self.engine.retained().next().is_some() || self.engine.has_policies_over_bound();
        self.retired.elapsed() >= RETAINED_FOR && is_any()
    }

    /// The engine, which knows the cluster as of the last pass.
    pub(in crate::enforce) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether the kernel, read anew, holds what was to be written last.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn holds(&mut self) -> Result<bool, Error> {
        self.writer.holds(self.engine.state())
    }

    /// Audits as [`Writer::audit`](crate::enforce::writer::Writer::audit) does; returns nothing before the first pass.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn audit(&mut self, depth: AuditScope) -> Result<Option<Repair>, Error> {
        self.writer.audit(self.engine.state(), depth)
    }

    /// As [`Writer::is_in_sync`](crate::enforce::writer::Writer::is_in_sync).
    pub(in crate::enforce) fn is_in_sync(&self) -> bool {
        self.writer.is_in_sync()
    }

    /// As [`Writer::is_proved`](crate::enforce::writer::Writer::is_proved).
    pub(in crate::enforce) fn is_proved(&self) -> bool {
        self.writer.is_proved()
    }

    /// As [`Writer::is_unhooked`](crate::enforce::writer::Writer::is_unhooked).
    pub(in crate::enforce) fn is_unhooked(&self) -> bool {
        self.writer.is_unhooked()
    }

    /// Audits the table of the bridge family, and repairs it. Answers whether another program
    /// had changed it, and how it stands now; nothing before the first pass.
    ///
    /// The next pass judges the flows that came into being while it was not there.
    pub fn audit_bridge(&mut self) -> Option<(bool, BridgeState)> {
        if !self.writer.is_probed() {
            return None;
        }
        let lacked = self.writer.bridge_lack().is_some();
        let drifted = self.frames.audit(&mut self.writer, &self.engine, self.anti_spoofing.pins_ports());
        let state = self.frames.state(self.writer.bridge_lack());
        if drifted || lacked && state.lack.is_none() {
            self.writer.established.index.was_bypassed();
            self.writer.established.rules_were_lost();
        }
        Some((drifted, state))
    }

    /// The kernel that it writes to.
    pub fn kernel(&mut self) -> &mut K {
        self.writer.kernel()
    }

    /// The restores since this was asked last, those that failed among them.
    pub fn take_restores(&mut self) -> Vec<Restored> {
        self.writer.take_restores()
    }

    /// Takes the durations of set writes since the last call.
    pub fn take_set_writes(&mut self) -> Vec<ipset::TimedWrite> {
        self.writer.take_set_writes()
    }
}
