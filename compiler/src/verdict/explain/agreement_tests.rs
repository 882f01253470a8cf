//! One truth: what an explanation of two ends says is what the matrix says of them.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::Groups;
use crate::cluster::unread::{Extent, Unread};
use crate::cluster::{Cluster, PodId};
use crate::object::{Objects, Protocol};
use crate::sample::objects;
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
        objects in objects(),
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
