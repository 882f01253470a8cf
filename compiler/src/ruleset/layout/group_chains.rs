//! Group chains, with the endpoints that each judges and the policies that it comes from.

use std::collections::BTreeSet;

use super::{RulesetOptions, chain_of_leaf, names};
use crate::cluster::group::{Group, GroupId, Groups, RetainedGroup};
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::members::over_bound;
use crate::ruleset::node::{ChainName, Rule};

/// A group of a node and its chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChain {
    /// The direction in which its policies isolate.
    pub direction: Direction,
    /// Its policies.
    pub policies: Vec<PolicyId>,
    /// Its endpoints; none if it is retained.
    pub pods: Vec<PodId>,
    /// Its chain in IPv4 and in IPv6. Groups with the same rules share one.
    pub chains: [ChainName; 2],
}

/// The groups of a node with their chains, as [`ruleset_with`](super::ruleset_with) makes
/// them of the same input.
#[must_use]
pub fn group_chains(
    cluster: &Cluster,
    node: &str,
    options: &RulesetOptions,
    retained: &[RetainedGroup],
) -> Vec<GroupChain> {
    let local = cluster.endpoints().filter(|(_, pod)| pod.node.as_deref() == Some(node));
    let local: Vec<PodId> = local.map(|(id, _)| id).collect();
    let groups = Groups::with(cluster, local.iter().copied(), retained, &over_bound(cluster, Some(node), options));
    let of = |(id, group): (GroupId, &Group)| {
        let direction = group.key.direction;
        let admission = group.admission(cluster);
        let chains = Family::ALL.map(|family| {
            let leaf = Leaf::new(family, direction, options, &admission, names(cluster, &group.key.policies));
            chain_of_leaf(direction, &leaf)
        });
        let pods = local.iter().copied().filter(|pod| groups.of(*pod, direction) == Some(id)).collect();
        GroupChain { direction, policies: group.key.policies.clone(), pods, chains }
    };
    groups.iter().map(of).collect()
}

/// All rules of policies that a rule of a group chain comes from, each as the policy,
/// `NAMESPACE/NAME`, and the rule's path. Its comment has no room for more than some. Nothing if
/// the policies do not ask for that rule in that chain.
#[must_use]
pub fn origins(
    cluster: &Cluster,
    node: &str,
    (options, retained): (&RulesetOptions, &[RetainedGroup]),
    family: Family,
    chain: &ChainName,
    rule: &Rule,
) -> Vec<(String, String)> {
    let Some(direction) = chain.direction_of_group() else { return Vec::new() };
    let local = cluster.endpoints().filter(|(_, pod)| pod.node.as_deref() == Some(node)).map(|(id, _)| id);
    let groups = Groups::with(cluster, local, retained, &over_bound(cluster, Some(node), options));
    let mut all: Vec<(String, String)> = Vec::new();
    for (_, group) in groups.iter().filter(|(_, group)| group.key.direction == direction) {
        let admission = group.admission(cluster);
        let policies = || names(cluster, &group.key.policies);
        let leaf = Leaf::new(family, direction, options, &admission, policies());
        if chain_of_leaf(direction, &leaf) == *chain {
            let (_, mut origins) = Leaf::with_origins(family, direction, options, &admission, policies());
            all.extend(origins.remove(rule).unwrap_or_default());
        }
    }
    // Groups with the same rules share a chain.
    let mut seen = BTreeSet::new();
    all.retain(|origin| seen.insert(origin.clone()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::layout::ruleset;
    use crate::ruleset::node::ChainRole;
    use crate::sample::cluster;

    #[test]
    fn each_chain_of_a_group_is_found_and_no_other() {
        let cluster = cluster(
            &["shop/web-1 app=web 10.0.0.1 @n", "shop/web-2 app=web 10.0.0.2 fd00::2 @n", "shop/db app=db 10.0.0.3 @n"],
            &[
                r#"shop/web {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 80}]}]}"#,
                r#"shop/all {"podSelector": {}, "policyTypes": ["Egress", "Ingress"], "egress": [{}]}"#,
            ],
        );
        let options = RulesetOptions::default();
        let of_groups = group_chains(&cluster, "n", &options, &[]);
        let ruleset = ruleset(&cluster, "n", &options);
        for family in Family::ALL {
            let chains = ruleset.family(family).chains.keys();
            let mut expected: Vec<_> = chains.filter(|name| matches!(name.role(), ChainRole::Group(_))).collect();
            let mut found: Vec<_> = of_groups.iter().map(|group| &group.chains[family as usize]).collect();
            expected.sort();
            found.sort();
            found.dedup();
            assert_eq!(found, expected);
        }
        assert!(of_groups.iter().any(|group| group.pods.len() > 1));
    }

    #[test]
    fn a_rule_has_all_its_origins_though_its_comment_has_room_for_some() {
        let ingress = |port: usize| format!(r#"{{"ports": [{{"port": {}}}]}}"#, 80 + port % 2);
        let ingress: Vec<String> = (0..200).map(ingress).collect();
        let policy = format!(r#"shop/web {{"podSelector": {{}}, "ingress": [{}]}}"#, ingress.join(","));
        let cluster = cluster(&["shop/web-1 app=web 10.0.0.1 @n"], &[&policy]);
        let options = RulesetOptions::default();
        let ruleset = ruleset(&cluster, "n", &options);
        let chains = ruleset.v4.chains.iter().filter(|(name, _)| matches!(name.role(), ChainRole::Group(_)));
        let mut found = Vec::new();
        for (chain, rule) in chains.flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule))) {
            let all = origins(&cluster, "n", (&options, &[]), Family::V4, chain, rule);
            if let Some(crate::ruleset::text::Named::Rules { rules, more }) = crate::ruleset::text::Named::of(rule) {
                assert_eq!((rules.len() + more, &all[..rules.len()]), (all.len(), &rules[..]));
                found.extend(all);
            } else {
                assert_eq!(all, []);
            }
        }
        found.sort();
        let mut expected: Vec<_> = (0..200).map(|at| ("shop/web".to_owned(), format!("spec.ingress[{at}]"))).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}
