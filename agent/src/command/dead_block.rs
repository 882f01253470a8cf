//! Blocks of rules that hold a Service's address alone, in words.

use npc_compiler::algebra::block_text::WrittenBlock;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::verdict::dead_block::{DeadBlock, dead_blocks, is_dead};
use npc_compiler::verdict::outside::Outside;

use super::words::{policy_name, shorten};

/// So many blocks are named.
const NAMED: usize = 3;

/// What is said of a dead block in a few words.
pub(super) const DEAD: &str = "a Service's address: no packet has it after translation";

/// The mark behind a dead block in a table.
pub(super) const MARK: &str = "!";

/// The text of an entry, with marks before and behind each block, and one more behind what is dead.
pub(super) fn marked(cluster: &Cluster, entry: &Outside, before: &str, behind: &str) -> String {
    let blocks = entry.blocks();
    if !blocks.iter().any(|block| is_dead(cluster, block)) {
        return entry.marked(before, behind);
    }
    let text = |block: &WrittenBlock| {
        let mark = if is_dead(cluster, block) { MARK } else { "" };
        format!("{before}{}:{}{behind}{mark}", block.before_port(), entry.traffic)
    };
    blocks.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The dead blocks of policies, in words.
pub(super) fn warning(cluster: &Cluster, policies: impl IntoIterator<Item = PolicyId>) -> Option<String> {
    let of_policy = |id: PolicyId| {
        dead_blocks(cluster, id).map(move |of: DeadBlock<'_>| {
            let (policy, block, service) = (policy_name(cluster, id), of.cidr.network(), of.service);
            format!(
                "networkpolicy {policy} {} {block}, the address of {}/svc/{}",
                of.path(),
                service.namespace,
                service.name
            )
        })
    };
    let all: Vec<String> = policies.into_iter().flat_map(of_policy).collect();
    (!all.is_empty()).then(|| {
        format!(
            "rules admit Services' addresses, which no packet has when policies judge it (kube-proxy translates them, and \
             none is a source), so these admit nothing: {}",
            shorten(&all, NAMED, "; ")
        )
    })
}
