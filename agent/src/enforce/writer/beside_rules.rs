//! What the agent reads from the kernel and writes to it besides the rules and sets of policies.

use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::names::seed::Seed;
use tracing::{debug, info, warn};

use super::Writer;
use crate::dataplane::bridge::BridgeTable;
use crate::dataplane::bridge::peer::Peer;
use crate::dataplane::iptables::Restored;
use crate::dataplane::{Error, Flows, Kernel, ipset};
use crate::enforce::flows::Established;
use crate::words::causes::with_causes;

/// What is known of that part of the kernel.
#[derive(Debug, Default)]
pub(super) struct BesideRules {
    /// Why there is no table of the bridge family, though it is needed.
    bridge_lack: Option<String>,
    /// There is no index of addresses with flows that an earlier agent kept.
    has_removed_index: bool,
}

impl<K: Kernel> Writer<K> {
    /// The secret of the node that the kernel keeps, if it keeps one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(in crate::enforce) fn seed(&mut self) -> Result<Option<Seed>, Error> {
        self.kernel.seed()
    }

    /// Whether the kernel, read anew, holds what was to be written last. It does not before it was asked what
    /// it supports.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(in crate::enforce) fn holds(&mut self, desired: &KernelState) -> Result<bool, Error> {
        let actual = self.kernel.read()?;
        Ok(self.is_probed() && Plan::between(&actual, desired).is_empty())
    }

    /// Puts network interfaces into a device group.
    pub(in crate::enforce) fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error> {
        if links.is_empty() { Ok(()) } else { self.kernel.set_group(links, group) }
    }

    /// What is at the other ends of these ports of bridges, as far as the kernel reports it.
    pub(in crate::enforce) fn peers(&mut self, ports: &[u32]) -> Vec<(u32, Peer)> {
        self.kernel.peers(ports)
    }

    /// Makes the table of the bridge family equal to this one. Answers whether another program had changed
    /// it. A failure is logged once, and the next call tries again.
    pub(in crate::enforce) fn set_bridge(&mut self, desired: &BridgeTable) -> bool {
        match self.kernel.set_bridge(desired) {
            Ok(written) => {
                if self.beside_rules.bridge_lack.take().is_some() {
                    info!("the table bridge npc is in the kernel now");
                }
                written.drifted
            }
            Err(error) => {
                let words = with_causes(&error);
                if self.beside_rules.bridge_lack.as_ref() != Some(&words) {
                    warn!(
                        error = words,
                        "the table bridge npc is not in the kernel: tagged and foreign frames between bridged pods pass, \
                         and so do a pod's router advertisements; all else is enforced"
                    );
                }
                self.beside_rules.bridge_lack = Some(words);
                false
            }
        }
    }

    /// Why the table of the bridge family is not in the kernel, though it is needed.
    pub(in crate::enforce) fn bridge_lack(&self) -> Option<&str> {
        self.beside_rules.bridge_lack.as_deref()
    }

    /// Removes the index of addresses that have flows, if this agent keeps none and an earlier one may have.
    pub(in crate::enforce) fn remove_unneeded_flow_index(&mut self) {
        if self.beside_rules.has_removed_index || self.established.index.is_kept() {
            return;
        }
        match self.kernel.remove_flow_index() {
            Ok(()) => self.beside_rules.has_removed_index = true,
            // The next pass tries again. The table costs first packets some time, and harms nothing.
            Err(error) => debug!(%error, "cannot remove the table inet npc of an earlier agent"),
        }
    }

    /// Which flows are to be judged, and the flows that the kernel knows.
    pub(in crate::enforce) fn established_and_flows(&mut self) -> (&mut Established, impl Fn() -> Box<dyn Flows>) {
        let kernel = &self.kernel;
        (&mut self.established, move || kernel.flows())
    }

    /// The restores since the last call, those that failed among them.
    pub(in crate::enforce) fn take_restores(&mut self) -> Vec<Restored> {
        self.kernel.take_restores()
    }

    /// The writes to sets since the last call, with how long each took.
    pub(in crate::enforce) fn take_set_writes(&mut self) -> Vec<ipset::TimedWrite> {
        self.kernel.take_set_writes()
    }

    /// The kernel itself, for tests that look at it.
    pub(in crate::enforce) fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }
}
