//! Facts that tell why a rule misses a flow by little: what the other end is, and what the ports are that the
//! rule names. The words are the command's.

use std::net::IpAddr;

use crate::cluster::{Cluster, PodId};
use crate::object::{Family, HostPort, Labels, Pod, Service, ServicePort, TargetPort, Workload, controller_labels};
use crate::policy::{Direction, Namespaces, Peer, Peers, PodPeer};
use crate::verdict::explain::answer::{Flow, Way};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::RuleHalf;
use crate::verdict::explain::decision::mark::FailedRequirement;
use crate::verdict::explain::decision::near_miss::Candidate;
use crate::verdict::explain::decision::near_miss::conjunct::{Conjunct, Part};
use crate::verdict::explain::decision::near_miss::want_and_got::Want;
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;

/// What there is to know about a rule that misses by little.
#[derive(Debug, Clone, Default)]
pub struct MissFacts<'c> {
    /// Facts about the other end.
    pub end: Vec<EndFact<'c>>,
    /// Facts about the rule.
    pub rule: Vec<RuleFact<'c>>,
}

/// A fact about the other end of a denied flow.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum EndFact<'c> {
    /// It is a hostNetwork pod.
    HostNetwork {
        /// The address that policies match, where an object says it.
        address: Option<IpAddr>,
        /// Its node, where it is known.
        node: Option<&'c str>,
    },
    /// It is a hostNetwork pod on each of several nodes.
    HostNetworkOfNodes {
        /// The addresses that policies match, as far as objects say them.
        addresses: Vec<IpAddr>,
        /// The one that was judged.
        judged: Option<IpAddr>,
    },
    /// It is in a namespace that the rule does not select.
    Namespace {
        /// The namespace.
        name: &'c str,
        /// Its labels, where its object is in the input.
        labels: Option<&'c Labels>,
    },
    /// The pod itself has the labels that the namespaceSelector asks for.
    PodHasLabelsOfNamespace,
    /// It has not the labels that the podSelector asks for.
    PodLabels {
        /// Its own labels.
        own: &'c Labels,
        /// Where it has none, those that its controller adds, by key and by what the value looks like.
        added: Vec<(&'static str, String)>,
    },
    /// A label that the pod lacks stands on its workload.
    LabelOnWorkload {
        /// The pod's namespace.
        namespace: &'c str,
        /// The workload.
        workload: &'c Workload,
        /// The key of the label.
        key: String,
    },
    /// The template of its workload has a label that the rule asks for, and the pod was made after an older one.
    LabelInTemplate {
        /// The pod's namespace.
        namespace: &'c str,
        /// The workload.
        workload: &'c Workload,
        /// The key of the label.
        key: String,
        /// Its value in the template.
        value: &'c str,
    },
    /// Its namespace has the labels that the podSelector asks for.
    NamespaceHasLabelsOfPod {
        /// The namespace.
        name: &'c str,
    },
}

/// A fact about a rule that misses a flow by little.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum RuleFact<'c> {
    /// Its item asks for a namespace and for pods in it, and the namespace is right.
    NamespaceMatches,
    /// It names the port of a Service that leads to the port of the pods that was asked for.
    ServicePort {
        /// The Service.
        service: &'c Service,
        /// Its port.
        port: u16,
        /// The port of the pods.
        of_pods: u16,
    },
    /// It names a port of nodes that leads to the pods.
    NodePort {
        /// The Service whose `nodePort` it is.
        service: &'c Service,
        /// The port of nodes.
        number: u16,
        /// The port of the pods.
        of_pods: u16,
    },
    /// It names a `hostPort` of the pod.
    HostPort {
        /// The port of the node.
        number: u16,
        /// The port of the pod.
        of_pod: u16,
    },
    /// It names the name that a Service gives a port, where the containers give another one.
    ServicePortName {
        /// The name.
        name: String,
        /// The Service.
        service: &'c Service,
        /// Its port.
        port: u16,
        /// Where the port leads.
        target: &'c TargetPort,
    },
    /// It names the port of a container.
    ContainerPort {
        /// The port that the rule names.
        number: u16,
        /// Its container.
        container: &'c str,
        /// The port that was asked for.
        asked: u16,
        /// The other container that declares that one; none where no container does.
        other: Option<&'c str>,
    },
}

/// A flow that a rule misses by little.
struct Miss<'a, 'c> {
    cluster: &'c Cluster,
    flow: &'a Flow,
    direction: Direction,
    candidate: &'a Candidate,
}

/// What there is to know about a rule that misses a flow by little in a direction.
#[must_use]
pub fn miss_facts<'c>(cluster: &'c Cluster, flow: &Flow, direction: Direction, candidate: &Candidate) -> MissFacts<'c> {
    if direction == Direction::Egress && flow.seen_by_source.is_some() {
        // The policies match a node in place of the pod, and the answer says so.
        return MissFacts::default();
    }
    let miss = Miss { cluster, flow, direction, candidate };
    let port = miss.service_port().or_else(|| miss.port_of_node());
    let rule = [miss.half_of_both(), port, miss.name_of_service_port(), miss.port_of_container()];
    MissFacts { end: miss.of_other_end(), rule: rule.into_iter().flatten().collect() }
}

impl<'c> Miss<'_, 'c> {
    /// The pod that is the destination.
    fn destination(&self) -> Option<PodId> {
        match self.flow.parties? {
            (_, Party::End(End::Pod(pod))) => Some(pod),
            _ => None,
        }
    }

    /// The part of the peer by which the rule misses.
    fn of_peer(&self, part: Part) -> Option<&Conjunct> {
        self.candidate.conjuncts.iter().find(|of| of.of() == RuleHalf::Peer && of.part == part)
    }

    /// The requirements of a selector of the peer that fail.
    fn failed(&self, part: Part) -> impl Iterator<Item = &FailedRequirement> {
        let conjuncts = self.candidate.conjuncts.iter().filter(move |of| of.of() == RuleHalf::Peer && of.part == part);
        conjuncts.flat_map(|of| &of.marks).filter_map(|mark| mark.requirement.as_ref())
    }

    /// Facts about the other end that its part of the rule is about.
    fn of_other_end(&self) -> Vec<EndFact<'c>> {
        let Some((from, to)) = self.flow.parties else { return Vec::new() };
        let (party, name) = match self.direction {
            Direction::Ingress => (from, &self.flow.from),
            Direction::Egress => (to, &self.flow.to),
        };
        match party {
            Party::Host(pod) => vec![self.host(pod)],
            Party::OtherNode(judged) if name.host_network => vec![self.hosts(judged)],
            Party::End(End::Pod(pod)) => self.pod(pod),
            Party::OtherNode(_) | Party::End(_) => Vec::new(),
        }
    }

    /// What policies match of a hostNetwork pod: its node's address.
    fn host(&self, pod: PodId) -> EndFact<'c> {
        let pod = self.cluster.pod(pod);
        let address = self.flow.family.and_then(|family| pod.address(family)).or_else(|| pod.addresses().next());
        EndFact::HostNetwork { address, node: pod.node.as_deref() }
    }

    /// The same of one that is on each of several nodes: those that the flow stands for.
    fn hosts(&self, judged: Option<IpAddr>) -> EndFact<'c> {
        let names = match &self.flow.way {
            Some(Way::DifferentNodes(names)) => Some(names),
            _ => None,
        };
        let of_family = |address: &&IpAddr| judged.is_none_or(|judged| Family::of(&judged) == Family::of(address));
        let all = self.cluster.nodes().iter();
        let meant = all.filter(|(name, _)| names.is_some_and(|names| names.is_empty() || names.contains(*name)));
        let addresses = meant.filter_map(|(_, addresses)| addresses.iter().find(of_family).copied());
        EndFact::HostNetworkOfNodes { addresses: addresses.collect(), judged }
    }

    fn pod(&self, pod: PodId) -> Vec<EndFact<'c>> {
        let pod = self.cluster.pod(pod);
        let labels = self.cluster.namespace(&pod.namespace);
        let mut facts = Vec::new();
        if self.of_peer(Part::Namespace).is_some() {
            facts.push(EndFact::Namespace { name: &pod.namespace, labels });
            if self.asks_for_labels_of(Part::Namespace, &pod.labels) {
                facts.push(EndFact::PodHasLabelsOfNamespace);
            }
        }
        if self.of_peer(Part::Pod).is_some() {
            let added = if pod.labels.is_empty() { added_labels(pod) } else { Vec::new() };
            facts.push(EndFact::PodLabels { own: &pod.labels, added });
            facts.extend(self.label_in_template(pod).or_else(|| self.label_on_workload(pod)));
            if labels.is_some_and(|labels| self.asks_for_labels_of(Part::Pod, labels)) {
                facts.push(EndFact::NamespaceHasLabelsOfPod { name: &pod.namespace });
            }
        }
        facts
    }

    /// Whether all labels of one kind that the rule asks for, and that are not there, are there on the other
    /// kind: the pod's in place of its namespace's, or the other way round.
    fn asks_for_labels_of(&self, part: Part, has: &Labels) -> bool {
        let mut failed = self.failed(part).peekable();
        failed.peek().is_some() && failed.all(|of| has.contains_key(&of.requirement.key) && of.requirement.matches(has))
    }

    /// The label that a rule asks for, and that a pod lacks or has with another value, where the template of its
    /// workload has it.
    fn label_in_template(&self, pod: &'c Pod) -> Option<EndFact<'c>> {
        let workload = pod.workload.as_ref()?;
        self.failed(Part::Pod).find_map(|FailedRequirement { requirement, .. }| {
            let key = &requirement.key;
            let value = self.cluster.template_label(&pod.namespace, workload, key)?;
            let has = Labels::from([(key.clone(), value.to_owned())]);
            requirement.matches(&has).then(|| EndFact::LabelInTemplate {
                namespace: &pod.namespace,
                workload,
                key: key.clone(),
                value,
            })
        })
    }

    /// The label that a pod lacks and its workload has, in place of its template.
    fn label_on_workload(&self, pod: &'c Pod) -> Option<EndFact<'c>> {
        let workload = pod.workload.as_ref()?;
        let mut keys = self.failed(Part::Pod).filter(|failed| failed.value.is_none()).map(|of| &of.requirement.key);
        let key = keys.find(|key| self.cluster.workload_label(&pod.namespace, workload, key).is_some())?;
        Some(EndFact::LabelOnWorkload { namespace: &pod.namespace, workload, key: key.clone() })
    }

    /// That an item asks for a namespace and for pods in it, where the namespace is right and the pod
    /// is not.
    fn half_of_both(&self) -> Option<RuleFact<'c>> {
        // An end that is no endpoint has no labels that could be right.
        let by_label = |of: &&Conjunct| matches!(of.code, ReasonCode::PeerLabelMissing | ReasonCode::PeerLabelValue);
        let conjunct = self.of_peer(Part::Pod).filter(by_label).filter(|_| self.of_peer(Part::Namespace).is_none())?;
        let rule = self.cluster.policy(self.candidate.policy).rules(self.direction).get(self.candidate.place)?;
        let Peers::AnyOf(peers) = &rule.peers else { return None };
        let Peer::Pods(PodPeer { namespaces: Namespaces::Selected(selector), pods }) =
            peers.get(conjunct.path.place)?
        else {
            return None;
        };
        (!selector.is_empty() && !pods.is_empty()).then_some(RuleFact::NamespaceMatches)
    }

    /// The Service whose port the rule names, where its pods were asked and not the Service.
    fn service_port(&self) -> Option<RuleFact<'c>> {
        let named = self.candidate.conjuncts.iter().find(|of| of.code == ReasonCode::PortIsServicePort)?;
        let (protocol, asked, _) = self.flow.traffic.single()?;
        let pod = self.destination().filter(|_| self.flow.via.is_none())?;
        let mut services = self.cluster.services_by_another_port(pod);
        let is_named = |port: &ServicePort| port.protocol == protocol && Some(port.port) == named.number;
        let (service, port, of_pods) = services.find(|(_, port, of)| is_named(port) && *of == asked)?;
        Some(RuleFact::ServicePort { service, port: port.port, of_pods })
    }

    /// That the rule names a port of nodes that leads to the pods: of a Service, or of the pods themselves.
    fn port_of_node(&self) -> Option<RuleFact<'c>> {
        let pod = self.destination()?;
        let (protocol, asked, _) = self.flow.traffic.single()?;
        let number = self.number()?;
        if let Some((service, of_pods)) = self.cluster.service_with_node_port(pod, protocol, number) {
            return Some(RuleFact::NodePort { service, number, of_pods });
        }
        let is_meant = |of: &HostPort| (of.protocol, of.host_port, of.port) == (protocol, number, asked);
        let is_host_port = self.cluster.pod(pod).host_ports.iter().any(is_meant);
        is_host_port.then_some(RuleFact::HostPort { number, of_pod: asked })
    }

    /// The number that the rule names in place of the one that was asked for.
    fn number(&self) -> Option<u16> {
        self.candidate.conjuncts.iter().find(|of| of.code == ReasonCode::PortNumber)?.number
    }

    /// That the name in the rule is that of a Service's port, where the containers give another one.
    fn name_of_service_port(&self) -> Option<RuleFact<'c>> {
        let name = self.candidate.conjuncts.iter().find_map(|of| match &of.want {
            Want::PortName(name) => Some(name),
            _ => None,
        })?;
        let pod = self.cluster.pod(self.destination()?);
        let services = self.cluster.services_in(&pod.namespace).filter(|service| service.selects(pod));
        let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let (service, port) = ports.find(|(_, port)| port.name.as_ref() == Some(name))?;
        Some(RuleFact::ServicePortName { name: name.clone(), service, port: port.port, target: &port.target })
    }

    /// Whose port was asked for, where another container of the pod has the port that the rule names.
    fn port_of_container(&self) -> Option<RuleFact<'c>> {
        let number = self.number()?;
        let pod = self.cluster.pod(self.destination()?);
        let (protocol, asked, _) = self.flow.traffic.single()?;
        let container = pod.container_of(protocol, number)?;
        let other = pod.container_of(protocol, asked);
        (other != Some(container)).then_some(RuleFact::ContainerPort { number, container, asked, other })
    }
}

/// The labels that the controller of a template adds to its pods, by key and by what the value looks like.
fn added_labels(pod: &Pod) -> Vec<(&'static str, String)> {
    let Some(workload) = pod.workload.as_ref().filter(|_| pod.is_template()) else { return Vec::new() };
    controller_labels(&workload.kind).filter_map(|label| Some((label.key, label.pattern(workload)?))).collect()
}
