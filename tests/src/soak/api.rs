//! What is different where agents have the objects from an API server: there
//! each object that changes is an event of its own, and events of one kind come
//! in their order, but those of another before, between or after them.
//!
//! So the way from one state to the next leads through others, and a packet may
//! get the verdict of any. That all of it has arrived, marks tell, which are
//! written behind everything else of their kind: a Namespace and Pods whose label
//! turns, which a policy of theirs makes visible in the kernel of every node,
//! and policies that only count.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use npc_compiler::object::{Labels, Namespace, NetworkPolicy, Objects, Pod};
use serde_json::json;

/// Where the marks are. Its name is behind all others.
const NAMESPACE: &str = "zz-marks";

/// The label that turns, and its values.
const TURN: &str = "turn";
const TURNS: [&str; 2] = ["even", "odd"];

/// Addresses that no pod of a lab has.
const ADDRESSES: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// More policies than one write may add before it takes others away.
const MARGIN: usize = 32;

/// The marks that are stored.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// How often the label has turned.
    turns: usize,
    /// How many policies only count.
    count: usize,
    /// As many policies as there were ever.
    most: usize,
}

impl Marks {
    /// The objects of the next state, distinguished from those before by the
    /// kernel.
    pub(super) fn turn(&mut self, objects: Objects) -> Objects {
        self.turns += 1;
        self.put(objects)
    }

    /// The same objects with more policies than there ever were; and how many
    /// there are.
    pub(super) fn count(&mut self, objects: Objects) -> (Objects, usize) {
        let objects = without_marks(objects);
        // One of them is no other's copy: it is what shows the turns.
        self.count = (self.most + MARGIN).saturating_sub(objects.policies.len() + 1);
        let objects = self.put(objects);
        let policies = objects.policies.len();
        (objects, policies)
    }

    fn put(&mut self, objects: Objects) -> Objects {
        let mut objects = without_marks(objects);
        let turn = TURNS[self.turns % TURNS.len()];
        let label = || Labels::from([(TURN.to_owned(), turn.to_owned())]);
        objects.namespaces.push(Namespace::new(NAMESPACE, label()));
        // One on each node, to be isolated, and one elsewhere, to be a peer.
        let nodes: Vec<Option<String>> = objects.nodes.iter().map(|node| Some(node.name.clone())).collect();
        for (number, node) in nodes.into_iter().chain([None]).enumerate() {
            let name = format!("mark-{number}");
            let labels = if node.is_none() { label() } else { Labels::new() };
            let mut pod = Pod::from_template(NAMESPACE.to_owned(), name.clone(), labels, PodSpec::default());
            pod.uid = name;
            pod.node = Some(node.unwrap_or_else(|| "elsewhere".to_owned()));
            let address = u32::from(ADDRESSES) + u32::try_from(number).unwrap_or(u32::MAX);
            pod.ipv4 = Some(Ipv4Addr::from(address));
            objects.pods.push(pod);
        }
        let spec = |peer: &str, turn: &str, port: u16| json!({"from": [{peer: {"matchLabels": {TURN: turn}}}], "ports": [{"protocol": "TCP", "port": port}]});
        // Ports of their own keep the rules from being merged into one.
        let rules = [
            spec("namespaceSelector", TURNS[0], 1),
            spec("namespaceSelector", TURNS[1], 2),
            spec("podSelector", TURNS[0], 3),
            spec("podSelector", TURNS[1], 4),
        ];
        let shown = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules});
        objects.policies.push(policy("a-shown", serde_json::from_value(shown).unwrap_or_default()));
        let counts = (0..self.count).map(|number| {
            let nobody = json!({"podSelector": {"matchLabels": {"nobody": "has-it"}}});
            policy(&format!("count-{number:05}"), serde_json::from_value(nobody).unwrap_or_default())
        });
        objects.policies.extend(counts);
        self.most = self.most.max(objects.policies.len());
        objects
    }
}

/// The objects without marks.
pub(super) fn without_marks(mut objects: Objects) -> Objects {
    objects.namespaces.retain(|namespace| namespace.name != NAMESPACE);
    objects.pods.retain(|pod| pod.namespace != NAMESPACE);
    objects.policies.retain(|policy| policy.namespace() != NAMESPACE);
    objects
}

fn policy(name: &str, spec: networking::NetworkPolicySpec) -> NetworkPolicy {
    let metadata =
        ObjectMeta { namespace: Some(NAMESPACE.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() };
    networking::NetworkPolicy { metadata, spec: Some(spec) }.into()
}

/// The states that an agent may pass through on the way along these, the first
/// and the last not among them: of each kind it has received some events, in their
/// order.
pub(super) fn between(way: &[Objects]) -> Vec<Objects> {
    let namespaces = stages(way, |objects| &objects.namespaces, |namespace| namespace.name.clone());
    let pods = stages(way, |objects| &objects.pods, |pod| (pod.namespace.clone(), pod.name.clone()));
    let name = |policy: &NetworkPolicy| (policy.namespace().to_owned(), policy.name().to_owned());
    let policies = stages(way, |objects| &objects.policies, name);
    let mut states = Vec::new();
    let Some(first) = way.first() else { return states };
    for namespaces in &namespaces {
        for pods in &pods {
            for policies in &policies {
                states.push(Objects {
                    namespaces: namespaces.clone(),
                    pods: pods.clone(),
                    policies: policies.clone(),
                    ..first.clone()
                });
            }
        }
    }
    // The last is where all kinds are at their end, the first where none began.
    states.pop();
    if !states.is_empty() {
        states.remove(0);
    }
    states
}

/// What is there of one kind after each event, before the first one first. As
/// the store writes them: what is new or differs, by name, then what goes.
fn stages<T: Clone + PartialEq, K: Ord>(
    way: &[Objects],
    of: impl Fn(&Objects) -> &Vec<T>,
    name: impl Fn(&T) -> K,
) -> Vec<Vec<T>> {
    let Some(first) = way.first() else { return Vec::new() };
    let mut stages = vec![of(first).clone()];
    let mut now = of(first).clone();
    for next in &way[1..] {
        let wanted: BTreeMap<K, &T> = of(next).iter().map(|one| (name(one), one)).collect();
        for (key, one) in &wanted {
            // In its place: the order of pods is that of the lab's places.
            match now.iter_mut().find(|there| name(there) == *key) {
                Some(there) if there == *one => continue,
                Some(there) => *there = (*one).clone(),
                None => now.push((*one).clone()),
            }
            stages.push(now.clone());
        }
        let mut gone: Vec<K> = now.iter().map(&name).filter(|key| !wanted.contains_key(key)).collect();
        gone.sort_unstable();
        for key in gone {
            now.retain(|there| name(there) != key);
            stages.push(now.clone());
        }
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[(&str, &str)]) -> Objects {
        let pod = |(name, app): &(&str, &str)| {
            let labels = Labels::from([("app".to_owned(), (*app).to_owned())]);
            Pod::from_template("a".to_owned(), (*name).to_owned(), labels, PodSpec::default())
        };
        let policy = |(name, _): &(&str, &str)| {
            let mut policy = policy(name, networking::NetworkPolicySpec::default());
            policy.object.metadata.namespace = Some("a".to_owned());
            policy
        };
        Objects {
            pods: names.iter().map(pod).collect(),
            policies: names.iter().map(policy).collect(),
            ..Objects::default()
        }
    }

    #[test]
    fn what_lies_between_is_every_stage_of_one_kind_with_every_stage_of_the_others() {
        let way = [named(&[("x", "1"), ("y", "1")]), named(&[("y", "2"), ("z", "1")])];
        let states = between(&way);
        // Pods: y changes, z comes, x goes. Policies: z comes, x goes.
        assert_eq!(states.len(), 4 * 3 - 2);
        assert!(states.iter().all(|state| !way.contains(state)));
        assert_eq!(between(&way[..1]), []);
        assert_eq!(between(&[way[0].clone(), way[0].clone()]), []);
    }

    #[test]
    fn marks_count_beyond_all_before_and_leave_nothing() {
        let mut marks = Marks::default();
        let objects = named(&[("x", "1"), ("y", "1")]);
        let mut seen = 0;
        for _ in 0..3 {
            let turned = marks.turn(objects.clone());
            assert!(turned.policies.len() <= seen.max(3));
            let (counted, policies) = marks.count(turned);
            assert!(policies > seen && counted.policies.len() == policies);
            seen = policies;
            assert_eq!(without_marks(counted), objects);
        }
        // Fewer policies of others do not bring a number back.
        let (_, policies) = marks.count(named(&[("x", "1")]));
        assert!(policies > seen);
    }
}
