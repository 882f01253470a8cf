//! The kernel: the only module that starts processes (iptables) and speaks
//! netlink (sets, flows and the network).
//!
//! ```text
//! backend  which iptables             probe    what this kernel can do
//! nftables nf_tables by netlink       spelling how iptables prints our rules
//!    └─▶ iptables, ipset ─▶ linux ────────▶ the Kernel that the agent writes to
//!              ├──────────▶ counters          what it counted of denied packets
//!              ├──────────▶ cleanup      ▲     network  addresses, links, routes
//!              │              conntrack ─┤
//!              └─ alias ────▶ audit ─────┘     what others did to what is ours
//!        notifications ──────────┘
//! ```
//!
//! Everything acts on the network namespace of the calling thread, sockets on
//! that in which they were opened. What it acts on bears our names: `NPC-`
//! chains, the jump to them, `npc4-` and `npc6-` sets, and network interfaces in
//! the device group that is ours (`links`); and where it is told to, what Azure
//! NPM left behind (`azure`).

use std::time::Instant;

use npc_compiler::established::Tuple;
use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, Plan};

mod alias;
pub mod audit;
pub mod azure;
pub mod backend;
pub mod cleanup;
pub mod conntrack;
pub mod counters;
pub mod ipset;
pub mod iptables;
pub mod links;
mod linux;
pub mod network;
pub mod nflog;
pub mod nftables;
pub mod notifications;
mod other_backend;
pub mod probe;
mod process;
mod spelling;
pub mod surroundings;

pub use linux::Linux;

/// A kernel that holds rules of ours: the real one, or one that records.
///
/// Calls block; callers keep them off the tasks that must stay awake.
pub trait Kernel: Send + 'static {
    /// Asks what it can do, before anything else is asked of it. What is
    /// missing and can be worked around is logged.
    ///
    /// # Errors
    /// If it lacks what policies need, or cannot be asked.
    fn probe(&mut self) -> Result<probe::Capabilities, Error>;

    /// What it holds of ours. Costly; once at the start and after a failure.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&mut self) -> Result<KernelState, Error>;

    /// The same, and makes room where sets of another kind have the names of
    /// wanted ones.
    ///
    /// # Errors
    /// As [`Kernel::read`].
    fn read_for(&mut self, wanted: &KernelState) -> Result<KernelState, Error> {
        let _ = wanted;
        self.read()
    }

    /// Carries a plan out, step by step, and answers when every first packet of
    /// a flow began to get the new verdict: [`Plan::enforced_by`] so many steps,
    /// which may be long before the last one.
    ///
    /// # Errors
    /// At the first step that fails. What the kernel holds then is unknown, and
    /// has to be read before the next plan.
    fn apply(&mut self, plan: &Plan) -> Result<Instant, Error>;

    /// Puts the jump to our chains first in FORWARD, in each family, and
    /// answers where it was. Our chains have to be there.
    ///
    /// # Errors
    /// If FORWARD cannot be read or written.
    fn put_hook_first(&mut self) -> Result<Vec<(Family, iptables::Hook)>, Error>;

    /// Looks whether it still holds of ours what was written last; not before it
    /// was read or written once.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn audit(&mut self, wanted: &KernelState, depth: audit::Depth) -> Result<audit::Audit, Error>;

    /// Puts network interfaces, by their indexes, into a device group; one that
    /// is gone needs none.
    ///
    /// # Errors
    /// If the kernel refuses one.
    fn set_group(&mut self, links: &[u32], group: u32) -> Result<(), Error>;

    /// Waits, not for long, until rules can be written.
    ///
    /// # Errors
    /// If somebody holds the xtables lock; see [`Error::is_contention`].
    fn wait_for_lock(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The restores since this was asked last, to be counted.
    fn take_restores(&mut self) -> Vec<iptables::Restored> {
        Vec::new()
    }

    /// The writes to sets since this was asked last, to be counted.
    fn take_set_writes(&mut self) -> Vec<ipset::Written> {
        Vec::new()
    }

    /// Judges every flow that it knows and deletes those that are forbidden,
    /// with all that passed before the last write among them. Their next packet
    /// meets the rules.
    ///
    /// # Errors
    /// If the flows cannot be listed or deleted.
    fn cut(&mut self, forbids: &mut dyn FnMut(&Tuple) -> bool) -> Result<conntrack::Swept, Error>;
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
    /// Something without which no policy can be enforced.
    #[error("this kernel cannot enforce policies: it lacks {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Lacks(Vec<probe::Missing>),
}

impl Error {
    /// Whether somebody holds the lock that writing rules takes. Nothing is
    /// wrong then; it may be tried again soon, and sets can be written.
    #[must_use]
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::Iptables(iptables::Error::Locked { .. }))
    }
}
