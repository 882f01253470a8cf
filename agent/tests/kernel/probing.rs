//! Kernels and iptables that lack something: it is worked around, or nothing is
//! written, and the log says what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use ipnetwork::IpNetwork;
use nix::mount::{MsFlags, mount};
use npc_agent::dataplane::backend::Backend;
use npc_agent::dataplane::{Error, Kernel, Linux};
use npc_agent::enforce::Enforcer;
use npc_compiler::object::Family;
use npc_compiler::plan::{FamilyState, KernelState};
use npc_compiler::ruleset::layout::RulesetOptions;
use npc_compiler::ruleset::node::{ChainName, Match, Rule, Target};
use npc_compiler::ruleset::text::rule_line;

use super::by_hand::ByHand;
use super::namespace::{Namespace, hide_file, leave_file_system, output};
use super::on_both_backends;
use super::rulesets::everything;
use super::{anti_spoof, dump};

on_both_backends!(
    without_what_every_policy_needs_nothing_is_written_and_the_words_name_it,
    without_bpf_each_endpoint_has_a_rule_of_its_own,
    without_matches_for_neighbour_discovery_and_errors_everything_else_is_enforced,
    without_the_log_everything_else_is_enforced,
    without_ipv6_the_other_family_is_enforced,
);

/// The file of an extension of iptables.
pub(crate) fn extension(name: &str) -> PathBuf {
    let folders = ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables", "/usr/lib/xtables"];
    let file = folders.iter().map(|folder| Path::new(folder).join(name)).find(|file| file.exists());
    file.unwrap_or_else(|| panic!("where does this system keep {name}?"))
}

/// Runs a test where iptables lacks an extension, as where it was not installed
/// or the kernel has no module of that name; in a thread of its own, because it
/// leaves the file system of the others.
fn without(name: &str, test: impl FnOnce() + Send + 'static) {
    let file = extension(name);
    let hidden = move || {
        let _namespace = Namespace::enter();
        hide_file(&file);
        test();
    };
    thread::spawn(hidden).join().unwrap();
}

fn agent(backend: Backend, options: RulesetOptions) -> Enforcer<Linux> {
    let mut agent = Enforcer::new(Linux::open(Some(backend)).unwrap(), "node-1").with_options(options);
    agent.take(anti_spoof::guarded("10.0.0.1"));
    agent
}

fn without_what_every_policy_needs_nothing_is_written_and_the_words_name_it(backend: Backend) {
    for (file, words, families) in [
        ("libxt_conntrack.so", "the match conntrack (established connections)", &Family::ALL[..]),
        ("libxt_set.so", "the match set (peers and endpoints)", &Family::ALL),
        ("libxt_multiport.so", "the match multiport (several ports)", &Family::ALL),
        ("libxt_tcp.so", "the match tcp (single ports)", &Family::ALL),
        ("libxt_udp.so", "the match udp (single ports)", &Family::ALL),
        ("libxt_comment.so", "the match comment", &Family::ALL),
        ("libxt_addrtype.so", "the match addrtype (broadcasts on a bridge)", &[Family::V4]),
        ("libip6t_icmp6.so", "the match icmp6 (neighbour discovery)", &[Family::V6]),
    ] {
        without(file, move || {
            let error = agent(backend, RulesetOptions::default()).pass(&anti_spoof::network()).unwrap_err();
            let Error::Families(failed) = &error else { panic!("{file}: {error}") };
            assert_eq!(failed.families().collect::<Vec<_>>(), families, "{file}: {error}");
            for (family, error) in failed.iter() {
                let named = format!("{words} for {family} (");
                assert!(
                    matches!(error, Error::MissingMatches(_)) && error.to_string().contains(&named),
                    "{file}: {error}"
                );
            }
            let left = dump(backend);
            // What one family lacks keeps the other from nothing.
            for (family, sets, tool) in [(Family::V4, "npc4-", "iptables"), (Family::V6, "npc6-", "ip6tables")] {
                let is_hooked = output(&format!("{tool}-{backend}"), &["-S", "FORWARD"]).contains("-j NPC-FORWARD");
                let has_sets = left.iter().any(|line| line.contains(sets));
                assert_eq!(
                    (is_hooked, has_sets),
                    (!families.contains(&family), is_hooked),
                    "{file} {family}: {left:#?}"
                );
            }
        });
    }
}

fn without_bpf_each_endpoint_has_a_rule_of_its_own(backend: Backend) {
    without("libxt_bpf.so", move || {
        let capabilities = Linux::open(Some(backend)).unwrap().probe().unwrap();
        assert!(!capabilities.bpf && capabilities.missing.iter().all(|lack| lack.what.contains("the match bpf")));
        assert_eq!(capabilities.missing.len(), 4, "two uses in either family: {:?}", capabilities.missing);
        let mut agent = agent(backend, RulesetOptions::default());
        assert!(agent.pass(&anti_spoof::network()).unwrap().writes.chains_written > 0);
        assert!(agent.holds().unwrap());
        let state = Linux::open(Some(backend)).unwrap().read().unwrap();
        let address: IpNetwork = "10.0.0.1/32".parse().unwrap();
        let own = Rule {
            matches: vec![Match::Source(address), Match::Destination(address), Match::Translated],
            target: Target::Return,
        };
        let forward = &state.v4.chains[&ChainName::forward()];
        assert!(forward.contains(&own), "{forward:#?}");
        // Nothing shows what an error of a pod quotes, so none passes.
        for actual in [&state.v4, &state.v6] {
            let related = &actual.chains[&ChainName::related()];
            assert!(related[..2].iter().all(|rule| rule.target == Target::Drop), "{related:#?}");
            assert_eq!(related[1].matches[0], Match::FromPods);
        }
    });
}

fn without_matches_for_neighbour_discovery_and_errors_everything_else_is_enforced(backend: Backend) {
    for (file, module, families) in
        [("libip6t_hl.so", "hl", 1), ("libxt_length.so", "length", 2), ("libxt_devgroup.so", "devgroup", 2)]
    {
        without(file, move || {
            let capabilities = Linux::open(Some(backend)).unwrap().probe().unwrap();
            let what = format!("the match {module} (");
            assert!(capabilities.bpf && capabilities.missing.iter().all(|lack| lack.what.starts_with(&what)));
            assert_eq!(capabilities.missing.len(), families, "{:?}", capabilities.missing);
            let mut agent = agent(backend, RulesetOptions::default());
            assert!(agent.pass(&anti_spoof::network()).unwrap().writes.chains_written > 0);
            assert!(agent.holds().unwrap());
            let state = Linux::open(Some(backend)).unwrap().read().unwrap();
            let lacks = npc_compiler::ruleset::layout::MissingMatches::of_actual(&state);
            assert_eq!(lacks, capabilities.lacks, "{file}");
            let rules = [(Family::V4, &state.v4), (Family::V6, &state.v6)].into_iter().flat_map(|(family, actual)| {
                actual.chains.iter().flat_map(move |(chain, rules)| rules.iter().map(move |rule| (family, chain, rule)))
            });
            let lines: Vec<String> = rules.map(|(family, chain, rule)| rule_line(family, chain, rule)).collect();
            assert!(!lines.iter().any(|line| line.contains(&format!(" -m {module} "))), "{file}");
            // Neighbours find each other all the same.
            let is_solicitation = |line: &&String| line.contains("--icmpv6-type 135") && line.ends_with("-j RETURN");
            assert_eq!(lines.iter().filter(is_solicitation).count(), 1, "{file}");
        });
    }
}

fn without_the_log_everything_else_is_enforced(backend: Backend) {
    for file in ["libxt_NFLOG.so", "libxt_limit.so"] {
        without(file, move || {
            let lack = Linux::open(Some(backend)).unwrap().probe().unwrap().no_log.unwrap().to_string();
            assert!(lack.contains("the target NFLOG or the match limit (--log-denied)"), "{lack}");
            let mut agent = agent(backend, RulesetOptions { log_denied: true, ..RulesetOptions::default() });
            assert!(agent.pass(&anti_spoof::network()).unwrap().writes.chains_written > 0);
            assert!(agent.holds().unwrap());
            assert!(!dump(backend).iter().any(|line| line.contains("NFLOG")));
        });
    }
}

/// As with `ipv6.disable=1`, where ip6tables would only fail.
fn without_ipv6_the_other_family_is_enforced(backend: Backend) {
    let test = move || {
        let _namespace = Namespace::enter();
        leave_file_system();
        mount(Some("tmpfs"), "/proc/thread-self/net", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert!(fs::read_dir("/proc/thread-self/net").unwrap().next().is_none());
        let mut agent = ByHand::new(backend);
        agent.enforce(&everything()).unwrap();
        let actual = Linux::open(Some(backend)).unwrap().read().unwrap();
        let mut desired = KernelState::from(&everything());
        desired.v6 = FamilyState::default();
        assert_eq!(actual, desired);
        let dump = dump(backend);
        assert!(!dump.iter().any(|line| line.contains("npc6-")), "{dump:#?}");
    };
    thread::spawn(test).join().unwrap();
}
