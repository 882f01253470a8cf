//! Clusters whose pods move between groups, as many as a node can have.

use std::net::IpAddr;
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_compiler::object::{Family, Labels, Namespace, Objects, Pod, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{ChainName, ChainRole, Rule};
use npc_compiler::ruleset::text::Named;
use npc_tests::model::Packet;
use proptest::prelude::*;

use super::{NODE, packets, ruleset};

/// A cluster of groups that stay, because each has a pod that stays, and pods that move
/// between them.
#[derive(Debug, Clone)]
pub(super) struct Moves {
    /// How many groups there are. The number after the last is that of pods that nothing
    /// isolates.
    pub(super) groups: usize,
    /// Before.
    pub(super) old: Objects,
    /// After: the same pods and policies, in other groups.
    pub(super) new: Objects,
}

impl Moves {
    /// The pods that move, before and after.
    pub(super) fn movers(&self) -> impl Iterator<Item = (&Pod, &Pod)> {
        self.old.pods.iter().zip(&self.new.pods).skip(self.groups)
    }

    /// Packets between pods that move and some others, outsiders among them.
    pub(super) fn packets(&self, family: Family) -> Vec<Packet> {
        let mut some = self.new.clone();
        // The first groups are those in lists.
        let movers = some.pods.split_off(self.groups);
        some.pods.truncate(6);
        some.pods.extend(movers.iter().cloned());
        let movers: Vec<IpAddr> = movers.iter().filter_map(|pod| pod.address(family)).collect();
        let all = packets(&some, &some, family).into_iter();
        all.filter(|packet| movers.contains(&packet.source) || movers.contains(&packet.destination))
            .filter(|packet| packet.port != Some((Protocol::Udp, 53)))
            .collect()
    }
}

/// The policy of a group, by the number of its name.
pub(super) fn policy_of(group: usize, name: usize) -> networking::NetworkPolicy {
    let policy = serde_json::json!({
        "metadata": {"namespace": "a", "name": format!("np{name}")},
        "spec": {
            "podSelector": {"matchLabels": {"group": group.to_string()}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"group": (group / 2).to_string()}}}]}],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"group": (group / 3).to_string()}}}],
                        "ports": [{"port": 80}]}],
        },
    });
    serde_json::from_value(policy).unwrap()
}

pub(super) fn pod_of(group: usize, number: usize) -> Pod {
    let labels = Labels::from([("group".to_owned(), group.to_string())]);
    let mut pod = Pod::from_template("a".to_owned(), format!("p{number}"), labels, PodSpec::default());
    pod.node = Some(NODE.to_owned());
    pod.ipv4 = Some([10, 0, 0, u8::try_from(number).unwrap()].into());
    pod
}

/// Groups with policies of these names, and pods: which group each is in.
pub(super) fn cluster_of(names: &[usize], pods: impl IntoIterator<Item = usize>) -> Objects {
    let mut objects = Objects::default();
    objects.namespaces.push(Namespace::new("a", Labels::new()));
    objects.pods.extend(pods.into_iter().enumerate().map(|(number, group)| pod_of(group, number)));
    let policies = names.iter().enumerate().map(|(group, name)| policy_of(group, *name));
    objects.policies.extend(policies.map(Into::into));
    objects
}

/// Names of policies whose groups the dispatch tree cannot distinguish by its bits, so that
/// it has a list for them: two for egress, two for ingress, then names without an order.
pub(super) fn names() -> &'static [usize] {
    static NAMES: OnceLock<Vec<usize>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let all: Vec<usize> = (0..200).collect();
        let state = ruleset(&cluster_of(&all, 0..all.len()));
        let mut names = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let list = lists(&state, direction).next().unwrap();
            for rule in &list[..2] {
                let by = |rule: &Rule| match Named::of(rule)? {
                    Named::Policies { policies, .. } => policies.first()?.strip_prefix("a/np")?.parse::<usize>().ok(),
                    Named::Rules { .. } => None,
                };
                let of_group = &state.v4.chains[rule.goes_to().unwrap()];
                names.extend(of_group.iter().find_map(by));
            }
        }
        let others: Vec<usize> = all.into_iter().filter(|name| !names.contains(name)).collect();
        names.extend(others);
        names
    })
}

/// The lists at the end of the dispatch tree of a direction.
pub(super) fn lists(state: &KernelState, direction: Direction) -> impl Iterator<Item = &Vec<Rule>> {
    let is_list = move |name: &ChainName| name.role() == ChainRole::DispatchList(direction);
    state.v4.chains.iter().filter(move |(name, _)| is_list(name)).map(|(_, rules)| rules)
}

/// How many lists the dispatch trees have.
pub(super) fn count_lists(state: &KernelState) -> usize {
    Direction::ALL.into_iter().map(|direction| lists(state, direction).count()).sum()
}

/// How many groups a node has: few, some dozens, many, as many as it can have pods.
pub(super) fn how_many() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 3..6_usize, 10 => 6..40_usize, 2 => 40..200_usize, 1 => Just(200)]
}

/// Groups that stay and pods that move between them.
pub(super) fn relabelling(movers: usize) -> impl Strategy<Value = Moves> {
    let places = move |groups: usize| proptest::collection::vec(0..=groups, movers);
    how_many().prop_flat_map(move |groups| (Just(groups), places(groups), places(groups))).prop_map(
        |(groups, old, new)| {
            let cluster = |of: Vec<usize>| cluster_of(&names()[..groups], (0..groups).chain(of));
            Moves { groups, old: cluster(old), new: cluster(new) }
        },
    )
}

/// The same, where the pods that stay may be missing before or after. So groups come and
/// go, those in lists too.
pub(super) fn regrouping(movers: usize) -> impl Strategy<Value = Moves> {
    let stays = || proptest::collection::vec(any::<bool>(), 6);
    (relabelling(movers), stays(), stays()).prop_map(|(mut moves, before, after)| {
        for (objects, stays) in [(&mut moves.old, before), (&mut moves.new, after)] {
            for (pod, stays) in objects.pods[..moves.groups].iter_mut().zip(stays) {
                if !stays {
                    pod.labels.insert("group".to_owned(), moves.groups.to_string());
                }
            }
        }
        moves
    })
}
