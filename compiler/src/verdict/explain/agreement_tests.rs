//! One truth: what an explanation of two ends says is what the matrix says of them.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::{Backend, BackendEnd};
use crate::cluster::group::Groups;
use crate::cluster::unread::{Extent, Unread};
use crate::cluster::{Cluster, PodId};
use crate::object::{Family, Objects, Protocol, Service, ServicePort};
use crate::sample::objects;
use crate::sample_services::objects_with_services;
use crate::verdict::flow::End;
use crate::verdict::matrix::{By, Matrix, Options};

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

fn target<'t>(ends: &[End]) -> Target<'t> {
    match ends {
        [End::Address(address) | End::Unread(address)] => Target::Address(*address),
        ends => {
            let pod = |end: &End| if let End::Pod(pod) = end { Some(*pod) } else { None };
            Target::Pods(ends.iter().filter_map(pod).collect::<Vec<PodId>>())
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

fn check(objects: &Objects, unread: Vec<Unread>, by: By, port: Option<&Port>) -> Result<(), TestCaseError> {
    let cluster = Cluster::new(objects).with_unread(unread);
    let groups = Groups::of_cluster(&cluster);
    let addresses = ["192.0.2.1", "198.51.100.7", "10.0.0.9", "10.0.0.1", "2001:db8::7"];
    let addresses: Vec<IpAddr> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let matrix = Matrix::of_groups(&cluster, &groups, &Options { by, addresses });
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
            // A host port of a node leads to a pod, and the matrix is about the node itself.
            let leads_on =
                |end: &End| matches!(end, End::Address(address) if cluster.host_ports_at(*address).next().is_some());
            if destination.iter().any(leads_on) {
                continue;
            }
            let answer = explain(&cluster, &groups, &target(&source), &target(&destination), port);
            let Ok(answer) = answer else { continue };
            // Which of several pods has an address is not known.
            if answer.warnings.iter().any(|warning| matches!(warning, Warning::Contested(_))) {
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
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_says_of_two_ends_what_the_matrix_does(
        objects in prop_oneof![objects().boxed(), objects_with_services().boxed()],
        port in port(),
        unread in proptest::option::of(select(vec!["NetworkPolicy", "Pod", "Namespace", "Service"])),
        by_pod: bool,
    ) {
        let unread = unread.map(|kind| {
            let namespace = if kind == "Namespace" { Extent::Everywhere } else { Extent::In("b".to_owned()) };
            Unread { kind: Some(kind.to_owned()), namespace, why: "not read".to_owned() }
        });
        let by = if by_pod { By::Pod } else { By::Workload };
        check(&objects, Vec::from_iter(unread), by, port.as_ref())?;
    }
}

/// The matrix of each pod, and the rows of pods.
struct ByPod<'a> {
    cluster: &'a Cluster,
    matrix: &'a Matrix<'a>,
    rows: Vec<(PodId, usize)>,
}

impl<'a> ByPod<'a> {
    fn new(cluster: &'a Cluster, matrix: &'a Matrix<'a>) -> Self {
        let row =
            |place| matrix.ends(place).find_map(|end| if let End::Pod(pod) = end { Some((pod, place)) } else { None });
        let is_pod = |place: &usize| matrix.endpoints()[*place].kind != "Address";
        Self { cluster, matrix, rows: (0..matrix.endpoints().len()).filter(is_pod).filter_map(row).collect() }
    }

    fn row(&self, pod: PodId) -> Option<usize> {
        self.rows.iter().find(|(of, _)| *of == pod).map(|(_, row)| *row)
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

    /// What a client may send to the backends of a port, by what the matrix says of each; none where the
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
            let BackendEnd::Pod(pod) = backend.end else { return None };
            let traffic = Traffic::ports(port.protocol, backend.port, backend.port);
            let (mut at_least, at_most) = self.between(from, self.row(pod)?, backend.family, &traffic)?;
            if service.routing.is_node_local {
                let [own, other] = [source, pod].map(|pod| self.cluster.pod(pod));
                let is_everywhere =
                    other.is_template() && other.workload.as_ref().is_some_and(|of| of.kind == "DaemonSet");
                match (&own.node, &other.node) {
                    _ if is_everywhere => {}
                    (Some(own), Some(other)) if own == other => {}
                    (Some(_), Some(_)) => continue,
                    _ => at_least = Traffic::none(),
                }
            }
            (least, most) = (least.union(&at_least), most.union(&at_most));
        }
        Some((least, most))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Policies see the backends of a Service, so what passes by it is what passes to these.
    #[test]
    fn an_explanation_says_of_a_service_what_the_matrix_does_of_its_backends(
        objects in objects_with_services(),
        unread in proptest::option::weighted(0.2, select(vec!["NetworkPolicy", "Pod", "EndpointSlice"])),
    ) {
        let namespace = Extent::In("b".to_owned());
        let unread = unread.map(|kind| Unread { kind: Some(kind.to_owned()), namespace, why: "not read".to_owned() });
        let cluster = Cluster::new(&objects).with_unread(Vec::from_iter(unread));
        let groups = Groups::of_cluster(&cluster);
        let matrix = Matrix::of_groups(&cluster, &groups, &Options { by: By::Pod, addresses: Vec::new() });
        let by_pod = ByPod::new(&cluster, &matrix);
        for (source, from) in by_pod.rows.iter().copied() {
            for service in cluster.services().filter(|service| !service.routing.is_headless) {
                let answer = explain(&cluster, &groups, &Target::Pod(source), &Target::Service(service), None);
                let answer = answer.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
                if answer.warnings.iter().any(|warning| matches!(warning, Warning::Contested(_))) {
                    continue;
                }
                let is_several = cluster.pod(source).is_template() && !cluster.pod(source).is_single;
                for port in &service.ports {
                    let is_of_port = |flow: &&Flow| flow.via.as_ref().is_some_and(|via| via.port == Some(port.port));
                    let flows: Vec<Flow> = answer.flows.iter().filter(is_of_port).cloned().collect();
                    let Some(backends) = cluster.backends(service, port) else {
                        prop_assert!(flows.iter().all(|flow| flow.verdict == Verdict::Unknown), "{:?}", flows);
                        continue;
                    };
                    let Some(said) = by_pod.through((source, from), service, port, &backends) else { continue };
                    let of_port = FlowExplanation { flows, ..FlowExplanation::default() };
                    let found = by_flows(&of_port, is_several);
                    prop_assert_eq!(found, said, "{:?} -> {:?} {:?}\n{:?}", cluster.pod(source), service, port, of_port);
                }
            }
        }
    }

    /// A pod in its node's network is for policies what the node's address is.
    #[test]
    fn an_explanation_says_of_a_pod_in_its_nodes_network_what_the_matrix_does_of_the_node(
        objects in objects_with_services(),
        port in port(),
    ) {
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let addresses: Vec<IpAddr> = cluster.nodes().values().flatten().copied().collect();
        let matrix = Matrix::of_groups(&cluster, &groups, &Options { by: By::Pod, addresses });
        let by_pod = ByPod::new(&cluster, &matrix);
        let asked = meant(port.as_ref());
        let hosts = cluster.pods().filter(|(_, pod)| pod.host_network && !pod.finished && !pod.is_template());
        for (host, object) in hosts.filter(|(_, pod)| pod.addresses().next().is_some()) {
            let rows: Vec<usize> = object
                .addresses()
                .filter_map(|address| matrix.endpoints().iter().position(|of| of.kind == "Address" && of.addresses == [address]))
                .collect();
            for (pod, row) in by_pod.rows.iter().copied() {
                for is_source in [true, false] {
                    let (host, pod) = (Target::Pod(host), Target::Pod(pod));
                    let (from, to) = if is_source { (&host, &pod) } else { (&pod, &host) };
                    let answer = explain(&cluster, &groups, from, to, port.as_ref());
                    let Ok(answer) = answer else { continue };
                    if answer.warnings.iter().any(|warning| matches!(warning, Warning::Contested(_))) {
                        continue;
                    }
                    let mut said = (Traffic::none(), Traffic::none());
                    for address in &rows {
                        let (from, to) = if is_source { (*address, row) } else { (row, *address) };
                        let Some((least, most)) = by_pod.between(from, to, None, &asked) else { continue };
                        said = (said.0.union(&least), said.1.union(&most));
                    }
                    prop_assert_eq!(by_flows(&answer, false), said, "{:?} {:?}", object, answer);
                }
            }
        }
    }
}
