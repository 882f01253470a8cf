//! The kernel: the only module that starts processes (iptables) and speaks
//! netlink (sets, flows and the network).
//!
//! ```text
//! netlink ─▶ nftables ─▶ programs ─▶ iptables ─┬─▶ supported    what this node can do
//!    │           │                             │        ▼
//!    │           │                   ipset ────┼─▶ audit        what others did to what is ours
//!    │           │                             ├─▶ others       what other programs have here
//!    │           │                             └─▶ cleanup      takes out what is ours
//!    │           ├─▶ bridge       a table for what iptables cannot see       │
//!    ├───────────┴─▶ flows        deleted when policies deny them            ▼
//!    └─▶ network   addresses, links, routes, neighbours            linux: the Kernel that the
//!                                                                  agent writes to; failures by family
//! ```
//!
//! Each folder imports only from those above it in the table of `ARCHITECTURE.md`, and a test holds that. The rest of
//! the agent uses the modules that stand here under `pub use`, from all folders.
//!
//! Everything acts on the network namespace of the calling thread, sockets on
//! that in which they were opened. What it acts on bears our names: `NPC-`
//! chains, the jump to them, `npc4-` and `npc6-` sets, the tables `bridge npc` and
//! `inet npc`, and network interfaces in the device group that is ours (`links`); and, on request,
//! what Azure NPM left behind (`azure`). Besides, it deletes conntrack entries of flows that
//! policies deny now, and unresolved neighbour entries of new pods' addresses.

use std::time::Instant;

use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};
use npc_compiler::ruleset::names::seed::Seed;
use npc_compiler::ruleset::node::SetName;

pub mod audit;
pub mod bridge;
pub mod cleanup;
mod failures;
pub mod flows;
pub(crate) mod fuzz;
pub mod ipset;
pub mod iptables;
mod linux;
pub mod netlink;
pub mod network;
pub mod nftables;
pub mod others;
pub mod programs;
pub mod supported;

pub use audit::notifications;
pub use failures::Failures;
pub use flows::{CutRequest, CutResult, Flows, conntrack, conntrack_table, flow_index};
pub use iptables::counters;
pub use linux::Linux;
pub use netlink::nflog;
pub use network::links;
pub use others::{azure, other_engines, other_programs};
pub use programs::backend;
pub use supported::{detect, probe};

/// A kernel that holds rules of ours: the real one, or one that records.
///
/// What fails in one family is noted with it ([`Failures`]), and the other goes on.
/// What the kernel holds of a family that failed is unknown, and has to be read
/// before the next plan.
///
/// Calls block; callers keep them off the tasks that must stay awake.
pub trait Kernel: Send + 'static {
    /// Asks what it can do, before anything else is asked of it; nothing if it
    /// cannot be asked in any family. What is missing and can be worked around is
    /// logged; a family that lacks what policies need has failed.
    fn probe_each(&mut self, failed: &mut Failures) -> Option<probe::Supported>;

    /// The secret of its node that it keeps, if it keeps one.
    ///
    /// # Errors
    /// If it cannot be read.
    fn seed(&mut self) -> Result<Option<Seed>, Error> {
        Ok(None)
    }

    /// What it holds of ours in the families that have not failed; costly, at the
    /// start and after a failure. Makes room where sets of another kind have the
    /// names of desired ones.
    ///
    /// # Errors
    /// If the sets cannot be read, which come for both families at once.
    fn read_each(&mut self, desired: &KernelState, failed: &mut Failures) -> Result<KernelState, Error>;

    /// Carries a plan out, step by step, and answers when every first packet of
    /// a flow began to get the new verdict: [`Plan::enforced_by`] so many steps,
    /// which may be long before the last one. A family stops at the first step
    /// that fails in it.
    fn apply_each(&mut self, plan: &Plan, failed: &mut Failures) -> Instant;

    /// Puts the jump to our chains first in FORWARD, in each family, and
    /// answers where it was. Our chains have to be there.
    fn hook_each(&mut self, failed: &mut Failures) -> Vec<(Family, iptables::Hook)>;

    /// Reads back what was written since this was called last and the kernel has
    /// not confirmed by itself; a family in which that is not as desired has failed.
    /// That a program which was to write it said so is no proof.
    fn prove(&mut self, desired: &KernelState, failed: &mut Failures);

    /// As [`Kernel::probe_each`].
    ///
    /// # Errors
    /// If a family failed.
    fn probe(&mut self) -> Result<probe::Supported, Error> {
        let mut failed = Failures::default();
        let capabilities = self.probe_each(&mut failed);
        failed.into_result()?;
        Ok(capabilities.unwrap_or_default())
    }

    /// What it holds of ours.
    ///
    /// # Errors
    /// If it cannot be read, in either family.
    fn read(&mut self) -> Result<KernelState, Error> {
        let mut failed = Failures::default();
        let state = self.read_each(&KernelState::default(), &mut failed)?;
        failed.into_result().map(|()| state)
    }

    /// As [`Kernel::apply_each`].
    ///
    /// # Errors
    /// If a family failed.
    fn apply(&mut self, plan: &Plan) -> Result<Instant, Error> {
        let mut failed = Failures::default();
        let enforced = self.apply_each(plan, &mut failed);
        failed.into_result().map(|()| enforced)
    }

    /// As [`Kernel::hook_each`].
    ///
    /// # Errors
    /// If a family failed.
    fn insert_hook(&mut self) -> Result<Vec<(Family, iptables::Hook)>, Error> {
        let mut failed = Failures::default();
        let found = self.hook_each(&mut failed);
        failed.into_result().map(|()| found)
    }

    /// Checks whether it still holds of ours what was written last; not before it was read or
    /// written once.
    ///
    /// # Errors
    /// If it cannot be read.
    fn audit(&mut self, desired: &KernelState, depth: audit::AuditScope) -> Result<audit::Audit, Error>;

    /// Puts network interfaces, by their indexes, into a device group; one that
    /// is gone needs none.
    ///
    /// # Errors
    /// If the kernel refuses one.
    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error>;

    /// Makes the table of the bridge family equal to this one, and looks whether
    /// another program has changed what was written before.
    ///
    /// # Errors
    /// If the kernel has no bridge family, or refuses.
    fn set_bridge(&mut self, desired: &bridge::BridgeTable) -> Result<bridge::TableWrite, Error> {
        let _ = desired;
        Ok(bridge::TableWrite::default())
    }

    /// What is at the other ends of these ports of bridges, as far as the kernel
    /// reports it.
    fn peers(&mut self, ports: &[u32]) -> Vec<(u32, bridge::peer::Peer)> {
        let _ = ports;
        Vec::new()
    }

    /// Waits, not for long, until rules can be written.
    ///
    /// # Errors
    /// If another program holds the xtables lock; see [`Error::is_contention`].
    fn wait_for_lock(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The restores since the last call, to be counted.
    fn take_restores(&mut self) -> Vec<iptables::Restored> {
        Vec::new()
    }

    /// The writes to sets since this was asked last, to be counted.
    fn take_set_writes(&mut self) -> Vec<ipset::TimedWrite> {
        Vec::new()
    }

    /// The flows that it knows, to be cut beside other requests to it.
    fn flows(&self) -> Box<dyn Flows>;

    /// Removes the index of addresses that have flows, if an earlier agent kept one and this one
    /// does not.
    ///
    /// # Errors
    /// If it is there and stays.
    fn remove_flow_index(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Why the kernel could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No backend to speak to.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// The filter table.
    #[error(transparent)]
    Iptables(#[from] iptables::Error),
    /// The sets.
    #[error(transparent)]
    Ipset(#[from] ipset::Error),
    /// The flows that it knows.
    #[error(transparent)]
    Conntrack(#[from] conntrack::Error),
    /// The network interfaces.
    #[error(transparent)]
    Links(#[from] links::Error),
    /// A table of ours in nf_tables.
    #[error(transparent)]
    OwnTable(#[from] nftables::Error),
    /// Something without which no policy can be enforced.
    #[error("this kernel cannot enforce policies: it lacks {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    MissingMatches(Vec<probe::Missing>),
    /// The jump to our chains is not, or may not be, in its place: what else we
    /// wrote, no packet meets.
    #[error("the agent cannot put the jump from FORWARD to npc's chains in its place")]
    Unhooked(#[source] Box<Error>),
    /// What was written is not there.
    #[error(
        "written, but not in the kernel: {}; iptables did not write it, or another program removed it at once. The \
         agent reads and writes all of it again", .0.join(", ")
    )]
    Unproven(Vec<String>),
    /// Something failed, in one family or in both.
    #[error("{0}")]
    Families(Failures),
}

impl Error {
    /// Whether another program holds the lock that writing rules takes. Nothing is
    /// wrong then; it may be tried again soon, and sets can be written.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        match self {
            Self::Iptables(iptables::Error::Locked { .. }) => true,
            Self::Unhooked(error) => error.is_contention(),
            Self::Families(failed) => failed.iter().all(|(_, error)| error.is_contention()),
            _ => false,
        }
    }

    /// The process that holds the xtables lock, if one does and it is known.
    #[must_use]
    pub fn lock_holder(&self) -> Option<&iptables::Holder> {
        match self {
            Self::Iptables(iptables::Error::Locked { holder, .. }) => holder.as_ref(),
            Self::Unhooked(error) => error.lock_holder(),
            Self::Families(failed) => failed.iter().find_map(|(_, error)| error.lock_holder()),
            _ => None,
        }
    }

    /// Whether one family is enforced as it should be although the other failed.
    #[must_use]
    pub fn is_of_one_family(&self) -> bool {
        matches!(self, Self::Families(failed) if !failed.is_of_all())
    }

    /// The set that the kernel refused to write, if that is what failed.
    #[must_use]
    pub fn refused_set(&self) -> Option<&SetName> {
        match self {
            Self::Ipset(ipset::Error::Refused { set, .. }) => set.as_ref(),
            _ => None,
        }
    }

    /// Whether a jump to our chains is known to be missing, or not to be first.
    #[must_use]
    pub fn is_unhooked(&self) -> bool {
        match self {
            Self::Unhooked(_) => true,
            Self::Families(failed) => failed.iter().any(|(_, error)| error.is_unhooked()),
            _ => false,
        }
    }
}
