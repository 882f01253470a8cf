//! The matrix against [`flow::directed`], pair by pair.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::lazy::LazyMatrix;
use super::*;
use crate::cluster::unread::{Extent, Unread, WhyUnread};
use crate::policy::Direction;
use crate::sample::{cluster, objects, pod};
use crate::verdict::flow::{Exemption, directed, exemption};

/// What passes from one endpoint to another, by asking about each pair of
/// ends alone.
fn slowly(cluster: &Cluster, groups: &Groups, matrix: &Matrix<'_>) -> BTreeMap<Key, Traffic> {
    let mut all = BTreeMap::<Key, Traffic>::new();
    for (from, source) in matrix.endpoints.iter().enumerate() {
        for (to, destination) in matrix.endpoints.iter().enumerate() {
            if source.kind == "Address" && destination.kind == "Address" {
                continue;
            }
            let ends = |place: usize| matrix.ends(place).collect::<Vec<End>>();
            let (a, b) = (ends(from), ends(to));
            let is_template = from == to && stands_for_replicas(cluster, &a);
            for x in &a {
                for y in &b {
                    if exemption(cluster, *x, *y) == Some(Exemption::Itself) && a.len() + b.len() > 2 {
                        continue;
                    }
                    let exempt = exemption(cluster, *x, *y).is_some() && !is_template;
                    let has = |place: usize, end: End, family: Family| {
                        let shown = &matrix.endpoints[place];
                        let meant = shown.kind != "Address" || Family::of(&shown.addresses[0]) == family;
                        meant && end.address(cluster, family).is_some()
                    };
                    let bare = |place, end| !Family::ALL.into_iter().any(|family| has(place, end, family));
                    let mut add = |label: Option<Family>, judged: Option<Family>| {
                        let one = |direction| directed(cluster, groups, direction, *x, *y, judged);
                        let traffic = if exempt {
                            Traffic::all()
                        } else {
                            one(Direction::Egress).intersection(&one(Direction::Ingress))
                        };
                        let entry = all.entry((from, to, label)).or_default();
                        *entry = entry.union(&traffic);
                    };
                    if bare(from, *x) || bare(to, *y) {
                        let families = Family::ALL.into_iter().filter(|f| has(from, *x, *f) || has(to, *y, *f));
                        let families: Vec<Family> = families.collect();
                        let new =
                            Family::ALL.into_iter().filter(|of| families.is_empty() && cluster.assigns_family(*of));
                        for family in families.iter().copied().chain(new) {
                            add(None, Some(family));
                        }
                        continue;
                    }
                    for family in Family::ALL.into_iter().filter(|f| has(from, *x, *f) && has(to, *y, *f)) {
                        add(Some(family), Some(family));
                    }
                }
            }
        }
    }
    all.retain(|_, traffic| !traffic.is_none());
    all
}

fn stands_for_replicas(cluster: &Cluster, ends: &[End]) -> bool {
    let [End::Pod(pod)] = ends else { return false };
    let pod = cluster.pod(*pod);
    pod.is_template() && !pod.is_single && pod.addresses().next().is_none()
}

type Key = (usize, usize, Option<Family>);

/// What cells say, by the ids of their ends: allowed, unknown, and what differs.
type Said = BTreeMap<(EndpointId, EndpointId, Option<Family>), [Traffic; 3]>;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_pair_gets_what_it_gets_alone(objects in objects(), by_pod: bool) {
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let by = if by_pod { By::Pod } else { By::Workload };
        let outside = ["10.0.0.1", "10.0.0.200", "192.0.2.1", "10.9.0.1", "2001:db8::1", "2001:db8:f::1"];
        let addresses: Vec<IpAddr> = outside.iter().filter_map(|text| text.parse().ok()).collect();
        let matrix = Matrix::new(&cluster, &MatrixOptions { by, addresses });
        let mut fast: BTreeMap<Key, Traffic> =
            matrix.cells().map(|cell| ((cell.from, cell.to, cell.family), (*cell.traffic).clone())).collect();
        fast.retain(|_, traffic| !traffic.is_none());
        let slow = slowly(&cluster, &groups, &matrix);
        let name = |place: usize| &matrix.endpoints[place].id;
        for key in fast.keys().chain(slow.keys()) {
            let (from, to, family) = *key;
            prop_assert_eq!(fast.get(key), slow.get(key), "{} -> {} {:?}", name(from), name(to), family);
        }
    }

    /// Judging a pair when it is asked about says what judging all pairs says of it, whether a group is asked about few
    /// ends or all.
    #[test]
    fn a_pair_judged_late_gets_what_it_gets_with_all_others(
        objects in objects(),
        few in 0_usize..4,
        is_unread: bool,
    ) {
        let why = WhyUnread::DidNotParse("a policy".to_owned());
        let unread = Unread { kind: Some("NetworkPolicy".to_owned()), namespace: Extent::In("b".to_owned()), subject: None, why };
        let cluster = Cluster::new(&objects).with_unread(Vec::from_iter(Some(unread).filter(|_| is_unread)));
        let groups = Groups::of_cluster(&cluster);
        let outside = ["10.0.0.1", "192.0.2.1", "2001:db8::1"];
        let addresses: Vec<IpAddr> = outside.iter().filter_map(|text| text.parse().ok()).collect();
        let whole = Matrix::of_groups(&cluster, &groups, &MatrixOptions { by: By::Pod, addresses: addresses.clone() });
        let late = LazyMatrix::new(&cluster, &groups, addresses).with_few(few);
        let mut known = TrafficTable::new();
        for from in 0..whole.endpoints().len() {
            for to in 0..whole.endpoints().len() {
                let cells: Vec<Cell> = whole.between(from, to).collect();
                for (family, bounds) in Matrix::FAMILIES.into_iter().zip(late.bounds(&mut known, from, to)) {
                    let cell = cells.iter().find(|cell| cell.family == family);
                    let bounds_of = |of: &Cell| ((*of.traffic).clone(), of.traffic.union(&of.unknown));
                    let expected = cell.map_or_else(Default::default, bounds_of);
                    let (least, most) = (known.traffic(bounds.least), known.traffic(bounds.most));
                    prop_assert_eq!(((*least).clone(), (*most).clone()), expected, "{} {} {:?}", from, to, family);
                }
            }
        }
    }

    /// A part of the matrix says what the whole one says of it: judging less changes nothing.
    #[test]
    fn a_part_says_what_the_whole_says_of_it(
        objects in objects(),
        by_pod: bool,
        shown in proptest::collection::vec((prop::bool::ANY, prop::bool::ANY), 16),
        traffic in proptest::sample::select(vec![Traffic::all(), Traffic::ports(Protocol::Tcp, 1, 80), Traffic::icmp()]),
        is_unread: bool,
    ) {
        let why = WhyUnread::DidNotParse("a policy".to_owned());
        let unread = Unread { kind: Some("NetworkPolicy".to_owned()), namespace: Extent::In("b".to_owned()), subject: None, why };
        let cluster = Cluster::new(&objects).with_unread(Vec::from_iter(Some(unread).filter(|_| is_unread)));
        let groups = Groups::of_cluster(&cluster);
        let by = if by_pod { By::Pod } else { By::Workload };
        let outside = ["10.0.0.1", "192.0.2.1", "2001:db8::1"];
        let options = MatrixOptions { by, addresses: outside.iter().filter_map(|text| text.parse().ok()).collect() };
        let whole = Matrix::of_groups(&cluster, &groups, &options);
        let places: BTreeMap<Vec<End>, usize> =
            (0..whole.endpoints().len()).map(|place| (whole.ends(place).collect(), place)).collect();
        let is_shown = |ends: &[End]| shown[places[ends] % shown.len()];
        let selection = MatrixFilter { shown: &is_shown, traffic: traffic.clone() };
        let part = Matrix::select(&cluster, &groups, &options, &selection);
        let part = part.unwrap_or_else(|error| panic!("{error:?}"));
        let said = |matrix: &Matrix<'_>| -> Said {
            let id = |place: usize| matrix.endpoints()[place].id.clone();
            let of = |cell: Cell| [(*cell.traffic).clone(), cell.unknown, cell.differs].map(|of| of.intersection(&traffic));
            matrix.cells().map(|cell| ((id(cell.from), id(cell.to), cell.family), of(cell))).collect()
        };
        let mut expected = said(&whole);
        let role = |id: &EndpointId| {
            let place = whole.endpoints().iter().position(|endpoint| endpoint.id == *id).unwrap_or(usize::MAX);
            is_shown(&whole.ends(place).collect::<Vec<_>>())
        };
        expected.retain(|(from, to, _), [allowed, unknown, _]| {
            role(from).0 && role(to).1 && !(allowed.is_none() && unknown.is_none())
        });
        prop_assert_eq!(said(&part), expected);
        let pairs: std::collections::BTreeSet<(usize, usize)> =
            part.cells().filter(|cell| cell.from != cell.to).map(|cell| (cell.from, cell.to)).collect();
        let counted = Reached::new(&part).pairs(usize::MAX);
        prop_assert!(pairs.len() <= counted, "{} pairs, {counted} counted", pairs.len());
    }
}

#[test]
fn a_matrix_of_too_many_classes_is_refused_before_it_is_judged() {
    let pods: Vec<String> = (1..=4).map(|i| format!("ns/p{i} app=p{i} 10.0.0.{i}")).collect();
    let policies: Vec<String> = (1..=4)
        .map(|i| format!(r#"ns/n{i} {{"podSelector": {{"matchLabels": {{"app": "p{i}"}}}}, "ingress": []}}"#))
        .collect();
    let texts = |of: &[String]| of.iter().map(|text| text.clone().leak() as &str).collect::<Vec<_>>();
    let cluster = cluster(&texts(&pods), &texts(&policies));
    let groups = Groups::of_cluster(&cluster);
    let first = |ends: &[End]| (matches!(ends, [End::Pod(pod)] if cluster.pod(*pod).name == "p1"), true);
    let size = |shown: &dyn Fn(&[End]) -> (bool, bool), most| {
        let selection = MatrixFilter { shown, traffic: Traffic::all() };
        Matrix::within(&cluster, &groups, &MatrixOptions::default(), &selection, most).map(|matrix| matrix.shape())
    };
    assert_eq!(size(&|_| (true, true), 16), Ok((4, 4)));
    assert_eq!(size(&|_| (true, true), 15), Err(TooLarge { sources: 4, destinations: 4 }));
    assert_eq!(size(&first, 4), Ok((1, 4)), "a part of it is small enough");
    assert_eq!(size(&first, 3), Err(TooLarge { sources: 1, destinations: 4 }));
}

#[test]
fn what_groups_admit_takes_memory_by_what_differs_not_by_the_square() {
    let stored = |namespaces: usize| {
        let mut pods = Vec::new();
        let mut policies = Vec::new();
        for i in 0..namespaces {
            for (app, address) in [("a", 1), ("b", 2)] {
                pods.push(format!("ns{i}/{app} app={app} 10.{}.{}.{address}", i / 256, i % 256));
            }
            policies.push(format!(
                r#"ns{i}/p {{"podSelector": {{"matchLabels": {{"app": "b"}}}},
                    "ingress": [{{"from": [{{"podSelector": {{"matchLabels": {{"app": "a"}}}}}}]}}]}}"#
            ));
        }
        let texts = |of: &[String]| of.iter().map(|text| text.clone().leak() as &str).collect::<Vec<_>>();
        let cluster = cluster(&texts(&pods), &texts(&policies));
        Matrix::new(&cluster, &MatrixOptions::default()).judge.stored()
    };
    assert_eq!(stored(40), 40, "each group admits one face that others do not get");
    assert_eq!(stored(80), 80);
}

/// What the JSON says of a small cluster.
fn json(pods: &[&str], policies: &[&str], options: &MatrixOptions) -> serde_json::Value {
    let cluster = cluster(pods, policies);
    serde_json::to_value(Matrix::new(&cluster, options)).unwrap_or_default()
}

#[test]
fn the_address_of_a_dual_stack_pod_is_one_address() {
    let options = MatrixOptions { by: By::Pod, addresses: vec![IpAddr::from([10, 0, 0, 1])] };
    let json = json(&["ns/a app=a 10.0.0.1 2001:db8::1", "ns/b app=b 10.0.0.2 2001:db8::2"], &[], &options);
    let rows = json["connections"].as_array().cloned().unwrap_or_default();
    let families: Vec<_> =
        rows.iter().filter(|row| row["from"] == "10.0.0.1").map(|row| row["family"].clone()).collect();
    assert_eq!(families.len(), 8, "to each of two pods, four protocols");
    assert!(families.iter().all(|family| family == "IPv4"), "{families:?}");
}

#[test]
fn a_pod_without_address_has_rows_only_by_workload() {
    let pods = ["ns/a app=a", "ns/b app=b 10.0.0.2"];
    let rows = |by| json(&pods, &[], &MatrixOptions { by, addresses: Vec::new() })["connections"].clone();
    let from_a = |by| rows(by).as_array().map_or(0, |rows| rows.iter().filter(|r| r["from"] == "ns/Pod/a").count());
    assert_eq!(from_a(By::Workload), 8);
    let by_pod = rows(By::Pod);
    assert!(by_pod.as_array().is_some_and(|rows| rows.iter().all(|row| row["from"] == "ns/b")), "{by_pod}");
}

#[test]
fn an_address_meets_the_blocks_of_a_pod_that_has_no_address_yet() {
    let policy = r#"ns/p {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 80}]}]}"#;
    let options = MatrixOptions { by: By::Workload, addresses: vec![IpAddr::from([192, 0, 2, 1])] };
    let json = json(&["ns/a app=a"], &[policy], &options);
    let row = serde_json::json!(
        {"from": "192.0.2.1", "to": "ns/Pod/a", "family": null, "protocol": "TCP", "ports": [[80, 80]]});
    assert!(json["connections"].as_array().is_some_and(|rows| rows.contains(&row)), "{json}");
}

/// The ids of a matrix, each with its addresses.
fn ids(pods: Vec<crate::object::Pod>, by: By) -> Vec<String> {
    let cluster = Cluster::new(&crate::object::Objects { pods, ..Default::default() });
    let shown = |endpoint: &Endpoint| format!("{} {:?}", endpoint.id, endpoint.addresses);
    Matrix::new(&cluster, &MatrixOptions { by, addresses: Vec::new() }).endpoints().iter().map(shown).collect()
}

#[test]
fn no_two_endpoints_have_one_id() {
    let pods = |texts: &[&str]| texts.iter().map(|text| pod(text)).collect::<Vec<_>>();
    let all = pods(&["ns/web 10.0.0.1", "ns/web Deployment/web", "ns/web StatefulSet/web", "ns/api Deployment/api"]);
    assert_eq!(
        ids(all, By::Pod),
        ["ns/Deployment/web []", "ns/StatefulSet/web []", "ns/api []", "ns/web [10.0.0.1]"],
        "a workload gives way to others of its name"
    );
    let one = pods(&["ns/web Deployment/web", "ns/web DaemonSet/web hostNetwork"]);
    assert_eq!(ids(one, By::Pod), ["ns/web []"], "what is no endpoint takes no name");
}

#[test]
fn of_two_pods_of_one_name_the_one_that_stays_is_the_endpoint() {
    let mut old = pod("ns/web-0 10.0.0.1 StatefulSet/web");
    let mut new = pod("ns/web-0 10.0.0.2 StatefulSet/web");
    (old.uid, new.uid) = ("b".to_owned(), "a".to_owned());
    let both = |by, old: &crate::object::Pod| {
        let seen = ids(vec![old.clone(), new.clone()], by);
        assert_eq!(seen, ids(vec![new.clone(), old.clone()], by));
        seen
    };
    assert_eq!(both(By::Pod, &old), ["ns/web-0 [10.0.0.1]"], "the greater UID");
    old.terminating = true;
    assert_eq!(both(By::Pod, &old), ["ns/web-0 [10.0.0.2]"]);
    assert_eq!(both(By::Workload, &old), ["ns/StatefulSet/web [10.0.0.2]"]);
    old.terminating = false;
    old.finished = true;
    assert_eq!(both(By::Pod, &old), ["ns/web-0 [10.0.0.2]"]);
}

#[test]
fn an_address_is_listed_with_its_owner_only() {
    let mut old = pod("ns/old 10.0.0.1 2001:db8::1 Job/old");
    old.terminating = true;
    let pods = vec![old, pod("ns/new 10.0.0.1")];
    assert_eq!(ids(pods.clone(), By::Pod), ["ns/new [10.0.0.1]", "ns/old [2001:db8::1]"]);
    assert_eq!(ids(pods, By::Workload), ["ns/Job/old [2001:db8::1]", "ns/Pod/new [10.0.0.1]"]);
}
