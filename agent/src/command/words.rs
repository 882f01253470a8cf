//! Words that several commands use.

use npc_compiler::cluster::{Cluster, PolicyId};

/// A policy as `NS/NAME`.
pub(super) fn policy_name(cluster: &Cluster, id: PolicyId) -> String {
    let policy = cluster.policy(id);
    format!("{}/{}", policy.namespace, policy.name)
}

/// What the input has, where it has no endpoints: `1 policy, no pods`.
pub(super) fn policies_and_pods(cluster: &Cluster) -> String {
    let policies = match cluster.policies().count() {
        0 => "no policies".to_owned(),
        1 => "1 policy".to_owned(),
        more => format!("{more} policies"),
    };
    let pods = match cluster.pods().count() {
        0 => "no pods".to_owned(),
        1 => "1 pod, which is finished or has its node's network".to_owned(),
        more => format!("{more} pods, which are finished or have their node's network"),
    };
    format!("{policies}, {pods}: add Pods or workloads, such as Deployments")
}

/// The first few of a list, and how many more there are.
pub(super) fn shorten(all: &[String], listed: usize, separator: &str) -> String {
    // A line that says "1 more" could as well say what it is.
    if all.len() <= listed.saturating_add(1) {
        return all.join(separator);
    }
    format!("{}{separator}+{} more", all[..listed].join(separator), all.len() - listed)
}
