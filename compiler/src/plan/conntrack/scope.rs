//! Which flows a plan may forbid.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::object::Family;
use crate::plan::{Plan, SetWrite, Step};
use crate::ruleset::node::Member;

/// Flows that have to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowScope {
    /// Those that one of these addresses sends or gets, with the addresses that they have in FORWARD.
    Of(BTreeSet<IpAddr>),
    /// All.
    All,
}

impl Default for FlowScope {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl FlowScope {
    /// Whether there is no flow to judge.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Of(addresses) if addresses.is_empty())
    }

    /// Whether the flows of an address are among them.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        match self {
            Self::Of(addresses) => addresses.contains(&address),
            Self::All => true,
        }
    }

    /// Whether a family may have such flows.
    #[must_use]
    pub fn touches(&self, family: Family) -> bool {
        match self {
            Self::Of(addresses) => addresses.iter().any(|address| Family::of(address) == family),
            Self::All => true,
        }
    }

    /// Adds the flows of another scope to this one.
    pub fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Of(addresses), Self::Of(more)) => addresses.extend(more),
            (Self::All, _) => {}
            (scope, Self::All) => *scope = Self::All,
        }
    }

    /// Takes the flows of these addresses out of the scope, because they were judged.
    pub fn remove(&mut self, judged: &BTreeSet<IpAddr>) {
        if let Self::Of(addresses) = self {
            addresses.retain(|address| !judged.contains(address));
        }
    }
}

/// The flows with packets that the rules let through before a plan and may drop after it. The most
/// frequent changes are writes to sets alone. Peers that come and endpoints that are isolated no
/// more narrow nothing. A member that goes, or an endpoint that is newly isolated, concerns flows
/// of its own address only. New rules may forbid any flow.
#[must_use]
pub fn narrowed(plan: &Plan) -> FlowScope {
    if plan.steps.iter().any(|step| matches!(step, Step::Chains(..))) {
        return FlowScope::All;
    }
    let writes = || {
        plan.steps.iter().flat_map(|step| match step {
            Step::Sets(writes) => writes.as_slice(),
            Step::Chains(..) | Step::Grace => &[],
        })
    };
    let freed: BTreeSet<&Member> = writes()
        .filter_map(|write| match write {
            SetWrite::Delete(set, member) if set.is_isolated_set() => Some(member),
            _ => None,
        })
        .collect();
    let narrows = |write: &SetWrite| match write {
        // Concerns packets, not flows.
        SetWrite::Add(set, _) | SetWrite::Delete(set, _) if set.is_own() => false,
        SetWrite::Add(set, _) if set.is_isolated_set() => true,
        SetWrite::Add(set, member) => set.leads_to_groups() && !freed.contains(member),
        SetWrite::Delete(set, _) if set.is_isolated_set() => false,
        SetWrite::Delete(set, member) => !set.leads_to_groups() || !freed.contains(member),
        SetWrite::Create(..) | SetWrite::Destroy(_) => false,
    };
    let mut addresses = BTreeSet::new();
    for write in writes().filter(|write| narrows(write)) {
        let (SetWrite::Add(_, member) | SetWrite::Delete(_, member)) = write else { continue };
        match member {
            Member::Address(address) | Member::AddressPort(address, ..) => addresses.insert(*address),
            // The addresses of a prefix are too many to name.
            _ => return FlowScope::All,
        };
    }
    FlowScope::Of(addresses)
}
