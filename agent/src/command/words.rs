//! Words that several commands use.

use npc_agent::words::counted::counted;
use npc_compiler::algebra::block_text::written_blocks;
use npc_compiler::algebra::cidr::Cidr;
use npc_compiler::algebra::ranges::RangeSet;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::object::Family;
use npc_compiler::policy::Direction;
use npc_compiler::policy::finding::Finding;

/// A policy as `NS/NAME`.
pub(super) fn policy_name(cluster: &Cluster, id: PolicyId) -> String {
    let policy = cluster.policy(id);
    format!("{}/{}", policy.namespace, policy.name)
}

/// What of policies was not understood, so that a direction allows less than they were meant to: the first few.
pub(super) fn not_understood(
    cluster: &Cluster,
    policies: impl Iterator<Item = PolicyId>,
    direction: Direction,
) -> Vec<String> {
    /// At most this many are written out.
    const LISTED: usize = 4;
    let other = format!("spec.{}", direction.opposite().section());
    let is_here = |of: &&Finding| of.effect.is_harmful() && !of.path.starts_with(&other);
    let mut all: Vec<String> =
        policies.flat_map(|id| cluster.findings_of(id).filter(is_here).map(ToString::to_string)).collect();
    if all.len() > LISTED + 1 {
        let more = all.len() - LISTED;
        all.truncate(LISTED);
        all.push(format!("{more} more parts; npc lint shows them"));
    }
    all
}

/// The field of a workload that says how many pods it has.
pub(super) fn count_field(kind: &str) -> &'static str {
    if matches!(kind, "Job" | "CronJob") { "parallelism" } else { "replicas" }
}

/// What the input has, where it has no endpoints: `1 policy, no pods`.
pub(super) fn policies_and_pods(cluster: &Cluster) -> String {
    let policies = match cluster.policies().count() {
        0 => "no policies".to_owned(),
        number => counted(number, "policy"),
    };
    let pods = match cluster.pods().count() {
        0 => "no pods".to_owned(),
        1 => "1 pod, which is finished or a hostNetwork pod".to_owned(),
        more => format!("{more} pods, which are finished or hostNetwork pods"),
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

/// Prefixes as people write them: with exceptions where that is shorter.
pub(super) fn blocks(prefixes: &[Cidr]) -> Vec<String> {
    let of_family = |family: Family| {
        let ranges = prefixes.iter().filter(move |cidr| cidr.family == family).map(|cidr| (cidr.first, cidr.last));
        written_blocks(family, &RangeSet::from_ranges(ranges))
    };
    Family::ALL.into_iter().flat_map(of_family).map(|block| block.to_string()).collect()
}
