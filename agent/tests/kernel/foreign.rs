//! Rules of other programs that iptables cannot read. With any such rule in a table, policies are
//! enforced, and nothing of other programs is touched.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use npc_agent::dataplane::azure::{find_leftovers, remove};
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::detect::detect;
use npc_agent::dataplane::iptables::{Hook, Iptables};
use npc_agent::dataplane::other_engines::other_engines;
use npc_agent::dataplane::{Kernel as _, Linux};
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use serde_json::Value;

use super::agent::{Agent, Folder, wait_ready};
use super::by_hand::ByHand;
use super::namespace::{Namespace, feed, output, run};
use super::on_both_backends;
use super::rulesets::everything;

on_both_backends!(a_rule_whose_extension_is_not_installed_here_is_left_alone,);

/// A rule that iptables cannot read.
const NATIVE: &str = "ct state established,related accept";

/// Where another program has such a rule, in these families.
#[derive(Debug, Clone, Copy)]
struct Place {
    chain: &'static str,
    /// Before all other rules of the chain.
    first: bool,
    families: &'static [&'static str],
}

const BOTH: &[&str] = &["ip", "ip6"];

const PLACES: [Place; 6] = [
    Place { chain: "INPUT", first: false, families: BOTH },
    Place { chain: "INPUT", first: false, families: &["ip"] },
    Place { chain: "FORWARD", first: true, families: &["ip6"] },
    Place { chain: "FORWARD", first: true, families: BOTH },
    Place { chain: "FORWARD", first: false, families: BOTH },
    Place { chain: "VPN", first: false, families: BOTH },
];

impl Place {
    /// Makes the chains that iptables would make, and the rule.
    fn write(self) {
        for family in self.families {
            let tool = if *family == "ip" { "iptables-nft" } else { "ip6tables-nft" };
            feed(
                &format!("{tool}-restore"),
                &["--noflush"],
                "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:VPN -\n-A INPUT -j VPN\n-A FORWARD -j VPN\nCOMMIT\n",
            );
            self.write_rule(family);
        }
    }

    fn write_rule(self, family: &str) {
        let verb = if self.first { "insert" } else { "add" };
        run("nft", &[verb, "rule", family, "filter", self.chain, NATIVE]);
    }
}

/// All of nf_tables, but for counts.
fn ruleset() -> String {
    let text = output("nft", &["list", "ruleset"]);
    let mut words = text.split(' ').peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        kept.push(word);
        if word == "packets" || word == "bytes" {
            words.next();
        }
    }
    kept.join(" ")
}

/// The rules of a chain, as nft prints them.
fn rules(family: &str, chain: &str) -> Vec<String> {
    let text = output("nft", &["list", "chain", family, "filter", chain]);
    let inside = text.lines().skip(2).map(str::trim).filter(|line| !line.starts_with("type ") && *line != "}");
    inside.map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

/// The places of the jump to our chains among the rules of FORWARD.
fn jumps(family: &str) -> Vec<usize> {
    let rules = rules(family, "FORWARD");
    (0..rules.len()).filter(|place| rules[*place].ends_with("jump NPC-FORWARD")).collect()
}

fn assert_enforced(family: &str) {
    assert_eq!(jumps(family), [0], "{family} {:?}", rules(family, "FORWARD"));
    assert!(rules(family, "NPC-FORWARD").len() > 3, "{family}");
    assert_eq!(rules(family, "NPC-DENY-INGRESS").len(), 1, "{family}");
}

fn assert_both_enforced() {
    for family in BOTH {
        assert_enforced(family);
    }
}

fn names(found: &[Value]) -> Vec<&str> {
    found.iter().map(|entry| entry["name"].as_str().unwrap()).collect()
}

#[test]
fn rules_that_were_there_before_the_start_keep_nothing_from_being_enforced() {
    for place in PLACES {
        let _namespace = Namespace::enter();
        place.write();
        let before = ruleset();
        let folder = Folder::new();
        let mut agent = Agent::start(&folder, Backend::Nft, &[]);
        assert!(agent.wait(1).contains("chains written"), "{place:?}");
        assert_both_enforced();
        let enforced = ruleset();
        // Once one thing has changed, the agent audits everything, and finds nothing else.
        run("iptables-nft", &["-F", "NPC-DENY-INGRESS"]);
        assert_eq!(names(&agent.repaired()), ["NPC-DENY-INGRESS"], "{place:?}");
        assert_eq!(ruleset(), enforced, "{place:?}");
        agent.end(Signal::SIGTERM);
        // The next one finds everything, and writes nothing.
        let mut agent = Agent::start(&folder, Backend::Nft, &[]);
        assert_eq!(agent.wait(1), "nothing", "{place:?}");
        assert_eq!(ruleset(), enforced, "{place:?}");
        wait_ready(&folder.ready());
        agent.end(Signal::SIGTERM);
        run(env!("CARGO_BIN_EXE_npc"), &["cleanup"]);
        assert!(!ruleset().contains("NPC-"), "{place:?} {}", ruleset());
        if place.families == BOTH {
            assert_eq!(ruleset(), before, "{place:?}");
        }
    }
}

#[test]
fn rules_that_come_while_it_runs_are_no_drift_but_in_our_place() {
    for place in PLACES {
        let _namespace = Namespace::enter();
        Place { families: BOTH, chain: "VPN", first: false }.write();
        let folder = Folder::new();
        let mut agent = Agent::start(&folder, Backend::Nft, &[]);
        agent.wait(1);
        place.families.iter().for_each(|family| place.write_rule(family));
        if place.first && place.chain == "FORWARD" {
            let mut found = Vec::new();
            while found.len() < place.families.len() {
                found.extend(agent.repaired());
            }
            assert!(found.iter().all(|entry| entry["kind"] == "hook"), "{found:?}");
            let text = found[0].to_string();
            assert!(text.contains("is not its first rule") && text.contains("nft (process"), "{found:?}");
        }
        run("ip6tables-nft", &["-F", "NPC-DENY-INGRESS"]);
        let found = agent.repaired();
        assert_eq!(names(&found), ["NPC-DENY-INGRESS"], "{place:?} {found:?}");
        assert_both_enforced();
        for family in place.families {
            let theirs = rules(family, place.chain).iter().filter(|rule| rule.contains("established,related")).count();
            assert_eq!(theirs, if place.chain == "VPN" { 2 } else { 1 }, "{place:?}");
        }
    }
}

#[test]
fn a_rule_in_a_chain_of_ours_goes_and_is_logged() {
    let _namespace = Namespace::enter();
    // Our own chains are read even if such rules are there.
    PLACES[0].write();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    let enforced = ruleset();
    for (family, verb) in [("ip", "insert"), ("ip6", "add")] {
        run("nft", &[verb, "rule", family, "filter", "NPC-FORWARD", NATIVE]);
        let found = agent.repaired();
        assert_eq!(names(&found), ["NPC-FORWARD"]);
        let message = found[0]["found"].as_str().unwrap();
        assert!(message.starts_with("foreign: a rule that iptables cannot read; missing: "), "{message}");
        assert_eq!(ruleset(), enforced);
    }
    agent.end(Signal::SIGTERM);
    // And where no agent looked.
    for chain in ["NPC-FORWARD", "NPC-DENY-INGRESS"] {
        run("nft", &["insert", "rule", "ip", "filter", chain, NATIVE]);
    }
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    let writes = agent.wait(1);
    assert!(writes.starts_with("2 chains written"), "{writes}");
    assert_eq!(ruleset(), enforced);
}

#[test]
fn a_jump_that_is_there_twice_is_there_once_again() {
    let _namespace = Namespace::enter();
    PLACES[3].write();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    run("nft", &["add", "rule", "ip", "filter", "FORWARD", "counter", "jump", "NPC-FORWARD"]);
    run("nft", &["insert", "rule", "ip", "filter", "FORWARD", "counter", "jump", "NPC-FORWARD"]);
    while jumps("ip") != [0] {
        agent.wait_for("drift repaired");
    }
    // One for some packets only is none of ours.
    let some = "ip saddr 192.0.2.1 counter jump NPC-FORWARD";
    run("nft", &["add", "rule", "ip", "filter", "FORWARD", some]);
    run("iptables-nft", &["-F", "NPC-DENY-INGRESS"]);
    // The agent may still report that it removed the jumps.
    let mut repaired = agent.repaired();
    while names(&repaired) == ["NPC-FORWARD"] {
        repaired = agent.repaired();
    }
    assert_eq!(names(&repaired), ["NPC-DENY-INGRESS"]);
    assert_eq!(jumps("ip").len(), 2);
    let last = rules("ip", "FORWARD").len() - 1;
    assert_eq!(jumps("ip"), [0, last]);
}

#[test]
fn a_forward_chain_elsewhere_is_an_error_and_the_other_family_is_enforced() {
    let elsewhere = "{ type filter hook forward priority -10; }";
    let prerouting = "{ type filter hook prerouting priority 0; }";
    for (theirs, other, name) in [("ip", "ip6", "IPv4"), ("ip6", "ip", "IPv6")] {
        for (made, message) in
            [(elsewhere, "the priority -10"), (prerouting, "the hook prerouting"), ("", "has no hook")]
        {
            let _namespace = Namespace::enter();
            run("nft", &["add", "table", theirs, "filter"]);
            run("nft", &["add", "chain", theirs, "filter", "FORWARD", made]);
            let folder = Folder::new();
            let mut agent = Agent::start(&folder, Backend::Nft, &[]);
            let entry = agent.wait_for("ruleset not programmed");
            let error = entry["error"].as_str().unwrap();
            let named =
                error.starts_with(&format!("{name}: ")) && error.contains(&format!("{name} cannot be enforced: "));
            assert!(named && error.contains(message), "{error}");
            assert_eq!(jumps(theirs), [] as [usize; 0]);
            assert_enforced(other);
            assert!(!folder.ready().exists());
            // What others do to the other family is put right all the same.
            let flush = if other == "ip" { "iptables-nft" } else { "ip6tables-nft" };
            run(flush, &["-F", "FORWARD"]);
            while jumps(other) != [0] {
                agent.wait_for("ruleset not programmed");
            }
            run("nft", &["delete", "chain", theirs, "filter", "FORWARD"]);
            agent.wait(1);
            assert_both_enforced();
            wait_ready(&folder.ready());
        }
    }
}

#[test]
fn a_dormant_table_is_reported() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &[]);
    agent.wait(1);
    run("nft", &["add", "table", "ip", "filter", "{ flags dormant; }"]);
    let entry = agent.wait_for("ruleset not programmed");
    assert!(entry["error"].as_str().unwrap().contains("is dormant"), "{entry}");
    run("nft", &["add", "table", "ip", "filter"]);
    agent.wait(1);
    wait_ready(&folder.ready());
}

#[test]
fn programs_are_read_beside_a_foreign_rule_as_they_were_written() {
    let _namespace = Namespace::enter();
    PLACES[3].write();
    ByHand::new(Backend::Nft).enforce(&everything()).unwrap();
    let mut kernel = Linux::open(Some(Backend::Nft)).unwrap();
    assert_eq!(kernel.read().unwrap(), KernelState::from(&everything()));
    for family in Family::ALL {
        let table = Iptables::new(Backend::Nft, family).unwrap();
        assert_eq!(table.hook().unwrap(), Hook::First);
        for (name, lines) in &KernelState::from(&everything()).family(family).chains {
            assert_eq!(table.chain(name).unwrap().as_ref(), Some(lines));
        }
        let absent = npc_compiler::ruleset::node::ChainName::ours("NPC-ABSENT").unwrap();
        assert_eq!(table.chain(&absent).unwrap(), None);
    }
}

#[test]
fn what_the_kernel_counted_is_read_beside_a_foreign_rule() {
    let _namespace = Namespace::enter();
    PLACES[0].write();
    let folder = Folder::new();
    Agent::start(&folder, Backend::Nft, &[]).wait(1);
    let counts = Linux::open(Some(Backend::Nft)).unwrap().counters().read().unwrap();
    for family in Family::ALL {
        assert!(counts.iter().filter(|count| count.family == family).count() >= 2, "{counts:?}");
    }
}

#[test]
fn azure_npm_is_found_and_removed_beside_a_foreign_rule() {
    for place in PLACES {
        let _namespace = Namespace::enter();
        place.write();
        let before = ruleset();
        feed("ipset", &["restore"], "create azure-npm-1 hash:ip\n");
        feed(
            "iptables-nft-restore",
            &["--noflush"],
            "*filter\n:AZURE-NPM - [0:0]\n:AZURE-NPM-ACCEPT - [0:0]\n-I FORWARD 1 -m conntrack --ctstate NEW -j AZURE-NPM\n\
             -A AZURE-NPM -m set --match-set azure-npm-1 src -j AZURE-NPM-ACCEPT\n-A AZURE-NPM-ACCEPT -j ACCEPT\nCOMMIT\n",
        );
        run("nft", &["add", "rule", "ip", "filter", "AZURE-NPM", NATIVE]);
        assert!(other_engines().unwrap().contains_key("Azure NPM"));
        let leftovers = find_leftovers().unwrap();
        assert_eq!((leftovers.tables.len(), leftovers.sets.len()), (1, 1), "{place:?}");
        assert_eq!((leftovers.tables[0].jumps.len(), leftovers.tables[0].chains.len()), (1, 2), "{place:?}");
        let removed = remove(&leftovers);
        assert!(removed.errors.is_empty(), "{place:?} {:?}", removed.errors);
        assert!(find_leftovers().unwrap().is_nothing(), "{place:?}");
        if place.families.contains(&"ip") {
            assert_eq!(ruleset(), before, "{place:?}");
        }
    }
}

#[test]
fn migrate_compares_the_kernel_beside_a_foreign_rule() {
    let _namespace = Namespace::enter();
    PLACES[3].write();
    let folder = Folder::new();
    let mut agent = Agent::start(&folder, Backend::Nft, &["--log-denied"]);
    agent.wait(1);
    let migrate = || {
        let manifests = folder.manifests();
        let args = ["migrate", "--node", "node-1", "--exit-zero", "-o", "json", "-f"].map(Path::new);
        let answer = Command::new(env!("CARGO_BIN_EXE_npc")).args(args).arg(&manifests).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        serde_json::from_slice::<Value>(&answer.stdout).unwrap()["node"].clone()
    };
    let found = migrate();
    assert_eq!(found["holds"], true, "{found}");
    assert_eq!((&found["options"]["logDenied"], &found["optionsGuessed"]), (&true.into(), &Value::Null), "{found}");
    // It would take the rule out.
    drop(agent);
    run("nft", &["add", "rule", "ip", "filter", "NPC-FORWARD", NATIVE]);
    let differs = migrate()["differs"].to_string();
    assert_eq!(differs, "[\"IPv4: chain NPC-FORWARD has other rules\"]");
}

#[test]
fn the_backend_is_found_where_iptables_cannot_count() {
    let _namespace = Namespace::enter();
    PLACES[0].write();
    run("iptables-legacy", &["-A", "FORWARD", "-s", "192.0.2.1", "-j", "ACCEPT"]);
    assert_eq!(detect().unwrap().0, Backend::Nft);
    // Kubelet's hint is found in a table that iptables cannot read, too.
    feed("iptables-legacy-restore", &["--noflush"], &format!("*filter\n{}COMMIT\n", "-A INPUT -j ACCEPT\n".repeat(20)));
    assert_eq!(detect().unwrap().0, Backend::Legacy);
    run("iptables-nft", &["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]);
    run("nft", &["add", "rule", "ip", "mangle", "KUBE-IPTABLES-HINT", NATIVE]);
    assert_eq!(detect().unwrap().0, Backend::Nft);
}

/// As where a hardening script uses an extension that is not in npc's image.
fn a_rule_whose_extension_is_not_installed_here_is_left_alone(backend: Backend) {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let extensions = folder.path("extensions");
    fs::create_dir(&extensions).unwrap();
    let found = output("find", &["/usr/lib", "-name", "libxt_set.so"]);
    for entry in fs::read_dir(Path::new(found.trim()).parent().unwrap()).unwrap().flatten() {
        if entry.file_name() != "libxt_statistic.so" {
            fs::copy(entry.path(), extensions.join(entry.file_name())).unwrap();
        }
    }
    let unknown = ["-m", "statistic", "--mode", "nth", "--every", "2", "--packet", "0", "-j", "ACCEPT"];
    let iptables = format!("iptables-{backend}");
    for chain in ["INPUT", "FORWARD"] {
        run(&iptables, &[&["-A", chain], &unknown[..]].concat());
    }
    let start = || Agent::start_with(&folder, backend, &[], &[("XTABLES_LIBDIR", extensions.to_str().unwrap())]);
    let mut agent = start();
    assert!(agent.wait(1).contains("chains written"));
    let enforced = super::dump(backend);
    let first = || output(&iptables, &["-S", "FORWARD", "1"]);
    assert_eq!(first(), "-A FORWARD -j NPC-FORWARD\n");
    run(&iptables, &["-F", "NPC-DENY-INGRESS"]);
    assert_eq!(names(&agent.repaired()), ["NPC-DENY-INGRESS"]);
    run(&iptables, &[&["-I", "FORWARD"], &unknown[..]].concat());
    agent.wait_for("drift repaired");
    assert_eq!(first(), "-A FORWARD -j NPC-FORWARD\n");
    run(&iptables, &[&["-D", "FORWARD"], &unknown[..]].concat());
    // In a chain of ours it is found, and goes.
    run(&iptables, &[&["-A", "NPC-FORWARD"], &unknown[..]].concat());
    let found = agent.repaired();
    assert_eq!(names(&found), ["NPC-FORWARD"]);
    assert!(found[0]["found"].as_str().unwrap().starts_with("foreign: a rule that iptables cannot read"), "{found:?}");
    agent.end(Signal::SIGTERM);
    let mut agent = start();
    assert_eq!(agent.wait(1), "nothing");
    assert_eq!(super::dump(backend), enforced);
    agent.end(Signal::SIGTERM);
    run(&iptables, &["-A", "FORWARD", "-j", "NPC-FORWARD"]);
    let cleanup = Command::new(env!("CARGO_BIN_EXE_npc")).arg("cleanup").env("XTABLES_LIBDIR", &extensions).output();
    let said = String::from_utf8(cleanup.unwrap().stderr).unwrap();
    let left = super::dump(backend).concat();
    assert!(!left.contains("NPC-") && left.matches("statistic").count() == 2, "{said} {left}");
}
