//! What the chains of npc are for, in words: one table for all commands.

use npc_compiler::policy::Direction::{Egress, Ingress};
use npc_compiler::ruleset::node::ChainRole;

/// A chain's role in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoleWords {
    /// What the chain is.
    pub(super) what: &'static str,
    /// What a reader of its rules should know too; empty if that is nothing.
    pub(super) more: &'static str,
}

/// The roles of the chains that a ruleset has, in the order in which a packet meets them. What one
/// entry has is described together.
pub(super) const ORDER: [&[ChainRole]; 15] = {
    use ChainRole::{Deny, DenyStray, Dispatch, DispatchList, Entry, Forward, Group, Related, Spoof, Stray, StrayOf};
    [
        &[Forward],
        &[Spoof],
        &[Related],
        &[Stray],
        &[StrayOf(Egress)],
        &[StrayOf(Ingress)],
        &[DenyStray],
        &[Entry(Egress)],
        &[Dispatch(Egress), DispatchList(Egress)],
        &[Group(Egress)],
        &[Deny(Egress)],
        &[Entry(Ingress)],
        &[Dispatch(Ingress), DispatchList(Ingress)],
        &[Group(Ingress)],
        &[Deny(Ingress)],
    ]
};

/// What a chain with this role is.
pub(super) const fn of_chain(role: ChainRole) -> RoleWords {
    let (what, more) = match role {
        ChainRole::Forward => (
            "first chain: every forwarded packet",
            "RETURN leaves it to the rest of FORWARD; -m bpf is a pod's packet to itself, by a Service",
        ),
        ChainRole::Related => {
            ("ICMP errors about known flows", "from a pod only about what was sent to it, and of any short ones")
        }
        ChainRole::Stray => ("mid-stream TCP, where no rule can tell which end is the server", ""),
        ChainRole::StrayOf(Egress) => {
            ("mid-stream TCP before rules without ports", "denied where the source is isolated for ingress too")
        }
        ChainRole::StrayOf(Ingress) => {
            ("mid-stream TCP before rules without ports", "denied where the destination is isolated for egress too")
        }
        ChainRole::Spoof => ("packets of pods' interfaces with a source that is not the pod's", "they are dropped"),
        ChainRole::Deny(_) => ("drops and counts what the groups deny", ""),
        ChainRole::DenyStray => ("drops and counts denied mid-stream TCP", ""),
        ChainRole::Entry(_) => {
            ("begin of the dispatch tree, which leads a packet to the chain of its endpoint's group", "")
        }
        ChainRole::Dispatch(_) | ChainRole::DispatchList(_) => ("part of the dispatch tree", ""),
        ChainRole::Group(Egress) => {
            ("group chain", "what the group may send RETURNs to NPC-FORWARD, the rest is denied")
        }
        ChainRole::Group(Ingress) => {
            ("group chain", "what may be sent to the group RETURNs to NPC-FORWARD, the rest is denied")
        }
        ChainRole::Probe => ("made to find out what this kernel supports; no packet meets it", ""),
        ChainRole::Unknown => ("chain of another version of npc", ""),
    };
    RoleWords { what, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_described_together_is_the_same() {
        for roles in ORDER {
            assert!(roles.iter().all(|role| of_chain(*role) == of_chain(roles[0])), "{roles:?}");
        }
    }
}
