//! What selectors select, as far as the input says it.
//!
//! A workload's template lacks the labels that its controller adds, of a pod that only an
//! EndpointSlice names no label is known, and a Namespace may not have been read. A
//! selector that asks for what is not known selects *possibly*. Everything that rules are
//! made of takes only what is certain; verdicts take both, and are unknown where the two
//! differ.

use std::collections::BTreeMap;

use super::{Class, ClassId, Cluster, PodId, PolicyId, index};
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::object::{
    COMPLETION_INDEX_LABEL, ControllerLabel, Labels, NAMESPACE_NAME_LABEL, Pod, Workload, controller_labels,
    is_topology_label,
};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer, Policy};

/// Whether something is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// It is not.
    No,
    /// The input does not say.
    Possible,
    /// It is.
    Certain,
}

/// The labels of a class's endpoints that the input does not say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum UnknownLabels {
    /// None: all labels are known.
    #[default]
    None,
    /// Those that the controller of this workload adds to its template's.
    OfController(Workload),
    /// The same of a Job whose pods have no index.
    OfJobWithoutIndex(Workload),
    /// Those that the controller of this workload adds to a pod and that do not follow from the pod's name.
    OfPlannedPod(Workload),
    /// Those of its node, which a pod gets when it is bound to one.
    OfNode,
    /// All of them.
    All,
}

impl UnknownLabels {
    pub(super) fn of(pod: &Pod) -> Self {
        match &pod.workload {
            _ if pod.only_in_slice => Self::All,
            Some(workload) if pod.is_template() && pod.has_no_index => Self::OfJobWithoutIndex(workload.clone()),
            Some(workload) if pod.is_template() => Self::OfController(workload.clone()),
            Some(workload) if pod.is_planned => Self::OfPlannedPod(workload.clone()),
            _ if pod.node.is_none() && !pod.finished => Self::OfNode,
            _ => Self::None,
        }
    }

    /// Whether a selector selects what has these labels and the unknown ones.
    pub(super) fn selects(&self, selector: &Selector, labels: &Labels) -> Selection {
        match self {
            Self::None => certain(selector.matches(labels)),
            unknown => {
                let each = selector.requirements().map(|requirement| unknown.selection(requirement, labels));
                each.min().unwrap_or(Selection::Certain)
            }
        }
    }

    fn selection(&self, requirement: &Requirement, labels: &Labels) -> Selection {
        let workload = match self {
            Self::None => return certain(requirement.matches(labels)),
            Self::All => return Selection::Possible,
            _ if is_topology_label(&requirement.key) => return Selection::Possible,
            Self::OfNode => return certain(requirement.matches(labels)),
            Self::OfJobWithoutIndex(_) if requirement.key == COMPLETION_INDEX_LABEL => {
                return certain(requirement.matches(labels));
            }
            Self::OfPlannedPod(_) if labels.contains_key(&requirement.key) => {
                return certain(requirement.matches(labels));
            }
            Self::OfController(workload) | Self::OfJobWithoutIndex(workload) | Self::OfPlannedPod(workload) => workload,
        };
        let is_added = |label: &&ControllerLabel| {
            label.key == requirement.key && !(label.yields_to_template && labels.contains_key(label.key))
        };
        let Some(label) = controller_labels(&workload.kind).find(is_added) else {
            return certain(requirement.matches(labels));
        };
        let may_be = |values: &[String]| values.iter().any(|value| label.may_be(workload, value));
        let is_certain = label.is_certain(workload);
        match &requirement.operator {
            Operator::In(values) if may_be(values) => Selection::Possible,
            Operator::In(_) => Selection::No,
            Operator::NotIn(values) if may_be(values) => Selection::Possible,
            Operator::NotIn(_) => Selection::Certain,
            Operator::Exists if is_certain => Selection::Certain,
            Operator::DoesNotExist if is_certain => Selection::No,
            Operator::Exists | Operator::DoesNotExist => Selection::Possible,
        }
    }
}

/// Whether a selector of a policy asks for a label that pods get from their nodes.
pub(super) fn asks_for_node_labels(policy: &Policy) -> bool {
    let asks = |selector: &Selector| selector.requirements().any(|of| is_topology_label(&of.key));
    let has_peer = |peers: &Peers| match peers {
        Peers::Everyone => false,
        Peers::AnyOf(peers) => peers.iter().any(|peer| matches!(peer, Peer::Pods(peer) if asks(&peer.pods))),
    };
    let has_rule = |direction| policy.rules(direction).iter().any(|rule| has_peer(&rule.peers));
    asks(&policy.subject) || Direction::ALL.into_iter().any(has_rule)
}

const fn certain(selects: bool) -> Selection {
    if selects { Selection::Certain } else { Selection::No }
}

impl Class {
    /// Whether a selector selects its endpoints.
    #[must_use]
    pub fn selection(&self, selector: &Selector) -> Selection {
        self.unknown.selects(selector, &self.labels)
    }

    /// The keys of labels that a selector asks for and the input does not say; none where it
    /// says no label at all.
    fn unknown_keys<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = &'s str> {
        let asked = selector.requirements();
        let is_open = |of: &&Requirement| {
            self.unknown != UnknownLabels::All && self.unknown.selection(of, &self.labels) == Selection::Possible
        };
        asked.filter(is_open).map(|requirement| requirement.key.as_str())
    }
}

/// Why a podSelector, or a pod peer of a rule, selects no pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum WhyNone {
    /// No pod has what it asks for.
    NoPod,
    /// The only pods that have it are hostNetwork pods: no policy applies to these, and no peer means them.
    OnlyHostNetworkPods,
}

impl Cluster {
    /// The same cluster, with these objects, in words, that make pods which the input does not have.
    #[must_use]
    pub fn with_pod_makers(mut self, makers: Vec<String>) -> Self {
        self.pod_makers = makers.into();
        self
    }

    /// Whether some objects of the input make pods that are not in it.
    #[must_use]
    pub fn has_pod_makers(&self) -> bool {
        !self.pod_makers.is_empty()
    }

    /// Whether an object of the input declares a namespace.
    #[must_use]
    pub fn is_declared(&self, namespace: &str) -> bool {
        self.inventory.namespaces.contains_key(namespace) && !self.inventory.implied_namespaces.contains(namespace)
    }

    /// Whether a selector selects a namespace of the input, or may.
    #[must_use]
    pub fn may_select_a_namespace(&self, selector: &Selector) -> bool {
        self.inventory.namespaces.keys().any(|name| self.namespace_selection(name, selector) > Selection::No)
    }

    pub(super) fn find_open(&mut self) {
        let all = (0..self.inventory.classes.len()).map(|place| ClassId(index(place)));
        self.open = all.filter(|class| self.is_open(*class)).collect();
    }

    /// Whether the input leaves open which selectors select the endpoints of a class, or which
    /// policies apply to them.
    #[must_use]
    pub fn is_open(&self, class: ClassId) -> bool {
        let class = self.class(class);
        class.unknown != UnknownLabels::None
            || self.has_unread_labels(&class.namespace)
            || self.has_unread_policies_of(class)
    }

    /// Whether no object says the labels of a namespace, and one that was not read may.
    fn has_unread_labels(&self, namespace: &str) -> bool {
        self.unread.iter().any(|unread| unread.may_hold("Namespace", "")) && !self.is_declared(namespace)
    }

    /// The policies that may isolate the endpoints of a class in a direction, beside those
    /// that do.
    #[must_use]
    pub fn possible_policies_of(&self, class: ClassId, direction: Direction) -> Vec<PolicyId> {
        let class = self.class(class);
        if class.unknown == UnknownLabels::None {
            return Vec::new();
        }
        let here = self.policies_in.get(&class.namespace).map_or(&[][..], Vec::as_slice);
        let is_possible = |id: &PolicyId| {
            let policy = self.policy(*id);
            policy.isolates(direction) && class.selection(&policy.subject) == Selection::Possible
        };
        here.iter().copied().filter(is_possible).collect()
    }

    /// Whether a rule's pod peer selects the endpoints of a class.
    #[must_use]
    pub fn selection(&self, peer: &PodPeer, class: ClassId) -> Selection {
        let class = self.class(class);
        let selected =
            self.selection_of_namespaces(&peer.namespaces, &class.namespace).min(class.selection(&peer.pods));
        // No peer selects a hostNetwork pod, and nothing says that this is none.
        if class.unknown == UnknownLabels::All && self.inventory.nodes.is_empty() {
            return selected.min(Selection::Possible);
        }
        selected
    }

    /// The hostNetwork pods that have what a peer asks for, so that it does not
    /// mean them: policies see the nodes' addresses.
    pub fn host_pods_of<'a>(&'a self, peer: &'a PodPeer) -> impl Iterator<Item = (PodId, &'a Pod)> {
        self.pods().filter(|(_, pod)| {
            let selected = || UnknownLabels::of(pod).selects(&peer.pods, &pod.labels);
            let is_in = || self.selection_of_namespaces(&peer.namespaces, &pod.namespace) == Selection::Certain;
            pod.host_network && !pod.finished && selected() == Selection::Certain && is_in()
        })
    }

    /// Whether a peer means pods of a namespace.
    fn selection_of_namespaces(&self, namespaces: &Namespaces, name: &str) -> Selection {
        match namespaces {
            Namespaces::Own(own) => certain(own == name),
            Namespaces::Selected(selector) => self.namespace_selection(name, selector),
        }
    }

    /// Whether a namespaceSelector selects a namespace. The labels of one that is not known
    /// are not known either, so no selector selects it, not even one that asks for absence.
    pub(super) fn namespace_selection(&self, name: &str, selector: &Selector) -> Selection {
        if self.has_unread_labels(name) {
            let each = selector.requirements().map(|requirement| {
                if requirement.key == NAMESPACE_NAME_LABEL {
                    certain(requirement.matches(&BTreeMap::from([(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned())])))
                } else {
                    Selection::Possible
                }
            });
            return each.min().unwrap_or(Selection::Certain);
        }
        certain(self.namespace(name).is_some_and(|labels| selector.matches(labels)))
    }

    /// The classes that a rule's pod peer may select, beside those that it does.
    #[must_use]
    pub fn possibly_selected(&self, peer: &PodPeer) -> Vec<ClassId> {
        self.open.iter().copied().filter(|class| self.selection(peer, *class) == Selection::Possible).collect()
    }

    /// Whether a pod peer selects no endpoint of the input, for certain.
    #[must_use]
    pub fn selects_none(&self, peer: &PodPeer) -> bool {
        self.selected(peer).is_empty() && self.possibly_selected(peer).is_empty()
    }

    /// Why a pod peer selects no pod; none where it selects one, or may: one of the input, or one that was
    /// not read.
    #[must_use]
    pub fn why_selects_none(&self, peer: &PodPeer) -> Option<WhyNone> {
        if !self.selects_none(peer) || self.may_select_unread(peer) {
            return None;
        }
        let has_hosts = self.host_pods_of(peer).next().is_some();
        Some(if has_hosts { WhyNone::OnlyHostNetworkPods } else { WhyNone::NoPod })
    }

    /// Whether a peer's namespaceSelector is why its selection of a class is open.
    pub(crate) fn is_open_by_namespace(&self, peer: &PodPeer, class: ClassId) -> bool {
        match &peer.namespaces {
            Namespaces::Own(_) => false,
            Namespaces::Selected(selector) => {
                self.namespace_selection(&self.class(class).namespace, selector) == Selection::Possible
            }
        }
    }

    /// The keys of labels that selectors ask for and that are not known of a class: of the
    /// podSelectors of its policies, and of these peers.
    pub(crate) fn unknown_keys<'s>(
        &'s self,
        class: ClassId,
        selectors: impl IntoIterator<Item = &'s Selector>,
    ) -> Vec<&'s str> {
        let class = self.class(class);
        let mut keys: Vec<&str> = (selectors.into_iter())
            .filter(|selector| class.selection(selector) == Selection::Possible)
            .flat_map(|selector| class.unknown_keys(selector))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::unread::{Extent, Unread, WhyUnread};
    use crate::object::Objects;
    use crate::sample::{cluster, pod};

    /// What a podSelector of this one expression makes of the template of the StatefulSet
    /// `ns/store`.
    fn of_store(expression: &str) -> Selection {
        let spec = format!(r#"ns/p {{"podSelector": {{"matchExpressions": [{expression}]}}}}"#);
        let cluster = cluster(&["ns/store StatefulSet/store app=store"], &[&spec]);
        let (_, policy) = cluster.policies().next().expect("a policy");
        cluster.class(ClassId(0)).selection(&policy.subject)
    }

    #[test]
    fn a_label_that_the_controller_adds_is_possible_where_it_may_have_the_value() {
        let on = |operator: &str, values: &str| {
            of_store(&format!(
                r#"{{"key": "statefulset.kubernetes.io/pod-name", "operator": "{operator}", "values": [{values}]}}"#
            ))
        };
        assert_eq!(on("In", r#""store-0""#), Selection::Possible);
        assert_eq!(on("In", r#""other-0", "store""#), Selection::No);
        assert_eq!(on("NotIn", r#""store-0""#), Selection::Possible);
        assert_eq!(on("NotIn", r#""other-0""#), Selection::Certain);
        assert_eq!(on("Exists", ""), Selection::Certain);
        assert_eq!(on("DoesNotExist", ""), Selection::No);
        assert_eq!(of_store(r#"{"key": "app", "operator": "In", "values": ["store"]}"#), Selection::Certain);
        assert_eq!(of_store(r#"{"key": "tier", "operator": "Exists"}"#), Selection::No);
    }

    #[test]
    fn of_a_live_pod_every_label_is_known() {
        let spec = r#"ns/p {"podSelector": {"matchLabels": {"pod-template-hash": "x"}}}"#;
        let live = cluster(&["ns/web-1 Deployment/web"], &[spec]);
        assert!(live.possible_policies_of(ClassId(0), Direction::Ingress).is_empty());
        let template = cluster(&["ns/web Deployment/web"], &[spec]);
        assert_eq!(template.possible_policies_of(ClassId(0), Direction::Ingress).len(), 1);
        assert!(template.policies_of(ClassId(0), Direction::Ingress).is_empty());
    }

    #[test]
    fn the_name_of_a_namespace_is_known_where_its_labels_are_not() {
        let mut objects = Objects { pods: vec![pod("ns/a 10.0.0.1")], ..Objects::default() };
        objects.declare_namespaces();
        let why = WhyUnread::NoRight("namespaces".into());
        let namespaces =
            Unread { kind: Some("Namespace".to_owned()), namespace: Extent::Everywhere, subject: None, why };
        let cluster = Cluster::new(&objects).with_unread(vec![namespaces]);
        let selector =
            |key: &str, value: &str| Selector::of_labels(&Labels::from([(key.to_owned(), value.to_owned())]));
        assert_eq!(cluster.namespace_selection("ns", &selector(NAMESPACE_NAME_LABEL, "ns")), Selection::Certain);
        assert_eq!(cluster.namespace_selection("ns", &selector(NAMESPACE_NAME_LABEL, "other")), Selection::No);
        assert_eq!(cluster.namespace_selection("ns", &selector("team", "x")), Selection::Possible);
        assert_eq!(cluster.namespace_selection("ns", &Selector::default()), Selection::Certain);
    }
}
