//! Blocks of rules that hold a Service's address alone. kube-proxy translates such an address before
//! policies judge, and no packet comes from one, so a rule for it admits nothing.

use std::net::IpAddr;

use crate::algebra::block_text::WrittenBlock;
use crate::algebra::cidr::Cidr;
use crate::cluster::{Cluster, PolicyId};
use crate::object::Service;
use crate::policy::{Direction, Peer, Peers, PolicyRule};

/// A block that holds a Service's address alone.
#[derive(Debug, Clone, Copy)]
pub struct DeadBlock<'c> {
    /// The direction of its rule.
    pub direction: Direction,
    /// Its rule.
    pub rule: &'c PolicyRule,
    /// The place of its item among the peers of the rule.
    pub place: usize,
    /// The block.
    pub cidr: Cidr,
    /// The address.
    pub address: IpAddr,
    /// The Service.
    pub service: &'c Service,
}

impl DeadBlock<'_> {
    /// The path of its item: `spec.egress[0].to[1]`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}[{}]", self.rule.path, self.direction.peers_field(), self.place)
    }
}

/// The dead blocks of a policy, in rules that have an effect.
pub fn dead_blocks(cluster: &Cluster, policy: PolicyId) -> impl Iterator<Item = DeadBlock<'_>> {
    cluster.policy(policy).rules_in_force().flat_map(move |(direction, rule)| {
        let peers = match &rule.peers {
            Peers::Everyone => &[][..],
            Peers::AnyOf(peers) => peers,
        };
        peers.iter().enumerate().filter_map(move |(place, peer)| {
            let Peer::Block(block) = peer else { return None };
            let (service, address) = cluster.cluster_ip_alone_in(block.cidr.family, &block.cidr.addresses())?;
            Some(DeadBlock { direction, rule, place, cidr: block.cidr, address, service })
        })
    })
}

/// Whether a block, as it would be written, holds a Service's address alone.
#[must_use]
pub fn is_dead(cluster: &Cluster, block: &WrittenBlock) -> bool {
    let prefix = Cidr::of_network(&block.prefix);
    block.except.is_empty() && cluster.cluster_ip_alone_in(prefix.family, &prefix.addresses()).is_some()
}
