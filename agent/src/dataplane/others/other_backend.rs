//! Rules of ours in the backend that we do not write to.
//!
//! A packet meets both backends, and rules of ours that no agent keeps up to date deny
//! what policies allow by now. An agent that moves finds those of the agent before;
//! and another program may restore a table that it saved long ago, while we run.

use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::ChainName;
use tracing::warn;

use crate::dataplane::cleanup;
use crate::dataplane::iptables::{Iptables, Native};
use crate::dataplane::programs::backend::{self, Backend};

/// How often the agent searches for our rules where the kernel reports no change: legacy tables are
/// read, which takes no lock.
const LOOK: Duration = Duration::from_secs(5);

/// A search may take one part in this many of the time.
const SHARE: u32 = 20;

/// When to look for rules of ours in the other backend.
#[derive(Debug, Default)]
pub(in super::super) struct OtherBackend {
    /// Not before.
    due: Option<Instant>,
    /// The last message about rules that cannot be removed.
    said: Option<String>,
}

impl OtherBackend {
    /// Whether the agent has searched for them once.
    pub(in super::super) fn was_looked_for(&self) -> bool {
        self.due.is_some()
    }

    /// Searches again, if it is time, and removes what is there. Our own rules have to be in the
    /// kernel.
    pub(in super::super) fn remove_if_due(&mut self, ours: Backend) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.leave(ours);
        }
    }

    /// Removes what is there of ours.
    pub(in super::super) fn leave(&mut self, ours: Backend) {
        let begun = Instant::now();
        for other in Backend::ALL.into_iter().filter(|other| *other != ours) {
            if Family::ALL.into_iter().any(|family| may_hold_ours(other, family)) {
                self.remove(other);
            }
        }
        self.due = Some(Instant::now() + LOOK.max(begun.elapsed() * SHARE));
    }

    fn remove(&mut self, other: Backend) {
        let removed = cleanup::leave(other);
        if !removed.chains.is_empty() {
            let chains = removed.chains.len();
            warn!(
                backend = %other, chains,
                "removed rules of npc from the other packet filter, which an agent left there or another program restored"
            );
        }
        let errors = removed.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if errors.is_empty() {
            self.said = None;
        } else if self.said.as_ref() != Some(&errors) {
            warn!(backend = %other, error = errors, "cannot check whether npc's rules are left in the other iptables backend");
            self.said = Some(errors);
        }
    }
}

/// Whether rules of ours may be there. Asking loads no backend: a legacy table is read only if it
/// is there, and nft's over netlink.
fn may_hold_ours(backend: Backend, family: Family) -> bool {
    if !backend::has_filter(backend, family) {
        return false;
    }
    match backend {
        Backend::Nft => {
            let chains = Native::open(family).and_then(|mut native| native.chains());
            // What this does not show, a listing will.
            chains.is_ok_and(|chains| chains.iter().any(|chain| ChainName::ours(&chain.name).is_some()))
        }
        Backend::Legacy => Iptables::new(backend, family).is_ok(),
    }
}
