//! A change that is to be tried, and what decides when.

use super::change::Change;

/// What a change mends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A label that stands on a workload and not in its template, or that pods have misspelt. What its author meant is
    /// known, so the label goes there, regardless of what follows from it.
    Misplaced,
    /// A mistake: the other end lacks a label that a rule rightly asks for, a rule asks for what no
    /// endpoint has, or a policy with such a rule does not apply.
    Mistake,
    /// A policy that does not mean the flow.
    Policy,
}

/// A change that might admit the flow.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) change: Change,
    pub(super) cause: Cause,
    /// How much of the object changes; smaller ones are tried first.
    pub(super) size: Size,
}

/// How much of an object changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    Value,
    Item,
    Rule,
    Policy,
    /// A rule in a policy of all pods of its namespace that allows nothing: its author keeps it so.
    DefaultDeny,
    /// A rule in a policy that selects other pods too, a peer of a rule with other ports too, or a label of a
    /// namespace: it would admit more as soon as the other direction does.
    Wide,
}
