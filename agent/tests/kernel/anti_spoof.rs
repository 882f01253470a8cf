//! Interfaces that are held to the sources of the pods behind them.

use std::thread;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1 as networking;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::network::{Network, NetworkFollower};
use npc_agent::dataplane::{Kernel, Linux, links};
use npc_agent::enforce::Enforcer;
use npc_agent::enforce::Pass;
use npc_compiler::engine::Event;
use npc_compiler::object::{Family, Labels, Pod};
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::node::{ChainName, Match, SetName, Target};

use super::namespace::{Beyond, Namespace, hide_file, ip, output};
use super::on_both_backends;
use super::probing::extension;

on_both_backends!(
    an_interface_joins_with_its_addresses_and_leaves_without,
    pods_behind_anything_else_are_reported,
    more_interfaces_than_a_set_takes_with_one_prefix_are_held,
    without_the_match_everything_else_is_enforced,
);

fn enforcer(backend: Backend, anti_spoof: bool) -> Enforcer<Linux> {
    let options = RulesetOptions { anti_spoof, ..RulesetOptions::default() };
    Enforcer::new(Linux::open(Some(backend)).unwrap(), "node-1").with_options(options)
}

/// The network as it is, with what an agent of this mind asks about.
pub(crate) fn network() -> Network {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { NetworkFollower::start().await.unwrap().of_interfaces(true).network().clone() })
}

fn pass(enforcer: &mut Enforcer<Linux>) -> Pass {
    enforcer.pass(&network()).unwrap()
}

fn held() -> Vec<String> {
    links::in_pod_group().unwrap().into_iter().map(|(_, name)| name).collect()
}

fn own(family: Family) -> Vec<String> {
    let save = output("ipset", &["save", SetName::own(family).as_str()]);
    let mut members: Vec<String> =
        save.lines().filter_map(|line| line.strip_prefix("add ")?.split_once(' ')).map(|(_, m)| m.to_owned()).collect();
    members.sort();
    members
}

fn an_interface_joins_with_its_addresses_and_leaves_without(backend: Backend) {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    beyond.veth("azv1");
    ip("route add 10.0.0.1/32 dev azv1");
    ip("-6 route add fd00::1/128 dev azv1");
    let mut agent = enforcer(backend, true);
    let first = pass(&mut agent);
    assert_eq!((first.regrouped, first.unpinned.len()), ((1, 0), 0));
    assert_eq!(
        (held(), own(Family::V4), own(Family::V6)),
        (vec!["azv1".into()], vec!["10.0.0.1,azv1".into()], vec!["fd00::1,azv1".into()])
    );
    let rules = output(&format!("iptables-{backend}"), &["-S", "NPC-FORWARD"]);
    let rule = "-A NPC-FORWARD -m devgroup --src-group 0x6e7063 -m set ! --match-set npc4-own src,src -j NPC-SPOOF";
    assert_eq!(rules.lines().nth(1), Some(rule));
    // Nothing has changed, for this agent or for the next.
    for agent in [&mut agent, &mut enforcer(backend, true)] {
        let again = pass(agent);
        assert!(again.writes.is_nothing() && again.regrouped == (0, 0), "{again:?}");
        assert!(agent.holds().unwrap());
    }
    // The pod goes, by its route.
    ip("route del 10.0.0.1/32 dev azv1");
    ip("-6 route del fd00::1/128 dev azv1");
    assert_eq!(pass(&mut agent).regrouped, (0, 1));
    assert_eq!((held(), own(Family::V4)), (vec![], vec![]));
    ip("route add 10.0.0.2/32 dev azv1");
    assert_eq!(pass(&mut agent).regrouped, (1, 0));
    // An agent that is not asked for it asks only whether a packet is from a pod.
    let other = pass(&mut enforcer(backend, false));
    assert_eq!((other.regrouped, held()), ((0, 0), vec!["azv1".into()]));
    let state = Linux::open(Some(backend)).unwrap().read().unwrap();
    assert!(!state.v4.sets.contains_key(&SetName::own(Family::V4)));
    assert!(!state.v4.chains.contains_key(&ChainName::spoof()));
}

fn pods_behind_anything_else_are_reported(backend: Backend) {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    beyond.veth("azv1");
    ip("route add 10.0.0.1/32 dev azv1");
    // Software that talks to itself: what comes by it may be of anybody.
    ip("link add vpn0 type veth peer name vpn1");
    ip("link set vpn0 up");
    ip("link set vpn1 up");
    ip("route add 10.0.0.2/32 dev vpn0");
    ip("tuntap add tap0 mode tap");
    ip("link set tap0 up");
    ip("route add 10.0.0.3/32 dev tap0");
    // A pod by ipvlan or the like: the node's own subnet leads to it.
    beyond.veth("eth0");
    ip("address add 192.0.2.1/24 dev eth0");
    ip("route add default via 192.0.2.254 dev eth0");
    let mut agent = enforcer(backend, true);
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.7", "10.9.9.9"];
    agent.take(addresses.iter().enumerate().map(|(n, address)| pod(&format!("p{n}"), address)));
    let pass = pass(&mut agent);
    assert_eq!((held(), own(Family::V4)), (vec!["azv1".into()], vec!["10.0.0.1,azv1".into()]));
    let spoofable: Vec<String> = pass.spoofable.iter().map(|pod| format!("{}: {}", pod.pod, pod.reason)).collect();
    assert_eq!(
        spoofable,
        [
            "p1: it is behind vpn0, a veth with both ends in this network namespace",
            "p2: it is behind tap0, which is neither a veth nor a bridge",
            "p3: it is behind eth0, over which the node's default route leads",
            "p4: the node routes its address to no interface",
        ]
    );
    // Without the flag no pod is reported.
    let mut other = enforcer(backend, false);
    other.take([pod("p1", "10.0.0.2")]);
    assert_eq!(other.pass(&network()).unwrap().spoofable, []);
}

/// A pod of this node that a policy isolates, and no other may reach.
pub(crate) fn guarded(address: &str) -> [Event; 2] {
    let policy = serde_json::json!({"metadata": {"namespace": "n", "name": "guard"}, "spec": {"podSelector": {}}});
    let policy: networking::NetworkPolicy = serde_json::from_value(policy).unwrap();
    [pod("guarded", address), Event::Policy(Box::new(policy.into()))]
}

fn pod(name: &str, address: &str) -> Event {
    let mut pod = Pod::from_template("n".to_owned(), name.to_owned(), Labels::new(), PodSpec::default());
    pod.node = Some("node-1".to_owned());
    pod.ipv4 = Some(address.parse().unwrap());
    Event::Pod(Box::new(pod))
}

fn more_interfaces_than_a_set_takes_with_one_prefix_are_held(backend: Backend) {
    let _namespace = Namespace::enter();
    let beyond = Beyond::new();
    for n in 1..=100 {
        beyond.veth(&format!("azv{n}"));
        ip(&format!("route add 10.0.0.{n}/32 dev azv{n}"));
    }
    assert_eq!(pass(&mut enforcer(backend, true)).regrouped, (100, 0));
    assert_eq!((held().len(), own(Family::V4).len()), (100, 100));
}

fn without_the_match_everything_else_is_enforced(backend: Backend) {
    let extension = extension("libxt_devgroup.so");
    // In a thread of its own, because it leaves the file system of the others.
    let test = move || {
        let _namespace = Namespace::enter();
        hide_file(&extension);
        let beyond = Beyond::new();
        beyond.veth("azv1");
        ip("route add 10.0.0.1/32 dev azv1");
        let mut kernel = Linux::open(Some(backend)).unwrap();
        let capabilities = kernel.probe().unwrap();
        assert!(capabilities.lacks.device_group);
        let missing = capabilities.no_anti_spoof.unwrap().to_string();
        assert!(missing.contains("the match devgroup (--anti-spoof)"), "{missing}");
        let mut agent = enforcer(backend, true);
        agent.take([pod("p", "10.0.0.1")]);
        let pass = pass(&mut agent);
        assert!(pass.writes.chains_written > 0, "{pass:?}");
        assert!(pass.spoofable[0].reason.contains("this kernel lacks the match devgroup"), "{pass:?}");
        assert_eq!((pass.regrouped, held()), ((0, 0), vec![]));
        let state = Linux::open(Some(backend)).unwrap().read().unwrap();
        assert!(!state.v4.chains.contains_key(&ChainName::spoof()));
        // What comes from a pod's interface is as what comes from elsewhere.
        let related = &state.v4.chains[&ChainName::related()];
        assert_eq!(related.len(), 2, "{related:#?}");
        assert!(
            related[0].matches[0] == Match::NotLength(48, 576) && related[1].target == Target::Return,
            "{related:#?}"
        );
    };
    thread::spawn(test).join().unwrap();
}
