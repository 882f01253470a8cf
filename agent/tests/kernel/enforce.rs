//! Programs go into the kernel, come back as they went in, and only
//! differences are written.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::thread;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::{self, v1::NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use npc_agent::dataplane::audit::AuditScope;
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::iptables::Hook;
use npc_agent::dataplane::network::Network;
use npc_agent::dataplane::{Error, Kernel, Linux};
use npc_agent::enforce::Enforcer;
use npc_agent::enforce::Pass;
use npc_agent::enforce::Writes;
use npc_agent::source::difference::LastObjects;
use npc_agent::source::manifests;
use npc_compiler::object::{Family, Labels, NetworkPolicy, Objects, Pod};
use npc_compiler::plan::{KernelState, Plan};

use super::by_hand::ByHand;
use super::namespace::{Namespace, feed, hide_file, output, run};
use super::rulesets::{dropping, everything};
use super::{dump, on_both_backends};

on_both_backends!(
    a_program_is_read_back_as_it_was_written,
    what_blocks_become_is_read_back_as_it_was_written,
    a_thousand_groups_load_and_one_more_pod_writes_members_only,
    programs_load_where_no_file_names_protocols,
    an_edit_writes_the_difference_and_the_same_again_nothing,
    what_others_have_in_the_kernel_stays_as_it_is,
    the_jump_is_first_comes_back_and_is_there_once,
    an_agent_takes_over_what_an_earlier_one_left,
    an_agent_takes_over_the_layout_of_an_older_one,
    an_agent_that_moves_to_the_other_backend_leaves_nothing_behind,
    a_set_that_is_not_ours_under_our_name_goes_if_it_is_unused,
    detection_finds_the_backend_with_rules_and_wakes_no_other,
);

fn open(backend: Backend) -> Linux {
    Linux::open(Some(backend)).unwrap()
}

/// An enforcer that is told whole states of the objects.
pub(crate) struct EnforcerWithObjects(pub(crate) Enforcer<Linux>, pub(crate) LastObjects);

impl EnforcerWithObjects {
    pub(crate) fn pass(&mut self, objects: &Objects) -> Result<Pass, Error> {
        self.0.take(self.1.changes(objects, "node-1").changes.into_iter().map(|change| change.event));
        self.0.pass(&Network::default())
    }
}

pub(crate) fn enforcer(backend: Backend) -> EnforcerWithObjects {
    EnforcerWithObjects(Enforcer::new(open(backend), "node-1"), LastObjects::default())
}

fn forward(backend: Backend) -> Vec<String> {
    let listed = output(&format!("iptables-{backend}"), &["-S", "FORWARD"]);
    listed.lines().filter(|line| line.starts_with("-A ")).map(str::to_owned).collect()
}

fn a_program_is_read_back_as_it_was_written(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut kernel = open(backend);
    let program = everything();
    let plan = Plan::new(&kernel.read().unwrap(), &program);
    kernel.apply(&plan).unwrap();
    let actual = kernel.read().unwrap();
    let desired = KernelState::from(&program);
    for family in Family::ALL {
        let (actual, desired) = (actual.family(family), desired.family(family));
        assert_eq!(actual.sets, desired.sets);
        for (chain, lines) in &desired.chains {
            assert_eq!(actual.chains.get(chain), Some(lines), "{family} {chain}");
        }
        assert_eq!(actual, desired);
    }
    assert!(Plan::new(&actual, &program).is_empty());
}

/// Pods of this node. A policy of its own isolates each, both ways.
pub(crate) fn groups(count: u16) -> Objects {
    let each = |n: u16| {
        let labels = Labels::from([("app".to_owned(), format!("a{n}"))]);
        let selector = LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() };
        let pod = Pod {
            node: Some("node-1".to_owned()),
            ipv4: Some(Ipv4Addr::from(0x0a00_0000 + u32::from(n))),
            ipv6: Some(Ipv6Addr::from(0xfd << 120 | u128::from(n))),
            ..Pod::from_template("shop".to_owned(), format!("p{n}"), labels, PodSpec::default())
        };
        let mut policy = networking::v1::NetworkPolicy::default();
        policy.metadata.namespace = Some("shop".to_owned());
        policy.metadata.name = Some(format!("n{n}"));
        let both = vec!["Ingress".to_owned(), "Egress".to_owned()];
        let spec = NetworkPolicySpec { pod_selector: Some(selector), policy_types: Some(both), ..Default::default() };
        policy.spec = Some(spec);
        (pod, NetworkPolicy::from(policy))
    };
    let (pods, policies) = (1..=count).map(each).unzip();
    let mut objects = Objects { pods, policies, ..Objects::default() };
    objects.declare_namespaces();
    objects
}

fn what_blocks_become_is_read_back_as_it_was_written(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut objects = groups(1);
    let block = |cidr: &str, except: &[&str]| networking::v1::NetworkPolicyPeer {
        ip_block: Some(networking::v1::IPBlock {
            cidr: cidr.to_owned(),
            except: Some(except.iter().map(|text| (*text).to_owned()).collect()),
        }),
        ..Default::default()
    };
    // Cut so that prefixes of every length are left, the null address alone
    // among them.
    let blocks = [
        block("0.0.0.0/0", &["0.0.0.1/32", "10.0.0.1/32"]),
        block("::/0", &["::1/128", "fd00::1/128", "::ffff:0:0/96"]),
    ];
    let rule = networking::v1::NetworkPolicyIngressRule { from: Some(blocks.to_vec()), ports: None };
    objects.policies[0].object.spec.as_mut().unwrap().ingress = Some(vec![rule]);
    enforcer(backend).pass(&objects).unwrap();
    // An agent that starts anew compares with what the kernel says.
    let writes = enforcer(backend).pass(&objects).unwrap().writes;
    assert!(writes.is_nothing(), "{writes}");
}

fn a_thousand_groups_load_and_one_more_pod_writes_members_only(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut enforcer = enforcer(backend);
    let mut objects = groups(1000);
    let pass = enforcer.pass(&objects).unwrap();
    assert!(pass.writes.chains_written >= 4 * 1000, "{}", pass.writes);
    assert!(enforcer.pass(&objects).unwrap().writes.is_nothing());
    let twin =
        Pod { name: "twin".to_owned(), ipv4: Some(Ipv4Addr::new(10, 9, 9, 9)), ipv6: None, ..objects.pods[7].clone() };
    objects.pods.push(twin);
    let writes = enforcer.pass(&objects).unwrap().writes;
    assert_eq!(Writes { members_added: 0, ..writes }, Writes::default(), "{writes}");
    assert!(writes.members_added > 0);
}

fn programs_load_where_no_file_names_protocols(backend: Backend) {
    // In a thread of its own, because it leaves the file system of the others.
    let test = move || {
        let _namespace = Namespace::enter();
        hide_file(Path::new("/etc/protocols"));
        let mut kernel = open(backend);
        kernel.apply(&Plan::new(&KernelState::default(), &everything())).unwrap();
        assert_eq!(kernel.read().unwrap(), KernelState::from(&everything()));
    };
    thread::spawn(test).join().unwrap();
}

fn an_edit_writes_the_difference_and_the_same_again_nothing(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut enforcer = ByHand::new(backend);
    let (writes, rehooked) = enforcer.enforce(&dropping(&[1, 2])).unwrap();
    let first = Writes { sets_created: 2, members_added: 4, chains_written: 2, rules_written: 2, ..Writes::default() };
    assert_eq!(writes, first);
    assert_eq!(rehooked, [(Family::V4, Hook::Absent), (Family::V6, Hook::Absent)]);
    assert_eq!(enforcer.enforce(&dropping(&[1, 2])).unwrap(), (Writes::default(), Vec::new()));
    let (writes, _) = enforcer.enforce(&dropping(&[2, 3])).unwrap();
    assert_eq!(writes, Writes { members_added: 2, members_removed: 2, ..Writes::default() });
    // From one program to the other, all rules and sets turned over.
    enforcer.enforce(&everything()).unwrap();
    enforcer.enforce(&dropping(&[1])).unwrap();
    assert_eq!(open(backend).read().unwrap(), KernelState::from(&dropping(&[1])));
}

fn what_others_have_in_the_kernel_stays_as_it_is(backend: Backend) {
    let _namespace = Namespace::enter();
    run("ipset", &["create", "KUBE-X", "hash:ip", "timeout", "1000"]);
    run("ipset", &["create", "npc", "hash:net"]);
    run("ipset", &["add", "npc", "10.0.0.0/8"]);
    let others = "*filter\n:FORWARD DROP [0:0]\n:KUBE-FORWARD - [0:0]\n:NPCX - [0:0]\n\
                  -A FORWARD -j KUBE-FORWARD\n-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
                  -A NPCX -m set --match-set npc src -j ACCEPT\nCOMMIT\n\
                  *nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
    feed(&format!("iptables-{backend}-restore"), &[], others);
    run(&format!("ip6tables-{backend}"), &["-P", "FORWARD", "DROP"]);
    let before = dump(backend);

    let mut enforcer = ByHand::new(backend);
    enforcer.enforce(&everything()).unwrap();
    enforcer.enforce(&dropping(&[7])).unwrap();
    let ours = |line: &String| ["NPC-", "npc4-", "npc6-"].iter().any(|prefix| line.contains(prefix));
    let mut after = dump(backend);
    after.retain(|line| !ours(line));
    assert_eq!(after, before);
}

fn the_jump_is_first_comes_back_and_is_there_once(backend: Backend) {
    let _namespace = Namespace::enter();
    let iptables = format!("iptables-{backend}");
    run(&iptables, &["-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"]);
    let mut enforcer = ByHand::new(backend);
    enforcer.enforce(&dropping(&[1])).unwrap();
    let desired = ["-A FORWARD -j NPC-FORWARD", "-A FORWARD -s 192.0.2.1/32 -j ACCEPT"];
    assert_eq!(forward(backend), desired);
    assert_eq!(enforcer.audit(AuditScope::Periodic), [""; 0]);

    // Another program inserts above it.
    run(&iptables, &["-I", "FORWARD", "-s", "192.0.2.2", "-j", "ACCEPT"]);
    assert_eq!(enforcer.drifted(), ["IPv4 hook NPC-FORWARD: the jump from FORWARD is not its first rule"]);
    let desired = [desired[0], "-A FORWARD -s 192.0.2.2/32 -j ACCEPT", desired[1]];
    assert_eq!(forward(backend), desired);

    // Another program adds it again.
    run(&iptables, &["-A", "FORWARD", "-j", "NPC-FORWARD"]);
    assert_eq!(enforcer.drifted(), ["IPv4 hook NPC-FORWARD: the jump from FORWARD is there 2 times"]);
    assert_eq!(forward(backend), desired);

    // Another program removes it.
    run(&iptables, &["-D", "FORWARD", "-j", "NPC-FORWARD"]);
    assert_eq!(enforcer.drifted(), ["IPv4 hook NPC-FORWARD: the jump from FORWARD is gone"]);
    assert_eq!(forward(backend), desired);

    // Another program removes all that is in the table, as a restart of firewalld does.
    for iptables in [&iptables, &format!("ip6tables-{backend}")] {
        run(iptables, &["-F"]);
        run(iptables, &["-X"]);
    }
    assert_eq!(enforcer.drifted().len(), 4);
    assert_eq!(forward(backend), desired[..1]);
    assert_eq!(open(backend).read().unwrap(), KernelState::from(&dropping(&[1])));
}

fn an_agent_takes_over_what_an_earlier_one_left(backend: Backend) {
    let _namespace = Namespace::enter();
    ByHand::new(backend).enforce(&dropping(&[1, 2])).unwrap();
    let before = dump(backend);
    let mut kernel = open(backend);
    kernel.probe().unwrap();
    assert_eq!(dump(backend), before, "asking leaves no trace");
    let mut next = ByHand::of(kernel);
    let (writes, rehooked) = next.enforce(&dropping(&[2])).unwrap();
    assert_eq!(writes, Writes { members_removed: 2, ..Writes::default() });
    assert_eq!(rehooked, []);
    // Half of it was removed by hand in between.
    run("ipset", &["del", "npc4-dropped", "10.0.0.2"]);
    run(&format!("ip6tables-{backend}"), &["-F", "NPC-FORWARD"]);
    let (writes, _) = ByHand::new(backend).enforce(&dropping(&[2])).unwrap();
    assert_eq!(writes, Writes { members_added: 1, chains_written: 1, rules_written: 1, ..Writes::default() });
}

/// What an agent wrote before its first chain judged ICMP errors, and the cluster that it wrote
/// that for.
const OLDER: &str = include_str!("../../../tests/tests/rules/takeover/before.txt");
const OLDER_CLUSTER: &str = include_str!("../../../tests/tests/rules/takeover/cluster.yaml");

fn an_agent_takes_over_the_layout_of_an_older_one(backend: Backend) {
    let _namespace = Namespace::enter();
    let mut sections = OLDER.split("*filter\n");
    feed("ipset", &["restore"], sections.next().unwrap());
    for (tool, rules) in ["iptables", "ip6tables"].into_iter().zip(sections) {
        feed(&format!("{tool}-{backend}-restore"), &["--noflush"], &format!("*filter\n{rules}"));
        run(&format!("{tool}-{backend}"), &["-I", "FORWARD", "-j", "NPC-FORWARD"]);
    }
    let objects = manifests::parse_text("cluster", OLDER_CLUSTER, &manifests::ReadOptions::default()).unwrap();
    let mut agent = enforcer(backend);
    let pass = agent.pass(&objects.objects).unwrap();
    assert_eq!((pass.rehooked.len(), pass.writes.sets_destroyed, pass.writes.members_removed), (0, 0, 0), "{pass:?}");
    assert!(agent.0.holds().unwrap());
    for (tool, protocol) in [("iptables", "icmp"), ("ip6tables", "ipv6-icmp")] {
        let forward = output(&format!("{tool}-{backend}"), &["-S", "NPC-FORWARD"]);
        let errors = format!("-A NPC-FORWARD -p {protocol} -m conntrack --ctstate RELATED -g NPC-RELATED");
        assert!(forward.lines().any(|line| line == errors), "{forward}");
    }
    assert!(agent.pass(&objects.objects).unwrap().writes.is_nothing());
}

fn an_agent_that_moves_to_the_other_backend_leaves_nothing_behind(backend: Backend) {
    let _namespace = Namespace::enter();
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    run(&format!("iptables-{other}"), &["-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP"]);
    let before = filter_rules(other);
    ByHand::new(other).enforce(&dropping(&[1])).unwrap();
    ByHand::new(backend).enforce(&dropping(&[2])).unwrap();
    assert_eq!(filter_rules(other), before);
    assert_eq!(open(backend).read().unwrap(), KernelState::from(&dropping(&[2])));
}

/// All rules and chains of the filter tables of a backend.
fn filter_rules(backend: Backend) -> [String; 2] {
    ["iptables", "ip6tables"].map(|tool| output(&format!("{tool}-{backend}"), &["-S"]))
}

fn a_set_that_is_not_ours_under_our_name_goes_if_it_is_unused(backend: Backend) {
    let _namespace = Namespace::enter();
    run("ipset", &["create", "npc4-dropped", "hash:ip", "timeout", "30"]);
    run("ipset", &["create", "npc6-old", "hash:ip", "family", "inet6", "maxelem", "7"]);
    ByHand::new(backend).enforce(&dropping(&[1])).unwrap();
    assert_eq!(open(backend).read().unwrap(), KernelState::from(&dropping(&[1])));
    assert_eq!(output("ipset", &["list", "-name"]), "npc4-dropped\nnpc6-dropped\n");
}

fn detection_finds_the_backend_with_rules_and_wakes_no_other(backend: Backend) {
    let _namespace = Namespace::enter();
    run(&format!("iptables-{backend}"), &["-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"]);
    let (found, reason) = npc_agent::dataplane::detect::detect().unwrap();
    assert_eq!((found, reason.starts_with("1 rule in ")), (backend, true), "{reason}");
    let legacy_tables = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap();
    assert_eq!(legacy_tables, if backend == Backend::Nft { "" } else { "filter\n" });

    // Kubelet's hint says more than any number of rules.
    let other = if backend == Backend::Nft { Backend::Legacy } else { Backend::Nft };
    run(&format!("iptables-{other}"), &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
    assert_eq!(npc_agent::dataplane::detect::detect().unwrap().0, other);
}
