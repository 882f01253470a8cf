//! What others do to what is ours, under a running agent: it notices, says what
//! it found and puts it right.

use std::fmt::Write as _;
use std::fs::File;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;
use serde_json::Value;

use super::agent::{Agent, Folder, is_hooked};
use super::namespace::{Namespace, feed, output, run};
use super::{dump, on_both_backends};

on_both_backends!(
    half_of_the_chains_come_back,
    half_of_the_members_come_back,
    a_flushed_table_comes_back,
    a_table_without_our_chains_gets_them_back,
    a_foreign_rule_in_a_chain_of_ours_goes_and_is_named,
    a_foreign_member_goes_and_is_named,
    a_member_exchanged_for_another_is_found_in_the_round,
    a_flushed_set_is_filled_again,
    a_set_that_was_made_anew_as_another_type_is_ours_again,
    a_set_whose_name_another_programs_rule_holds_has_another_until_it_goes,
    a_member_that_we_would_never_write_goes_with_its_set,
    another_programs_set_under_our_name_goes_or_is_left_alone_with_a_warning,
    what_another_asks_the_kernel_with_is_left_to_it,
    a_jump_that_was_moved_or_taken_is_first_again,
    what_an_agent_of_another_layout_left_becomes_ours,
    a_set_outgrows_65536_members,
);

/// Isolates web pods for egress, by blocks.
const BLOCKS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
                      spec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  \
                      egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 192.0.2.0/24}}]}]\n";

/// What is in the kernel, sorted, without the chains that nft makes anew by itself.
fn state(backend: Backend) -> Vec<String> {
    let mut lines = dump(backend);
    lines.retain(|line| !line.starts_with(":INPUT") && !line.starts_with(":OUTPUT"));
    lines.sort();
    lines
}

/// An agent whose state is in the kernel, and how that looks.
struct Drifting {
    agent: Agent,
    backend: Backend,
    enforced: Vec<String>,
    folder: Folder,
    _namespace: Namespace,
}

impl Drifting {
    fn new(backend: Backend) -> Self {
        let namespace = Namespace::enter();
        let folder = Folder::new();
        folder.write("blocks.yaml", BLOCKS);
        for n in 3..9 {
            folder.write_pod(&format!("web-{n}"), "web", n);
        }
        let mut agent = Agent::start(&folder, backend, &[]);
        agent.wait(1);
        Self { agent, backend, enforced: state(backend), folder, _namespace: namespace }
    }

    fn iptables(&self, arguments: &[&str]) {
        run(&format!("iptables-{}", self.backend), arguments);
    }

    /// Waits until all is as it was; what was found on the way.
    fn comes_back(&mut self) -> Vec<Value> {
        let mut found = Vec::new();
        loop {
            let entry = self.agent.entry(|entry| {
                let text = entry.to_string();
                ["drift found", "drift repaired", "programmed ruleset", "ruleset unchanged"]
                    .iter()
                    .any(|words| text.contains(words))
            });
            if entry.to_string().contains("drift found") {
                found.push(entry);
            } else if !found.is_empty() && state(self.backend) == self.enforced {
                return found;
            }
        }
    }

    /// The members of all our sets, as `ipset del` takes them.
    fn members(&self) -> Vec<String> {
        let lines = self.enforced.iter().filter_map(|line| line.strip_prefix("add "));
        lines.map(str::to_owned).collect()
    }
}

fn found(entry: &Value) -> [&str; 3] {
    ["kind", "name", "found"].map(|key| entry[key].as_str().unwrap())
}

/// As `npc migrate --node` does beside an agent.
fn what_another_asks_the_kernel_with_is_left_to_it(backend: Backend) {
    let mut world = Drifting::new(backend);
    run("ipset", &["create", "npc4-probe-ip", "hash:ip"]);
    world.iptables(&["-N", "NPC-PROBE"]);
    world.iptables(&["-A", "NPC-PROBE", "-m", "set", "--match-set", "npc4-probe-ip", "src", "-j", "RETURN"]);
    // After this the agent audits everything.
    world.iptables(&["-F", "NPC-DENY-INGRESS"]);
    let found = world.agent.wait_for("drift found");
    assert_eq!(found["name"], "NPC-DENY-INGRESS");
    world.agent.wait_for("drift repaired");
    let left = state(backend);
    let missing: Vec<&String> = world.enforced.iter().filter(|line| !left.contains(line)).collect();
    assert_eq!((missing, left.len()), (Vec::new(), world.enforced.len() + 3), "{left:#?}");
}

fn half_of_the_chains_come_back(backend: Backend) {
    let mut world = Drifting::new(backend);
    let listed = output(&format!("iptables-{backend}"), &["-S"]);
    let chains: Vec<&str> = listed.lines().filter_map(|line| line.strip_prefix("-N NPC-")).collect();
    let half: Vec<&str> = chains.iter().step_by(2).copied().collect();
    // Emptied, and then removed where nothing leads to them any more.
    for chain in &half {
        world.iptables(&["-F", &format!("NPC-{chain}")]);
    }
    for chain in &half {
        // Those that a rule still leads to stay.
        let _ = Command::new(format!("iptables-{backend}")).args(["-X", &format!("NPC-{chain}")]).output();
    }
    let found_all = world.comes_back();
    assert!(found_all.iter().all(|entry| entry["kind"] == "chain"), "{found_all:?}");
}

fn half_of_the_members_come_back(backend: Backend) {
    let mut world = Drifting::new(backend);
    for member in world.members().iter().step_by(2) {
        let words: Vec<&str> = member.split(' ').collect();
        run("ipset", &["del", words[0], words[1]]);
    }
    let found_all = world.comes_back();
    assert!(found_all.iter().any(|entry| found(entry)[2].starts_with("missing: ")), "{found_all:?}");
}

fn a_flushed_table_comes_back(backend: Backend) {
    let mut world = Drifting::new(backend);
    world.iptables(&["-F"]);
    let found_all = world.comes_back();
    assert!(found_all.iter().any(|entry| entry["kind"] == "hook"), "{found_all:?}");
    if backend == Backend::Nft {
        assert!(found_all[0]["by"].as_str().unwrap().starts_with("iptables"), "{found_all:?}");
    }
}

fn a_table_without_our_chains_gets_them_back(backend: Backend) {
    let mut world = Drifting::new(backend);
    for tool in ["iptables", "ip6tables"] {
        // At once, or the agent comes in between.
        feed(&format!("{tool}-{backend}-restore"), &["--noflush"], "*filter\n-F\n-X\nCOMMIT\n");
    }
    world.comes_back();
    assert!(is_hooked(backend));
}

fn a_foreign_rule_in_a_chain_of_ours_goes_and_is_named(backend: Backend) {
    let mut world = Drifting::new(backend);
    world.iptables(&["-I", "NPC-FORWARD", "-s", "192.0.2.7", "-j", "ACCEPT"]);
    let found_all = world.comes_back();
    let logged = ["chain", "NPC-FORWARD", "foreign: -A NPC-FORWARD -s 192.0.2.7/32 -j ACCEPT"];
    assert_eq!(found_all.iter().map(found).collect::<Vec<_>>(), [logged]);
}

fn a_foreign_member_goes_and_is_named(backend: Backend) {
    let mut world = Drifting::new(backend);
    run("ipset", &["add", "npc4-ingress", "10.9.9.9"]);
    let found_all = world.comes_back();
    let logged = ["members", "npc4-ingress", "foreign: 10.9.9.9"];
    assert_eq!(found_all.iter().map(found).collect::<Vec<_>>(), [logged]);
}

fn a_member_exchanged_for_another_is_found_in_the_round(backend: Backend) {
    let mut world = Drifting::new(backend);
    // At once, or the number of members tells.
    feed("ipset", &["restore"], "del npc4-ingress 10.244.1.1\nadd npc4-ingress 10.9.9.9\n");
    let found_all = world.comes_back();
    let logged = ["members", "npc4-ingress", "foreign: 10.9.9.9; missing: 10.244.1.1"];
    assert_eq!(found_all.iter().map(found).collect::<Vec<_>>(), [logged]);
}

fn a_flushed_set_is_filled_again(backend: Backend) {
    let mut world = Drifting::new(backend);
    run("ipset", &["flush", "npc6-egress"]);
    let found_all = world.comes_back();
    assert_eq!(found(&found_all[0])[..2], ["members", "npc6-egress"]);
}

fn a_set_that_was_made_anew_as_another_type_is_ours_again(backend: Backend) {
    let mut world = Drifting::new(backend);
    // Exchanged under our own rules, which still ask it.
    run("ipset", &["create", "other", "hash:ip", "timeout", "1000"]);
    run("ipset", &["swap", "other", "npc4-ingress"]);
    run("ipset", &["destroy", "other"]);
    let said = world.agent.wait_for("drift found");
    assert_eq!(found(&said), ["set", "npc4-ingress", "another program's set has its name"]);
    // First under another name, and then, with theirs gone, under its own.
    while state(backend) != world.enforced {
        world.agent.wait_for("drift repaired");
    }
}

fn a_set_whose_name_another_programs_rule_holds_has_another_until_it_goes(backend: Backend) {
    let _namespace = Namespace::enter();
    // Another program's set under our name, in use.
    run("ipset", &["create", "npc4-ingress", "hash:net"]);
    let rule = ["OUTPUT", "-m", "set", "--match-set", "npc4-ingress", "dst", "-j", "DROP"];
    let iptables = format!("iptables-{backend}");
    run(&iptables, &[&["-A"], &rule[..]].concat());
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait_for("set name taken by another program");
    agent.wait(1);
    assert!(is_hooked(backend));
    let enforced = dump(backend);
    assert!(enforced.contains(&"add npc4-a-ingress 10.244.1.1".to_owned()), "{enforced:#?}");
    // It is kept up to date as any other.
    folder.write_pod("db-2", "db", 4);
    agent.wait(2);
    assert!(dump(backend).contains(&"add npc4-a-ingress 10.244.1.4".to_owned()));
    // Another agent takes it over.
    agent.end(Signal::SIGTERM);
    let mut agent = Agent::start(&folder, backend, &[]);
    assert_eq!(agent.wait(1), "nothing");
    run(&iptables, &[&["-D"], &rule[..]].concat());
    while dump(backend).iter().any(|line| line.contains("npc4-a-")) {
        agent.wait_for("drift repaired");
    }
    assert!(dump(backend).contains(&"add npc4-ingress 10.244.1.4".to_owned()));
}

fn a_member_that_we_would_never_write_goes_with_its_set(backend: Backend) {
    let mut world = Drifting::new(backend);
    let set = world.enforced.iter().find_map(|line| line.strip_prefix("create npc4-p-")?.split_once(" hash:net "));
    let set = format!("npc4-p-{}", set.unwrap().0);
    // Ours are of a revision that has no such members; theirs takes our place.
    run("ipset", &["create", "other", "hash:net", "maxelem", "16777216"]);
    run("ipset", &["add", "other", "10.1.0.0/16", "nomatch"]);
    run("ipset", &["swap", "other", &set]);
    run("ipset", &["destroy", "other"]);
    let said = world.agent.wait_for("drift found");
    assert_eq!(found(&said)[..2], ["set", &set]);
    while state(backend) != world.enforced {
        world.agent.wait_for("drift repaired");
    }
}

fn another_programs_set_under_our_name_goes_or_is_left_alone_with_a_warning(backend: Backend) {
    let mut world = Drifting::new(backend);
    run("ipset", &["create", "npc4-free", "hash:ip"]);
    run("ipset", &["create", "npc4-used", "hash:ip"]);
    let rule = ["OUTPUT", "-m", "set", "--match-set", "npc4-used", "dst", "-j", "DROP"];
    world.iptables(&[&["-A"], &rule[..]].concat());
    let mut logged = Vec::new();
    while logged.len() < 2 {
        let said = world.agent.wait_for("drift found");
        logged.push(found(&said).map(str::to_owned));
    }
    logged.sort();
    let words = [
        ["set", "npc4-free", "no policy needs it; it was removed"],
        ["set", "npc4-used", "no policy needs it, but a rule uses it; it stays"],
    ];
    assert_eq!(logged, words);
    world.agent.wait(1);
    let names = output("ipset", &["list", "-name"]);
    assert!(names.contains("npc4-used") && !names.contains("npc4-free"), "{names}");
    // Pods come and go meanwhile.
    world.folder.write_pod("web-9", "web", 9);
    world.agent.wait(2);
    assert!(dump(backend).contains(&"add npc4-egress 10.244.1.9".to_owned()));
}

fn a_jump_that_was_moved_or_taken_is_first_again(backend: Backend) {
    let mut world = Drifting::new(backend);
    world.iptables(&["-D", "FORWARD", "-j", "NPC-FORWARD"]);
    let found_all = world.comes_back();
    assert_eq!(
        found_all.iter().map(found).collect::<Vec<_>>(),
        [["hook", "NPC-FORWARD", "the jump from FORWARD is gone"]]
    );
    world.iptables(&["-I", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"]);
    let said = world.agent.wait_for("drift found");
    assert_eq!(found(&said)[2], "the jump from FORWARD is not its first rule");
    world.agent.wait_for("drift repaired");
    let rules = output(&format!("iptables-{backend}"), &["-S", "FORWARD"]);
    let rules: Vec<&str> = rules.lines().skip(1).collect();
    assert_eq!(rules, ["-A FORWARD -j NPC-FORWARD", "-A FORWARD -s 192.0.2.1/32 -j ACCEPT"]);
}

fn what_an_agent_of_another_layout_left_becomes_ours(backend: Backend) {
    let fresh = Drifting::new(backend);
    let enforced = fresh.enforced.clone();
    drop(fresh);

    let _namespace = Namespace::enter();
    for (family, tool) in [("inet", "iptables"), ("inet6", "ip6tables")] {
        let four = if family == "inet" { "npc4" } else { "npc6" };
        let sets = format!(
            "create {four}-ingress hash:net family {family}\ncreate {four}-local hash:ip family {family}\n\
             create {four}-i-t hash:ip,port family {family}\n"
        );
        feed("ipset", &["restore"], &sets);
        let rules = format!(
            "*filter\n:NPC-FORWARD - [0:0]\n:NPC-INGRESS - [0:0]\n:NPC-POD-1 - [0:0]\n:NPC-LOG - [0:0]\n\
             -A FORWARD -j NPC-FORWARD\n-A FORWARD -j NPC-INGRESS\n\
             -A NPC-FORWARD -m set --match-set {four}-ingress dst -j NPC-INGRESS\n\
             -A NPC-INGRESS -m set --match-set {four}-local dst -g NPC-POD-1\n\
             -A NPC-POD-1 -m set --match-set {four}-i-t src,src -j ACCEPT\n-A NPC-POD-1 -j NPC-LOG\n\
             -A NPC-LOG -j DROP\nCOMMIT\n"
        );
        feed(&format!("{tool}-{backend}-restore"), &[], &rules);
    }
    let folder = Folder::new();
    folder.write("blocks.yaml", BLOCKS);
    for n in 3..9 {
        folder.write_pod(&format!("web-{n}"), "web", n);
    }
    let mut agent = Agent::start(&folder, backend, &[]);
    agent.wait(1);
    // The jump to a chain that we have too was not ours to remove.
    let mut others = state(backend);
    others.retain(|line| line != "-A FORWARD -j NPC-INGRESS");
    while others != enforced {
        agent.wait_for("drift repaired");
        others = state(backend);
        others.retain(|line| line != "-A FORWARD -j NPC-INGRESS");
    }
}

fn a_set_outgrows_65536_members(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut pods = String::new();
    for n in 0..70_000_u32 {
        let _ = write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: far-{n}, namespace: shop, labels: {{app: web}}}}\n\
             spec: {{nodeName: node-2, containers: [{{name: c, image: i}}]}}\nstatus: {{podIPs: [{{ip: 10.{}.{}.{}}}]}}\n",
            n >> 16 & 255,
            n >> 8 & 255,
            n & 255
        );
    }
    folder.write("far.yaml", &pods);
    let mut agent = Agent::start(&folder, backend, &[]);
    let writes = agent.wait(1);
    let added: u32 = writes.split(", ").find_map(|part| part.strip_suffix(" members added")?.parse().ok()).unwrap();
    assert!(added > 70_000, "{writes}");
    folder.write_pod("web-2", "web", 3);
    assert_eq!(agent.wait(2), "2 members added");
    agent.end(Signal::SIGTERM);
    assert_eq!(Agent::start(&folder, backend, &[]).wait(1), "nothing");
}

#[test]
fn members_come_in_while_the_lock_is_held_and_rules_when_it_is_free() {
    let _namespace = Namespace::enter();
    let lock = File::create("/run/xtables.lock").unwrap();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Legacy, &[]);
    agent.wait(1);
    let held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    folder.write_pod("web-2", "web", 3);
    assert_eq!(agent.wait(2), "2 members added");
    folder.write("blocks.yaml", BLOCKS);
    let said = agent.wait_for("rules wait for the xtables lock");
    let holder = format!("(process {}) holds", std::process::id());
    assert!(said["error"].as_str().unwrap().contains(&holder), "{said}");
    assert!(!dump(Backend::Legacy).iter().any(|line| line.starts_with(":NPC-E-")));
    drop(held);
    agent.wait_for("got the xtables lock");
    agent.wait(3);
    assert!(dump(Backend::Legacy).iter().any(|line| line.starts_with(":NPC-E-")));
}
