//! What policies name of pods and namespaces. For an object with very many labels or ports, nothing
//! else is kept, so that no object takes much of every node's memory. A label whose key is named
//! and whose value is not is there with another value, the same for all: so pods that no policy
//! distinguishes share their labels.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use npc_compiler::object::{ContainerPort, Labels, NAMESPACE_NAME_LABEL, NetworkPolicy};

/// An object whose labels, or whose ports, take more bytes than this is *large*, and keeps
/// what policies name. All labels of an ordinary object are within a few hundred bytes.
const LARGE: usize = 64 << 10;

/// Stands for a label's value that no policy names. It is no value that a label can have, so
/// none can name it.
const UNNAMED: &str = "\0";

/// The labels and the port names that policies name, shared with all that reads
/// objects.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct PolicyNames(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// With how many policies name each.
    labels: HashMap<Arc<str>, u32>,
    /// Labels with their values, by hashes: where two have the same, more is kept.
    values: HashMap<u64, u32>,
    hasher: RandomState,
    ports: HashMap<Arc<str>, u32>,
    /// How often a key, a value or a port came that was not there.
    generation: u64,
}

/// What one policy names.
#[derive(Debug, Default)]
pub(in super::super) struct NamesOf {
    labels: Box<[Arc<str>]>,
    values: Box<[u64]>,
    ports: Box<[Arc<str>]>,
}

impl PolicyNames {
    /// Takes the names of a policy in. Give them to [`PolicyNames::remove`] when the policy is
    /// another or is gone.
    pub(in super::super) fn add(&self, policy: &NetworkPolicy) -> NamesOf {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Names { labels, values, hasher, ports, generation } = &mut *names;
        let pairs = policy.label_names().flat_map(|(key, values)| values.map(move |value| (key, value)));
        let values = pairs.map(|pair| {
            let hash = hasher.hash_one(pair);
            let uses = values.entry(hash).or_default();
            *generation += u64::from(*uses == 0);
            *uses += 1;
            hash
        });
        NamesOf {
            values: values.collect(),
            labels: policy.label_names().map(|(key, _)| count(labels, key, generation)).collect(),
            ports: policy.port_names().map(|name| count(ports, name, generation)).collect(),
        }
    }

    pub(in super::super) fn remove(&self, of: &NamesOf) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        of.labels.iter().for_each(|key| discount(&mut names.labels, key));
        of.values.iter().for_each(|hash| discount(&mut names.values, hash));
        of.ports.iter().for_each(|name| discount(&mut names.ports, name));
    }

    /// How often a name came that was not there. What is kept of a large object is right
    /// while this stays the same.
    pub(in super::super) fn generation(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Removes what no policy names, if the object is large; then the generation of names
    /// by which that was done.
    pub(in super::super) fn trim(&self, labels: &mut Labels, ports: &mut Vec<ContainerPort>) -> Option<u64> {
        let many_labels = labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LARGE;
        let many_ports = ports.iter().map(|port| port.name.len() + size_of::<ContainerPort>()).sum::<usize>() > LARGE;
        if !many_labels && !many_ports {
            return None;
        }
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if many_labels {
            labels.retain(|key, _| key == NAMESPACE_NAME_LABEL || names.labels.contains_key(key.as_str()));
            for (key, value) in labels.iter_mut().filter(|(key, _)| *key != NAMESPACE_NAME_LABEL) {
                if !names.values.contains_key(&names.hasher.hash_one((key.as_str(), value.as_str()))) {
                    // A new text, because one that is overwritten keeps its memory.
                    *value = String::from(UNNAMED);
                }
            }
        }
        if many_ports {
            ports.retain(|port| names.ports.contains_key(port.name.as_str()));
            ports.shrink_to_fit();
        }
        Some(names.generation)
    }
}

fn count(names: &mut HashMap<Arc<str>, u32>, name: &str, generation: &mut u64) -> Arc<str> {
    if let Some((known, _)) = names.get_key_value(name) {
        let known = Arc::clone(known);
        *names.entry(Arc::clone(&known)).or_default() += 1;
        return known;
    }
    let name: Arc<str> = name.into();
    names.insert(Arc::clone(&name), 1);
    *generation += 1;
    name
}

fn discount<N: Eq + Hash>(names: &mut HashMap<N, u32>, name: &N) {
    if let Some(uses) = names.get_mut(name) {
        *uses -= 1;
        if *uses == 0 {
            names.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use npc_compiler::object::Protocol;
    use serde_json::json;

    use super::*;

    fn policy(key: &str, port: &str) -> NetworkPolicy {
        let spec = json!({
            "podSelector": {"matchLabels": {key: "x"}}, "ingress": [{"ports": [{"port": port}]}],
        });
        let object = json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec});
        NetworkPolicy::from(
            serde_json::from_value::<k8s_openapi::api::networking::v1::NetworkPolicy>(object).expect("a policy"),
        )
    }

    fn labels(count: usize) -> Labels {
        (0..count).map(|number| (format!("key-{number}"), "x".repeat(50))).collect()
    }

    fn ports(count: u16) -> Vec<ContainerPort> {
        let port = |port| ContainerPort { name: format!("p{port}"), protocol: Protocol::Tcp, port };
        (1..=count).map(port).collect()
    }

    #[test]
    fn a_large_object_keeps_what_policies_name() {
        let named = PolicyNames::default();
        let first = named.add(&policy("key-7", "p9"));
        let (mut many_labels, mut many_ports) = (labels(5_000), ports(10_000));
        let at = named.trim(&mut many_labels, &mut many_ports);
        assert_eq!(at, Some(named.generation()));
        assert_eq!(many_labels.keys().collect::<Vec<_>>(), ["key-7"]);
        assert_eq!(many_ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["p9"]);
        // A policy that names nothing new needs no object again, and one that does, does.
        let again = named.add(&policy("key-7", "p9"));
        assert_eq!(at, Some(named.generation()));
        let other = named.add(&policy("key-8", "p9"));
        assert!(at < Some(named.generation()));
        for names in [&first, &again, &other] {
            named.remove(names);
        }
        let mut none = labels(5_000);
        named.trim(&mut none, &mut Vec::new());
        assert!(none.is_empty());
    }

    #[test]
    fn an_ordinary_object_keeps_all() {
        let named = PolicyNames::default();
        let (mut few_labels, mut few_ports) = (labels(100), ports(100));
        assert_eq!(named.trim(&mut few_labels, &mut few_ports), None);
        assert_eq!((few_labels.len(), few_ports.len()), (100, 100));
    }

    #[test]
    fn of_a_large_object_values_that_no_policy_names_are_not_kept() {
        let named = PolicyNames::default();
        let requirements = [
            json!({"key": "key-1", "operator": "Exists"}),
            json!({"key": "key-2", "operator": "In", "values": ["a", "b"]}),
            json!({"key": "key-3", "operator": "NotIn", "values": ["a"]}),
            json!({"key": "key-4", "operator": "NotIn", "values": ["c"]}),
        ];
        let spec = json!({"podSelector": {"matchLabels": {"key-5": "a"}, "matchExpressions": requirements}});
        let object = json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": spec});
        let object: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(object).expect("a policy");
        let first = named.add(&object.into());
        let mut many = labels(5_000);
        for number in 1..=5 {
            many.insert(format!("key-{number}"), "a".to_owned());
        }
        let at = named.trim(&mut many, &mut Vec::new());
        let kept: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let wanted = [("key-1", "\0"), ("key-2", "a"), ("key-3", "a"), ("key-4", "\0"), ("key-5", "a")];
        assert_eq!(kept, wanted);
        // A value that is new asks for the object again, as a key does.
        let again = named.add(&policy("key-5", "p"));
        assert!(at < Some(named.generation()));
        named.remove(&first);
        named.remove(&again);
        let mut none = labels(5_000);
        named.trim(&mut none, &mut Vec::new());
        assert!(none.is_empty());
    }
}
