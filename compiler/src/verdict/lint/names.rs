//! namespaceSelectors that select no namespace.

use super::{Mistake, MistakeCode};
use crate::algebra::selector::{Operator, Selector};
use crate::cluster::{Cluster, PolicyId};
use crate::object::NAMESPACE_NAME_LABEL;
use crate::policy::{Namespaces, Peer, Peers};

pub(super) fn find(cluster: &Cluster, id: PolicyId, knows_namespaces: bool, found: &mut Vec<Mistake>) {
    let policy = cluster.policy(id);
    for (direction, rule) in policy.rules_in_force() {
        let Peers::AnyOf(peers) = &rule.peers else { continue };
        for (place, peer) in peers.iter().enumerate() {
            let Peer::Pods(peer) = peer else { continue };
            let Namespaces::Selected(selector) = &peer.namespaces else { continue };
            if let Some(problem) = selects_none(cluster, selector, knows_namespaces) {
                let path = format!("{}.{}[{place}].namespaceSelector", rule.path, direction.peers_field());
                found.push(Mistake {
                    policy: id,
                    path,
                    code: MistakeCode::PeerNamespaceEmpty,
                    problem,
                    is_doubt: false,
                });
            }
        }
    }
}

/// That a selector selects no namespace, where all are known, or where it means one by its name and by
/// a label that this one lacks.
fn selects_none(cluster: &Cluster, selector: &Selector, knows_namespaces: bool) -> Option<String> {
    if cluster.may_select_a_namespace(selector) {
        return None;
    }
    let named = selector.requirements().find_map(|of| match &of.operator {
        Operator::In(names) if of.key != NAMESPACE_NAME_LABEL => {
            let name = names.iter().find(|name| cluster.is_declared(name))?;
            Some(format!(
                "no namespace has the labels {selector}; namespace {name} lacks {}, and every namespace has {NAMESPACE_NAME_LABEL}",
                of.key
            ))
        }
        _ => None,
    });
    named.or_else(|| knows_namespaces.then(|| format!("no namespace has the labels {selector}")))
}
