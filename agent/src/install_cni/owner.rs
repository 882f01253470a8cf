//! Whether the DaemonSet that runs the installer still wants the plugin on this node. Pure:
//! what the API server answered comes in.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};

/// What of a node decides whether a DaemonSet has a pod there.
#[derive(Debug, Clone, Default)]
pub struct NodeTraits {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
}

/// What the API server answered about our DaemonSet.
#[derive(Debug, Clone)]
pub enum OwnerAnswer {
    /// The DaemonSet, and this node if it could be read.
    Found(Box<DaemonSet>, Option<NodeTraits>),
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

impl Wish {
    /// What follows if this was answered after `earlier`. No answer, or one that says nothing, does
    /// not take back that the API server refused: an uninstallation may also end the connection to
    /// the API server.
    #[must_use]
    pub fn after(self, earlier: Self) -> Self {
        match (self, earlier) {
            (Self::AskAgain { remove_at_end: false, .. }, refused @ Self::AskAgain { remove_at_end: true, .. }) => {
                refused
            }
            (latest, _) => latest,
        }
    }
}

/// What an answer means for the container of this name on the node of this name.
#[must_use]
pub fn wish(answer: &OwnerAnswer, container: &str, node: &str) -> Wish {
    let (set, traits) = match answer {
        OwnerAnswer::Found(set, traits) => (set, traits),
        OwnerAnswer::Refused(404) => return Wish::Remove("the DaemonSet is gone (404)".to_owned()),
        // The account was deleted with it. Or only this pod was deleted by force: its token ends
        // with it.
        OwnerAnswer::Refused(401) => {
            return Wish::AskAgain {
                remove_at_end: true,
                why: "the API server does not know the account any more (401)".to_owned(),
            };
        }
        // An uninstallation deletes the right before or after the DaemonSet.
        OwnerAnswer::Refused(403) => {
            return Wish::AskAgain {
                remove_at_end: true,
                why: "the right to read the DaemonSet is gone (403)".to_owned(),
            };
        }
        OwnerAnswer::Refused(code) => {
            return Wish::AskAgain { remove_at_end: false, why: format!("the API server answered {code}") };
        }
        OwnerAnswer::Unknown(why) => return Wish::AskAgain { remove_at_end: false, why: why.clone() },
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
    let Some(NodeTraits { labels, taints }) = traits else { return Wish::Keep };
    if selects(pod, node, labels) == Some(false) {
        return Wish::Remove("the DaemonSet does not select this node any more".to_owned());
    }
    if let Some(taint) = taints.iter().find(|taint| !is_passing(taint) && !is_tolerated(taint, pod)) {
        let value = taint.value.as_deref().map(|value| format!("={value}")).unwrap_or_default();
        return Wish::Remove(format!(
            "the DaemonSet does not tolerate this node's taint {}{value}:{}, so no installer follows here",
            taint.key, taint.effect
        ));
    }
    Wish::Keep
}

/// Keys of taints `NoExecute` that the DaemonSet controller tolerates for each pod that it makes
/// (`AddOrUpdateDaemonPodTolerations` of `pkg/controller/daemon/util`). Those `NoSchedule` that it
/// tolerates have keys of Kubernetes, so they pass in any case.
const ALWAYS_TOLERATED: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Keys with these prefixes are taints that Kubernetes itself sets while a node is in some state,
/// and removes afterwards: it shuts down, starts, or waits for its network or cloud provider.
const OF_KUBERNETES: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];

/// Whether an installer follows although the DaemonSet controller makes no pod now. `NoSchedule`
/// ends no pod that runs (`NodeShouldRunDaemonPod` of `pkg/controller/daemon`), and of these keys
/// it goes by itself. So a node that restarts, which is `not-ready:NoSchedule`, must find the
/// plugin in place: its first pods may start before the next installer.
///
/// A `NoSchedule` of any other key, as of a node pool, stays for as long as an operator likes.
/// The pod that ends under it is the last one, so nothing would answer the plugin.
fn is_passing(taint: &Taint) -> bool {
    taint.effect == "NoSchedule" && OF_KUBERNETES.iter().any(|prefix| taint.key.starts_with(prefix))
}

/// Whether the DaemonSet controller makes a pod on a node with this taint. A taint or a
/// toleration that is not known here counts as tolerated: it is no reason to remove.
fn is_tolerated(taint: &Taint, pod: &PodSpec) -> bool {
    // The rest, as PreferNoSchedule, keeps no pod away.
    if !matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") {
        return true;
    }
    (taint.effect == "NoExecute" && ALWAYS_TOLERATED.contains(&taint.key.as_str()))
        || pod.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
}

/// As the scheduler has it (`ToleratesTaint` of `k8s.io/component-helpers`).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        // An empty key matches every taint. The API takes it with Exists only.
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => true,
    }
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
        let traits = |labels: &[_]| NodeTraits { labels: labels.iter().map(own).collect(), taints: Vec::new() };
        wish(&OwnerAnswer::Found(Box::new(set(pod)), labels.map(traits)), "install-cni", "n1")
    }

    /// The taint of a text `KEY=VALUE:EFFECT`.
    fn taint(text: &str) -> Taint {
        let (key, effect) = text.split_once(':').unwrap();
        let (key, value) = key.split_once('=').map_or((key, None), |(key, value)| (key, Some(value.to_owned())));
        Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None }
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
        assert!(matches!(wish(&OwnerAnswer::Found(Box::new(going), None), "install-cni", "n1"), Wish::Remove(_)));
        for (code, expected) in
            [(404, None), (401, Some(true)), (403, Some(true)), (500, Some(false)), (429, Some(false))]
        {
            let found = match wish(&OwnerAnswer::Refused(code), "install-cni", "n1") {
                Wish::Remove(_) => None,
                Wish::AskAgain { remove_at_end, .. } => Some(remove_at_end),
                Wish::Keep => panic!("{code}"),
            };
            assert_eq!(found, expected, "{code}");
        }
        let unknown = wish(&OwnerAnswer::Unknown("refused".to_owned()), "install-cni", "n1");
        assert!(matches!(unknown, Wish::AskAgain { remove_at_end: false, .. }));
    }

    #[test]
    fn a_refusal_holds_through_answers_that_say_nothing() {
        let wish = |answer: &OwnerAnswer| wish(answer, "install-cni", "n1");
        let found = || OwnerAnswer::Found(Box::new(set(&pod_with("x", &json!(1)))), None);
        let away = || OwnerAnswer::Unknown("timed out".to_owned());
        let last =
            |answers: &[OwnerAnswer]| answers.iter().map(wish).reduce(|earlier, latest| latest.after(earlier)).unwrap();
        for refusal in [401, 403] {
            for nothing in [away(), OwnerAnswer::Refused(503), OwnerAnswer::Refused(429)] {
                let wish = last(&[OwnerAnswer::Refused(refusal), nothing.clone(), nothing]);
                assert!(matches!(&wish, Wish::AskAgain { remove_at_end: true, .. }), "{wish:?}");
            }
            assert_eq!(last(&[OwnerAnswer::Refused(refusal), away(), found()]), Wish::Keep);
            assert!(matches!(
                last(&[away(), OwnerAnswer::Refused(refusal)]),
                Wish::AskAgain { remove_at_end: true, .. }
            ));
        }
        assert!(matches!(last(&[away(), away()]), Wish::AskAgain { remove_at_end: false, .. }));
    }

    #[test]
    fn a_taint_that_the_daemon_set_does_not_tolerate_removes_the_plugin() {
        let everything = json!([{"operator": "Exists"}]);
        let gpu = json!([{"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}]);
        let any_gpu = json!([{"key": "gpu", "operator": "Exists"}]);
        for (text, tolerations, stays) in [
            ("gpu=a:NoSchedule", &json!([]), false),
            ("gpu=a:NoExecute", &json!([]), false),
            ("gpu=a:PreferNoSchedule", &json!([]), true),
            ("gpu=a:NoSchedule", &everything, true),
            ("gpu=a:NoExecute", &everything, true),
            ("gpu=a:NoSchedule", &gpu, true),
            ("gpu=b:NoSchedule", &gpu, false),
            ("gpu=a:NoExecute", &gpu, false),
            ("cpu=a:NoSchedule", &gpu, false),
            ("gpu=b:NoExecute", &any_gpu, true),
            ("gpu:NoSchedule", &any_gpu, true),
            ("gpu:NoSchedule", &json!([{"key": "gpu"}]), true),
            ("gpu=a:NoSchedule", &json!([{"key": "gpu"}]), false),
            // An operator that a later API adds is no reason to remove.
            ("gpu=7:NoSchedule", &json!([{"key": "gpu", "operator": "Gt", "value": "5"}]), true),
            // What the DaemonSet controller tolerates for its pods.
            ("node.kubernetes.io/not-ready:NoExecute", &json!([]), true),
            ("node.kubernetes.io/unreachable:NoExecute", &json!([]), true),
            // What Kubernetes sets for a while: on a cordoned, a sick, a new node, or while it
            // restarts. NoExecute of these ends the pod as any other does.
            ("node.kubernetes.io/unschedulable:NoSchedule", &json!([]), true),
            ("node.kubernetes.io/unschedulable:NoExecute", &json!([]), false),
            ("node.kubernetes.io/disk-pressure:NoSchedule", &json!([]), true),
            ("node.kubernetes.io/network-unavailable:NoSchedule", &json!([]), true),
            ("node.kubernetes.io/not-ready:NoSchedule", &json!([]), true),
            ("node.kubernetes.io/unreachable:NoSchedule", &json!([]), true),
            ("node.cloudprovider.kubernetes.io/shutdown:NoSchedule", &json!([]), true),
            ("node.cloudprovider.kubernetes.io/uninitialized=true:NoSchedule", &gpu, true),
            ("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", &json!([]), false),
            ("node.cloudprovider.kubernetes.io/shutdown:NoExecute", &json!([]), false),
            // Keys that only look alike are an operator's.
            ("node-role.kubernetes.io/control-plane:NoSchedule", &json!([]), false),
            ("node.kubernetes.io.example/not-ready:NoSchedule", &json!([]), false),
        ] {
            let pod = pod_with("tolerations", tolerations);
            // One that is tolerated beside it changes nothing.
            let taints = ["node.kubernetes.io/memory-pressure:NoSchedule", text].map(taint).to_vec();
            let traits = NodeTraits { taints, ..NodeTraits::default() };
            let wish = wish(&OwnerAnswer::Found(Box::new(set(&pod)), Some(traits)), "install-cni", "n1");
            assert_eq!(wish == Wish::Keep, stays, "{text} {tolerations}: {wish:?}");
            if let Wish::Remove(why) = wish {
                assert!(why.contains(text), "{why}");
            }
        }
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
