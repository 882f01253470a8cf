//! A policy that looks as if it decided a flow, and does not: what it is, as data. The words are the
//! command's.

mod admitting_more;
mod denying_name;
mod label_on_workload;
pub(super) mod not_applying;
mod not_understood;
mod other_direction;
mod separate_items;
mod similar_pods;

use super::mark::FailedRequirement;
use crate::algebra::cidr::Cidr;
use crate::cluster::PolicyId;
use crate::object::Workload;
use crate::policy::Direction;
use crate::policy::finding::{self, Effect};
use crate::verdict::explain::code::ReasonCode;

/// A policy that looks as if it decided, and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MisleadingPolicy {
    /// The policy.
    pub policy: PolicyId,
    /// The field to look at: `spec.policyTypes`; the selector, where a requirement fails.
    pub path: String,
    /// What it does in place of what it looks like.
    pub discrepancy: Discrepancy,
    /// Whether it may be why a direction denies. Otherwise it is a fact that may help, and its policy
    /// may well be right as it is.
    pub may_be_why: bool,
}

/// What a policy does in place of what it looks like. A direction is the one that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Discrepancy {
    /// It has rules for a direction that its `policyTypes` leave out.
    RulesWithoutType {
        /// The direction.
        direction: Direction,
        /// How many rules.
        rules: usize,
    },
    /// Its list of rules for a direction is empty, and its `policyTypes` leave the direction out.
    EmptyListWithoutType(Direction),
    /// It says by its name that it denies, and closes the other direction only.
    DeniesOtherDirection(Direction),
    /// It selects the subject and has rules for the other direction only.
    RulesForOtherDirection {
        /// The direction.
        direction: Direction,
        /// What these rules do.
        effect: OtherDirection,
    },
    /// Its podSelector misses the subject by one label.
    SubjectLabel {
        /// The requirement that fails.
        failed: FailedRequirement,
        /// Where the subject has the value that is asked for.
        elsewhere: Option<ValueElsewhere>,
    },
    /// Its podSelector asks for labels that the subject's workload has itself and its template has not, or that its
    /// template has got since the subject was made.
    LabelOnWorkload {
        /// The first requirement that fails.
        failed: FailedRequirement,
        /// The value that the workload, or its template, has.
        value: String,
        /// Whether the template has it.
        is_in_template: bool,
        /// The namespace of the workload.
        namespace: String,
        /// The workload.
        workload: Workload,
    },
    /// It would select the subject, and is in another namespace than the subject, whose namespace this is.
    OtherNamespace(String),
    /// It has a selector for the subject, which is a hostNetwork pod.
    HostNetwork,
    /// It has two rules, one with ports alone and the other with peers alone, and the flow passes by one of them.
    SeparateRules {
        /// The direction.
        direction: Direction,
        /// The path of the rule with ports.
        with_ports: String,
        /// The path of the rule with peers.
        with_peers: String,
    },
    /// It says by its name that it denies, and a rule of it admits everyone on every port.
    AdmitsEveryone(Direction),
    /// An `except` of it holds the other end, which another rule or item admits.
    ExceptUndone {
        /// What it leaves out.
        except: Cidr,
        /// The policy that admits the other end, which may be the same one.
        policy: PolicyId,
        /// The rule or item of that policy.
        path: String,
    },
    /// It isolates the subject and does not admit the flow, and another policy does.
    PoliciesAddUp {
        /// The direction.
        direction: Direction,
        /// How many rules it has in this direction.
        rules: usize,
        /// The other policy.
        policy: PolicyId,
        /// The rule of the other policy.
        path: String,
        /// For which flows the other policy admits it.
        extent: AddedFlows,
    },
    /// Two items of a rule admit each for itself (OR), where one item with both (AND) may be meant.
    SeparateItems {
        /// The direction.
        direction: Direction,
        /// The items, and how many endpoints they admit.
        items: SeparateItems,
    },
    /// A part of it was not understood, or there is no room for its rules.
    NotUnderstood {
        /// The code of the finding.
        code: finding::FindingCode,
        /// What is wrong, as the finding says it.
        problem: String,
        /// What follows from it.
        effect: Effect,
        /// What of the same rule does not mean the flow either.
        besides: Option<OtherPart>,
    },
}

/// What the rules of a policy do that has rules for the other direction only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum OtherDirection {
    /// They mean the other end, and the direction that was asked about denies it.
    MeanOtherEnd,
    /// They admit the other end in the other direction, and the direction that was asked about denies it.
    Admit,
    /// They limit the other direction, and the direction that was asked about allows everything.
    Limit,
}

/// Where a pod has a value that one of its labels lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ValueElsewhere {
    /// In a label of this key, which has this value.
    Label(String, String),
    /// In its name, or its workload's.
    Name(String),
}

/// The flows for which one of two policies admits more than the other, among the flows of the pods that both policies
/// are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum AddedFlows {
    /// For those with every other end.
    Everyone,
    /// For those with every pod of the namespace.
    PodsOfNamespace,
    /// For those of every pod of the namespace: it is a policy for all of them.
    AllSubjects,
}

/// How many endpoints two items of a rule admit, each alone and both in one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeparateItems {
    /// The place of the item with a namespaceSelector, and how many endpoints it admits.
    pub namespace_selector: (usize, usize),
    /// The place of the item with a podSelector, and how many endpoints it admits.
    pub pod_selector: (usize, usize),
    /// How many endpoints one item with both would admit.
    pub both: usize,
}

/// The part of a rule that does not mean a flow, beside a part that was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum OtherPart {
    /// Its ports do not admit the traffic.
    Ports,
    /// Its peers do not mean the other end.
    Peers,
}

impl MisleadingPolicy {
    /// The code of what is misleading about it.
    #[must_use]
    pub const fn code(&self) -> ReasonCode {
        match &self.discrepancy {
            Discrepancy::RulesWithoutType { .. }
            | Discrepancy::EmptyListWithoutType(_)
            | Discrepancy::DeniesOtherDirection(_) => ReasonCode::PolicyTypesMissing,
            Discrepancy::RulesForOtherDirection { .. } => ReasonCode::DirectionOther,
            Discrepancy::SubjectLabel { .. } | Discrepancy::LabelOnWorkload { .. } => ReasonCode::SubjectNearMiss,
            Discrepancy::OtherNamespace(_) => ReasonCode::PolicyOtherNamespace,
            Discrepancy::HostNetwork => ReasonCode::SubjectHostNetwork,
            Discrepancy::SeparateRules { .. } => ReasonCode::RuleOrNotAnd,
            Discrepancy::AdmitsEveryone(_) => ReasonCode::RuleAdmitsEveryone,
            Discrepancy::ExceptUndone { .. } => ReasonCode::ExceptUndone,
            Discrepancy::PoliciesAddUp { .. } => ReasonCode::PoliciesAddUp,
            Discrepancy::SeparateItems { .. } => ReasonCode::PeerOrNotAnd,
            Discrepancy::NotUnderstood { code: finding::FindingCode::PolicyTooLarge, .. } => ReasonCode::PolicyTooLarge,
            Discrepancy::NotUnderstood { .. } => ReasonCode::RuleNotUnderstood,
        }
    }

    /// The requirement that fails, where the path is that of a selector.
    #[must_use]
    pub const fn failed(&self) -> Option<&FailedRequirement> {
        match &self.discrepancy {
            Discrepancy::SubjectLabel { failed, .. } | Discrepancy::LabelOnWorkload { failed, .. } => Some(failed),
            _ => None,
        }
    }
}
