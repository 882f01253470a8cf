//! From whole states of the objects, as files have them, to what changed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use npc_compiler::engine::{Event, PodKey};
use npc_compiler::object::{Namespace, NetworkPolicy, Node, Objects, Pod};

use super::{Change, Changes, OwnNode, UnnamedNode};

/// The objects as they were last, by what distinguishes them.
#[derive(Debug, Default)]
pub struct LastObjects {
    namespaces: BTreeMap<String, Namespace>,
    pods: BTreeMap<PodKey, Pod>,
    policies: BTreeMap<(String, String), NetworkPolicy>,
    nodes: BTreeMap<String, Node>,
}

impl LastObjects {
    /// Takes the objects in; what happened to those that were known, for the
    /// node of this name.
    pub fn changes(&mut self, objects: &Objects, node: &str) -> Changes {
        let names = node_names(objects);
        let own_node = (!names.is_empty()).then(|| {
            if names.contains(node) { OwnNode::Named } else { OwnNode::Unnamed(UnnamedNode::in_files(node, &names)) }
        });
        let changes = self.differ(objects).into_iter().map(Change::now).collect();
        Changes { changes, own_node, ..Changes::default() }
    }

    fn differ(&mut self, objects: &Objects) -> Vec<Event> {
        let mut events = Vec::new();
        let namespaces = objects.namespaces.iter().map(|namespace| (namespace.name.clone(), Cow::Borrowed(namespace)));
        let (came, gone) = replace(&mut self.namespaces, namespaces.collect());
        events.extend(came.into_iter().map(Event::Namespace));
        events.extend(gone.into_iter().map(Event::NamespaceGone));
        let (came, gone) = replace(&mut self.pods, by_key(&objects.pods));
        events.extend(came.into_iter().map(|pod| Event::Pod(Box::new(pod))));
        events.extend(gone.into_iter().map(Event::PodGone));
        let nodes = objects.nodes.iter().map(|node| (node.name.clone(), Cow::Borrowed(node)));
        let (came, gone) = replace(&mut self.nodes, nodes.collect());
        events.extend(came.into_iter().map(Event::Node));
        events.extend(gone.into_iter().map(Event::NodeGone));
        let name = |policy: &NetworkPolicy| (policy.namespace().to_owned(), policy.name().to_owned());
        let policies = objects.policies.iter().map(|policy| (name(policy), Cow::Borrowed(policy)));
        let (came, gone) = replace(&mut self.policies, policies.collect());
        events.extend(came.into_iter().map(Event::policy));
        events.extend(gone.into_iter().map(|(namespace, name)| Event::PolicyGone(namespace, name)));
        events
    }
}

/// The nodes that objects name: Nodes by their own names, and those that pods are
/// bound to, because files often have no Nodes.
fn node_names(objects: &Objects) -> BTreeSet<&str> {
    let bound = objects.pods.iter().filter_map(|pod| pod.node.as_deref());
    objects.nodes.iter().map(|node| node.name.as_str()).chain(bound).collect()
}

/// Takes new values in; those that differ, and the keys that went.
fn replace<K: Ord + Clone, V: Clone + PartialEq>(
    known: &mut BTreeMap<K, V>,
    now: BTreeMap<K, Cow<'_, V>>,
) -> (Vec<V>, Vec<K>) {
    let gone: Vec<K> = known.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
    for key in &gone {
        known.remove(key);
    }
    let mut came = Vec::new();
    for (key, value) in now {
        if known.get(&key) != Some(value.as_ref()) {
            came.push(value.as_ref().clone());
            known.insert(key, value.into_owned());
        }
    }
    (came, gone)
}

/// The pods by their keys. In files several may bear one UID, where one was
/// made from a copy of another, or one name and none; each of them counts, so
/// these get UIDs that distinguish them and sort where theirs did.
fn by_key(pods: &[Pod]) -> BTreeMap<PodKey, Cow<'_, Pod>> {
    let mut all = BTreeMap::new();
    let mut twice = BTreeSet::new();
    for pod in pods {
        let key = PodKey::of(pod);
        if all.insert(key.clone(), Cow::Borrowed(pod)).is_some() {
            twice.insert(key);
        }
    }
    if twice.is_empty() {
        return all;
    }
    for (n, pod) in pods.iter().enumerate() {
        let key = PodKey::of(pod);
        if !twice.contains(&key) {
            continue;
        }
        all.remove(&key);
        let uid = format!("{}\0{}\0{}", pod.uid, pod.namespace, pod.name);
        let mut twin = Pod { uid, ..pod.clone() };
        if all.contains_key(&PodKey::of(&twin)) {
            twin.uid = format!("{}\0{n}", twin.uid);
        }
        all.insert(PodKey::of(&twin), Cow::Owned(twin));
    }
    all
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use npc_compiler::object::Labels;

    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        let pod = Pod::from_template("default".to_owned(), name.to_owned(), Labels::new(), PodSpec::default());
        Pod { uid: uid.to_owned(), ..pod }
    }

    #[test]
    fn only_what_differs_makes_an_event() {
        let mut known = LastObjects::default();
        let mut objects = Objects { pods: vec![pod("a", ""), pod("b", "u")], ..Objects::default() };
        objects.declare_namespaces();
        assert_eq!(known.differ(&objects).len(), 3);
        assert_eq!(known.differ(&objects), []);
        objects.pods.reverse();
        assert_eq!(known.differ(&objects), []);
        let gone = objects.pods.pop().expect("there are two");
        objects.pods[0].terminating = true;
        let events = [Event::Pod(Box::new(objects.pods[0].clone())), Event::PodGone(PodKey::of(&gone))];
        assert_eq!(known.differ(&objects), events);
    }

    #[test]
    fn a_node_is_there_where_nodes_are_named_and_one_has_its_name() {
        let node = |name: &&str| Node { name: (*name).to_owned(), addresses: Vec::new(), pod_cidrs: Vec::new() };
        let on = |name: &&str| Pod { node: Some((*name).to_owned()), ..pod(name, name) };
        for (nodes, pods, is_named, others) in [
            (&[][..], &[][..], None, ""),
            (&["n2"], &[], Some(false), "The files name n2. "),
            (&["n2", "n1"], &[], Some(true), ""),
            // Files need not have Nodes, but pods may be on one.
            (&[], &["n2", "n3"], Some(false), "The files name n2, n3. "),
            (&[], &["n2", "n1"], Some(true), ""),
            // A node without pods among others is declared by itself.
            (&["n1"], &["n2"], Some(true), ""),
            (&["n2"], &["n1"], Some(true), ""),
            (&["n3"], &["n2"], Some(false), "The files name n2, n3. "),
        ] {
            let mut pods: Vec<Pod> = pods.iter().map(on).collect();
            // A pod without a node names no node.
            pods.push(pod("pending", "pending"));
            let objects = Objects { nodes: nodes.iter().map(node).collect(), pods, ..Objects::default() };
            let changes = LastObjects::default().changes(&objects, "n1");
            assert_eq!(changes.own_node.as_ref().map(OwnNode::is_named), is_named);
            if let Some(OwnNode::Unnamed(words)) = changes.own_node {
                assert!(words.obstacle.contains(others), "{}", words.obstacle);
            }
        }
    }

    #[test]
    fn copies_of_a_pod_are_pods_of_their_own() {
        let mut known = LastObjects::default();
        let both = |a, b| Objects { pods: vec![a, b], ..Objects::default() };
        for objects in [both(pod("a", "u"), pod("b", "u")), both(pod("a", ""), pod("a", ""))] {
            let came = known.differ(&objects);
            let keys: BTreeSet<PodKey> = came
                .iter()
                .filter_map(|event| match event {
                    Event::Pod(pod) => Some(PodKey::of(pod)),
                    _ => None,
                })
                .collect();
            assert_eq!(keys.len(), 2, "{came:?}");
            let given = |pod: &Pod| pod.uid.split('\0').next().map(str::to_owned);
            let wanted = Some(objects.pods[0].uid.clone());
            assert!(came.iter().all(|event| !matches!(event, Event::Pod(pod) if given(pod) != wanted)));
            assert_eq!(known.differ(&objects), []);
        }
        // And one alone is itself again.
        let objects = Objects { pods: vec![pod("a", "u")], ..Objects::default() };
        assert!(known.differ(&objects).contains(&Event::Pod(Box::new(pod("a", "u")))));
    }
}
