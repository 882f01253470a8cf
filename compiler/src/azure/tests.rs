//! The model on its own, and the list of differences against the verdicts of
//! both, pair by pair. (`npc-lab` holds the model against rules and sets that
//! Azure NPM wrote.)

#![allow(clippy::unwrap_used, reason = "a test that cannot read its own input has failed")]

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::algebra::cidr;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Exposure, Family, Labels, Namespace, Objects, Routing, Service, ServicePort, TargetPort};
use crate::policy::Direction;
use crate::sample;
use crate::verdict::flow::{End, directed, exemption};

fn objects(pods: &[&str], policies: &[&str]) -> Objects {
    let mut objects = Objects {
        pods: pods.iter().map(|text| sample::pod(text)).collect(),
        policies: policies.iter().map(|text| sample::policy(text)).collect(),
        ..Objects::default()
    };
    for team in ["a", "b", "c"] {
        objects.namespaces.push(Namespace::new(team, Labels::from([("team".to_owned(), team.to_owned())])));
    }
    objects.declare_namespaces();
    objects
}

/// The differences, a line each.
fn lines(objects: &Objects, placement: Placement) -> Vec<String> {
    let cluster = Cluster::new(objects);
    let model = Model::new(&cluster, &objects.policies, placement);
    let groups = Groups::of_cluster(&cluster);
    let ends = |ends: &FlowEnds| {
        let pods = ends.shares.iter().map(|share| {
            let Share { namespace, name, pods, of, .. } = share;
            format!("{namespace}/{name} {pods}/{of}")
        });
        let families = if ends.outside.ranges().iter().any(|(_, last)| *last > u128::from(u32::MAX)) {
            Family::V6
        } else {
            Family::V4
        };
        let outside = cidr::prefixes(families, &ends.outside).into_iter().take(2).map(|prefix| prefix.to_string());
        pods.chain(outside).collect::<Vec<_>>().join(", ")
    };
    let mut lines = Vec::new();
    for FlowDifference { cause, flows } in differences(&model, &groups, &objects.services) {
        let sign = if cause.change == FlowChange::NewlyAllowed { '+' } else { '-' };
        let place = cause.path.or(cause.service).unwrap_or_default();
        for Flows { from, to, traffic, .. } in flows {
            lines.push(format!("{sign} {} {place}: {} -> {} {traffic}", cause.reason.code(), ends(&from), ends(&to)));
        }
    }
    lines
}

#[test]
fn not_in_several_values_lets_every_namespace_in() {
    let policy = r#"a/p {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}], "from": [
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a", "b"]}]}}]}]}"#;
    let objects = objects(&["a/x 10.0.0.1", "a/y 10.0.0.2", "b/y 10.0.0.3", "c/z 10.0.0.4"], &[policy]);
    assert_eq!(
        lines(&objects, Placement::First),
        [
            "- namespace-not-in spec.ingress[0].from[0]: a/x 1/1, a/y 1/1, b/y 1/1 -> a/x 1/1, a/y 1/1 80",
            "- negative-selector-outside spec.ingress[0].from[0]: 0.0.0.0/0 -> a/x 1/1, a/y 1/1 80",
        ]
    );
}

#[test]
fn a_flow_that_the_other_end_denies_anyway_is_no_difference() {
    let not_in = r#"a/p {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b", "x"]}]}}]}]}"#;
    let deny = r#"b/deny {"podSelector": {}, "policyTypes": ["Egress"]}"#;
    let lines = lines(&objects(&["a/x 10.0.0.1", "b/y 10.0.0.3"], &[not_in, deny]), Placement::First);
    assert_eq!(lines, ["- negative-selector-outside spec.ingress[0].from[0]: 0.0.0.0/0 -> a/x 1/1 *"]);
}

#[test]
fn a_refused_policy_neither_isolates_nor_allows() {
    let v6 = r#"a/six {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "2001:db8::/32"}}], "ports": [{"port": 80}]}]}"#;
    let objects_alone = objects(&["a/x 10.0.0.1", "c/z 10.0.0.4"], &[v6]);
    assert_eq!(
        lines(&objects_alone, Placement::First),
        ["- policy-refused spec.ingress[0].from[1].ipBlock.cidr: c/z 1/1, 0.0.0.0/0 -> a/x 1/1 *"]
    );
    let deny = r#"a/deny {"podSelector": {}, "policyTypes": ["Ingress"]}"#;
    let with_deny = objects(&["a/x 10.0.0.1", "a/y 10.0.0.2"], &[v6, deny]);
    assert_eq!(
        lines(&with_deny, Placement::First),
        ["+ policy-refused spec.ingress[0].from[1].ipBlock.cidr: a/x 1/1, a/y 1/1 -> a/x 1/1, a/y 1/1 80"]
    );
}

#[test]
fn over_ipv6_everything_passes_today() {
    let policy = r#"a/p {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]}"#;
    let objects = objects(&["a/x 10.0.0.1 2001:db8::1", "b/y 10.0.0.3 2001:db8::3", "c/z 10.0.0.4"], &[policy]);
    assert_eq!(lines(&objects, Placement::First), ["- ipv6 : ::/0 -> a/x 1/1 *"]);
}

#[test]
fn a_services_traffic_depends_on_where_the_jump_stands() {
    let policy = r#"a/p {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}"#;
    let mut objects = objects(&["a/x app=x 10.0.0.1 :http=8080"], &[policy]);
    let port = |target| ServicePort { name: None, protocol: crate::object::Protocol::Tcp, port: 80, target };
    objects.services.push(Service {
        namespace: "a".to_owned(),
        name: "x".to_owned(),
        selector: Some(Labels::from([("app".to_owned(), "x".to_owned())])),
        addresses: Vec::new(),
        ports: vec![port(TargetPort::Name("http".to_owned()))],
        exposure: Exposure::AnyNode,
        routing: Routing::default(),
    });
    assert_eq!(
        lines(&objects, Placement::BehindKubeProxy),
        ["- node-port a/x: 0.0.0.0/1, 128.0.0.0/2 -> a/x 1/1 8080"]
    );
    assert_eq!(lines(&objects, Placement::First), ["+ self-by-service a/x: a/x 1/1 -> a/x 1/1 8080"]);
    objects.services[0].exposure = Exposure::OwnNode;
    assert_eq!(lines(&objects, Placement::BehindKubeProxy), [] as [&str; 0]);
}

#[test]
fn an_exception_is_cut_out_of_its_own_block_only() {
    let policy = r#"a/p {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "10.1.2.0/24"}},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/1"]}}]}]}"#;
    assert_eq!(lines(&objects(&["a/x 10.0.0.1"], &[policy]), Placement::First), [] as [&str; 0]);
}

/// What a flow's two verdicts are, and what of the list says of it.
fn agrees(objects: &Objects) -> Result<(), TestCaseError> {
    let cluster = Cluster::new(objects);
    let model = Model::new(&cluster, &objects.policies, Placement::First);
    let groups = Groups::of_cluster(&cluster);
    let list = differences(&model, &groups, &[]);
    let outside = ["10.0.0.0", "10.0.0.4", "10.0.0.130", "192.0.2.9", "8.8.8.8", "2001:db8::", "2001:db9::"];
    let outside = outside.iter().map(|text| End::of_address(&cluster, text.parse::<IpAddr>().unwrap()));
    let ends: Vec<End> = cluster.endpoints().map(|(id, _)| End::Pod(id)).chain(outside).collect();
    let holds = |ends: &FlowEnds, end: End| match end {
        End::Pod(pod) => {
            let pod = cluster.pod(pod);
            ends.shares.iter().any(|share| (&share.namespace, &share.name) == (&pod.namespace, &pod.name))
        }
        End::Address(address) | End::Unread(address) => ends.outside.contains(cidr::number(address)),
    };
    for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
        let both_outside = matches!((from, to), (End::Address(_), End::Address(_)));
        if both_outside || exemption(&cluster, from, to).is_some() {
            continue;
        }
        for family in Family::ALL {
            if from.address(&cluster, family).is_none() || to.address(&cluster, family).is_none() {
                continue;
            }
            let ours = Direction::ALL.into_iter().fold(Traffic::all(), |traffic, direction| {
                traffic.intersection(&directed(&cluster, &groups, direction, from, to, Some(family)))
            });
            let theirs = model.verdict(from, to, Some(family));
            for (change, expected) in [
                (FlowChange::NewlyAllowed, ours.difference(&theirs)),
                (FlowChange::NewlyDenied, theirs.difference(&ours)),
            ] {
                let of = list.iter().filter(|one| one.cause.change == change && one.cause.family == family);
                let flows = of.flat_map(|one| &one.flows).filter(|flow| holds(&flow.from, from) && holds(&flow.to, to));
                let listed = flows.fold(Traffic::none(), |all, flow| all.union(&flow.traffic));
                prop_assert_eq!(&listed, &expected, "{:?} {:?} -> {:?} {:?}", change, from, to, family);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_list_is_all_flows_that_differ_and_no_others(mut objects in sample::objects()) {
        // Each pod by itself, so that a share of a workload names the pod.
        for pod in &mut objects.pods {
            pod.workload = None;
            pod.name = format!("{}-{}", pod.name, pod.uid);
        }
        // And each address by itself: Azure NPM decides about one that several
        // pods list by which of their events came last.
        let mut listed = std::collections::BTreeSet::new();
        for pod in &mut objects.pods {
            pod.ipv4 = pod.ipv4.filter(|address| pod.host_network || listed.insert(IpAddr::from(*address)));
            pod.ipv6 = pod.ipv6.filter(|address| pod.host_network || listed.insert(IpAddr::from(*address)));
        }
        agrees(&objects)?;
    }
}
