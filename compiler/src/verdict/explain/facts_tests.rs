//! What the input says beside the objects that decide, and what has no effect: each comes back in the answer.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use super::*;
use crate::cluster::group::Groups;
use crate::cluster::hints::{Hints, WorkloadName};
use crate::cluster::selection::WhyNone;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::{Labels, Protocol, Workload};
use crate::policy::{Direction, Policy};
use crate::sample::{cluster, policy};

const PODS: [&str; 2] = ["ns/web app=web 10.0.0.1", "ns/api app=api 10.0.0.2 Deployment/api"];

/// A policy that selects by a label that the pods lack and their Deployment may have, and admits web.
const BACK: &str = r#"ns/back {"podSelector": {"matchLabels": {"tier": "back"}}, "ingress": [{"from":
    [{"podSelector": {"matchLabels": {"app": "web"}}}]}]}"#;

const DENY: &str = r#"ns/deny {"podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"]}"#;

fn deployment() -> WorkloadName {
    ("ns".to_owned(), Workload { kind: "Deployment".to_owned(), name: "api".to_owned() })
}

fn pod(cluster: &Cluster, name: &str) -> PodId {
    cluster.pods().find(|(_, pod)| pod.name == name).unwrap().0
}

fn id(cluster: &Cluster, name: &str) -> PolicyId {
    cluster.policies().find(|(_, policy)| policy.name == name).unwrap().0
}

/// What is said of web to api.
fn explained(cluster: &Cluster) -> FlowExplanation {
    let [from, to] = ["web", "api"].map(|name| QuestionEnd::Pod(pod(cluster, name)));
    let port = Port::Numbers(Some(Protocol::Tcp), 8080, 8080);
    explain(cluster, &Groups::of_cluster(cluster), &from, &to, Some(&port)).unwrap()
}

fn with_label(value: &str) -> Hints {
    let labels = Labels::from([("tier".to_owned(), value.to_owned())]);
    Hints { workload_labels: [(deployment(), labels)].into(), ..Hints::default() }
}

fn ingress(explanation: &FlowExplanation) -> &Decision {
    &explanation.flows[0].decisions.as_ref().unwrap()[1]
}

#[test]
fn a_label_of_the_workload_alone_is_why_a_direction_denies() {
    let with = |hints| cluster(&PODS, &[BACK, DENY]).with_hints(hints);
    let cluster = with(with_label("back"));
    let explanation = explained(&cluster);
    let decision = ingress(&explanation);
    assert_eq!((decision.verdict, decision.reason), (Verdict::Denied, Reason::Denied(ReasonCode::SubjectNearMiss)));
    let first = decision.misleading.first().unwrap();
    assert_eq!((first.policy, first.code()), (id(&cluster, "back"), ReasonCode::SubjectNearMiss));
    let Discrepancy::LabelOnWorkload { value, workload, .. } = &first.discrepancy else { panic!("{first:?}") };
    assert_eq!((value.as_str(), workload), ("back", &deployment().1));
    for hints in [Hints::default(), with_label("front")] {
        let explanation = explained(&with(hints));
        assert_eq!(ingress(&explanation).reason, Reason::Denied(ReasonCode::DefaultDenyOnly));
    }
}

#[test]
fn a_label_of_the_workload_alone_is_named_where_no_policy_isolates() {
    let cluster = cluster(&PODS, &[BACK]).with_hints(with_label("back"));
    let explanation = explained(&cluster);
    assert_eq!(ingress(&explanation).reason, Reason::DefaultAllow);
    let of_label = |policy: &MisleadingPolicy| matches!(policy.discrepancy, Discrepancy::LabelOnWorkload { .. });
    assert!(ingress(&explanation).misleading.iter().any(of_label));
    let groups = Groups::of_cluster(&cluster);
    let alone = explain_endpoint(&cluster, &groups, &QuestionEnd::Pod(pod(&cluster, "api"))).unwrap();
    assert!(alone.misleading.iter().any(|(direction, of)| *direction == Direction::Ingress && of_label(of)));
    let meant = explain_policy(&cluster, &groups, id(&cluster, "back")).meant;
    assert!(meant.is_some_and(|(meant, of)| meant == pod(&cluster, "api") && of_label(&of)));
}

#[test]
fn a_replaced_policy_is_named_where_it_would_admit_what_is_denied() {
    let admitting = DENY.replace(r#""policyTypes": ["Ingress"]"#, r#""ingress": [{"ports": [{"port": 8080}]}]"#);
    let of = |text: &str| Hints { replaced_policies: vec![Policy::read(&policy(text)).0], ..Hints::default() };
    let replaced = |hints| explained(&cluster(&PODS, &[DENY]).with_hints(hints)).replaced;
    let place = ReplacedPolicy { place: 0, direction: Direction::Ingress };
    assert_eq!(replaced(of(&admitting)), [place].into());
    assert_eq!(replaced(of(&admitting.replace("8080", "8081"))), [].into());
    assert_eq!(replaced(of(&admitting.replace("ns/", "other/"))), [].into());
}

#[test]
fn a_policy_that_selects_no_pod_is_named_where_none_isolates() {
    let none = r#"ns/none {"podSelector": {"matchLabels": {"role": "gone"}}}"#;
    let host = "ns/host role=gone hostNetwork";
    for (pods, policies, expected) in [
        (vec![], vec![none], Some(WhyNone::NoPod)),
        (vec![host], vec![none], Some(WhyNone::OnlyHostNetworkPods)),
        // The pods of another policy are isolated, so this one would change nothing.
        (vec![], vec![none, DENY], None),
    ] {
        let cluster = cluster(&[&PODS[..], &pods].concat(), &policies);
        let found = explained(&cluster).without_subjects;
        assert_eq!(found.get(&id(&cluster, "none")).copied(), expected, "{pods:?} {policies:?}");
    }
}

#[test]
fn what_of_a_policy_has_no_effect_is_said_of_each_rule_peer_and_port() {
    let text = r#"ns/p {"podSelector": {"matchLabels": {"app": "api"}}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}, {"podSelector": {"matchLabels": {"app": "no"}}}]},
        {"from": [{"podSelector": {"matchLabels": {"app": "no"}}}]},
        {"ports": [{"port": "http"}, {"port": 80}]}, {"ports": [{"port": "http"}]}],
        "egress": [{}]}"#;
    let cluster = cluster(&PODS, &[text]);
    let about = explain_policy(&cluster, &Groups::of_cluster(&cluster), id(&cluster, "p"));
    assert_eq!(about.selects, [pod(&cluster, "api")]);
    assert_eq!(about.isolates, [Direction::Ingress]);
    let without_effect = |rule: &RuleExplanation| rule.is_without_effect;
    assert_eq!(about.rules.iter().map(without_effect).collect::<Vec<_>>(), [false, true, false, true, true]);
    let none = Some(PeerWithoutEffect::SelectsNone(WhyNone::NoPod));
    let of_peers = |rule: &RuleExplanation| rule.peers.iter().map(|of| of.without_effect).collect::<Vec<_>>();
    assert_eq!(of_peers(&about.rules[0]), [None, none]);
    let of_ports = |rule: &RuleExplanation| rule.ports.iter().map(|of| of.without_effect).collect::<Vec<_>>();
    assert_eq!(of_ports(&about.rules[2]), [Some(PortWithoutEffect::NoPodHasName), None]);
    assert!(about.rules[4].rule.admits_everything());
}
