//! Why a Service has no pod.

use super::*;
use crate::cluster::hints::Hints;
use crate::object::{Exposure, Labels, Objects, Routing, Workload};
use crate::sample::pod;

fn labels(all: &[(&str, &str)]) -> Labels {
    all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Why a Service with this selector has no pod among these; it may have an EndpointSlice without
/// endpoints.
fn why(pods: &[&str], selector: Option<Labels>, has_slice: bool, hints: Hints) -> NoPod {
    let service = Service {
        namespace: "ns".to_owned(),
        name: "s".to_owned(),
        selector,
        addresses: Vec::new(),
        ports: Vec::new(),
        exposure: Exposure::Inside,
        routing: Routing::default(),
    };
    let slice = EndpointSlice {
        namespace: "ns".to_owned(),
        name: "s-1".to_owned(),
        service: "s".to_owned(),
        ports: Vec::new(),
        endpoints: Vec::new(),
        of_endpoints: false,
    };
    let mut objects = Objects {
        pods: pods.iter().map(|text| pod(text)).collect(),
        endpoint_slices: Vec::from_iter(has_slice.then_some(slice)),
        ..Objects::default()
    };
    objects.declare_namespaces();
    Cluster::new(&objects).with_hints(hints).why_no_pod(&service)
}

fn by_selector(pods: &[&str], all: &[(&str, &str)]) -> NoPod {
    why(pods, Some(labels(all)), false, Hints::default())
}

#[test]
fn without_a_selector_its_endpoint_slices_decide() {
    assert_eq!(why(&["ns/a app=a"], None, false, Hints::default()), NoPod::NoSelector);
    assert_eq!(why(&["ns/a app=a"], None, true, Hints::default()), NoPod::NoEndpoint);
    let selector = || Some(labels(&[("app", "a")]));
    assert_eq!(why(&["ns/a app=a"], selector(), true, Hints::default()), NoPod::NoEndpoint);
    // A cluster has an EndpointSlice also of a selector that selects nothing.
    assert_eq!(why(&["ns/a app=b"], selector(), true, Hints::default()), NoPod::NoPod);
}

#[test]
fn a_selector_that_selects_nothing_says_what_is_near() {
    let near = |key: &str, value: Option<&str>| NoPod::Near {
        pod: PodId(0),
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    let both = [("app", "web"), ("tier", "front")];
    assert_eq!(by_selector(&["ns/a app=web"], &both), near("tier", None));
    assert_eq!(by_selector(&["ns/a app=web tier=back"], &both), near("tier", Some("back")));
    assert_eq!(by_selector(&["ns/a app=frontent"], &[("app", "frontend")]), near("app", Some("frontent")));
    assert_eq!(by_selector(&["ns/a app=db"], &[("app", "frontend")]), NoPod::NoPod);
    assert_eq!(by_selector(&["ns/a app=web finished"], &[("app", "web")]), NoPod::Finished);
    let other = NoPod::OtherNamespaces(vec!["n2".to_owned(), "n3".to_owned()]);
    assert_eq!(by_selector(&["n3/a app=web", "n2/a app=web", "ns/b app=db"], &[("app", "web")]), other);
}

#[test]
fn a_workload_without_pods_is_named_first() {
    let workload = |name: &str| Workload { kind: "Deployment".to_owned(), name: name.to_owned() };
    let without_pods = |namespace: &str| {
        let name = (namespace.to_owned(), workload("web"));
        Hints { without_pods: vec![(name, labels(&[("app", "web")]))], ..Hints::default() }
    };
    let selector = || Some(labels(&[("app", "web")]));
    let expected = NoPod::WorkloadWithoutPods(("ns".to_owned(), workload("web")));
    assert_eq!(why(&["ns/a app=wbe"], selector(), false, without_pods("ns")), expected);
    assert_ne!(why(&["ns/a app=wbe"], selector(), false, without_pods("other")), expected);
}
