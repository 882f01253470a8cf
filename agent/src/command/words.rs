//! Words that several commands use.

use npc_compiler::cluster::{Cluster, PolicyId};

/// A policy as `NS/NAME`.
pub(super) fn policy_name(cluster: &Cluster, id: PolicyId) -> String {
    let policy = cluster.policy(id);
    format!("{}/{}", policy.namespace, policy.name)
}

/// The first few of a list, and how many more there are.
pub(super) fn shorten(all: &[String], listed: usize, separator: &str) -> String {
    // A line that says "1 more" could as well say what it is.
    if all.len() <= listed.saturating_add(1) {
        return all.join(separator);
    }
    format!("{}{separator}+{} more", all[..listed].join(separator), all.len() - listed)
}
