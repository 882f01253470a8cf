//! Mistakes in policies that npc understands.

use npc_agent::finding::Finding;
use npc_compiler::cluster::group::Groups;
use npc_compiler::verdict::lint::{Mistake, mistakes};

use crate::command::input::{Input, Source};

/// What is wrong with policies that are understood.
pub(super) fn findings(input: &Input) -> Vec<Finding> {
    let cluster = &input.cluster;
    let groups = Groups::of_cluster(cluster);
    let knows_namespaces = input.source == Source::Cluster && cluster.unread().is_empty();
    let finding = |mistake: Mistake| {
        let policy = cluster.policy(mistake.policy);
        let place = input.loaded.positions.locate("NetworkPolicy", &policy.namespace, &policy.name, &mistake.path);
        Finding::of_mistake(&mistake, (&policy.namespace, &policy.name), place.as_ref())
    };
    mistakes(cluster, &groups, knows_namespaces).into_iter().map(finding).collect()
}
