//! What the kernel counts of denied packets, and the chains in which they end.

use std::fs::File;
use std::net::{IpAddr, UdpSocket};

use k8s_openapi::api::networking::v1::{NetworkPolicyIngressRule, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::counters::{Counters, DropReason};
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_agent::enforce::Enforcer;
use npc_agent::source::difference::LastObjects;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects};
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::layout::{self, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, FamilyRuleset, Rule};

use super::enforce::{EnforcerWithObjects, enforcer, groups};
use super::namespace::{Namespace, output, run};
use super::{dump, on_both_backends};

on_both_backends!(
    packets_are_counted_by_reason_and_family,
    edits_of_policies_do_not_set_counts_back,
    what_is_not_there_is_not_counted_and_the_rest_is,
    counts_are_read_while_another_program_holds_the_lock,
    the_deepest_tree_loads,
);

const INGRESS: DropReason = DropReason::Denied(Direction::Ingress);
const EGRESS: DropReason = DropReason::Denied(Direction::Egress);

fn counters(backend: Backend) -> Counters {
    Linux::open(Some(backend)).unwrap().counters()
}

fn read(counters: &Counters) -> Vec<(Family, DropReason, u64)> {
    counters.read().unwrap().into_iter().map(|count| (count.family, count.reason, count.packets)).collect()
}

/// Sends UDP to loopback, so many packets, which end in this chain.
fn send(backend: Backend, family: Family, chain: &ChainName, packets: usize) {
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let program = format!("{program}-{backend}");
    let rule = ["OUTPUT", "-p", "udp", "--dport", "53", "-j", chain.as_str()];
    run(&program, &[&["-A"], &rule[..]].concat());
    let loopback: IpAddr = if family == Family::V4 { "127.0.0.1" } else { "::1" }.parse().unwrap();
    let socket = UdpSocket::bind((loopback, 0)).unwrap();
    for _ in 0..packets {
        // That the packet is dropped is an error of the sender's.
        let _ = socket.send_to(b"hello", (loopback, 53));
    }
    run(&program, &[&["-D"], &rule[..]].concat());
}

/// An enforcer that writes all chains that count.
fn complete(backend: Backend) -> EnforcerWithObjects {
    let options = RulesetOptions { anti_spoof: true, ..RulesetOptions::default() };
    EnforcerWithObjects(
        Enforcer::new(Linux::open(Some(backend)).unwrap(), "node-1").with_options(options),
        LastObjects::default(),
    )
}

fn packets_are_counted_by_reason_and_family(backend: Backend) {
    let _namespace = Namespace::enter();
    complete(backend).pass(&groups(3)).unwrap();
    let counters = counters(backend);
    let mut expected = Vec::new();
    for (place, family) in Family::ALL.into_iter().enumerate() {
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            let packets = place * 10 + n + 1;
            send(backend, family, &reason.chain(), packets);
            expected.push((family, reason, packets as u64));
        }
    }
    assert_eq!(read(&counters), expected);
    // All other DROP rules are in the first chains, and belong to no policy.
    let drops = dump(backend).into_iter().filter(|line| line.starts_with("-A NPC-") && line.ends_with(" -j DROP"));
    let uncounted: Vec<String> = drops
        .filter(|line| {
            let known = ["-A NPC-DENY-", "-A NPC-FORWARD ", "-A NPC-RELATED ", "-A NPC-SPOOF "];
            !known.iter().any(|chain| line.starts_with(chain))
        })
        .collect();
    assert_eq!(uncounted, [""; 0]);
}

fn edits_of_policies_do_not_set_counts_back(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut enforcer = complete(backend);
    enforcer.pass(&Objects::default()).unwrap();
    let counters = counters(backend);
    for reason in DropReason::ALL {
        send(backend, Family::V4, &reason.chain(), 7);
    }
    // Groups, isolated sets and trees come, change and go.
    for count in [3, 9, 1, 0] {
        let writes = enforcer.pass(&groups(count)).unwrap().writes;
        assert!(writes.chains_written > 0, "{writes}");
        let packets: Vec<u64> = counters.read().unwrap().iter().map(|count| count.packets).collect();
        assert_eq!(packets, [7, 7, 7, 7, 0, 0, 0, 0], "with {count} groups");
    }
}

fn what_is_not_there_is_not_counted_and_the_rest_is(backend: Backend) {
    let _namespace = Namespace::enter();
    let counters = counters(backend);
    assert_eq!(read(&counters), [], "before anything was written");
    let options = RulesetOptions { keep_established: true, ..RulesetOptions::default() };
    let kernel = Linux::open(Some(backend)).unwrap();
    let mut enforcer =
        EnforcerWithObjects(Enforcer::new(kernel, "node-1").with_options(options), LastObjects::default());
    enforcer.pass(&groups(1)).unwrap();
    send(backend, Family::V6, &ChainName::deny(Direction::Egress), 2);
    let expected =
        [(Family::V4, INGRESS, 0), (Family::V4, EGRESS, 0), (Family::V6, INGRESS, 0), (Family::V6, EGRESS, 2)];
    assert_eq!(read(&counters), expected);
}

fn counts_are_read_while_another_program_holds_the_lock(backend: Backend) {
    let _namespace = Namespace::enter();
    enforcer(backend).pass(&groups(1)).unwrap();
    let lock = File::create("/run/xtables.lock").unwrap();
    lock.lock().unwrap();
    assert_eq!(read(&counters(backend)).len(), 6);
}

/// How many chains a packet is led through from this one on, itself included.
fn depth(program: &FamilyRuleset, chain: &ChainName) -> usize {
    let below = program.chains[chain].iter().filter_map(Rule::leads_to).map(|next| depth(program, next));
    1 + below.max().unwrap_or_default()
}

fn the_deepest_tree_loads(backend: Backend) {
    let _namespace = Namespace::enter();
    // So many that in some place the tree has all nine levels, with a list of
    // groups that agree in all nine bits below. One of the groups is several that
    // decide together, which is a level more; and each has a rule without ports, so
    // two chains decide of segments in the middle of a connection.
    let mut objects = groups(3_000);
    for policy in &mut objects.policies {
        let from = vec![NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..Default::default() }];
        let rule = NetworkPolicyIngressRule { from: Some(from), ports: None };
        policy.object.spec.as_mut().unwrap().ingress = Some(vec![rule]);
    }
    objects.pods[1].ipv4 = objects.pods[0].ipv4;
    let program = layout::ruleset(&Cluster::new(&objects), "node-1", &RulesetOptions::default());
    let entry = ChainName::entry(Direction::Ingress);
    assert_eq!(depth(&program.v4, &entry), 9 + 1 + 1 + 1 + 2);
    enforcer(backend).pass(&objects).unwrap();
    let mut kernel = Linux::open(Some(backend)).unwrap();
    let held = kernel.read().unwrap();
    assert_eq!(held.v4.chains.len(), program.v4.chains.len());
    // All of it is below FORWARD, whose depth is what the kernel minds.
    let hook = output(&format!("iptables-{backend}"), &["-S", "FORWARD"]);
    assert!(hook.contains("-j NPC-FORWARD"), "{hook}");
}
