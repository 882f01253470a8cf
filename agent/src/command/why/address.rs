//! The answer about an address: where the kernel leads it, and where the policies ask to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use npc_compiler::cluster::Cluster;
use npc_compiler::object::Family;
use npc_compiler::plan::{FamilyState, KernelState};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainName, Member, SetName};

use crate::command::words::shorten;

use super::answer::{Basis, ChainAnswer, KernelExplanation, PolicyPlace, SetAnswer};
use super::facts::Facts;

/// At most this many Services are named.
const SERVICES: usize = 4;

impl Facts<'_> {
    /// What there is to say of an address.
    pub(super) fn address(&self, address: IpAddr) -> KernelExplanation {
        let cluster = &self.input.cluster;
        let family = Family::of(&address);
        let holders = cluster.holders(address, Some(self.node));
        let asked = KernelState::from(&self.desired);
        let desired = asked.family(family);
        // Without the kernel's sets nothing shows where it leads an address.
        let actual = if self.has_sets { self.actual.family(family) } else { desired };
        let sets: Vec<&SetName> = holding(actual, address).collect();
        let mut differs = Vec::new();
        if !self.has_sets {
            differs
                .push("the kernel's sets were not read (--ipset-save); this is what the policies ask for".to_owned());
        }
        let is_here = holders.iter().any(|pod| cluster.pod(*pod).node.as_deref() == Some(self.node));
        let (mut chains, mut because) = (Vec::new(), Vec::new());
        for direction in Direction::ALL {
            let [now, then] = [actual, desired].map(|state| state.group_chain_of(direction, address));
            differs.extend(difference(direction, now.as_ref(), then.as_ref()));
            if !is_here && now.is_none() && then.is_none() {
                continue;
            }
            let rules = now.as_ref().and_then(|chain| actual.chains.get(chain)).map(Vec::as_slice).unwrap_or_default();
            let (_, policies, _) = now.as_ref().map(|chain| self.judged(chain, rules)).unwrap_or_default();
            chains.push(ChainAnswer {
                direction,
                chain: now.as_ref().map(ToString::to_string),
                desired: then.as_ref().map(ToString::to_string),
                policies: policies.iter().map(|place| place.policy.clone()).collect(),
            });
            because.extend(policies);
        }
        because.sort_by(|a: &PolicyPlace, b| a.policy.cmp(&b.policy));
        because.dedup();
        // Where an address stands in the tree, the chains say.
        let in_actual: BTreeSet<&SetName> = sets.iter().copied().collect();
        let lacks = holding(desired, address).filter(|set| !set.leads_to_groups() && !in_actual.contains(set));
        differs.extend(
            lacks.map(|set| format!("not in set {}, though the policies of the input ask for it", set.shown())),
        );
        let has_left = |set: &&&SetName| !set.leads_to_groups() && !set.is_own() && desired.sets.contains_key(**set);
        let in_desired: BTreeSet<&SetName> = holding(desired, address).collect();
        let left = sets.iter().filter(has_left).filter(|set| !in_desired.contains(**set));
        differs.extend(
            left.map(|set| format!("in set {}, though the policies of the input do not ask for it", set.shown())),
        );
        let nodes = cluster.nodes().iter().filter(|(_, addresses)| addresses.contains(&address));
        let nodes: Vec<&str> = nodes.map(|(name, _)| name.as_str()).collect();
        let is_known = !holders.is_empty() || !sets.is_empty() || !chains.is_empty();
        let answer = self.ours(address.to_string(), "address");
        KernelExplanation {
            owner: answer.owner.filter(|_| is_known),
            role: match (holders, nodes.as_slice()) {
                ([], []) => of_services(cluster, address)
                    .unwrap_or_else(|| "address outside the cluster, or of no object of the input".to_owned()),
                ([], nodes) => format!("address of node {}: policies do not judge nodes", nodes.join(", ")),
                (_, _) if is_here => "address of an endpoint of this node".to_owned(),
                (pods, _) => {
                    let node = pods.iter().find_map(|pod| cluster.pod(*pod).node.as_deref());
                    format!("address of an endpoint of node {}; only the kernel there judges it", node.unwrap_or("?"))
                }
            },
            families: vec![family],
            actual: (self.basis != Basis::Policies && self.has_sets).then_some(!sets.is_empty()),
            desired: !in_desired.is_empty(),
            differs,
            judges: holders.iter().map(|pod| self.endpoint(*pod)).collect(),
            policies: because,
            sets: sets
                .into_iter()
                .map(|name| SetAnswer {
                    name: name.clone(),
                    set: name.shown().into_owned(),
                    meaning: self.meaning(family, name),
                })
                .collect(),
            chains,
            ..answer
        }
    }
}

/// What an address is that Services have.
fn of_services(cluster: &Cluster, address: IpAddr) -> Option<String> {
    let having = cluster.services().filter(|service| service.addresses.contains(&address));
    let names: Vec<String> = having.map(|of| format!("{}/svc/{}", of.namespace, of.name)).collect();
    (!names.is_empty()).then(|| {
        let names = shorten(&names, SERVICES, ", ");
        format!(
            "address of {names}, which kube-proxy translates: policies and npc's rules see the addresses of the pods \
             behind it"
        )
    })
}

/// The sets of a state that hold an address.
fn holding(state: &FamilyState, address: IpAddr) -> impl Iterator<Item = &SetName> {
    let holds = move |members: &BTreeSet<Member>| members.iter().any(|member| member.holds(address));
    state.sets.iter().filter(move |(_, (_, members))| holds(members)).map(|(name, _)| name)
}

/// Where the kernel leads an address elsewhere than the policies ask to, in words.
fn difference(direction: Direction, now: Option<&ChainName>, then: Option<&ChainName>) -> Option<String> {
    let says = match (now, then) {
        _ if now == then => return None,
        (Some(now), Some(then)) => format!("the kernel leads it to {now}, the policies of the input to {then}"),
        (Some(now), None) => format!("the kernel leads it to {now}, and no policy of the input isolates it"),
        (None, Some(then)) => format!("the kernel leads it to no chain, the policies of the input to {then}"),
        (None, None) => return None,
    };
    Some(format!("{}: {says}", direction.as_str().to_lowercase()))
}
