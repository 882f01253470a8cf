//! Answers by classes against answers pair by pair.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::sample::{cluster, objects};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::question::name::{Port, QuestionEnd};
use crate::verdict::explain::walk::ends::Finder;
use crate::verdict::explain::walk::{FlowsByFamily, explain};

/// What an answer says, but for reasons: of a pair whose family is not known, of both
/// families together.
fn verdicts(said: &FlowsByFamily, is_bare: bool) -> BTreeSet<(Option<Family>, Traffic, Verdict, [Verdict; 2])> {
    let flows = said.iter().flat_map(|(family, flows)| flows.iter().map(move |flow| (family, flow)));
    let decided = |flow: &Flow| flow.decisions.as_ref().map(|[egress, ingress]| [egress.verdict, ingress.verdict]);
    flows
        .filter_map(|(family, flow)| {
            Some((family.filter(|_| !is_bare), flow.traffic.clone(), flow.verdict, decided(flow)?))
        })
        .collect()
}

fn walk<'a>(cluster: &'a Cluster, groups: &'a Groups, port: Option<&'a Port>) -> Walk<'a> {
    Walk::new(Finder { cluster, groups }, port)
}

/// The pods and all that `any` means, as ends.
fn units(walk: &Walk<'_>) -> Vec<Unit> {
    let pods = walk.ends.cluster.pods().map(|(id, _)| id).collect();
    let targets = [QuestionEnd::Any, QuestionEnd::Pods(pods)];
    targets.iter().flat_map(|target| walk.ends.units(target)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every pair is in one row, and gets the verdicts of that row's first pair.
    #[test]
    fn answers_by_classes_are_those_of_every_pair(
        objects in objects(),
        port in proptest::option::of(select(vec![
            Port::Name("http".to_owned()),
            Port::Numbers(None, 80, 80),
            Port::Numbers(Some(Protocol::Udp), 53, 53),
            Port::Icmp,
        ])),
        unbound: bool,
    ) {
        let mut objects = objects;
        if unbound {
            for pod in objects.pods.iter_mut().step_by(2) {
                pod.node = None;
            }
        }
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let walk = walk(&cluster, &groups, port.as_ref());
        let sources = units(&walk);
        let traffic = |unit: &Unit| walk.ends.traffic(unit, walk.port);
        let destinations: Vec<Destination> =
            sources.iter().filter_map(|unit| Some(Destination::direct(unit.clone(), traffic(unit)?))).collect();
        let route = Route { port: port.as_ref(), ..Route::default() };
        let wide = Wide::new(&walk, &sources, &destinations, route);
        let rows = wide.rows(MOST).ok_or(TestCaseError::fail("too many rows"))?;
        let place = |classes: &[EndClass], unit: usize| classes.iter().position(|class| class.members.contains(&unit));
        let holds = |ranges: &Ranges, place: Option<usize>| {
            place.is_some_and(|place| ranges.0.iter().any(|(first, last)| (*first..=*last).contains(&place)))
        };
        for from in 0..sources.len() {
            for to in 0..destinations.len() {
                let case = wide.case(from, to);
                let said = walk.pair(&sources[from], &destinations[to], route);
                let (source, destination) = (place(&wide.from, from), place(&wide.to, to));
                let of: Vec<&PairRow> = rows
                    .iter()
                    .filter(|row| Some(row.case) == case && holds(&row.from, source) && holds(&row.to, destination))
                    .collect();
                if case.is_none() || said.is_empty() {
                    prop_assert!(of.is_empty(), "{of:?}");
                    continue;
                }
                prop_assert_eq!(of.len(), 1, "{:?} -> {:?}", sources[from], destinations[to]);
                let first = walk.pair(&sources[of[0].first.0], &destinations[of[0].first.1], route);
                let is_bare = !sources[from].party.has_address(&cluster)
                    || !destinations[to].unit.party.has_address(&cluster);
                prop_assert_eq!(verdicts(&first, is_bare), verdicts(&said, is_bare));
            }
        }
    }
}

/// The rows of a question from all to all: sources, destinations, verdict and pairs.
fn asked_of_all(cluster: &Cluster) -> Vec<(usize, usize, Verdict, Pairs)> {
    let groups = Groups::of_cluster(cluster);
    let mut walk = walk(cluster, &groups, None);
    let sources = walk.ends.units(&QuestionEnd::Any);
    let destinations: Vec<_> = sources.iter().map(|unit| Destination::direct(unit.clone(), Traffic::all())).collect();
    walk.by_class(&sources, &destinations, Route::default());
    let flow = |flow: &Flow| {
        let alike = flow.alike.as_ref()?;
        Some((alike.from.count(), alike.to.count(), flow.verdict, alike.pairs))
    };
    walk.explanation.flows.iter().filter_map(flow).collect()
}

#[test]
fn many_pods_of_few_kinds_are_few_rows() {
    let pods: Vec<String> =
        (0..200).map(|n| format!("ns/p{n} app={} 10.0.{}.{} @n{}", ["a", "b"][n % 2], n / 200, n + 1, n % 3)).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let isolated = r#"ns/p {"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]}"#;
    let rows = asked_of_all(&cluster(&pods, &[isolated]));
    // All addresses outside are one zone of each family, and do not share one with each other.
    let of_pods: Vec<_> = rows.iter().filter(|(from, to, ..)| *from > 2 || *to > 2).collect();
    assert!(rows.len() < 10, "{rows:?}");
    assert!(of_pods.iter().any(|(_, to, verdict, _)| (*to, *verdict) == (100, Verdict::Denied)), "{rows:?}");
}

/// One pod in each of so many namespaces; each namespace lets in its own pods only.
fn pods_that_all_differ(count: usize) -> Cluster {
    let mut objects = crate::object::Objects::default();
    for n in 0..count {
        objects.pods.push(crate::sample::pod(&format!("ns{n}/p app=a 10.0.{}.{} @n0", n / 250, n % 250 + 1)));
        let spec = r#"{"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}"#;
        objects.policies.push(crate::sample::policy(&format!("ns{n}/own {spec}")));
    }
    objects.declare_namespaces();
    Cluster::new(&objects)
}

#[test]
fn a_question_about_too_many_kinds_of_ends_is_refused() {
    let count = MOST.pairs.isqrt() + 1;
    let cluster = pods_that_all_differ(count);
    let groups = Groups::of_cluster(&cluster);
    let pods: Vec<_> = cluster.endpoints().map(|(id, _)| id).collect();
    let (all, one) = (QuestionEnd::Pods(pods.clone()), QuestionEnd::Pod(pods[0]));
    let refused = explain(&cluster, &groups, &all, &all, None).err();
    assert_eq!(refused, Some(Unanswerable::TooManyKinds { sources: count, destinations: count }));
    let answer = explain(&cluster, &groups, &all, &one, None).map(|answer| answer.verdict());
    assert_eq!(answer, Ok(Verdict::Denied));
}

#[test]
fn rows_are_bounded() {
    let cluster = pods_that_all_differ(60);
    let groups = Groups::of_cluster(&cluster);
    let walk = walk(&cluster, &groups, None);
    let sources = walk.ends.units(&QuestionEnd::Any);
    let destinations: Vec<_> = sources.iter().map(|unit| Destination::direct(unit.clone(), Traffic::all())).collect();
    let wide = Wide::new(&walk, &sources, &destinations, Route::default());
    let rows = wide.rows(MOST).map(|rows| rows.len()).unwrap_or_default();
    assert!(wide.rows(Most { rows, ..MOST }).is_some());
    assert!(wide.rows(Most { rows: rows - 1, ..MOST }).is_none());
}

#[test]
fn a_pod_and_its_own_node_are_a_row_of_their_own() {
    let mut objects = crate::object::Objects::default();
    for n in 0..4 {
        objects.pods.push(crate::sample::pod(&format!("ns/p{n} app=a 10.0.0.{} @n{}", n + 1, n % 2)));
    }
    for n in 0..2_u8 {
        let addresses = vec![std::net::IpAddr::from([192, 0, 2, n])];
        objects.nodes.push(crate::object::Node { name: format!("n{n}"), addresses, pod_cidrs: Vec::new() });
    }
    objects.policies.push(crate::sample::policy(r#"ns/deny {"podSelector": {}, "policyTypes": ["Ingress"]}"#));
    objects.declare_namespaces();
    let rows = asked_of_all(&Cluster::new(&objects));
    let of_nodes: Vec<_> = rows.iter().filter(|(.., pairs)| *pairs == Pairs::OwnNode).collect();
    assert!(of_nodes.contains(&&(2, 4, Verdict::Allowed, Pairs::OwnNode)), "{rows:?}");
    assert!(rows.iter().any(|(_, to, verdict, pairs)| (*to, *verdict, *pairs) == (4, Verdict::Denied, Pairs::Others)));
}
