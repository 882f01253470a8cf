//! What the rules against forged sources do to a packet, for any policies.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod, Protocol};
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, InterfaceName, Match, Member, NodeRuleset, SetName, Target};
use npc_tests::interpreter::{ConntrackState, Outcome, Packet, Payload, faults, run};

const NODE: &str = "n1";

fn pod(name: &str, host: u8) -> Pod {
    let labels = Labels::from([("app".to_owned(), name.to_owned())]);
    let pod = Pod::from_template("a".to_owned(), name.to_owned(), labels, PodSpec::default());
    let ipv6 = format!("fd00::{host}").parse().ok();
    Pod { node: Some(NODE.to_owned()), ipv4: Some([10, 0, 0, host].into()), ipv6, ..pod }
}

/// One pod is let in to the other, a third is not; each has an interface.
fn ruleset(anti_spoof: bool) -> NodeRuleset {
    let policy = serde_json::json!({"metadata": {"namespace": "a", "name": "db"}, "spec": {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
    }});
    let policy: k8s_openapi::api::networking::v1::NetworkPolicy = serde_json::from_value(policy).unwrap();
    let pods = vec![pod("web", 1), pod("db", 2), pod("other", 3)];
    let policies = vec![NetworkPolicy::from(policy)];
    let objects = Objects { pods, policies, ..Objects::default() };
    let options = RulesetOptions { anti_spoof, ..RulesetOptions::default() };
    let mut ruleset = layout::ruleset(&Cluster::new(&objects), NODE, &options);
    for (family, part) in [(Family::V4, &mut ruleset.v4), (Family::V6, &mut ruleset.v6)] {
        let Some(own) = part.sets.get_mut(&SetName::own(family)) else { continue };
        for pod in &objects.pods {
            let address = pod.address(family).unwrap();
            own.members.insert(Member::of_interface(address.into(), interface(&pod.name).unwrap()));
        }
    }
    assert_eq!(faults(&ruleset), Vec::<String>::new());
    ruleset
}

fn interface(pod: &str) -> Option<InterfaceName> {
    InterfaceName::new(&format!("azv-{pod}"))
}

fn passes(
    ruleset: &NodeRuleset,
    interface: Option<InterfaceName>,
    source: &str,
    destination: &str,
    state: ConntrackState,
) -> bool {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    // What is related is an error about a datagram that went to its sender.
    let payload = match state {
        ConntrackState::Related => Payload::Icmp(3),
        _ => Payload::Port(Protocol::Udp, 53),
    };
    let quoted_destination = (state == ConntrackState::Related).then_some(source);
    let first = Packet::first(source, destination, payload);
    run(ruleset, &Packet { state, interface, quoted_destination, ..first }).outcome == Outcome::Returned
}

#[test]
fn from_its_interface_a_pod_sends_by_its_own_address_and_no_other() {
    let ruleset = ruleset(true);
    for (web, db, other) in [("10.0.0.1", "10.0.0.2", "10.0.0.3"), ("fd00::1", "fd00::2", "fd00::3")] {
        for state in [ConntrackState::New, ConntrackState::Established, ConntrackState::Related] {
            assert!(passes(&ruleset, interface("web"), web, db, state));
            assert_eq!(passes(&ruleset, interface("other"), other, db, state), state != ConntrackState::New);
            // Of a pod, of the destination, of no pod here.
            let foreign = if web.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
            for claim in [web, db, foreign] {
                assert!(!passes(&ruleset, interface("other"), claim, db, state), "{claim} {state:?}");
            }
            // By an interface that is not known to be of pods, as before.
            assert!(passes(&ruleset, None, web, db, state));
        }
    }
}

#[test]
fn without_the_option_there_is_nothing_of_it() {
    let ruleset = ruleset(false);
    assert!(passes(&ruleset, interface("other"), "10.0.0.1", "10.0.0.2", ConntrackState::New));
    for part in [&ruleset.v4, &ruleset.v6] {
        assert!(!part.chains.contains_key(&ChainName::spoof()));
        assert!(part.sets.keys().all(|name| !name.is_own()));
    }
}

#[test]
fn it_is_the_first_rule_and_only_addresses_of_no_pod_come_back() {
    let ruleset = ruleset(true);
    for (part, unroutable) in [(&ruleset.v4, &["0.0.0.0/32"][..]), (&ruleset.v6, &["fe80::/10", "::/128"])] {
        let first = &part.chains[&ChainName::forward()][0];
        assert_eq!(first.target, Target::Jump(ChainName::spoof()));
        assert!(matches!(first.matches[..], [Match::FromPods, Match::NotInSet(..)]));
        let (last, returned) = part.chains[&ChainName::spoof()].split_last().unwrap();
        assert_eq!(last.target, Target::Drop);
        let sources = returned.iter().map(|rule| match (&rule.matches[..], &rule.target) {
            ([Match::Source(prefix)], Target::Return) => prefix.to_string(),
            _ => panic!("{rule:?}"),
        });
        assert_eq!(sources.collect::<Vec<_>>(), unroutable);
    }
}
