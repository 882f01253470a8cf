//! Parts of a policy that have no effect for any set of pods.

use super::{Mistake, MistakeCode};
use crate::algebra::cidr::Cidr;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{Direction, Peer, Peers};
use crate::verdict::dead_block::dead_blocks;

pub(super) fn find(cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    let mut add =
        |path: String, code, problem| found.push(Mistake { policy: id, path, code, problem, is_doubt: false });
    for direction in Direction::ALL {
        let section = direction.section();
        if !policy.isolates(direction) {
            let types = format!("policyTypes lacks {}", direction.as_str());
            let stand = match policy.rules(direction).len() {
                0 => None,
                1 => Some("1 rule stands".to_owned()),
                count => Some(format!("{count} rules stand")),
            };
            if let Some(stand) = stand {
                add(
                    format!("spec.{section}"),
                    MistakeCode::PolicyTypesUnusedRules,
                    format!("{stand} here, and {types}"),
                );
            }
            if direction == Direction::Egress && policy.has_empty_list(direction) {
                let problem = format!("the list is empty, which the API takes as left out, and {types}");
                add(format!("spec.{section}"), MistakeCode::PolicyTypesEgressLost, problem);
            }
        }
    }
    for (direction, rule) in policy.rules_in_force() {
        let Peers::AnyOf(peers) = &rule.peers else { continue };
        for (place, peer) in peers.iter().enumerate() {
            let Peer::Block(of) = peer else { continue };
            let holds_all = |except: &Cidr| except.first <= of.cidr.first && of.cidr.last <= except.last;
            // One exception that does so by itself is a finding already.
            if of.block.addresses.is_empty() && !of.except.iter().any(holds_all) {
                let problem = format!("the exceptions together leave nothing of {}", of.cidr.network());
                let path = format!("{}.{}[{place}].ipBlock.except", rule.path, direction.peers_field());
                add(path, MistakeCode::ExceptCoversCidr, problem);
            }
        }
    }
    for block in dead_blocks(cluster, id) {
        let (address, service) = (block.address, block.service.full_name());
        let problem =
            format!("{address} is the address of service {service}, which no packet has where policies judge");
        add(format!("{}.ipBlock.cidr", block.path()), MistakeCode::IpBlockServiceAddress, problem);
    }
}
