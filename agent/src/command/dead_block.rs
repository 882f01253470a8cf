//! Blocks of rules that hold a Service's address alone, in words.

use npc_agent::finding::Finding;
use npc_agent::source::manifests::ObjectRef;
use npc_compiler::algebra::block_text::WrittenBlock;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::verdict::dead_block::{dead_blocks, is_dead};
use npc_compiler::verdict::outside::Outside;

use super::input::Input;
use super::warning::{Warning, WarningCode};
use super::words::{policy_name, shorten};

/// At most this many blocks are named.
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
pub(super) fn warning(input: &Input, policies: impl IntoIterator<Item = PolicyId>) -> Option<Warning> {
    let (cluster, code) = (&input.cluster, WarningCode::IpBlockServiceAddress);
    let (mut all, mut findings) = (Vec::new(), Vec::new());
    for id in policies {
        for dead in dead_blocks(cluster, id) {
            let (name, block, service) = (policy_name(cluster, id), dead.cidr.network(), dead.service);
            let what = format!("{block}, the address of {}/svc/{}", service.namespace, service.name);
            all.push(format!("networkpolicy {name} {} {what}", dead.path()));
            let (policy, path) = (cluster.policy(id), format!("{}.ipBlock.cidr", dead.path()));
            let object = ObjectRef::new("NetworkPolicy", &policy.namespace, &policy.name);
            let place = input.loaded.positions.locate_object(&object, &path);
            findings.push(Finding { path, ..code.of_object(what, object, place.as_ref()) });
        }
    }
    (!all.is_empty()).then(|| {
        let text = format!(
            "rules admit Services' addresses, which no packet has when policies judge it (kube-proxy translates them, and \
             none is a source), so these admit nothing: {}",
            shorten(&all, NAMED, "; ")
        );
        Warning::of_each(code, text, findings)
    })
}
