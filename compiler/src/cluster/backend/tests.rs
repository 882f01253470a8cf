use super::*;
use crate::cluster::without_backend::WhyUnknown;
use crate::object::{Exposure, Labels, Objects, Routing, SlicePort};
use crate::sample::pod;

fn service(port: &ServicePort) -> Service {
    Service {
        namespace: "ns".to_owned(),
        name: "s".to_owned(),
        selector: Some(Labels::from([("app".to_owned(), "a".to_owned())])),
        addresses: Vec::new(),
        ports: vec![port.clone()],
        exposure: Exposure::Inside,
        routing: Routing::default(),
    }
}

fn port(target: TargetPort) -> ServicePort {
    ServicePort { name: None, protocol: Protocol::Tcp, port: 80, target }
}

fn cluster(pods: &[&str], endpoint_slices: Vec<EndpointSlice>) -> Cluster {
    let mut objects =
        Objects { pods: pods.iter().map(|text| pod(text)).collect(), endpoint_slices, ..Objects::default() };
    objects.declare_namespaces();
    Cluster::new(&objects)
}

fn shown(cluster: &Cluster, backends: Option<Vec<Backend>>) -> Vec<String> {
    let end = |end| match end {
        BackendEnd::Pod(pod) => cluster.pod(pod).name.clone(),
        BackendEnd::Address(address) => address.to_string(),
    };
    let Some(backends) = backends else { return vec!["?".to_owned()] };
    backends.into_iter().map(|backend| format!("{}:{}", end(backend.end), backend.port)).collect()
}

/// The pods and ports that a service with a selector leads to, as text.
fn backends(pods: &[&str], target: TargetPort) -> Vec<String> {
    let cluster = cluster(pods, Vec::new());
    let port = port(target);
    shown(&cluster, cluster.backends(&service(&port), &port))
}

#[test]
fn a_terminating_pod_is_a_backend_only_where_no_other_is_left() {
    let number = || TargetPort::Number(8080);
    assert_eq!(backends(&["ns/a app=a 10.0.0.1 terminating", "ns/b app=a 10.0.0.2"], number()), ["b:8080"]);
    assert_eq!(backends(&["ns/a app=a 10.0.0.1 terminating", "ns/b app=a 10.0.0.2 finished"], number()), ["a:8080"]);
    assert_eq!(backends(&["other/a app=a 10.0.0.1", "ns/b app=b 10.0.0.2"], number()), [""; 0]);
}

#[test]
fn a_pod_that_says_that_it_is_not_ready_is_no_backend_unless_the_service_publishes_it() {
    let pods = [
        "ns/a app=a 10.0.0.1 not-ready",
        "ns/b app=a 10.0.0.2",
        "ns/c app=a not-ready",
        "ns/d app=a 10.0.0.4 terminating",
    ];
    let of = |pods: &[&str], publishes_not_ready| {
        let cluster = cluster(pods, Vec::new());
        let port = port(TargetPort::Number(80));
        let routing = Routing { publishes_not_ready, ..Routing::default() };
        let service = Service { routing, ..service(&port) };
        let behind = cluster.behind(&service).map_or(0, |behind| behind.len());
        let backends = shown(&cluster, cluster.backends(&service, &port));
        assert_eq!(behind, backends.len());
        backends
    };
    assert_eq!(of(&pods, false), ["b:80"]);
    assert_eq!(of(&pods, true), ["a:80", "b:80", "d:80"], "what has no address is never one");
    assert_eq!(of(&["ns/a app=a 10.0.0.1 not-ready terminating"], false), [""; 0], "it does not serve");
    assert_eq!(of(&["ns/h app=a hostNetwork 192.0.2.1 not-ready"], false), [""; 0]);
}

#[test]
fn a_label_that_a_controller_adds_leaves_open_which_pods_a_service_has() {
    let pods = ["ns/db StatefulSet/db app=a", "ns/web Deployment/web app=a"];
    let of = |pods: &[&str], value: &str| {
        let cluster = cluster(pods, Vec::new());
        let port = port(TargetPort::Number(80));
        let key = "statefulset.kubernetes.io/pod-name".to_owned();
        let service = Service { selector: Some(Labels::from([(key, value.to_owned())])), ..service(&port) };
        (shown(&cluster, cluster.backends(&service, &port)), cluster.why_unknown(&service))
    };
    let open = (vec!["?".to_owned()], WhyUnknown::LabelsOfControllers(vec!["db".to_owned()]));
    assert_eq!(of(&pods, "db-0"), open);
    assert_eq!(of(&pods, "other-0").0, [""; 0], "no pod of db has that name");
    let live = ["ns/db-0 StatefulSet/db statefulset.kubernetes.io/pod-name=db-0 10.0.0.1"];
    assert_eq!(of(&live, "db-0").0, ["db-0:80"]);
}

#[test]
fn a_pod_in_its_nodes_network_is_a_backend() {
    assert_eq!(backends(&["ns/h app=a hostNetwork 192.0.2.1"], TargetPort::Number(443)), ["h:443"]);
}

#[test]
fn a_named_port_is_that_of_the_first_container_that_has_it() {
    let named = || TargetPort::Name("http".to_owned());
    let pods = ["ns/a app=a :http=9000 :http=8000 :http=53/UDP 10.0.0.1", "ns/b app=a :other=1 10.0.0.2"];
    assert_eq!(backends(&pods, named()), ["a:9000"]);
    // The only pod that has the port is going away, and serves until then.
    let pods = ["ns/a app=a :http=9000 10.0.0.1 terminating", "ns/b app=a :other=1 10.0.0.2"];
    assert_eq!(backends(&pods, named()), ["a:9000"]);
}

/// A slice of the service `ns/s`: addresses, each with `+` ready, `~` serving until it is
/// gone, `-` neither.
fn slice(endpoints: &[&str], pod: Option<&str>) -> EndpointSlice {
    let endpoint = |text: &&str| SliceEndpoint {
        address: text[1..].parse().expect("an address"),
        is_ready: text.starts_with('+'),
        serves_until_gone: text.starts_with('~'),
        pod: pod.map(|name| ("ns".to_owned(), name.to_owned())),
        node: None,
    };
    EndpointSlice {
        namespace: "ns".to_owned(),
        name: "s-1".to_owned(),
        service: "s".to_owned(),
        ports: vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 6443 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        of_endpoints: false,
    }
}

#[test]
fn endpoint_slices_decide_where_there_are_any() {
    let pods = ["ns/a app=a 10.0.0.1", "ns/b app=a 10.0.0.2", "ns/h hostNetwork 192.0.2.1"];
    let by_slices = |slices: Vec<EndpointSlice>| {
        let cluster = cluster(&pods, slices);
        let port = port(TargetPort::Number(8080));
        shown(&cluster, cluster.backends(&service(&port), &port))
    };
    assert_eq!(by_slices(vec![slice(&["+10.0.0.2", "-10.0.0.1", "~10.0.0.9"], None)]), ["b:6443"]);
    assert_eq!(by_slices(vec![slice(&["-10.0.0.2", "~10.0.0.1"], None)]), ["a:6443"]);
    assert_eq!(by_slices(vec![slice(&["+203.0.113.1"], None)]), ["203.0.113.1:6443"]);
    assert_eq!(by_slices(vec![slice(&["+192.0.2.1"], Some("h"))]), ["h:6443"], "a hostNetwork pod");
    assert_eq!(by_slices(vec![slice(&["+192.0.2.1"], None)]), ["192.0.2.1:6443"], "only the node is known");
    assert_eq!(by_slices(vec![slice(&[], None)]), [""; 0], "there are slices, and nothing in them");
    let families = slice(&["+192.0.2.9", "~2001:db8::1", "-2001:db8::2"], None);
    assert_eq!(by_slices(vec![families]), ["192.0.2.9:6443", "2001:db8::1:6443"], "each family for itself");
    let other = EndpointSlice { service: "other".to_owned(), ..slice(&["+203.0.113.1"], None) };
    assert_eq!(by_slices(vec![other]), ["a:8080", "b:8080"], "a slice of another Service");
}

#[test]
fn a_node_with_a_local_policy_looks_at_its_own_endpoints() {
    let pods =
        ["ns/a app=a 10.0.0.1 terminating @n1", "ns/b app=a 10.0.0.2 @n2", "ns/c app=a 10.0.0.3 terminating @n2"];
    let cluster = cluster(&pods, Vec::new());
    let port = port(TargetPort::Number(80));
    assert_eq!(shown(&cluster, cluster.backends(&service(&port), &port)), ["b:80"]);
    assert_eq!(shown(&cluster, cluster.local_backends(&service(&port), &port)), ["a:80", "b:80"]);
}

#[test]
fn without_a_selector_and_without_slices_nothing_says_where_a_service_leads() {
    let cluster = cluster(&["ns/a app=a 10.0.0.1"], Vec::new());
    let port = port(TargetPort::Number(8080));
    let service = Service { selector: None, ..service(&port) };
    assert_eq!(cluster.backends(&service, &port), None);
    assert_eq!(cluster.behind(&service), None);
}

#[test]
fn an_endpoint_is_local_to_the_node_that_its_slice_names_whichever_pod_has_its_address() {
    let endpoint = |address: &str, node: Option<&str>| SliceEndpoint {
        address: address.parse().expect("an address"),
        is_ready: true,
        serves_until_gone: false,
        pod: None,
        node: node.map(str::to_owned),
    };
    let slice = |endpoints| EndpointSlice {
        namespace: "ns".to_owned(),
        name: "s-x".to_owned(),
        service: "s".to_owned(),
        ports: vec![SlicePort { name: None, protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
        of_endpoints: false,
    };
    let of_service = port(TargetPort::Number(8080));
    let service = service(&of_service);
    let pods = ["ns/a app=a 10.0.0.1 @n1", "ns/b app=a 10.0.0.2 @n2"];
    let bare = cluster(&pods, vec![slice(vec![endpoint("10.0.0.1", None)])]);
    let end = |cluster: &Cluster, place: usize| cluster.behind(&service).expect("it is known")[place];
    assert_eq!(bare.is_local(&service, end(&bare, 0), Some("n1")), Some(false));
    assert_eq!(bare.is_local(&service, end(&bare, 0), None), Some(false));
    assert_eq!(shown(&bare, bare.local_backends(&service, &of_service)), [""; 0]);
    assert_eq!(shown(&bare, bare.backends(&service, &of_service)), ["a:8080"]);
    let named = cluster(&pods, vec![slice(vec![endpoint("10.0.0.1", Some("n2"))])]);
    assert_eq!(named.is_local(&service, end(&named, 0), Some("n2")), Some(true));
    assert_eq!(named.is_local(&service, end(&named, 0), Some("n1")), Some(false));
    assert_eq!(named.is_local(&service, end(&named, 0), None), None);
    let by_selector = cluster(&pods, Vec::new());
    assert_eq!(by_selector.is_local(&service, end(&by_selector, 0), Some("n1")), Some(true));
    assert_eq!(by_selector.is_local(&service, end(&by_selector, 1), Some("n1")), Some(false));
}

#[test]
fn dns_answers_for_a_headless_service_with_ready_endpoints_only() {
    let pods = ["ns/a app=a 10.0.0.1 terminating", "ns/b app=a 10.0.0.2 not-ready"];
    for (is_headless, publishes_not_ready, expected) in
        [(false, false, &["a:80"][..]), (true, false, &[]), (true, true, &["a:80", "b:80"])]
    {
        let cluster = cluster(&pods, Vec::new());
        let port = port(TargetPort::Number(80));
        let routing = Routing { publishes_not_ready, is_headless, ..Routing::default() };
        let service = Service { routing, ..service(&port) };
        assert_eq!(shown(&cluster, cluster.backends(&service, &port)), expected, "{is_headless} {publishes_not_ready}");
        assert_eq!(cluster.behind(&service).map_or(0, |behind| behind.len()), expected.len());
    }
}
