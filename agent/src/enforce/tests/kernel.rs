//! A kernel in memory that records what is asked of it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::{FlowKey, FlowScope};
use npc_compiler::plan::{Delta, FamilyState, KernelState, Plan, SetWrite, Step, Unexpected};
use npc_compiler::ruleset::node::ChainName;
use tokio::sync::mpsc;

use super::faults::Fault;
use crate::dataplane::audit::{Audit, AuditScope};
use crate::dataplane::bridge::{self, BridgeTable, peer::Peer};
use crate::dataplane::conntrack::{self, Judge, Swept};
use crate::dataplane::flow_index::{IndexLookup, RenewalRequest};
use crate::dataplane::ipset::Refusal;
use crate::dataplane::iptables::{self, Hook};
use crate::dataplane::probe::Supported;
use crate::dataplane::{self, CutResult, Failures, Flows, Kernel, ipset, nftables};

/// What was asked of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Probe,
    Read,
    Apply,
    Refused,
    Hook,
    Audit,
    Cut,
    Group(u32, u32),
}
use Call::{Apply, Audit as Audited, Cut, Hook as Hooked, Probe, Read, Refused};

/// What a recording kernel holds.
#[allow(clippy::struct_excessive_bools, reason = "each is a fact that stands by itself")]
pub(super) struct Memory {
    pub(super) state: KernelState,
    pub(super) hooks: [Hook; 2],
    pub(super) flows: Vec<FlowKey>,
    /// How many plans it will refuse, each at its first write of chains.
    pub(super) refusals: usize,
    /// It refuses all writes of rules in this family.
    pub(super) broken: Option<Family>,
    /// It refuses each write to sets that has one of these words, as ipset(8) has it.
    pub(super) refused_words: Vec<&'static str>,
    /// The last plan that it carried out.
    pub(super) plan: Plan,
    /// The next full audit fails.
    pub(super) is_blind: bool,
    /// Another program makes this of it before the next full audit.
    pub(super) put_back: Option<KernelState>,
    /// When plans come into force as it reports; otherwise when they are done.
    pub(super) in_force: Option<std::time::Instant>,
    /// What another program does after so many more steps.
    pub(super) fault: Option<(usize, Fault)>,
    /// It reports plans as carried out that are not.
    pub(super) lies: bool,
    /// Plans begin, and end when this is sent.
    pub(super) hangs: Option<std::sync::mpsc::Receiver<()>>,
    /// The next full audit takes until then.
    pub(super) slow_audit: Option<std::sync::mpsc::Receiver<()>>,
    /// The jump cannot be put into its place.
    pub(super) unhookable: bool,
    pub(super) bridge: BridgeTable,
    /// It refuses that table, with this number.
    pub(super) no_bridge: Option<i32>,
    /// Another program keeps the lock that rules need.
    pub(super) locked: bool,
    /// The scopes of all sweeps.
    pub(super) scopes: Vec<FlowScope>,
    /// For each of them, the new addresses, whose flows all belong to earlier pods.
    pub(super) new: Vec<BTreeSet<IpAddr>>,
    /// For each of them, what it renewed of the index.
    pub(super) renewals: Vec<Option<RenewalRequest>>,
    /// Which addresses have no flow by its index, if it has one.
    pub(super) index: Option<BTreeSet<IpAddr>>,
    /// It refuses to make one.
    pub(super) lacks_index: bool,
    /// The table of an earlier agent, of so many removals that fail.
    pub(super) index_removals: Option<u32>,
    /// The epochs for which it was asked about that.
    pub(super) epochs: Vec<u64>,
    /// How many sweeps it will refuse.
    pub(super) uncut: usize,
    /// The next sweep has its list, and goes on when this is sent.
    pub(super) sweep_hangs: Option<std::sync::mpsc::Receiver<()>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            state: KernelState::default(),
            hooks: [Hook::Absent; 2],
            flows: Vec::new(),
            refusals: 0,
            broken: None,
            refused_words: Vec::new(),
            plan: Plan::default(),
            is_blind: false,
            put_back: None,
            in_force: None,
            fault: None,
            lies: false,
            hangs: None,
            slow_audit: None,
            unhookable: false,
            bridge: BridgeTable::default(),
            no_bridge: None,
            locked: false,
            renewals: Vec::new(),
            index: None,
            lacks_index: false,
            index_removals: None,
            epochs: Vec::new(),
            scopes: Vec::new(),
            new: Vec::new(),
            uncut: 0,
            sweep_hangs: None,
        }
    }
}

impl Memory {
    /// One step more is done, and another program does what it is to do after it.
    fn stepped(&mut self) {
        match &mut self.fault {
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                fault.befall(self);
            }
            Some((steps, _)) => *steps -= 1,
            None => {}
        }
    }
}

pub(super) fn refused() -> dataplane::Error {
    ipset::Error::Silent(Duration::ZERO).into()
}

/// A kernel in memory that sends every call. It sends under the lock, so a test that
/// receives a call and then takes the lock finds the call done.
pub(super) struct Recording {
    pub(super) memory: Arc<Mutex<Memory>>,
    pub(super) calls: mpsc::UnboundedSender<Call>,
}

impl Kernel for Recording {
    fn probe_each(&mut self, _: &mut Failures) -> Option<Supported> {
        self.calls.send(Probe).expect("the test listens");
        Some(Supported { bpf: true, ..Supported::default() })
    }

    fn read_each(&mut self, _: &KernelState, _: &mut Failures) -> Result<KernelState, dataplane::Error> {
        let mut memory = self.memory.lock().expect("no thread panicked");
        self.calls.send(Read).expect("the test listens");
        let state = memory.state.clone();
        memory.stepped();
        Ok(state)
    }

    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), dataplane::Error> {
        for link in links {
            self.calls.send(Call::Group(*link, group)).expect("the test listens");
        }
        Ok(())
    }

    fn set_bridge(&mut self, desired: &BridgeTable) -> Result<bridge::TableWrite, dataplane::Error> {
        let mut memory = self.memory.lock().expect("no thread panicked");
        if let Some(errno) = memory.no_bridge.filter(|_| !desired.is_empty()) {
            return Err(nftables::Error::Refused { what: "make the table".to_owned(), errno }.into());
        }
        memory.bridge = desired.clone();
        Ok(bridge::TableWrite::default())
    }

    fn peers(&mut self, ports: &[u32]) -> Vec<(u32, Peer)> {
        let peer = |port: &u32| {
            let last = u8::try_from(*port).expect("it is small");
            (*port, Peer { ethernet: [2, 0, 0, 0, 0, last], addresses: [[10, 0, 0, last].into()].into() })
        };
        ports.iter().map(peer).collect()
    }

    fn apply_each(&mut self, plan: &Plan, failed: &mut Failures) -> std::time::Instant {
        let hangs = self.memory.lock().expect("no thread panicked").hangs.take();
        if let Some(end) = hangs {
            // Once the test is done, it does not matter.
            let _ = end.recv();
        }
        let mut memory = self.memory.lock().expect("no thread panicked");
        for step in plan.steps.iter().filter(|_| !memory.lies).collect::<Vec<_>>() {
            if memory.refusals > 0 && matches!(step, Step::Chains(..)) {
                memory.refusals -= 1;
                self.calls.send(Refused).expect("the test listens");
                for family in Family::ALL {
                    failed.add(family, refused());
                }
                return std::time::Instant::now();
            }
            if let Step::Chains(family, _) = step
                && memory.broken == Some(*family)
            {
                failed.add(*family, refused());
                continue;
            }
            let memory = &mut *memory;
            carry_out(&mut memory.state, step, &memory.refused_words, failed);
            memory.stepped();
        }
        memory.plan = plan.clone();
        self.calls.send(Apply).expect("the test listens");
        memory.in_force.unwrap_or_else(std::time::Instant::now)
    }

    fn wait_for_lock(&mut self) -> Result<(), dataplane::Error> {
        let locked = self.memory.lock().expect("no thread panicked").locked;
        let error = || iptables::Error::Locked { waited: Duration::ZERO, holder: None };
        if locked { Err(error().into()) } else { Ok(()) }
    }

    fn hook_each(&mut self, failed: &mut Failures) -> Vec<(Family, Hook)> {
        if failed.is_of_all() {
            return Vec::new();
        }
        let mut memory = self.memory.lock().expect("no thread panicked");
        self.calls.send(Hooked).expect("the test listens");
        let mut found = Vec::new();
        for (n, family) in
            Family::ALL.into_iter().enumerate().filter(|(_, family)| !failed.contains(*family)).collect::<Vec<_>>()
        {
            let leads_somewhere = memory.state.family(family).chains.contains_key(&ChainName::forward());
            if memory.unhookable || !leads_somewhere && !memory.lies {
                failed.add(family, dataplane::Error::Unhooked(Box::new(refused())));
                continue;
            }
            found.push((family, memory.hooks[n]));
            if !memory.lies {
                memory.hooks[n] = Hook::First;
            }
            memory.stepped();
        }
        found
    }

    fn prove(&mut self, desired: &KernelState, failed: &mut Failures) {
        let memory = self.memory.lock().expect("no thread panicked");
        // That a restore was done is no proof.
        for family in Family::ALL.into_iter().filter(|_| memory.lies) {
            if memory.state.family(family).chains != desired.family(family).chains {
                failed.add(family, dataplane::Error::Unproven(vec!["NPC-X".to_owned()]));
            }
        }
    }

    fn audit(&mut self, desired: &KernelState, depth: AuditScope) -> Result<Audit, dataplane::Error> {
        let slow = self.memory.lock().expect("no thread panicked").slow_audit.take_if(|_| depth == AuditScope::Full);
        if let Some(end) = slow {
            let _ = end.recv();
        }
        let mut memory = self.memory.lock().expect("no thread panicked");
        self.calls.send(Audited).expect("the test listens");
        if depth == AuditScope::Full {
            if std::mem::take(&mut memory.is_blind) {
                return Err(ipset::Error::Silent(Duration::ZERO).into());
            }
            if let Some(state) = memory.put_back.take() {
                memory.state = state;
            }
        }
        let between = |family| Delta::between(desired.family(family), memory.state.family(family));
        let hooks = Family::ALL.into_iter().zip(memory.hooks).filter(|(_, hook)| *hook != Hook::First).collect();
        let (v4, v6) = (between(Family::V4), between(Family::V6));
        Ok(Audit { v4, v6, hooks, ..Audit::default() })
    }

    fn remove_flow_index(&mut self) -> Result<(), dataplane::Error> {
        let mut memory = self.memory.lock().expect("no thread panicked");
        match memory.index_removals {
            Some(0) | None => memory.index_removals = None,
            Some(failures) => {
                memory.index_removals = Some(failures - 1);
                return Err(refused());
            }
        }
        Ok(())
    }

    fn flows(&self) -> Box<dyn Flows> {
        Box::new(RecordedFlows { memory: Arc::clone(&self.memory), calls: self.calls.clone() })
    }
}

/// The flows of a recording kernel.
struct RecordedFlows {
    memory: Arc<Mutex<Memory>>,
    calls: mpsc::UnboundedSender<Call>,
}

impl Flows for RecordedFlows {
    fn cut(&mut self, cut: &dataplane::CutRequest, judge: &mut Judge<'_>) -> Result<CutResult, dataplane::Error> {
        let dataplane::CutRequest { scope, new, renewal, index_epoch } = cut;
        let (hangs, refusal) = {
            let mut memory = self.memory.lock().expect("no thread panicked");
            memory.scopes.push(scope.clone());
            memory.new.push(new.clone());
            memory.renewals.push(renewal.clone());
            let is_refused = memory.uncut > 0;
            memory.uncut -= usize::from(is_refused);
            (memory.sweep_hangs.take(), is_refused)
        };
        if refusal {
            let error = io::Error::from_raw_os_error(1);
            return Err(conntrack::Error::Refused { doing: "list", source: error }.into());
        }
        let (mut scope, mut index) =
            (scope.clone(), IndexLookup { is_renewed: renewal.is_some(), ..IndexLookup::default() });
        {
            let mut memory = self.memory.lock().expect("no thread panicked");
            memory.epochs.extend(*index_epoch);
            if let (FlowScope::Of(asked), Some(_), Some(free)) = (&mut scope, index_epoch, &memory.index) {
                index.without_flows = asked.intersection(free).copied().collect();
                asked.retain(|address| !free.contains(address));
                index.others = asked.len() as u64;
            }
            index.is_unsupported = memory.lacks_index && (renewal.is_some() || index_epoch.is_some());
        }
        let is_in = |flow: &FlowKey| scope.covers(flow.source) || scope.covers(flow.destination);
        let listed: Vec<FlowKey> = {
            let memory = self.memory.lock().expect("no thread panicked");
            memory.flows.iter().copied().filter(is_in).collect()
        };
        if let Some(end) = hangs {
            // Once the test is done, it does not matter.
            let _ = end.recv();
        }
        let Some(verdicts) = judge(listed.clone()) else { return Ok(CutResult::default()) };
        let mut memory = self.memory.lock().expect("no thread panicked");
        let forbidden: Vec<&FlowKey> =
            listed.iter().zip(verdicts).filter(|(_, forbidden)| *forbidden).map(|(flow, _)| flow).collect();
        memory.flows.retain(|flow| !forbidden.contains(&flow));
        // Once the test is done, it does not matter.
        let _ = self.calls.send(Cut);
        let flows = Swept { judged: listed.len() as u64, cut: forbidden.len() as u64, ..Swept::default() };
        Ok(CutResult { flows, index })
    }
}

/// Does what a kernel does, and refuses what a kernel refuses.
fn carry_out(state: &mut KernelState, step: &Step, refused_words: &[&str], failed: &mut Failures) {
    match step {
        Step::Sets(writes) => {
            for write in writes {
                let family = write.set().family();
                if failed.contains(family) {
                    continue;
                }
                let text = write.to_string();
                if text.split_whitespace().any(|word| refused_words.contains(&word)) {
                    let set = Some(write.set().clone());
                    failed.add(family, ipset::Error::Refused { write: text, set, refusal: Refusal(12) }.into());
                    continue;
                }
                match write.apply(state.family_mut(family)) {
                    Err(Unexpected::NoSet(_)) if !matches!(write, SetWrite::Destroy(_)) => {
                        failed.add(family, refused());
                    }
                    // A write that says nothing new is done.
                    _ => {}
                }
            }
        }
        Step::Grace => {}
        Step::Chains(family, _) if failed.contains(*family) => {}
        Step::Chains(family, writes) => {
            let actual = state.family_mut(*family);
            let before = actual.chains.clone();
            // A chain that is not there is declared, and then deleted.
            let _ = writes.apply(actual);
            // What a rule names has to be there.
            if !is_complete(actual) {
                actual.chains = before;
                failed.add(*family, refused());
            }
        }
    }
}

/// Whether all that rules name exists: their sets, and the chains to which they lead.
fn is_complete(actual: &FamilyState) -> bool {
    actual.chains.values().flatten().all(|rule| {
        rule.sets().all(|set| actual.sets.contains_key(set))
            && rule.leads_to().is_none_or(|next| actual.chains.contains_key(next))
    })
}
