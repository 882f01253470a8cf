//! Ports of nodes that the API server has yet to choose.

use super::*;
use crate::cluster::group::Groups;
use crate::object::{Exposure, Labels, Node, Objects, Routing, ServicePort, TargetPort};
use crate::sample::{pod, policy};
use crate::verdict::explain::explain;

const NODE: [&str; 2] = ["192.0.2.1", "2001:db8:a::1"];
const NUMBER: u16 = 30_080;

/// A Service that leads from a port of nodes to the pods with this `app`.
fn service(name: &str, app: &str, routing: Routing) -> Service {
    Service {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        selector: Some(Labels::from([("app".to_owned(), app.to_owned())])),
        addresses: Vec::new(),
        ports: vec![ServicePort { name: None, protocol: Protocol::Tcp, port: 80, target: TargetPort::Number(8080) }],
        exposure: Exposure::AnyNode,
        routing,
    }
}

/// The routing of a Service whose node port the API server has yet to choose.
fn unchosen(only_family: Option<Family>) -> Routing {
    Routing { unchosen_node_ports: BTreeSet::from([Protocol::Tcp]), only_family, ..Routing::default() }
}

/// What is said of a pod and the port of these addresses of a node: the family, and the Services to which
/// the port may lead.
fn said(services: Vec<Service>, addresses: &[&str]) -> Vec<(Option<Family>, Vec<String>)> {
    let parse = |text: &&str| text.parse::<IpAddr>().expect("an address");
    let pods =
        ["ns/a app=closed 10.0.0.1 2001:db8::1", "ns/b app=open 10.0.0.2 2001:db8::2", "ns/c 10.0.0.3 2001:db8::3 @m"];
    let closed = r#"ns/closed {"podSelector": {"matchLabels": {"app": "closed"}}, "policyTypes": ["Ingress"]}"#;
    let node = Node { name: "n".to_owned(), addresses: NODE.iter().map(parse).collect(), pod_cidrs: Vec::new() };
    let mut objects = Objects {
        pods: pods.iter().map(|text| pod(text)).collect(),
        policies: vec![policy(closed)],
        nodes: vec![node],
        services,
        ..Objects::default()
    };
    objects.declare_namespaces();
    let cluster = Cluster::new(&objects);
    let (client, _) = cluster.pods().find(|(_, pod)| pod.name == "c").expect("the client");
    let to = QuestionEnd::Node { name: "n".to_owned(), addresses: addresses.iter().map(parse).collect() };
    let port = Port::Numbers(None, NUMBER, NUMBER);
    let answer = explain(&cluster, &Groups::of_cluster(&cluster), &QuestionEnd::Pod(client), &to, Some(&port));
    let of_flow = |flow: Flow| {
        let services = flow.missing.into_iter().flat_map(|fact| match fact {
            MissingFact::UnchosenNodePort(NUMBER, NUMBER, services) => services,
            fact => panic!("{fact:?}"),
        });
        assert!(matches!(flow.verdict, Verdict::Allowed | Verdict::Unknown), "{:?}", flow.verdict);
        (flow.family, services.collect())
    };
    answer.expect("an answer").flows.into_iter().map(of_flow).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("ns/{name}")).collect()
}

#[test]
fn a_service_of_one_family_gets_no_port_of_a_nodes_address_of_the_other() {
    let services = || vec![service("six", "closed", unchosen(Some(Family::V6)))];
    assert_eq!(said(services(), &NODE[..1]), [(Some(Family::V4), names(&[]))]);
    let unknown = [(Some(Family::V6), names(&["six"]))];
    assert_eq!(said(services(), &NODE[1..]), unknown);
    let both = [(Some(Family::V6), names(&["six"])), (Some(Family::V4), names(&[]))];
    assert_eq!(said(services(), &NODE), both, "a node of both families");
}

#[test]
fn the_api_server_chooses_no_port_that_another_service_has() {
    let node_ports = [((Protocol::Tcp, NUMBER), 80)].into();
    let four = Routing { node_ports, only_family: Some(Family::V4), ..Routing::default() };
    let services = vec![service("four", "open", four), service("both", "closed", unchosen(None))];
    assert_eq!(said(services, &NODE[1..]), [(Some(Family::V6), names(&[]))]);
}

#[test]
fn a_service_to_which_all_is_allowed_is_not_named_though_a_pod_asks() {
    let of = |name: &str| service(name, name, unchosen(None));
    assert_eq!(said(vec![of("closed"), of("open")], &NODE[..1]), [(Some(Family::V4), names(&["closed"]))]);
    assert_eq!(said(vec![of("open")], &NODE[..1]), [(Some(Family::V4), names(&[]))]);
}
