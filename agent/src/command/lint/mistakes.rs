//! Mistakes in policies that npc understands.

use npc_agent::finding::Finding;
use npc_compiler::cluster::group::Groups;
use npc_compiler::verdict::lint::{Code, Mistake, mistakes};

use crate::command::input::{Input, Source};

/// What is wrong with policies that are understood.
pub(super) fn findings(input: &Input) -> Vec<Finding> {
    let cluster = &input.cluster;
    let groups = Groups::of_cluster(cluster);
    let knows_namespaces = input.source == Source::Cluster && cluster.unread().is_empty();
    let found = mistakes(cluster, &groups, knows_namespaces).into_iter().filter(|mistake| !is_idle(input, mistake));
    let finding = |mistake: Mistake| {
        let policy = cluster.policy(mistake.policy);
        let place = input.loaded.positions.locate("NetworkPolicy", &policy.namespace, &policy.name, &mistake.path);
        Finding::of_mistake(&mistake, (&policy.namespace, &policy.name), place.as_ref())
    };
    found.map(finding).collect()
}

/// Whether a policy selects no pod because its workload is to have none at present.
fn is_idle(input: &Input, mistake: &Mistake) -> bool {
    let policy = input.cluster.policy(mistake.policy);
    let mut idle = input.loaded.idle.iter();
    mistake.code == Code::SubjectEmpty
        && idle.any(|(of, labels)| of.namespace == policy.namespace && policy.subject.matches(labels))
}
