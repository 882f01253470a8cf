//! Finds the parts of a rule's peers that do not match the flow.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::net::IpAddr;

use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::typo::may_mean_namespace;
use crate::cluster::group::Atom;
use crate::cluster::selection::UnknownLabels;
use crate::cluster::{Class, ClassId};
use crate::object::{Family, Labels, Pod, controller_labels};
use crate::policy::{IpBlock, Namespaces, Peer, Peers, PodPeer, PolicyRule};
use crate::verdict::flow::End;

use super::conjunct::{Conjunct, Part};
use super::rule_matcher::{Half, RuleMatcher, block_distance, block_rank, slip_rank};
use super::translated_addresses::Translated;
use super::want_and_got::{Got, Want};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::{ItemField, ItemPath};
use crate::verdict::explain::decision::mark::{FailedRequirement, Mark};
use crate::verdict::explain::question::OnNodes;
use crate::verdict::explain::question::party::Party;

/// An item of `from` or `to` as it was judged.
#[derive(Default)]
struct JudgedPeer {
    conjuncts: Vec<Conjunct>,
    /// How many labels would have to change.
    labels: usize,
    /// How many labels that its podSelector asks for are there.
    matching: usize,
}

impl RuleMatcher<'_> {
    /// What fails of the nearest peer; none where the rule has no peer that could mean any end.
    pub(in crate::verdict::explain) fn peers(&self, rule: &PolicyRule) -> Option<Half> {
        let peers = match &rule.peers {
            Peers::Everyone => return Some(Half::everything()),
            Peers::AnyOf(peers) => peers,
        };
        let judged = peers.iter().enumerate().filter_map(|(place, peer)| {
            let path = ItemPath::of_peer(self.direction, place);
            match peer {
                Peer::Nothing => None,
                Peer::Pods(peer) => Some(self.pod_peer(path, peer)),
                Peer::Block(block) => Some(JudgedPeer {
                    conjuncts: self.block(path, block).into_iter().collect(),
                    ..JudgedPeer::default()
                }),
            }
        });
        let judged: Vec<JudgedPeer> = judged.collect();
        // A pod is farther from a block that does not hold its address than from any selector, and an address
        // from any selector than from a block. Of items that miss alike, the one that means the end but for a slip, or has more of its labels, is about it.
        let rank = |JudgedPeer { conjuncts, labels, matching }: &JudgedPeer| {
            let block = (block_rank(conjuncts), block_distance(conjuncts));
            (self.is_far(conjuncts), conjuncts.len(), block, slip_rank(conjuncts), *labels, Reverse(*matching))
        };
        let nearest = judged.iter().map(rank).min()?;
        let equal = judged.iter().filter(|of| rank(of) == nearest).count();
        let JudgedPeer { conjuncts, labels, .. } = judged.into_iter().find(|of| rank(of) == nearest)?;
        Some(Half { conjuncts, labels, matching_port: None, equal })
    }

    fn pod_peer(&self, path: ItemPath, peer: &PodPeer) -> JudgedPeer {
        // If several pods hold the address: the one that fails by most.
        let judged = self.classes.iter().map(|class| {
            let (conjuncts, labels) = self.class_peer(path, peer, *class);
            JudgedPeer { conjuncts, labels, matching: matching(peer, &self.cluster.class(*class).labels) }
        });
        let worst = judged.max_by_key(|judged| (judged.conjuncts.len(), judged.labels));
        worst.unwrap_or_else(|| {
            // No selector selects a hostNetwork pod, and its author may not know that.
            let pod = match self.other {
                Party::Host(pod) => Some(self.cluster.pod(pod)),
                Party::End(_) | Party::OtherNode(_) => None,
            };
            let matching = pod.map_or(0, |pod| matching(peer, &pod.labels));
            let means_host = pod.is_some_and(|pod| self.would_select(peer, pod));
            let conjunct = Conjunct { means_host, ..self.no_endpoint(path, peer) };
            JudgedPeer { conjuncts: vec![conjunct], labels: usize::from(!means_host), matching }
        })
    }

    fn class_peer(&self, path: ItemPath, peer: &PodPeer, class: ClassId) -> (Vec<Conjunct>, usize) {
        let class = self.cluster.class(class);
        let (mut conjuncts, mut labels) = (Vec::new(), 0);
        let peer_conjunct =
            |part, marks: Vec<Mark>, want, got, code| Conjunct::new(path, part, want, got, code).with_marks(marks);
        let marks = |field, selector: &Selector, has: &Labels| -> Vec<Mark> {
            let failed = failing(selector, has).map(|of| FailedRequirement::of(of, has));
            failed.map(|failed| Mark::requirement(path.field(field), failed)).collect()
        };
        match &peer.namespaces {
            Namespaces::Own(own) if *own != class.namespace => {
                labels += 1;
                let (want, got) = (Want::Namespace(own.clone()), Got::Namespace(class.namespace.clone()));
                conjuncts.push(peer_conjunct(Part::Namespace, Vec::new(), want, got, ReasonCode::PeerOtherNamespace));
            }
            Namespaces::Own(_) => {}
            Namespaces::Selected(selector) => match self.cluster.namespace(&class.namespace) {
                Some(has) if selector.matches(has) => {}
                has => {
                    let empty = Labels::new();
                    let has = has.unwrap_or(&empty);
                    labels += failing(selector, has).count().max(1);
                    let got = if failing(selector, has).next().is_some() {
                        Got::Labels(values_of(failing(selector, has), has))
                    } else {
                        Got::NamespaceWithoutLabels(class.namespace.clone())
                    };
                    // As two items, the pods of the policy's own namespace would be meant. A selector that selects no
                    // namespace and means this one but for a slip is no AND too much.
                    let is_slip = || {
                        may_mean_namespace(selector, &class.namespace, has)
                            && !self.cluster.has_namespace_with(selector)
                    };
                    // A selector that only leaves some out says little of the pods that it means.
                    let is_and = matching(peer, &class.labels) > 0
                        && peer.pods.matches(&class.labels)
                        && class.namespace == self.namespace
                        && !is_slip();
                    let (want, code) = if is_and {
                        let want = Want::BothLabels { namespaces: selector.clone(), pods: peer.pods.clone() };
                        (want, ReasonCode::PeerAndNotOr)
                    } else {
                        (Want::NamespaceLabels(selector.clone()), ReasonCode::PeerNamespaceLabel)
                    };
                    let marks = marks(ItemField::NamespaceSelector, selector, has);
                    conjuncts.push(peer_conjunct(Part::Namespace, marks, want, got, code));
                }
            },
        }
        let failing: Vec<&Requirement> = failing(&peer.pods, &class.labels).collect();
        if let Some(first) = failing.first() {
            let has = shown_labels(class);
            labels += failing.len();
            // A label that is absent is said before one that differs.
            let missing = |r: &&Requirement| {
                matches!(r.operator, Operator::In(_) | Operator::Exists) && !has.contains_key(&r.key)
            };
            let code = if missing(first) || failing.iter().all(missing) {
                ReasonCode::PeerLabelMissing
            } else {
                ReasonCode::PeerLabelValue
            };
            let want = Want::PodLabels(failing.iter().copied().cloned().collect());
            let got = Got::Labels(values_of(failing.iter().copied(), &has));
            let mut marks = marks(ItemField::PodSelector, &peer.pods, &class.labels);
            for failed in marks.iter_mut().filter_map(|mark| mark.requirement.as_mut()) {
                failed.value = has.get(&failed.requirement.key).cloned();
            }
            conjuncts.push(peer_conjunct(Part::Pod, marks, want, got, code));
        }
        (conjuncts, labels)
    }

    /// Whether a peer asks for the labels of a pod and of its namespace.
    fn would_select(&self, peer: &PodPeer, pod: &Pod) -> bool {
        let has_namespace = match &peer.namespaces {
            Namespaces::Own(own) => *own == pod.namespace,
            Namespaces::Selected(selector) => {
                self.cluster.namespace(&pod.namespace).is_some_and(|labels| selector.matches(labels))
            }
        };
        has_namespace && peer.pods.matches(&pod.labels)
    }

    /// The other end is no endpoint, so no selector can select it.
    fn no_endpoint(&self, path: ItemPath, peer: &PodPeer) -> Conjunct {
        let is_node = match self.other {
            Party::Host(_) => true,
            // Else it is a client behind a node that puts its own address in place of the client's.
            Party::OtherNode(_) => self.question.nodes == OnNodes::Different,
            Party::End(End::Address(address) | End::Unread(address)) => self.cluster.is_node(address),
            Party::End(End::Pod(_)) => false,
        };
        let (got, code) = if is_node {
            let is_bare = matches!(self.other, Party::End(_));
            (if is_bare { Got::NodeAddress } else { Got::HostNetworkPod }, ReasonCode::PeerHostNetwork)
        } else {
            let unknown = if matches!(self.other, Party::OtherNode(_)) { Got::NodeAddress } else { Got::NoPod };
            (self.address().map_or(unknown, Got::Address), ReasonCode::IpBlockOutside)
        };
        // The namespaceSelector may be right.
        let of_pods = Mark::field(path.field(ItemField::PodSelector));
        let marks = if peer.pods.is_empty() { Vec::new() } else { vec![of_pods] };
        Conjunct::new(path, Part::Pod, Want::Pods(peer.pods.clone()), got, code).with_marks(marks)
    }

    /// The address of the other end that policies match.
    fn address(&self) -> Option<IpAddr> {
        self.other.address(self.cluster, self.question.family?)
    }

    fn block(&self, path: ItemPath, written: &IpBlock) -> Option<Conjunct> {
        let address = self.address();
        let got = match self.other {
            Party::OtherNode(None) => Got::NodeAddress,
            _ => address.map_or(Got::NoAddress, Got::Address),
        };
        let of_cidr =
            |part, got, code| Conjunct::new(path.field(ItemField::Cidr), part, Want::Block(written.cidr), got, code);
        let is_outside = address.is_none_or(|address| !written.cidr.holds(address));
        // A block of the other family fails by its family alone; its addresses do not matter.
        let is_of_family = self.question.family.is_none_or(|family| family == written.cidr.family);
        let translated = || Translated::of_block(written, self.cluster, self.question, self.direction, self.other);
        if let Some(translated) = (is_outside && is_of_family).then(translated).flatten() {
            let holds_asked_node = matches!(translated, Translated::AskedNode(_));
            let got = Got::Translated(translated);
            let conjunct = of_cidr(Part::Block, got, ReasonCode::IpBlockIsServiceAddress);
            return Some(Conjunct { holds_asked_node, ..conjunct });
        }
        let family = address.as_ref().map(Family::of).or(self.question.family);
        if family.is_some_and(|family| family != written.cidr.family) {
            return Some(of_cidr(Part::Family, got, ReasonCode::IpBlockFamily));
        }
        let Some(address) = address else {
            // The input does not say this node's address. The node has one of the block's family, though the question is
            // about both families.
            let is_node = matches!(self.other, Party::OtherNode(_));
            let family = self.question.family.or(Some(written.cidr.family).filter(|_| is_node));
            let seen = self.other.seen(self.cluster, self.question.ends(self.direction).0, family);
            let is_in = Atom::Block(written.block.clone()).holds(self.cluster, seen);
            return (!is_in).then(|| of_cidr(Part::Block, got, ReasonCode::IpBlockOutside));
        };
        if !written.cidr.holds(address) {
            return Some(of_cidr(Part::Block, got, ReasonCode::IpBlockOutside));
        }
        let first = written.except.iter().position(|except| except.holds(address))?;
        // Without the first, the others would still leave the address out.
        let holding = written.except.iter().filter(|except| except.holds(address)).copied();
        let (path, want) = (path.field(ItemField::Except(first)), Want::OutsideOf(holding.collect()));
        Some(Conjunct::new(path, Part::Except, want, got, ReasonCode::IpBlockExcept))
    }
}

/// How many of the labels that a podSelector asks for are there.
fn matching(peer: &PodPeer, labels: &Labels) -> usize {
    let is_there = |of: &&Requirement| labels.contains_key(&of.key) && of.matches(labels);
    peer.pods.requirements().filter(is_there).count()
}

/// The labels of a class, and those that their controller adds for certain, as far as their values are
/// known.
fn shown_labels(class: &Class) -> Cow<'_, Labels> {
    let (UnknownLabels::OfController(workload) | UnknownLabels::OfJobWithoutIndex(workload)) = &class.unknown else {
        return Cow::Borrowed(&class.labels);
    };
    let added = controller_labels(&workload.kind);
    let added = added.filter_map(|label| Some((label.key.to_owned(), label.pattern(workload)?)));
    let mut labels = class.labels.clone();
    labels.extend(added);
    Cow::Owned(labels)
}

fn failing<'a>(selector: &'a Selector, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
    selector.requirements().filter(|requirement| !requirement.matches(labels))
}

/// What labels have for the keys that requirements are about.
fn values_of<'a>(
    requirements: impl Iterator<Item = &'a Requirement>,
    labels: &Labels,
) -> Vec<(String, Option<String>)> {
    requirements.map(|of| (of.key.clone(), labels.get(&of.key).cloned())).collect()
}
