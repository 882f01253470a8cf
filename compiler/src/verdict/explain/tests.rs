//! Explanations against verdicts, and each code by name.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::algebra::traffic::Traffic;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::sample::{cluster, objects};
use crate::verdict::flow::{End, directed, exemption};

fn asked() -> impl Strategy<Value = Traffic> {
    let tcp = |first, last| Traffic::ports(Protocol::Tcp, first, last);
    select(vec![
        tcp(80, 80),
        tcp(8080, 8080),
        tcp(8000, 8100),
        tcp(443, 443),
        Traffic::ports(Protocol::Udp, 53, 53),
        Traffic::ports(Protocol::Sctp, 1, 1),
        Traffic::all(),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explanations_say_what_verdicts_say(objects in objects(), traffic in asked()) {
        let cluster = Cluster::new(&objects);
        let groups = Groups::of_cluster(&cluster);
        let outside = ["10.0.0.0", "10.0.0.129", "192.0.2.1", "8.8.8.8", "2001:db8::", "2001:db9::"];
        let outside = outside.iter().filter_map(|text| text.parse().ok()).map(|ip| End::of_address(&cluster, ip));
        let ends: Vec<End> = cluster.endpoints().map(|(id, _)| End::Pod(id)).chain(outside).collect();
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (*from, *to))) {
            for family in [None, Some(Family::V4), Some(Family::V6)] {
                let (source, destination) = (Party::End(from), Party::End(to));
                let fits = match family {
                    Some(family) => source.address(&cluster, family).is_some() && destination.address(&cluster, family).is_some(),
                    None => !source.has_address(&cluster) || !destination.has_address(&cluster),
                };
                if !fits {
                    continue;
                }
                let question =
                    Question { from: source, to: destination, family, traffic: traffic.clone(), service_port: None, service_addresses: Vec::new(), replicas: false, nodes: OnNodes::AsObjectsSay };
                for direction in Direction::ALL {
                    let decision = question.decide(&cluster, &groups, direction);
                    let bounds = question.bounds(&cluster, &groups, direction);
                    let expected = match exemption(&cluster, from, to) {
                        Some(_) => Traffic::all(),
                        None => directed(&cluster, &groups, direction, from, to, family),
                    };
                    prop_assert_eq!(&bounds.least, &expected);
                    prop_assert_eq!(bounds.most.intersection(&expected), expected.clone());
                    let known = bounds.least == bounds.most;
                    prop_assert!(known || family.is_none() || cluster.node_of(from, to), "{decision:?}");
                    if known {
                        let passing = expected.intersection(&traffic);
                        let verdict = match (passing == traffic, passing.is_none()) {
                            (true, _) => Verdict::Allowed,
                            (_, true) => Verdict::Denied,
                            _ => Verdict::Partial,
                        };
                        prop_assert_eq!(decision.verdict, verdict);
                    }
                    // The rules that are named are those that admit it.
                    let isolated = !decision.isolated_by.is_empty();
                    if isolated && exemption(&cluster, from, to).is_none() {
                        let admits = !expected.intersection(&traffic).is_none();
                        let deciding = question.ends(direction).0.groups(&cluster, &groups, direction, family);
                        prop_assert!(deciding.len() > 1 || decision.rules.is_empty() != admits);
                        prop_assert!(!admits || !decision.rules.is_empty());
                    }
                    // A rule that is denied by has something that fails, and
                    // one that admits all has nothing.
                    let other = question.ends(direction).1;
                    let deciding = question.ends(direction).0.groups(&cluster, &groups, direction, family);
                    if let ([group], true, true) = (deciding.as_slice(), known, exemption(&cluster, from, to).is_none()) {
                        let denied = traffic.difference(&bounds.most);
                        if !denied.is_none() {
                            for (candidate, _) in decision::near_miss::judged(&cluster, group, &question, other, &denied) {
                                prop_assert!(!candidate.conjuncts.is_empty(), "{candidate:?}");
                            }
                        } else if traffic.single().is_some_and(|(_, first, last)| first == last) {
                            let all = decision::near_miss::judged(&cluster, group, &question, other, &traffic);
                            prop_assert!(all.iter().any(|(c, _)| c.conjuncts.is_empty()), "{all:?}");
                        }
                        prop_assert!(matches!(decision.reason, Reason::Denied(_)) != denied.is_none());
                    }
                }
            }
        }
    }
}

impl Cluster {
    /// Whether one end is a node's address and the other a pod bound to none.
    fn node_of(&self, from: End, to: End) -> bool {
        [(from, to), (to, from)].iter().any(|(pod, address)| match (pod, address) {
            (End::Pod(pod), End::Address(address) | End::Unread(address)) => {
                self.pod(*pod).node.is_none() && self.is_node(*address)
            }
            _ => false,
        })
    }
}

/// The code by which a pod `ns/a`, isolated for ingress by one policy with
/// these rules, denies another end.
fn code(rules: &str, source: &str, port: (Protocol, u16)) -> &'static str {
    let policy = format!(r#"ns/p {{"podSelector": {{"matchLabels": {{"app": "a"}}}}, "ingress": {rules}}}"#);
    let pods = [
        "ns/a app=a :http=80 :dns=53/UDP 10.0.0.1 @n1",
        "ns/b app=b 10.0.0.2 @n2",
        "other/c app=c 10.0.0.3 @n2",
        "ns/host app=b hostNetwork 192.0.2.2 @n2",
    ];
    let cluster = cluster(&pods, &[&policy]);
    let groups = Groups::of_cluster(&cluster);
    let party = |name: &str| match cluster.pods().find(|(_, pod)| pod.name == name) {
        Some((id, pod)) if pod.host_network => Party::Host(id),
        Some((id, _)) => Party::End(End::Pod(id)),
        None => Party::End(End::of_address(&cluster, name.parse().unwrap_or_else(|_| panic!("{name}")))),
    };
    let question = Question {
        from: party(source),
        to: party("a"),
        family: Some(Family::V4),
        traffic: Traffic::ports(port.0, port.1, port.1),
        service_port: Some((Protocol::Tcp, 8000)),
        service_addresses: Vec::new(),
        replicas: false,
        nodes: OnNodes::AsObjectsSay,
    };
    let decision = question.decide(&cluster, &groups, Direction::Ingress);
    decision.reason.as_str().unwrap_or("unknown")
}

#[test]
fn every_miss_has_its_code() {
    let peer = |peer: &str| format!(r#"[{{"from": [{peer}]}}]"#);
    let port = |port: &str| format!(r#"[{{"ports": [{port}]}}]"#);
    let tcp = |number| (Protocol::Tcp, number);
    for (rules, source, asked, expected) in [
        ("[]".to_owned(), "b", tcp(80), "default-deny-only"),
        (peer(r#"{"podSelector": {"matchLabels": {"team": "x"}}}"#), "b", tcp(80), "peer-label-missing"),
        (peer(r#"{"podSelector": {"matchLabels": {"app": "x"}}}"#), "b", tcp(80), "peer-label-value"),
        (
            peer(r#"{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}"#),
            "b",
            tcp(80),
            "peer-label-value",
        ),
        (peer(r#"{"podSelector": {"matchLabels": {"app": "c"}}}"#), "c", tcp(80), "peer-other-namespace"),
        (peer(r#"{"namespaceSelector": {"matchLabels": {"team": "x"}}}"#), "c", tcp(80), "peer-namespace-label"),
        (peer(r#"{"podSelector": {}}"#), "host", tcp(80), "peer-hostnetwork"),
        (peer(r#"{"podSelector": {}}"#), "192.0.2.2", tcp(80), "peer-hostnetwork"),
        // A rule for pods has nothing to do with an address outside, unless it names the port.
        (peer(r#"{"podSelector": {}}"#), "203.0.113.1", tcp(80), "rule-missing"),
        (
            r#"[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]"#.to_owned(),
            "203.0.113.1",
            tcp(80),
            "ipblock-outside",
        ),
        (peer(r#"{"ipBlock": {"cidr": "10.1.0.0/16"}}"#), "b", tcp(80), "ipblock-outside"),
        (
            peer(r#"{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/24"]}}"#),
            "b",
            tcp(80),
            "ipblock-except",
        ),
        (peer(r#"{"ipBlock": {"cidr": "::/0"}}"#), "b", tcp(80), "ipblock-family"),
        (port(r#"{"port": 81}"#), "b", tcp(80), "port-number"),
        (port(r#"{"port": "http"}"#), "b", tcp(81), "port-number"),
        (port(r#"{"port": 80, "protocol": "UDP"}"#), "b", tcp(80), "port-protocol"),
        (port(r#"{"port": 8000}"#), "b", tcp(80), "port-is-service-port"),
        (port(r#"{"port": "metrics"}"#), "b", tcp(80), "port-named-unresolved"),
        (port(r#"{"port": "dns"}"#), "b", tcp(53), "port-named-other-protocol"),
        (port(r#"{"port": 81, "endPort": 90}"#), "b", tcp(80), "port-range"),
        (peer("{}"), "b", tcp(80), "rule-not-understood"),
        (port(r#"{"port": 80, "endPort": 70}"#), "b", tcp(80), "rule-not-understood"),
        (
            r#"[{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}], "ports": [{"port": 81}]}]"#.to_owned(),
            "b",
            tcp(80),
            "rule-missing",
        ),
        // A block that cannot be read is why only if it may mean the address.
        (
            peer(r#"{"ipBlock": {"cidr": "10.0.0.2"}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}"#),
            "b",
            tcp(80),
            "rule-not-understood",
        ),
        (
            peer(r#"{"ipBlock": {"cidr": "10.0.0.9"}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}"#),
            "b",
            tcp(80),
            "ipblock-outside",
        ),
        (
            peer(r#"{"ipBlock": {"cidr": "b.example"}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}"#),
            "b",
            tcp(80),
            "ipblock-outside",
        ),
        (peer(r#"{"ipBlock": {"cidr": "b.example"}}"#), "b", tcp(80), "rule-not-understood"),
        // A protocol and a number that are both wrong: the number is said first.
        (port(r#"{"port": 81, "protocol": "UDP"}"#), "b", tcp(80), "port-number"),
        // If no rule was understood whole, that is said, and what else of the rule misses.
        (
            r#"[{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}], "ports": [{"port": 80, "endPort": 70}]}]"#
                .to_owned(),
            "b",
            tcp(80),
            "rule-not-understood",
        ),
        (r#"[{"from": [{}], "ports": [{"port": 81}]}]"#.to_owned(), "b", tcp(80), "rule-not-understood"),
    ] {
        assert_eq!(code(&rules, source, asked), expected, "{rules} from {source}");
    }
}

#[test]
fn the_nearest_rule_is_the_one_of_which_fewest_parts_fail() {
    let rules = r#"[{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}], "ports": [{"port": 81}]},
        {"from": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 81}, {"port": 80, "protocol": "SCTP"}]}]"#;
    // Of its two ports the one that only the protocol keeps out is about the flow.
    assert_eq!(code(rules, "b", (Protocol::Tcp, 80)), "port-protocol");
}

/// `ns/a` asks for port 80 of `ns/b`, whose policies have these rules of egress or ingress each.
fn many_denials(direction: Direction, rules: &[String]) -> Decision {
    let field = if direction == Direction::Egress { "egress" } else { "ingress" };
    let policy = |(i, rule): (usize, &String)| {
        format!(r#"ns/p{i:03} {{"podSelector": {{}}, "policyTypes": ["{direction:?}"], "{field}": [{rule}]}}"#)
    };
    let policies: Vec<String> = rules.iter().enumerate().map(policy).collect();
    let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
    let cluster = cluster(&["ns/a app=a 10.0.0.1 @n1", "ns/b app=b 10.0.0.2 @n2"], &policies);
    let groups = Groups::of_cluster(&cluster);
    let pod =
        |name: &str| Party::End(End::Pod(cluster.pods().find(|(_, pod)| pod.name == name).expect("it is there").0));
    let question = Question {
        from: pod("a"),
        to: pod("b"),
        family: Some(Family::V4),
        traffic: Traffic::ports(Protocol::Tcp, 80, 80),
        service_port: None,
        service_addresses: Vec::new(),
        replicas: false,
        nodes: OnNodes::AsObjectsSay,
    };
    question.decide(&cluster, &groups, direction)
}

#[test]
fn of_hundreds_of_equally_near_rules_a_few_are_kept_and_all_are_counted() {
    let peer = |app: &str| format!(r#"{{"from": [{{"podSelector": {{"matchLabels": {app}}}}}]}}"#);
    // 50 rules that ask for two labels, then 200 that ask for one.
    let mut rules = vec![peer(r#"{"app": "x", "tier": "y"}"#); 50];
    rules.extend(vec![peer(r#"{"app": "x"}"#); 200]);
    let decision = many_denials(Direction::Ingress, &rules);
    assert_eq!((decision.candidates.len(), decision.candidate_count, decision.tie_count), (NEAREST, 250, 200));
    assert!(decision.candidates.iter().all(|candidate| candidate.labels == 1));
    let decision = many_denials(Direction::Ingress, &rules[..3]);
    assert_eq!((decision.candidates.len(), decision.candidate_count, decision.tie_count), (3, 3, 3));
}

#[test]
fn a_rule_whose_port_matches_is_kept_among_hundreds() {
    let everyone = r#"{"to": [{"podSelector": {}}], "ports": [{"port": 81}]}"#.to_owned();
    let other = r#"{"to": [{"podSelector": {"matchLabels": {"app": "x"}}}], "ports": [{"port": 80}]}"#.to_owned();
    let mut rules = vec![everyone; 30];
    rules.push(other);
    let decision = many_denials(Direction::Egress, &rules);
    assert_eq!((decision.candidates.len(), decision.candidate_count), (NEAREST, 31));
    assert!(decision.candidates.iter().any(Candidate::matches_port), "{:?}", decision.candidates);
}

#[test]
fn few_pods_with_hundreds_of_rules_are_answered_by_classes() {
    let pods: Vec<String> = (1..50).map(|n| format!("ns/p{n} app=a 10.0.0.{n} @n1")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let policies = |count: usize| -> Vec<String> {
        let rule = r#"{"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}]}"#;
        (0..count).map(|i| format!("ns/p{i} {rule}")).collect()
    };
    for (count, is_wide) in [(400, true), (20, false)] {
        let policies = policies(count);
        let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
        let cluster = cluster(&pods, &policies);
        let groups = Groups::of_cluster(&cluster);
        let all = QuestionEnd::Pods(cluster.pods().map(|(id, _)| id).collect());
        let port = Port::Numbers(Some(Protocol::Tcp), 80, 80);
        let said = explain(&cluster, &groups, &all, &all, Some(&port)).unwrap_or_else(|_| panic!("no answer"));
        assert_eq!(said.flows.iter().all(|flow| flow.alike.is_some()), is_wide, "{count}");
        assert_eq!(said.flows.len() < 10, is_wide, "{count}: {}", said.flows.len());
    }
}
