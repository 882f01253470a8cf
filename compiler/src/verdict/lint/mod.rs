//! Mistakes in policies that are understood: what has no effect, and what cannot work.
//!
//! Each mistake is one that follows from the policies, or from the policies and the pods, Services and
//! namespaces of the input. Where the input lacks what decides, nothing is said: manifests of one
//! application lack the pods of others.

mod covered;
mod dns;
mod half_open;
mod names;
mod redundant;
mod selected;
mod service_blocks;
mod written;

use std::collections::BTreeSet;

use crate::cluster::group::Groups;
use crate::cluster::{Cluster, PolicyId};

/// Kinds of mistakes; stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum MistakeCode {
    /// Rules of a direction that `policyTypes` leaves out.
    PolicyTypesUnusedRules,
    /// `egress: []` without `policyTypes`, which isolates nothing for egress.
    PolicyTypesEgressLost,
    /// The podSelector selects no pod.
    SubjectEmpty,
    /// A namespaceSelector selects no namespace.
    PeerNamespaceEmpty,
    /// An ipBlock that holds addresses of Services alone.
    IpBlockServiceAddress,
    /// An ipBlock whose exceptions together leave nothing of it.
    ExceptCoversCidr,
    /// A podSelector of a rule that selects no pod, and a pod has almost the same labels.
    PeerLabelValue,
    /// A name of a port that no pod which is meant has.
    PortNamedUnresolved,
    /// A rule that names a Service's port in place of the port of its pods.
    ServicePort,
    /// A rule for port 53 that leaves out UDP.
    ProtocolMissingDns,
    /// Egress to pods, and no rule that admits DNS.
    DnsBlocked,
    /// A rule whose traffic the other end's policies do not admit at all.
    HalfOpen,
    /// A rule that another one of its policy covers.
    RuleRedundant,
    /// A policy that another one covers.
    PolicyRedundant,
    /// A rule that admits everything, beside others.
    AllowAllRule,
    /// Two peers that were meant as one item.
    PeerSplitOr,
}

impl MistakeCode {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 16] = [
        Self::PolicyTypesUnusedRules,
        Self::PolicyTypesEgressLost,
        Self::SubjectEmpty,
        Self::PeerNamespaceEmpty,
        Self::IpBlockServiceAddress,
        Self::ExceptCoversCidr,
        Self::PeerLabelValue,
        Self::PortNamedUnresolved,
        Self::ServicePort,
        Self::ProtocolMissingDns,
        Self::DnsBlocked,
        Self::HalfOpen,
        Self::RuleRedundant,
        Self::PolicyRedundant,
        Self::AllowAllRule,
        Self::PeerSplitOr,
    ];

    /// Its stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyTypesUnusedRules => "policytypes-unused-rules",
            Self::PolicyTypesEgressLost => "policytypes-egress-lost",
            Self::SubjectEmpty => "subject-empty",
            Self::PeerNamespaceEmpty => "peer-namespace-empty",
            Self::IpBlockServiceAddress => "ipblock-service-address",
            Self::ExceptCoversCidr => "except-covers-cidr",
            Self::PeerLabelValue => "peer-label-value",
            Self::PortNamedUnresolved => "port-named-unresolved",
            Self::ServicePort => "service-port",
            Self::ProtocolMissingDns => "protocol-missing-dns",
            Self::DnsBlocked => "dns-blocked",
            Self::HalfOpen => "half-open",
            Self::RuleRedundant => "rule-redundant",
            Self::PolicyRedundant => "policy-redundant",
            Self::AllowAllRule => "allow-all-rule",
            Self::PeerSplitOr => "peer-split-or",
        }
    }

    /// Whether what is enforced is otherwise than the text reads. Other mistakes are doubts.
    #[must_use]
    pub const fn is_harmful(self) -> bool {
        matches!(
            self,
            Self::PolicyTypesUnusedRules
                | Self::PolicyTypesEgressLost
                | Self::IpBlockServiceAddress
                | Self::ExceptCoversCidr
                | Self::ServicePort
        )
    }

    /// What follows from it.
    #[must_use]
    pub const fn effect(self) -> &'static str {
        match self {
            Self::PolicyTypesUnusedRules => "rules of this direction have no effect",
            Self::PolicyTypesEgressLost => "the policy does not isolate its pods for egress",
            Self::SubjectEmpty => "the policy isolates no pod",
            Self::PeerNamespaceEmpty | Self::IpBlockServiceAddress | Self::ExceptCoversCidr | Self::PeerLabelValue => {
                "this peer means no end"
            }
            Self::PortNamedUnresolved => "this port means none",
            Self::ServicePort => {
                "policies see the port of the pods, so the rule does not admit what goes by the Service"
            }
            Self::ProtocolMissingDns => "DNS goes by UDP first, which no rule admits",
            Self::DnsBlocked => "these pods cannot resolve names",
            Self::HalfOpen => "nothing of it passes",
            Self::RuleRedundant | Self::PolicyRedundant => "to remove it changes nothing",
            Self::AllowAllRule => "the other rules of this direction have no effect",
            Self::PeerSplitOr => "each item admits by itself (OR)",
        }
    }
}

/// A mistake in a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The policy.
    pub policy: PolicyId,
    /// The field, with 0-based indexes.
    pub path: String,
    /// What kind of mistake it is.
    pub code: MistakeCode,
    /// What is wrong.
    pub problem: String,
    /// Whether it is only likely: a fact that decides it is not in the input.
    pub is_doubt: bool,
}

impl Mistake {
    /// Whether what is enforced is otherwise than the text reads, for certain.
    #[must_use]
    pub const fn is_harmful(&self) -> bool {
        self.code.is_harmful() && !self.is_doubt
    }

    /// What follows from it.
    #[must_use]
    pub const fn effect(&self) -> &'static str {
        match (self.code, self.is_doubt) {
            (MistakeCode::IpBlockServiceAddress, true) => {
                "if services get their addresses from this prefix, this peer means no end"
            }
            (code, _) => code.effect(),
        }
    }
}

/// The mistakes in the policies of a cluster, by policy and path. The groups are those of all
/// endpoints ([`Groups::of_cluster`]). `knows_namespaces`: the input has every namespace that there is.
#[must_use]
pub fn mistakes(cluster: &Cluster, groups: &Groups, knows_namespaces: bool) -> Vec<Mistake> {
    let mut found = Vec::new();
    // Where a rule names a Service's port, that is why nothing of it passes.
    let mut causes = BTreeSet::new();
    let service_blocks = service_blocks::ServiceBlocks::default();
    for (id, _) in cluster.policies() {
        service_blocks.find(cluster, id, &mut found);
        written::find(cluster, id, &mut found);
        redundant::rules(cluster, id, &mut found);
        causes.extend(selected::find(cluster, id, &mut found).into_iter().map(|rule| (id, rule)));
        names::find(cluster, id, knows_namespaces, &mut found);
        dns::find(cluster, id, &mut found);
        half_open::find(cluster, groups, id, &mut found);
    }
    redundant::policies(cluster, &mut found);
    found.sort_unstable();
    found.dedup();
    found.retain(|mistake| {
        mistake.code != MistakeCode::HalfOpen || !causes.contains(&(mistake.policy, mistake.path.clone()))
    });
    found
}

#[cfg(test)]
mod tests;
