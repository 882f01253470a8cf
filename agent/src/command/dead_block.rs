//! Blocks of rules that hold a Service's address alone. kube-proxy translates such an address before
//! policies judge, and no packet comes from one, so a rule for it admits nothing.

use npc_compiler::algebra::cidr::Cidr;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::object::Service;
use npc_compiler::policy::{Direction, Peer, Peers, PolicyRule};
use npc_compiler::verdict::outside::Outside;

use super::words::{policy_name, shorten};

/// So many blocks are named.
const NAMED: usize = 3;

/// What is said of a dead block in a few words.
pub(super) const DEAD: &str = "a Service's address: no packet has it after translation";

/// The mark behind a dead block in a table.
pub(super) const MARK: &str = "!";

/// The Service whose address alone a block holds, as it is written: `10.96.0.1/32`.
pub(super) fn service<'c>(cluster: &'c Cluster, block: &str) -> Option<&'c Service> {
    service_of(cluster, &Cidr::parse(block.trim_start_matches('[').trim_end_matches(']')).ok()?)
}

fn service_of<'c>(cluster: &'c Cluster, block: &Cidr) -> Option<&'c Service> {
    Some(cluster.cluster_ip_alone_in(block.family, &block.addresses())?.0)
}

/// The text of an entry, with marks before and behind each block, and one more behind what is dead.
pub(super) fn marked(cluster: &Cluster, entry: &Outside, before: &str, behind: &str) -> String {
    let blocks = entry.blocks();
    let is_dead = |block: &String| service(cluster, block).is_some();
    if !blocks.iter().any(is_dead) {
        return entry.marked(before, behind);
    }
    let text = |block: &String| {
        let mark = if is_dead(block) { MARK } else { "" };
        format!("{before}{block}:{}{behind}{mark}", entry.traffic)
    };
    blocks.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The dead blocks of policies, in words.
pub(super) fn warning(cluster: &Cluster, policies: impl IntoIterator<Item = PolicyId>) -> Option<String> {
    let of_policy = |id: PolicyId| -> Vec<String> {
        let rules = cluster.policy(id).rules_in_force();
        rules.flat_map(|(direction, rule)| of_rule(cluster, id, direction, rule)).collect()
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

fn of_rule(cluster: &Cluster, id: PolicyId, direction: Direction, rule: &PolicyRule) -> Vec<String> {
    let Peers::AnyOf(peers) = &rule.peers else { return Vec::new() };
    let dead = peers.iter().enumerate().filter_map(|(place, peer)| {
        let Peer::Block(block) = peer else { return None };
        let text = block.cidr.network().to_string();
        let service = service_of(cluster, &block.cidr)?;
        Some(format!(
            "networkpolicy {} {}.{}[{place}] {text}, the address of {}/svc/{}",
            policy_name(cluster, id),
            rule.path,
            direction.peers_field(),
            service.namespace,
            service.name
        ))
    });
    dead.collect()
}
