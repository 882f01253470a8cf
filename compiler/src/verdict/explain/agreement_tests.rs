//! One truth: what an explanation of two ends says is what the matrix says of them.
//!
//! Each test counts what it compared. Random clusters have much that cannot be compared, and a test that
//! compares nothing proves nothing.

use std::cell::Cell;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::{Backend, BackendEnd};
use crate::cluster::group::Groups;
use crate::cluster::unread::{Extent, Unread, WhyUnread};
use crate::cluster::{Cluster, PodId};
use crate::object::{Exposure, Family, Objects, Protocol, Service, ServicePort};
use crate::policy::Direction;
use crate::sample::objects;
use crate::sample_services::objects_with_services;
use crate::verdict::flow::{End, directed, exemption};
use crate::verdict::matrix::{By, Matrix, MatrixOptions};

/// Ports to ask about.
fn port() -> impl Strategy<Value = Option<Port>> {
    select(vec![
        None,
        Some(Port::Numbers(None, 80, 80)),
        Some(Port::Numbers(Some(Protocol::Udp), 53, 53)),
        Some(Port::Numbers(None, 8000, 8200)),
        Some(Port::Icmp),
    ])
}

fn meant(port: Option<&Port>) -> Traffic {
    match port {
        Some(Port::Numbers(protocol, first, last)) => Traffic::ports(protocol.unwrap_or(Protocol::Tcp), *first, *last),
        Some(Port::Icmp) => Traffic::icmp(),
        _ => Traffic::all(),
    }
}

fn target<'t>(ends: &[End]) -> QuestionEnd<'t> {
    match ends {
        [End::Address(address) | End::Unread(address)] => QuestionEnd::Address(*address),
        ends => {
            let pod = |end: &End| if let End::Pod(pod) = end { Some(*pod) } else { None };
            QuestionEnd::Pods(ends.iter().filter_map(pod).collect::<Vec<PodId>>())
        }
    }
}

/// What is allowed at least and at most, by flows. What a pod of several sends to itself is no
/// matter of a matrix.
fn by_flows(explanation: &FlowExplanation, is_several: bool) -> (Traffic, Traffic) {
    let (mut least, mut most) = (Traffic::none(), Traffic::none());
    for flow in explanation.flows.iter().filter(|flow| !is_several || flow.way != Some(Way::Itself)) {
        match flow.verdict {
            Verdict::Allowed => least = least.union(&flow.traffic),
            Verdict::Unknown => most = most.union(&flow.traffic),
            Verdict::Denied | Verdict::Partial => {}
        }
    }
    (least.clone(), most.union(&least))
}

/// How often something was compared.
#[derive(Debug, Default)]
struct Count(Cell<usize>);

impl Count {
    fn add(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn assert_over(&self, least: usize) {
        assert!(self.0.get() > least, "only {} comparisons", self.0.get());
    }
}

/// A test of so many clusters.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Whether an answer is about an address that several pods list: which of them has it is not known.
fn is_contested(answer: &FlowExplanation) -> bool {
    answer.warnings.iter().any(|warning| matches!(warning, WarningFact::Contested(_)))
}

fn check(
    objects: &Objects,
    unread: Vec<Unread>,
    by: By,
    port: Option<&Port>,
    (compared, of_nodes): (&Count, &Count),
) -> Result<(), TestCaseError> {
    let cluster = Cluster::new(objects).with_unread(unread);
    let groups = Groups::of_cluster(&cluster);
    let addresses = ["192.0.2.1", "198.51.100.7", "10.0.0.9", "10.0.0.1", "2001:db8::7"];
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let matrix = Matrix::of_groups(&cluster, &groups, &MatrixOptions { by, addresses });
    let asked = meant(port);
    for from in 0..matrix.endpoints().len() {
        for to in 0..matrix.endpoints().len() {
            let [source, destination] = [from, to].map(|row| matrix.ends(row).collect::<Vec<End>>());
            let is_address = |row: usize| matrix.endpoints()[row].kind == "Address";
            // An address that is a pod's means that family alone, and a workload's pods do not meet
            // themselves there.
            let is_pods_address = |row: usize, ends: &[End]| is_address(row) && matches!(ends, [End::Pod(_)]);
            if is_pods_address(from, &source)
                || is_pods_address(to, &destination)
                || (is_address(from) && is_address(to))
            {
                continue;
            }
            // Ports of a node lead to pods and Services, and the matrix is about the node itself.
            let is_node = |end: &End| matches!(end, End::Address(address) if cluster.is_node(*address));
            let node_ports = Traffic::of_ranges(Protocol::ALL.map(|of| (of, 30_000, 32_767)));
            let may_lead = cluster.has_unread_services() && !asked.intersection(&node_ports).is_none();
            let has_ports = |of: IpAddr| {
                may_lead || cluster.node_ports().next().is_some() || cluster.host_ports_at(of).next().is_some()
            };
            let leads_on = |end: &End| matches!(end, End::Address(of) if cluster.is_node(*of) && has_ports(*of));
            if destination.iter().any(leads_on) {
                continue;
            }
            let answer = explain(&cluster, &groups, &target(&source), &target(&destination), port);
            // Nothing may be left out but what is too large, and here nothing is.
            let answer = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            if is_contested(&answer) {
                continue;
            }
            let single = |ends: &[End]| match ends {
                [End::Pod(pod)] => !cluster.pod(*pod).is_template() || cluster.pod(*pod).is_single,
                _ => false,
            };
            let found = by_flows(&answer, from == to && !single(&source));
            let (mut least, mut most) = (Traffic::none(), Traffic::none());
            for cell in matrix.between(from, to) {
                least = least.union(&cell.traffic);
                most = most.union(&cell.traffic).union(&cell.unknown);
            }
            let said = (least.intersection(&asked), most.intersection(&asked));
            let ids = [from, to].map(|row| matrix.endpoints()[row].id.clone());
            prop_assert_eq!(found, said, "{:?} {:?}", ids, answer);
            compared.add();
            if source.iter().chain(&destination).any(is_node) {
                of_nodes.add();
            }
        }
    }
    Ok(())
}

fn not_read(kind: &str, namespace: Extent) -> Unread {
    Unread { kind: Some(kind.to_owned()), namespace, subject: None, why: WhyUnread::DidNotParse("not read".to_owned()) }
}

#[test]
fn an_explanation_says_of_two_ends_what_the_matrix_does() {
    let counts = (Count::default(), Count::default());
    proptest!(config(400), |(
        objects in prop_oneof![objects().boxed(), objects_with_services().boxed()],
        port in port(),
        unread in proptest::option::of(select(vec!["NetworkPolicy", "Pod", "Namespace", "Service"])),
        by_pod: bool,
    )| {
        let unread = unread.map(|kind| {
            let namespace = if kind == "Namespace" { Extent::Everywhere } else { Extent::In("b".to_owned()) };
            not_read(kind, namespace)
        });
        let by = if by_pod { By::Pod } else { By::Workload };
        check(&objects, Vec::from_iter(unread), by, port.as_ref(), (&counts.0, &counts.1))?;
    });
    counts.0.assert_over(4_000);
    counts.1.assert_over(100);
}

/// The matrix of each pod and of each address that something else has, and their rows.
struct ByPod<'a> {
    cluster: &'a Cluster,
    matrix: &'a Matrix<'a>,
    pods: Vec<(PodId, usize)>,
    addresses: Vec<(IpAddr, usize)>,
}

impl<'a> ByPod<'a> {
    /// The addresses that are not those of pods with a row: of nodes, and of endpoints outside.
    fn options(cluster: &Cluster) -> MatrixOptions {
        let outside = ["203.0.113.7", "10.0.0.200", "2001:db8::1", "2001:db8::2"];
        let outside = outside.iter().filter_map(|text| text.parse().ok());
        let addresses: Vec<IpAddr> = cluster.nodes().values().flatten().copied().chain(outside).collect();
        let is_free = |address: &IpAddr| cluster.holders(*address, None).is_empty();
        MatrixOptions { by: By::Pod, addresses: addresses.into_iter().filter(is_free).collect() }
    }

    fn new(cluster: &'a Cluster, matrix: &'a Matrix<'a>) -> Self {
        let (mut pods, mut addresses) = (Vec::new(), Vec::new());
        for row in 0..matrix.endpoints().len() {
            match (matrix.ends(row).next(), matrix.endpoints()[row].kind.as_str()) {
                (_, "Address") => addresses.push((matrix.endpoints()[row].addresses[0], row)),
                (Some(End::Pod(pod)), _) => pods.push((pod, row)),
                _ => {}
            }
        }
        Self { cluster, matrix, pods, addresses }
    }

    /// The rows of an end, in one family where that is given; none where the matrix has none: a pod in its
    /// node's network has those of its addresses.
    fn rows(&self, end: BackendEnd, only: Option<Family>) -> Vec<usize> {
        let is_meant = |address: &IpAddr| only.is_none_or(|only| Family::of(address) == only);
        let of_address = |address: IpAddr| self.addresses.iter().find(|(of, _)| *of == address).map(|(_, row)| *row);
        match end {
            BackendEnd::Pod(pod) if self.cluster.pod(pod).host_network => {
                self.cluster.pod(pod).addresses().filter(is_meant).filter_map(of_address).collect()
            }
            BackendEnd::Pod(pod) => self.pods.iter().filter(|(of, _)| *of == pod).map(|(_, row)| *row).collect(),
            BackendEnd::Address(address) => of_address(address).into_iter().collect(),
        }
    }

    /// What the matrix says of the traffic from a row to another, in one family where that is given; none
    /// where it does not tell families apart.
    fn between(&self, from: usize, to: usize, only: Option<Family>, asked: &Traffic) -> Option<(Traffic, Traffic)> {
        let (mut least, mut most) = (Traffic::none(), Traffic::none());
        for cell in self.matrix.between(from, to) {
            if only.is_some() && cell.family.is_none() {
                return None;
            }
            if only.is_none() || cell.family == only {
                least = least.union(&cell.traffic);
                most = most.union(&cell.traffic).union(&cell.unknown);
            }
        }
        Some((least.intersection(asked), most.intersection(asked)))
    }

    /// What a pod may send to the backends of a port, by what the matrix says of each; none where the
    /// matrix has no row for one.
    fn through(
        &self,
        (source, from): (PodId, usize),
        service: &Service,
        port: &ServicePort,
        backends: &[Backend],
    ) -> Option<(Traffic, Traffic)> {
        let (mut least, mut most) = (Traffic::none(), Traffic::none());
        for backend in backends {
            let traffic = Traffic::ports(port.protocol, backend.port, backend.port);
            let rows = self.rows(backend.end, backend.family);
            let mut is_certain = true;
            if service.routing.is_node_local && !service.routing.is_headless {
                let own = self.cluster.pod(source).node.as_deref();
                let is_everywhere = |pod| self.cluster.pod(pod).is_on_every_node();
                match (own, self.cluster.node_of_backend(service, backend.end)) {
                    _ if matches!(backend.end, BackendEnd::Pod(pod) if is_everywhere(pod)) => {}
                    (Some(own), Some(other)) if own == other => {}
                    (Some(_), Some(_)) => continue,
                    // An address outside the cluster is on no node.
                    (_, None) if matches!(backend.end, BackendEnd::Address(_)) => continue,
                    _ => is_certain = false,
                }
            }
            // What was not read may have an address of a slice: asked about by itself, it is unknown.
            let is_address = matches!(backend.end, BackendEnd::Address(_));
            if rows.is_empty() || (is_address && !self.cluster.unread().is_empty()) {
                return None;
            }
            for row in rows {
                let (at_least, at_most) = self.between(from, row, backend.family, &traffic)?;
                least = if is_certain { least.union(&at_least) } else { least };
                most = most.union(&at_most);
            }
        }
        Some((least, most))
    }
}

/// Policies see the backends of a Service, so what passes by it is what passes to these.
#[test]
fn an_explanation_says_of_a_service_what_the_matrix_does_of_its_backends() {
    let (by_address, by_name, to_hosts, to_addresses) =
        (Count::default(), Count::default(), Count::default(), Count::default());
    proptest!(config(1_500), |(
        objects in objects_with_services(),
        unread in proptest::option::weighted(0.2, select(vec!["NetworkPolicy", "Pod", "EndpointSlice"])),
    )| {
        let namespace = Extent::In("b".to_owned());
        let unread = unread.map(|kind| not_read(kind, namespace));
        let cluster = Cluster::new(&objects).with_unread(Vec::from_iter(unread));
        let groups = Groups::of_cluster(&cluster);
        let matrix = Matrix::of_groups(&cluster, &groups, &ByPod::options(&cluster));
        let by_pod = ByPod::new(&cluster, &matrix);
        for (source, from) in by_pod.pods.iter().copied() {
            let is_several = cluster.pod(source).is_template() && !cluster.pod(source).is_single;
            for service in cluster.services() {
                let answer = explain(&cluster, &groups, &QuestionEnd::Pods(vec![source]), &QuestionEnd::Service(service), None);
                let answer = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
                if is_contested(&answer) {
                    continue;
                }
                let is_local = service.routing.is_node_local && !service.routing.is_headless;
                let backends = |port| {
                    if is_local { cluster.local_backends(service, port) } else { cluster.backends(service, port) }
                };
                let backends: Option<Vec<(&ServicePort, Vec<Backend>)>> =
                    service.ports.iter().map(|port| Some((port, backends(port)?))).collect();
                let Some(backends) = backends else {
                    prop_assert!(answer.flows.iter().all(|flow| flow.verdict == Verdict::Unknown), "{:?}", answer);
                    continue;
                };
                let is_host = |of: &Backend| matches!(of.end, BackendEnd::Pod(pod) if cluster.pod(pod).host_network);
                let mut ends = backends.iter().flat_map(|(_, backends)| backends);
                if service.routing.is_headless {
                    if ends.clone().next().is_none() {
                        // Without a port that leads somewhere, the pods themselves are meant.
                        continue;
                    }
                    let said: Option<Vec<(Traffic, Traffic)>> = backends
                        .iter()
                        .map(|(port, backends)| by_pod.through((source, from), service, port, backends))
                        .collect();
                    let Some(said) = said else { continue };
                    let (least, most): (Vec<Traffic>, Vec<Traffic>) = said.into_iter().unzip();
                    let all = |of: Vec<Traffic>| of.iter().fold(Traffic::none(), |all, of| all.union(of));
                    let found = by_flows(&answer, is_several);
                    prop_assert_eq!(found, (all(least), all(most)), "{:?} -> {:?}\n{:?}", cluster.pod(source), service, answer);
                    by_name.add();
                    if ends.any(is_host) {
                        to_hosts.add();
                    }
                    continue;
                }
                for (port, backends) in &backends {
                    let is_of_port = |flow: &&Flow| flow.via.as_ref().is_some_and(|via| via.port == Some(port.port));
                    let flows: Vec<Flow> = answer.flows.iter().filter(is_of_port).cloned().collect();
                    let Some(said) = by_pod.through((source, from), service, port, backends) else { continue };
                    let of_port = FlowExplanation { flows, ..FlowExplanation::default() };
                    let found = by_flows(&of_port, is_several);
                    prop_assert_eq!(found, said, "{:?} -> {:?} {:?}\n{:?}", cluster.pod(source), service, port, of_port);
                    by_address.add();
                    if backends.iter().any(is_host) {
                        to_hosts.add();
                    }
                    if backends.iter().any(|of| matches!(of.end, BackendEnd::Address(_))) {
                        to_addresses.add();
                    }
                }
            }
        }
    });
    by_address.assert_over(1_500);
    by_name.assert_over(100);
    to_hosts.assert_over(20);
    to_addresses.assert_over(10);
}

/// A hostNetwork pod is for policies what the node's address is.
#[test]
fn an_explanation_says_of_a_pod_in_its_nodes_network_what_the_matrix_does_of_the_node() {
    let compared = Count::default();
    proptest!(config(1_600), |(objects in objects_with_services(), port in port())| {
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let matrix = Matrix::of_groups(&cluster, &groups, &ByPod::options(&cluster));
        let by_pod = ByPod::new(&cluster, &matrix);
        let asked = meant(port.as_ref());
        let hosts = cluster.pods().filter(|(_, pod)| pod.host_network && !pod.finished && !pod.is_template());
        for (host, object) in hosts.filter(|(_, pod)| pod.addresses().next().is_some()) {
            let rows = by_pod.rows(BackendEnd::Pod(host), None);
            for (pod, row) in by_pod.pods.iter().copied() {
                for is_source in [true, false] {
                    // Ports of a node lead to pods and Services, and the matrix is about the node itself.
                    let mut addresses = object.addresses();
                    let has_ports = |of: IpAddr| cluster.host_ports_at(of).next().is_some();
                    if !is_source && (cluster.node_ports().next().is_some() || addresses.any(has_ports)) {
                        continue;
                    }
                    let (host, pod) = (QuestionEnd::Pod(host), QuestionEnd::Pods(vec![pod]));
                    let (from, to) = if is_source { (&host, &pod) } else { (&pod, &host) };
                    let answer = explain(&cluster, &groups, from, to, port.as_ref());
                    let answer = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
                    if is_contested(&answer) {
                        continue;
                    }
                    let mut said = (Traffic::none(), Traffic::none());
                    for address in &rows {
                        let (from, to) = if is_source { (*address, row) } else { (row, *address) };
                        let Some((least, most)) = by_pod.between(from, to, None, &asked) else { continue };
                        said = (said.0.union(&least), said.1.union(&most));
                    }
                    prop_assert_eq!(by_flows(&answer, false), said, "{:?} {:?}", object, answer);
                    compared.add();
                }
            }
        }
    });
    compared.assert_over(500);
}

/// A port of a node, and the client that asks it.
struct ByNodePort<'a> {
    cluster: &'a Cluster,
    groups: &'a Groups,
    /// The node that is asked, and its address.
    entry: (&'a str, IpAddr),
    protocol: Protocol,
    number: u16,
    client: End,
}

impl ByNodePort<'_> {
    /// Whether policies of a direction let a flow to this port pass. A pod and its own node are exempt.
    fn admits(&self, direction: Direction, from: End, to: End, port: u16) -> bool {
        let family = Some(Family::of(&self.entry.1));
        let asked = Traffic::ports(self.protocol, port, port);
        exemption(self.cluster, from, to).is_some()
            || asked.difference(&directed(self.cluster, self.groups, direction, from, to, family)).is_none()
    }

    /// What kube-proxy makes of it: whether the flow passes by each way to a backend. The node that is asked sends
    /// the flow on, with its own address where `externalTrafficPolicy` is Cluster and the backend is on another node;
    /// with Local, a client that is no pod gets its own backends only.
    fn passes(&self, exposure: Exposure, backend: &Backend) -> Option<Vec<bool>> {
        let BackendEnd::Pod(pod) = backend.end else { return None };
        let object = self.cluster.pod(pod);
        let (node, address) = (object.node.as_deref()?, object.address(Family::of(&self.entry.1))?);
        let (is_here, is_pod) = (node == self.entry.0, matches!(self.client, End::Pod(_)));
        if exposure == Exposure::OwnNode && !is_here && !is_pod {
            return Some(Vec::new());
        }
        // No policy applies to a hostNetwork pod.
        let to = if object.host_network { End::Address(address) } else { End::Pod(pod) };
        let is_own_entry = self.client.node(self.cluster) == Some(self.entry.0);
        let leaves = if is_own_entry {
            self.admits(Direction::Egress, self.client, to, backend.port)
        } else {
            self.admits(Direction::Egress, self.client, End::Address(self.entry.1), self.number)
        };
        let enters = |from| leaves && self.admits(Direction::Ingress, from, to, backend.port);
        let by_entry = enters(End::Address(self.entry.1));
        Some(match (exposure, is_here) {
            (Exposure::AnyNode, false) if is_pod => vec![by_entry],
            // A client outside may ask another node as well, that of the backend among them.
            (Exposure::AnyNode, false) => vec![enters(self.client), by_entry],
            _ => vec![enters(self.client)],
        })
    }
}

/// What a client sends to a port of a node passes where kube-proxy and policies let it pass.
#[test]
fn an_explanation_of_a_node_port_follows_kube_proxy() {
    let (of_pods, of_others, to_hosts, local) =
        (Count::default(), Count::default(), Count::default(), Count::default());
    proptest!(config(400), |(objects in objects_with_services())| {
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let outside = IpAddr::from([198, 51, 100, 7]);
        let pods = cluster.endpoints().filter(|(_, pod)| pod.node.is_some() && !pod.is_template());
        let clients: Vec<End> = pods.map(|(id, _)| End::Pod(id)).chain([End::Address(outside)]).collect();
        let nodes = cluster.nodes().iter().flat_map(|(name, all)| all.iter().map(move |address| (name.as_str(), *address)));
        let nodes: Vec<(&str, IpAddr)> = nodes.filter(|(_, address)| cluster.holders(*address, None).is_empty()).collect();
        for (protocol, number, service) in cluster.node_ports() {
            let Some((_, port)) = cluster.behind_node_port(protocol, number) else { continue };
            let all = cluster.backends(service, port).zip(cluster.local_backends(service, port));
            let Some((all, of_nodes)) = all else { continue };
            for (client, entry) in clients.iter().flat_map(|client| nodes.iter().map(|entry| (*client, *entry))) {
                let family = Family::of(&entry.1);
                let has_family = client.address(&cluster, family).is_some() || client == End::Address(outside) && family == Family::V4;
                let is_of_service = service.routing.only_family.is_none_or(|only| only == family);
                // With Local, a node looks at its own endpoints only for a client that is no pod.
                let is_local = service.exposure == Exposure::OwnNode && !matches!(client, End::Pod(_));
                let backends = if is_local { &of_nodes } else { &all };
                let itself = |of: &Backend| matches!((client, of.end), (End::Pod(pod), BackendEnd::Pod(of)) if pod == of);
                if !has_family || !is_of_service || backends.iter().any(itself) {
                    continue;
                }
                let asked = ByNodePort { cluster: &cluster, groups: &groups, entry, protocol, number, client };
                let of_family = |of: &&Backend| of.family.is_none_or(|of| of == family);
                let passes: Option<Vec<Vec<bool>>> =
                    backends.iter().filter(of_family).map(|of| asked.passes(service.exposure, of)).collect();
                let Some(passes) = passes else { continue };
                let from = match client {
                    End::Pod(pod) => QuestionEnd::Pods(vec![pod]),
                    End::Address(address) | End::Unread(address) => QuestionEnd::Address(address),
                };
                let asked_port = Port::Numbers(Some(protocol), number, number);
                let answer = explain(&cluster, &groups, &from, &QuestionEnd::Address(entry.1), Some(&asked_port));
                let answer = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
                if is_contested(&answer) {
                    continue;
                }
                let passes: Vec<bool> = passes.into_iter().flatten().collect();
                let expected = match (passes.contains(&true), passes.contains(&false)) {
                    (true, true) => Verdict::Partial,
                    (true, false) => Verdict::Allowed,
                    (false, _) => Verdict::Denied,
                };
                prop_assert_eq!(answer.verdict(), expected, "{:?} -> {:?} {:?}\n{:?}", client, entry, service, answer);
                if matches!(client, End::Pod(_)) { of_pods.add() } else { of_others.add() }
                if service.exposure == Exposure::OwnNode {
                    local.add();
                }
                if backends.iter().any(|of| matches!(of.end, BackendEnd::Pod(pod) if cluster.pod(pod).host_network)) {
                    to_hosts.add();
                }
            }
        }
    });
    of_pods.assert_over(500);
    of_others.assert_over(500);
    to_hosts.assert_over(50);
    local.assert_over(500);
}
