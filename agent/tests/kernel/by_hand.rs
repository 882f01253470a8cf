//! Programs made by hand, on their way into the kernel as the engine's are.

use npc_agent::dataplane::audit::AuditScope;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::iptables::Hook;
use npc_agent::dataplane::{Error, Linux};
use npc_agent::enforce::Writer;
use npc_agent::enforce::Writes;
use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::node::NodeRuleset;

/// Writes rulesets, and remembers the last one that it was to write.
pub(crate) struct ByHand {
    writer: Writer<Linux>,
    desired: KernelState,
}

impl ByHand {
    pub(crate) fn new(backend: Backend) -> Self {
        Self::of(Linux::open(Some(backend)).unwrap())
    }

    pub(crate) fn of(kernel: Linux) -> Self {
        Self { writer: Writer::new(kernel), desired: KernelState::default() }
    }

    pub(crate) fn enforce(&mut self, program: &NodeRuleset) -> Result<(Writes, Vec<(Family, Hook)>), Error> {
        let desired = KernelState::from(program);
        let change = Plan::between(&self.desired, &desired);
        self.desired = desired;
        self.writer.write(change, &self.desired)
    }

    /// What others changed and was put right, in words.
    pub(crate) fn audit(&mut self, depth: AuditScope) -> Vec<String> {
        let Some(repair) = self.writer.audit(&self.desired, depth).unwrap() else { return Vec::new() };
        repair.repaired.unwrap();
        repair
            .found
            .iter()
            .map(|drift| format!("{} {} {}: {}", drift.family, drift.kind, drift.name, drift.what))
            .collect()
    }

    /// As [`Self::audit`], until something was found. A table that was read a
    /// moment ago is not read again.
    pub(crate) fn drifted(&mut self) -> Vec<String> {
        loop {
            let found = self.audit(AuditScope::Notified);
            if !found.is_empty() {
                return found;
            }
        }
    }
}
