//! Whether the DaemonSet that runs the installer still wants the plugin on this node. Pure:
//! what the API server answered comes in.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// What the API server answered about our DaemonSet.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The DaemonSet, and the labels of this node if they could be read.
    Found(Box<DaemonSet>, Option<BTreeMap<String, String>>),
    /// It refused, with this code.
    Refused(u16),
    /// There was no answer, or one that says nothing. Why.
    Unknown(String),
}

/// What follows for the plugin when its installer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// It stays: another installer follows, or that is not known to be wrong.
    Keep,
    /// It goes. Why.
    Remove(String),
    /// Ask again. At the end of the grace period it goes if that is what stands here.
    AskAgain {
        /// What to do if no other answer comes.
        remove_at_end: bool,
        /// Why there is no answer.
        why: String,
    },
}

/// What an answer means for the container of this name on the node of this name.
#[must_use]
pub fn wish(answer: &Answer, container: &str, node: &str) -> Wish {
    let (set, labels) = match answer {
        Answer::Found(set, labels) => (set, labels),
        Answer::Refused(404) => return Wish::Remove("the DaemonSet is gone (404)".to_owned()),
        // The ServiceAccount was deleted with it.
        Answer::Refused(401) => {
            return Wish::Remove("the API server does not know the account any more (401)".to_owned());
        }
        // An uninstallation deletes the right before or after the DaemonSet.
        Answer::Refused(403) => {
            return Wish::AskAgain {
                remove_at_end: true,
                why: "the right to read the DaemonSet is gone (403)".to_owned(),
            };
        }
        Answer::Refused(code) => {
            return Wish::AskAgain { remove_at_end: false, why: format!("the API server answered {code}") };
        }
        Answer::Unknown(why) => return Wish::AskAgain { remove_at_end: false, why: why.clone() },
    };
    if set.metadata.deletion_timestamp.is_some() {
        return Wish::Remove("the DaemonSet is being deleted".to_owned());
    }
    let Some(pod) = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()) else {
        return Wish::AskAgain { remove_at_end: false, why: "the DaemonSet has no pod template".to_owned() };
    };
    if !pod.containers.iter().any(|other| other.name == container) {
        return Wish::Remove(format!("the DaemonSet has no container {container} any more"));
    }
    if labels.as_ref().is_some_and(|labels| selects(pod, node, labels) == Some(false)) {
        return Wish::Remove("the DaemonSet does not select this node any more".to_owned());
    }
    Wish::Keep
}

/// Whether a pod may be scheduled to a node, by nodeSelector and required affinity. `None` if
/// a part of that is not known here.
fn selects(pod: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
    let wanted = pod.node_selector.iter().flatten();
    if wanted.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
        return Some(false);
    }
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let Some(required) =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
    else {
        return Some(true);
    };
    any(required.node_selector_terms.iter().map(|term| matches_term(term, node, labels)))
}

fn matches_term(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> Option<bool> {
    let (expressions, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (expressions, fields) = (expressions.unwrap_or_default(), fields.unwrap_or_default());
    if expressions.is_empty() && fields.is_empty() {
        // As the scheduler has it.
        return Some(false);
    }
    let by_label = expressions.iter().map(|one| holds(one, labels.get(&one.key).map(String::as_str)));
    let by_field = fields.iter().map(|one| if one.key == "metadata.name" { holds(one, Some(node)) } else { None });
    any(by_label.chain(by_field).map(|holds| holds.map(|holds| !holds))).map(|fails| !fails)
}

fn holds(one: &NodeSelectorRequirement, value: Option<&str>) -> Option<bool> {
    let values = one.values.as_deref().unwrap_or_default();
    let is_in = || value.is_some_and(|value| values.iter().any(|other| other == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match one.operator.as_str() {
        "In" => Some(is_in()),
        "NotIn" => Some(!is_in()),
        "Exists" => Some(value.is_some()),
        "DoesNotExist" => Some(value.is_none()),
        "Gt" => Some(numbers().is_some_and(|(is, than)| is > than)),
        "Lt" => Some(numbers().is_some_and(|(is, than)| is < than)),
        _ => None,
    }
}

/// Whether one holds: yes if one does, unknown if none does and one is unknown.
fn any(all: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut answer = Some(false);
    for one in all {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => answer = None,
        }
    }
    answer
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(pod: &Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "npc"}, "spec": {
            "selector": {}, "template": {"spec": pod}}}))
        .unwrap()
    }

    fn wish_of(pod: &Value, labels: Option<&[(&str, &str)]>) -> Wish {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels = labels.map(|labels| labels.iter().map(own).collect());
        wish(&Answer::Found(Box::new(set(pod)), labels), "install-cni", "n1")
    }

    fn pod_with(key: &str, value: &Value) -> Value {
        json!({"containers": [{"name": "install-cni"}, {"name": "npc"}], key: value})
    }

    #[test]
    fn a_daemon_set_that_has_the_installer_and_selects_the_node_keeps_the_plugin() {
        let linux = json!({"kubernetes.io/os": "linux"});
        let labels: Option<&[(&str, &str)]> = Some(&[("kubernetes.io/os", "linux")]);
        assert_eq!(wish_of(&pod_with("nodeSelector", &linux), labels), Wish::Keep);
        // The labels cannot be read.
        assert_eq!(wish_of(&pod_with("nodeSelector", &linux), None), Wish::Keep);
        assert!(matches!(wish_of(&pod_with("nodeSelector", &json!({"a": "b"})), labels), Wish::Remove(_)));
        assert!(matches!(wish_of(&json!({"containers": [{"name": "npc"}]}), labels), Wish::Remove(_)));
    }

    #[test]
    fn a_daemon_set_that_is_gone_or_going_removes_the_plugin() {
        let mut going = set(&pod_with("x", &json!(1)));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-28T00:00:00Z")).unwrap();
        assert!(matches!(wish(&Answer::Found(Box::new(going), None), "install-cni", "n1"), Wish::Remove(_)));
        for (code, expected) in [(404, None), (401, None), (403, Some(true)), (500, Some(false)), (429, Some(false))] {
            let found = match wish(&Answer::Refused(code), "install-cni", "n1") {
                Wish::Remove(_) => None,
                Wish::AskAgain { remove_at_end, .. } => Some(remove_at_end),
                Wish::Keep => panic!("{code}"),
            };
            assert_eq!(found, expected, "{code}");
        }
        let unknown = wish(&Answer::Unknown("refused".to_owned()), "install-cni", "n1");
        assert!(matches!(unknown, Wish::AskAgain { remove_at_end: false, .. }));
    }

    #[test]
    fn required_affinity_is_read_as_the_scheduler_reads_it() {
        let labels: &[(&str, &str)] = &[("zone", "a"), ("cpus", "8")];
        for (expressions, fields, is_selected) in [
            (json!([{"key": "zone", "operator": "In", "values": ["a", "b"]}]), json!([]), true),
            (json!([{"key": "zone", "operator": "In", "values": ["b"]}]), json!([]), false),
            (json!([{"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]}]), json!([]), true),
            (json!([{"key": "zone", "operator": "Exists"}]), json!([]), true),
            (json!([{"key": "zone", "operator": "DoesNotExist"}]), json!([]), false),
            (json!([{"key": "cpus", "operator": "Gt", "values": ["4"]}]), json!([]), true),
            (json!([{"key": "cpus", "operator": "Lt", "values": ["4"]}]), json!([]), false),
            (json!([]), json!([{"key": "metadata.name", "operator": "In", "values": ["n1"]}]), true),
            (json!([]), json!([{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]), false),
            (json!([]), json!([]), false),
            // What a later API adds is no reason to remove.
            (json!([{"key": "zone", "operator": "Like", "values": ["b"]}]), json!([]), true),
            (
                json!([{"key": "zone", "operator": "Like"}, {"key": "zone", "operator": "DoesNotExist"}]),
                json!([]),
                false,
            ),
        ] {
            let terms = json!([{"matchExpressions": expressions, "matchFields": fields}]);
            let affinity = json!({"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
            let wish = wish_of(&pod_with("affinity", &affinity), Some(labels));
            assert_eq!(wish == Wish::Keep, is_selected, "{terms}: {wish:?}");
        }
    }
}
