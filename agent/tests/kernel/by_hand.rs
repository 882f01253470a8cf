//! Programs made by hand, on their way into the kernel as the engine's are.

use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::iptables::Hook;
use npc_agent::dataplane::{Error, Linux};
use npc_agent::enforce::Writer;
use npc_agent::enforce::writer::Writes;
use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::program::Program;

/// Writes programs, and remembers the last one that it was to write.
pub(crate) struct ByHand {
    writer: Writer<Linux>,
    wanted: KernelState,
}

impl ByHand {
    pub(crate) fn new(backend: Backend) -> Self {
        Self::of(Linux::open(Some(backend)).unwrap())
    }

    pub(crate) fn of(kernel: Linux) -> Self {
        Self { writer: Writer::new(kernel), wanted: KernelState::default() }
    }

    pub(crate) fn enforce(&mut self, program: &Program) -> Result<(Writes, Vec<(Family, Hook)>), Error> {
        let wanted = KernelState::from(program);
        let change = Plan::between(&self.wanted, &wanted);
        self.wanted = wanted;
        self.writer.write(change, &self.wanted)
    }

    pub(crate) fn check_hook(&mut self) -> Result<Vec<(Family, Hook)>, Error> {
        self.writer.check_hook()
    }
}
