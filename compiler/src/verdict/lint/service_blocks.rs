//! Blocks that hold addresses of Services and of nothing else that the input has. kube-proxy translates such an
//! address before policies judge, so a rule for it admits nothing.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Mistake, MistakeCode};
use crate::algebra::cidr;
use crate::cluster::backend::BackendEnd;
use crate::cluster::{Cluster, PolicyId};
use crate::policy::{IpBlock, Peer, Peers};

/// A wider block may mean much more than Services: kubeadm gives them a /12.
const WIDEST: [u8; 2] = [12, 108];

/// The private networks that are not wider than that. A rule for all of them is not about Services (RFC 1918).
const PRIVATE: [&str; 2] = ["172.16.0.0/12", "192.168.0.0/16"];

/// So many Services are named.
const NAMED: usize = 3;

/// What is wrong with a block, and whether that is a doubt.
type Problem = Option<(String, bool)>;

/// What was found out for the blocks of a cluster.
#[derive(Default)]
pub(super) struct ServiceBlocks {
    /// The addresses that are no Service's, once a block asks for them.
    others: OnceCell<BTreeSet<IpAddr>>,
    /// Many policies have the same block.
    known: RefCell<BTreeMap<IpBlock, Problem>>,
}

impl ServiceBlocks {
    pub(super) fn find(&self, cluster: &Cluster, id: PolicyId, found: &mut Vec<Mistake>) {
        for (direction, rule) in cluster.policy(id).rules_in_force() {
            let Peers::AnyOf(peers) = &rule.peers else { continue };
            for (place, peer) in peers.iter().enumerate() {
                let Peer::Block(block) = peer else { continue };
                let known = self.known.borrow().get(block).cloned();
                let problem = known.unwrap_or_else(|| {
                    let problem = self.problem(cluster, block);
                    self.known.borrow_mut().insert(block.clone(), problem.clone());
                    problem
                });
                let Some((problem, is_doubt)) = problem else { continue };
                let path = format!("{}.{}[{place}].ipBlock.cidr", rule.path, direction.peers_field());
                found.push(Mistake { policy: id, path, code: MistakeCode::IpBlockServiceAddress, problem, is_doubt });
            }
        }
    }

    /// What is wrong with a block, and whether that is a doubt: the input does not say from which prefix Services get
    /// their addresses.
    fn problem(&self, cluster: &Cluster, of: &IpBlock) -> Problem {
        let family = of.cidr.family;
        let addresses = &of.block.addresses;
        let (mut names, mut held) = (BTreeSet::new(), 0_u128);
        if of.cidr.length < WIDEST[family as usize] || PRIVATE.contains(&of.cidr.network().to_string().as_str()) {
            return None;
        }
        for (first, last) in addresses.ranges() {
            let ends = [*first, *last].map(|number| cidr::address(family, number));
            for (_, service) in cluster.cluster_ips_between(ends) {
                names.insert((&service.namespace, &service.name));
                held += 1;
            }
        }
        let count = addresses.ranges().iter().map(|(first, last)| last - first).sum::<u128>();
        let count = count + addresses.ranges().len() as u128;
        let is_api_server = |(namespace, name): &(&String, &String)| *namespace == "default" && *name == "kubernetes";
        // One with a single address is another mistake.
        if count < 2 || (names.len() < 2 && !names.iter().any(is_api_server)) {
            return None;
        }
        let others = self.others.get_or_init(|| others(cluster));
        let holds_other = |(first, last): &(u128, u128)| {
            let [first, last] = [*first, *last].map(|number| cidr::address(family, number));
            others.range(first..=last).next().is_some()
        };
        if addresses.ranges().iter().any(holds_other) {
            return None;
        }
        let mut services: Vec<String> =
            names.iter().take(NAMED).map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        if names.len() > NAMED {
            services.push(format!("+{} more", names.len() - NAMED));
        }
        let (services, prefix) = (services.join(", "), of.cidr.network());
        let is_doubt = held < count;
        let what = match (names.len(), is_doubt) {
            (1, _) => "the address of service",
            (_, true) => "addresses of services",
            (_, false) => "the addresses of services",
        };
        let more = if is_doubt { ", and none of a pod or node of the input" } else { "" };
        let problem = format!(
            "{prefix} holds {what} {services}{more}; where policies judge, a packet to a service has the address of its backend"
        );
        Some((problem, is_doubt))
    }
}

/// The addresses of pods and nodes, of backends that are no pods, and those by which Services are reached from outside.
fn others(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let of_pods = cluster.pods().flat_map(|(_, pod)| pod.addresses());
    let of_nodes = cluster.nodes().values().flatten().copied();
    let outside = cluster.services().flat_map(|service| service.routing.external_addresses.iter().copied());
    let behind = cluster.services().filter_map(|service| cluster.behind(service)).flatten();
    let backends = behind.filter_map(|end| match end {
        BackendEnd::Address(address) => Some(address),
        BackendEnd::Pod(_) => None,
    });
    let all = of_pods.chain(of_nodes).chain(outside).chain(backends);
    all.filter(|address| cluster.service_of_cluster_ip(*address).is_none()).collect()
}
