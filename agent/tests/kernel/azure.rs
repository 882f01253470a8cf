//! What Azure NPM left goes, and nothing else.

use npc_agent::dataplane::azure::{find_leftovers, remove};
use npc_agent::dataplane::backend::Backend;

use super::namespace::{Namespace, feed, output, run};
use super::{dump, on_both_backends};

on_both_backends!(
    chains_jumps_and_sets_go_and_the_rest_is_byte_for_byte_as_before,
    what_another_program_uses_stays_and_the_rest_goes,
    a_jump_behind_kube_proxys_is_reported,
);

/// Sets of it, a list of sets among them, as `ipset save` prints them.
const SETS: &str = "create azure-npm-1 hash:net family inet hashsize 1024 maxelem 65536
add azure-npm-1 10.0.0.1
create azure-npm-2 hash:ip,port family inet hashsize 1024 maxelem 65536
add azure-npm-2 10.0.0.1,tcp:80
create azure-npm-3 list:set size 8
add azure-npm-3 azure-npm-1
";

/// Rules of it.
const RULES: &str = "*filter
:AZURE-NPM - [0:0]
:AZURE-NPM-INGRESS - [0:0]
:AZURE-NPM-INGRESS-4071348406 - [0:0]
:AZURE-NPM-ACCEPT - [0:0]
-I FORWARD 1 -m conntrack --ctstate NEW -j AZURE-NPM
-A AZURE-NPM -j AZURE-NPM-INGRESS
-A AZURE-NPM -j AZURE-NPM-ACCEPT
-A AZURE-NPM-INGRESS -m set --match-set azure-npm-3 dst -m comment --comment \"INGRESS-POLICY-shop/api\" -j AZURE-NPM-INGRESS-4071348406
-A AZURE-NPM-INGRESS -m mark --mark 0x400/0x400 -j DROP
-A AZURE-NPM-INGRESS-4071348406 -p tcp -m set --match-set azure-npm-2 dst,dst -j RETURN
-A AZURE-NPM-INGRESS-4071348406 -j MARK --set-xmark 0x400/0x400
-A AZURE-NPM-ACCEPT -j ACCEPT
COMMIT
";

/// Rules of others, some with names and words that look like its own.
const OTHERS: &str = "*filter
:KUBE-FORWARD - [0:0]
:AZURE-NPMX - [0:0]
:MY-AZURE-NPM - [0:0]
-A FORWARD -m comment --comment \"not -j AZURE-NPM it is\" -j KUBE-FORWARD
-A FORWARD -d 168.63.129.16/32 -p tcp -m multiport --dports 80,32526 -j DROP
-A FORWARD -j AZURE-NPMX
-A KUBE-FORWARD -m set --match-set KUBE-X src -j ACCEPT
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A MY-AZURE-NPM -j RETURN
COMMIT
";

fn load(backend: Backend) {
    feed("ipset", &["restore"], SETS);
    feed(&format!("iptables-{backend}-restore"), &["--noflush"], RULES);
}

fn load_others(backend: Backend) {
    run("ipset", &["create", "KUBE-X", "hash:ip"]);
    run("ipset", &["create", "my-azure-npm-1", "hash:ip"]);
    feed(&format!("iptables-{backend}-restore"), &["--noflush"], OTHERS);
}

fn chains_jumps_and_sets_go_and_the_rest_is_byte_for_byte_as_before(backend: Backend) {
    let _namespace = Namespace::enter();
    load_others(backend);
    let before = dump(backend);
    load(backend);
    // As its version 1 had it, and left it.
    run(&format!("iptables-{backend}"), &["-A", "FORWARD", "-j", "AZURE-NPM"]);

    let leftovers = find_leftovers().unwrap();
    assert_eq!(leftovers.tables.len(), 1, "{leftovers:?}");
    assert_eq!(
        (leftovers.tables[0].backend, leftovers.tables[0].jumps.len(), leftovers.tables[0].chains.len()),
        (backend, 2, 4)
    );
    assert_eq!(leftovers.sets.len(), 3);
    let removed = remove(&leftovers);
    assert!(removed.errors.is_empty(), "{:?}", removed.errors);
    assert_eq!(removed.gone, leftovers);
    assert_eq!(dump(backend), before);
    assert!(find_leftovers().unwrap().is_nothing());
}

fn what_another_program_uses_stays_and_the_rest_goes(backend: Backend) {
    let _namespace = Namespace::enter();
    load(backend);
    let iptables = format!("iptables-{backend}");
    run(&iptables, &["-A", "OUTPUT", "-j", "AZURE-NPM-ACCEPT"]);
    run(&iptables, &["-A", "OUTPUT", "-m", "set", "--match-set", "azure-npm-1", "dst", "-j", "DROP"]);
    let removed = remove(&find_leftovers().unwrap());
    let errors: Vec<String> = removed.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("AZURE-NPM-ACCEPT"), "{errors:?}");
    assert!(errors[1].contains("azure-npm-1"), "{errors:?}");
    let left = output(&iptables, &["-S"]);
    assert_eq!(left.matches("AZURE-NPM").count(), 2, "the chain, and the rule of others\n{left}");
    assert_eq!(output("ipset", &["list", "-name"]), "azure-npm-1\n");
}

fn a_jump_behind_kube_proxys_is_reported(backend: Backend) {
    let _namespace = Namespace::enter();
    load(backend);
    let at = || find_leftovers().unwrap().tables.remove(0);
    assert!(!at().is_behind_kube_proxy && !at().is_behind_us && !at().drops_by_default);
    let iptables = format!("iptables-{backend}");
    run(&iptables, &["-N", "KUBE-FORWARD"]);
    run(&iptables, &["-I", "FORWARD", "1", "-j", "KUBE-FORWARD"]);
    run(&iptables, &["-N", "NPC-FORWARD"]);
    run(&iptables, &["-I", "FORWARD", "1", "-j", "NPC-FORWARD"]);
    run(&iptables, &["-P", "FORWARD", "DROP"]);
    assert!(at().is_behind_kube_proxy && at().is_behind_us && at().drops_by_default);
}
