//! Which of several pods that list one address has it.
//!
//! The API lets any number of pod objects list one address: that of a lost
//! node whose object is not deleted yet, one whose status lags, or one that a
//! compromised kubelet wrote. So what a packet's address means is decided from
//! what can be known, and the answer depends on the node that asks:
//!
//! - The pods of this node decide about an endpoint of this node. No claim from
//!   another node changes that. Among them, one that is not terminating goes
//!   before one that is, and then the one that kubelet took on later. Which
//!   pod's sandbox CNI reported would go before both; where the agent knows
//!   that, it is the first question in [`here`].
//! - Among pods of other nodes, a pod yields to one whose Node has the address in a prefix for its
//!   pods, if the first pod's Node is gone, or has prefixes and the address is in none of them.
//!   Among those that are left, a pod that is terminating yields to one that is not.
//!
//! Where doubt remains, several pods *hold* the address. As an endpoint of this
//! node it is isolated if any of them is, and admitted what the policies of each
//! admit; as a peer it is meant only where each of them is. So no claim opens
//! what another one keeps shut.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::object::Family;

/// What is known of one pod that lists an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// `metadata.deletionTimestamp` is set.
    pub(crate) terminating: bool,
    /// `status.startTime`.
    pub(crate) started: Option<i64>,
    /// What the pod's Node says.
    pub(crate) standing: Standing,
}

/// What the Node of a pod says about an address that the pod lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no such Node, or the address is in none of its prefixes.
    Excludes,
    /// It has no prefixes of this family, or the pod is bound to no node.
    Silent,
    /// The address is in one of its prefixes.
    Includes,
}

impl Standing {
    /// What a Node with these prefixes says; `None` if there is no such Node.
    pub(crate) fn of(pod_cidrs: Option<&[IpNetwork]>, address: IpAddr) -> Self {
        let Some(pod_cidrs) = pod_cidrs else { return Self::Excludes };
        let mut of_family = pod_cidrs.iter().filter(|cidr| Family::of(&cidr.ip()) == Family::of(&address)).peekable();
        if of_family.peek().is_none() {
            Self::Silent
        } else if of_family.any(|cidr| cidr.contains(address)) {
            Self::Includes
        } else {
            Self::Excludes
        }
    }
}

/// Those of the pods of one node listing an address that hold it in the view of that node.
pub(crate) fn here<T: Copy>(claims: &[(T, Claim)]) -> Vec<T> {
    let rank = |claim: &Claim| (!claim.terminating, claim.started);
    let best = claims.iter().map(|(_, claim)| rank(claim)).max();
    claims.iter().filter(|(_, claim)| Some(rank(claim)) == best).map(|(pod, _)| *pod).collect()
}

/// Those of the pods listing an address that hold it in the view of a node that has none of them.
pub(crate) fn elsewhere<T: Copy>(claims: &[(T, Claim)]) -> Vec<T> {
    let includes = claims.iter().any(|(_, claim)| claim.standing == Standing::Includes);
    let left = claims.iter().filter(|(_, claim)| !includes || claim.standing != Standing::Excludes);
    let stays = left.clone().any(|(_, claim)| !claim.terminating);
    left.filter(|(_, claim)| !stays || !claim.terminating).map(|(pod, _)| *pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim = Claim { terminating: false, started: Some(1), standing: Standing::Silent };

    fn claims<const N: usize>(claims: [Claim; N]) -> Vec<(usize, Claim)> {
        claims.into_iter().enumerate().collect()
    }

    #[test]
    fn on_one_node_a_terminating_pod_yields_and_then_the_one_that_started_first() {
        let (old, new) = (CLAIM, Claim { started: Some(2), ..CLAIM });
        assert_eq!(here(&claims([old, new])), [1]);
        assert_eq!(here(&claims([old, Claim { terminating: true, ..new }])), [0]);
        assert_eq!(here(&claims([Claim { started: None, ..old }, old])), [1]);
        assert_eq!(here(&claims([old, old, Claim { started: None, ..new }])), [0, 1], "undecided");
        let gone = Claim { standing: Standing::Excludes, ..new };
        assert_eq!(here(&claims([old, gone])), [1], "this node knows its own pods");
    }

    #[test]
    fn elsewhere_a_node_without_the_address_yields_and_then_a_terminating_pod() {
        let of = |standing| Claim { standing, ..CLAIM };
        let [gone, silent, has] = [Standing::Excludes, Standing::Silent, Standing::Includes].map(of);
        let ending = |claim| Claim { terminating: true, ..claim };
        assert_eq!(elsewhere(&claims([gone, has])), [1]);
        assert_eq!(elsewhere(&claims([gone, silent])), [0, 1], "nothing says that the other has it");
        assert_eq!(elsewhere(&claims([gone, silent, has])), [1, 2]);
        assert_eq!(elsewhere(&claims([has, ending(has)])), [0]);
        assert_eq!(elsewhere(&claims([gone, ending(has)])), [1], "prefixes are no matter of time");
        assert_eq!(elsewhere(&claims([ending(gone), ending(silent)])), [0, 1]);
        assert_eq!(elsewhere(&claims([silent, Claim { started: Some(9), ..silent }])), [0, 1], "clocks differ");
    }

    #[test]
    fn a_node_speaks_of_the_families_that_it_has_prefixes_of() {
        let prefixes = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect::<Vec<IpNetwork>>();
        let (v4, v6) = (IpAddr::from([10, 1, 0, 5]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5]));
        let one = prefixes(&["10.1.0.0/24"]);
        assert_eq!(Standing::of(None, v4), Standing::Excludes);
        assert_eq!(Standing::of(Some(&[]), v4), Standing::Silent);
        assert_eq!(Standing::of(Some(&one), v4), Standing::Includes);
        assert_eq!(Standing::of(Some(&one), v6), Standing::Silent);
        assert_eq!(Standing::of(Some(&prefixes(&["10.2.0.0/24"])), v4), Standing::Excludes);
    }
}
