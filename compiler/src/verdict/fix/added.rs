//! What a change of a policy adds to its rules.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use crate::algebra::cidr::{self, Cidr};
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::object::NetworkPolicy;
use crate::policy::{Direction, Peer, Peers, Policy, Ports};

/// What a change of a policy adds to its rules: rules, and peers of rules. What it puts in place of something is
/// not meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// The blocks among the peers.
    pub blocks: BTreeSet<Cidr>,
    /// Whether a rule has peers and no ports, so that it admits every port to them.
    pub has_every_port: bool,
    /// What a port admitted in whose place another one is put, because nothing that the rule means listens on it.
    pub gives_up: Traffic,
}

impl Added {
    /// What one document of a policy has and the other lacks; all where there was none.
    pub(super) fn of(before: Option<&Value>, after: &Value) -> Self {
        let (Some(before), Some(after)) = (before.map_or(Some(None), |of| read(of).map(Some)), read(after)) else {
            return Self::default();
        };
        let mut added = Self::default();
        for direction in Direction::ALL {
            let old = before.as_ref().map_or(&[][..], |before| before.rules(direction));
            for (place, rule) in after.rules(direction).iter().enumerate() {
                let Peers::AnyOf(peers) = &rule.peers else { continue };
                let had = match old.get(place).map(|rule| &rule.peers) {
                    Some(Peers::Everyone) => peers.len(),
                    Some(Peers::AnyOf(had)) => had.len(),
                    None => 0,
                };
                added.has_every_port |= place >= old.len() && rule.ports == Ports::Everything;
                added.blocks.extend(peers.iter().skip(had).filter_map(|peer| match peer {
                    Peer::Block(block) => Some(block.cidr),
                    Peer::Pods(_) | Peer::Nothing => None,
                }));
            }
        }
        added
    }

    /// What both add.
    pub(super) fn join(&mut self, other: Self) {
        self.blocks.extend(other.blocks);
        self.has_every_port |= other.has_every_port;
        self.gives_up = self.gives_up.union(&other.gives_up);
    }

    /// How many nodes it admits by their addresses.
    #[must_use]
    pub fn nodes(&self, cluster: &Cluster) -> usize {
        let addresses = self.blocks.iter().map(|block| cidr::address(block.family, block.first));
        let addresses: BTreeSet<IpAddr> = addresses.filter(|address| cluster.is_node(*address)).collect();
        let nodes = cluster.nodes().values().filter(|of| of.iter().any(|address| addresses.contains(address)));
        // An address may be known by a pod alone.
        nodes.count().max(usize::from(!addresses.is_empty()))
    }
}

fn read(document: &Value) -> Option<Policy> {
    let object: networking::NetworkPolicy = serde_json::from_value(document.clone()).ok()?;
    Some(Policy::read(&NetworkPolicy::from(object)).0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(rules: &Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": rules},
        })
    }

    #[test]
    fn new_rules_and_peers_are_added_and_what_is_replaced_is_not() {
        let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
        let tcp = json!([{"port": 80}]);
        let added = |before: &Value, after: &Value| Added::of(Some(&policy(before)), &policy(after));
        let blocks = |added: &Added| added.blocks.iter().map(|cidr| cidr.network().to_string()).collect::<Vec<_>>();
        let one = json!([{"to": [block("10.0.0.1/32")], "ports": tcp}]);
        let peer = added(&one, &json!([{"to": [block("10.0.0.1/32"), block("10.0.0.2/32")], "ports": tcp}]));
        assert_eq!((blocks(&peer), peer.has_every_port), (vec!["10.0.0.2/32".to_owned()], false));
        let rule = added(&one, &json!([one[0], {"to": [block("10.0.0.3/32")]}]));
        assert_eq!((blocks(&rule), rule.has_every_port), (vec!["10.0.0.3/32".to_owned()], true));
        assert_eq!(added(&one, &json!([{"to": [block("10.0.0.9/32")], "ports": tcp}])), Added::default());
        assert_eq!(added(&json!([{}]), &one), Added::default());
        let new = Added::of(None, &policy(&one));
        assert_eq!((blocks(&new), new.has_every_port), (vec!["10.0.0.1/32".to_owned()], false));
    }
}
