//! The kernel's text stays as it is, byte by byte: operators and scripts read it, and
//! an agent that spells it otherwise would write every rule of every node anew.
//!
//! `NPC_GOLDEN=write` in the environment writes the files instead of comparing them.

#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cluster::Cluster;
use crate::object::{Family, Objects};
use crate::plan::{KernelState, Plan, Step};
use crate::ruleset::layout::{self, Bounds, MissingMatches, RulesetOptions, SelfMatch};
use crate::ruleset::names::seed::Seed;
use crate::ruleset::text;
use crate::sample::{self, pod, policy};

/// Compares a text with the file of that name.
fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ruleset/golden").join(name);
    if std::env::var_os("NPC_GOLDEN").is_some_and(|what| what == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let differs = golden.lines().zip(text.lines()).position(|(golden, now)| golden != now);
    let line = differs.unwrap_or_else(|| golden.lines().count().min(text.lines().count()));
    let [was, is] = [golden.as_str(), text].map(|text| text.lines().nth(line));
    assert!(golden == text, "{name}:{}: it was {was:?} and is {is:?}", line + 1);
}

fn objects(pods: &[String], policies: &[String]) -> Objects {
    let mut objects = Objects {
        pods: pods.iter().map(|text| pod(text)).collect(),
        policies: policies.iter().map(|text| policy(text)).collect(),
        ..Objects::default()
    };
    objects.declare_namespaces();
    objects
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A bit of everything that rules can say.
fn shop() -> Objects {
    let mut objects = objects(
        &owned(&[
            "shop/web-1 app=web 10.0.0.1 fd00::1 @n",
            "shop/web-2 app=web 10.0.0.2 fd00::2 @n",
            "shop/db-1 app=db 10.0.0.3 fd00::3 :pg=5432 :stats=9000/UDP @n",
            "shop/job-1 app=job tier=back 10.0.0.4 @n",
            "shop/mail-1 app=mail 10.0.0.4 @n",
            "shop/far-1 app=web 10.0.1.1 fd00:1::1 :http=8080 @m",
            "ops/probe-1 app=probe 10.0.1.2 fd00:1::2 :http=9090 @m",
        ]),
        &owned(&[
            r#"shop/web {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": 80}, {"port": 443}, {"port": 8000, "endPort": 8100}]}],
                "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}], "ports": [{"port": "pg"}]},
                           {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.0/24"]}}]},
                           {"to": [{"ipBlock": {"cidr": "2001:db8::/32"}}], "ports": [{"protocol": "UDP"}]}]}"#,
            r#"shop/db {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "pg"}]},
                            {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "probe"}}}],
                             "ports": [{"port": "stats", "protocol": "UDP"}, {"port": 3868, "protocol": "SCTP"}]}],
                "egress": [{}]}"#,
            r#"shop/job {"podSelector": {"matchLabels": {"app": "job"}}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
                "egress": [{"to": [{"namespaceSelector": {}, "podSelector": {}}], "ports": [{"port": "http"}]}]}"#,
            r#"shop/mail {"podSelector": {"matchLabels": {"app": "mail"}}, "ingress": [{"ports": [{"port": 25}]}]}"#,
        ]),
    );
    for (pod, uid) in objects.pods.iter_mut().zip(1..) {
        pod.uid = format!("u{uid}");
    }
    objects
}

/// Enough groups that some agree in all the bits that the dispatch tree distinguishes.
fn many_pods() -> Objects {
    let pods: Vec<String> = (0..48).map(|n| format!("a/p{n} group={n} 10.0.0.{n} @n")).collect();
    let policies: Vec<String> = (0..48)
        .map(|n| {
            let peers = n / 8;
            format!(
                r#"a/np{n} {{"podSelector": {{"matchLabels": {{"group": "{n}"}}}},
                    "ingress": [{{"from": [{{"podSelector": {{"matchLabels": {{"group": "{peers}"}}}}}}]}}]}}"#
            )
        })
        .collect();
    objects(&pods, &policies)
}

/// The sets and rules of a node, as the kernel's tools read them.
fn text(objects: &Objects, options: &RulesetOptions) -> String {
    let program = layout::ruleset(&Cluster::new(objects), "n", options);
    let families = Family::ALL.map(|family| program.family(family));
    for part in families {
        assert_eq!(text::chains(part.family, &part.restore_text()), part.chains);
    }
    let texts = families.iter().map(|family| family.ipset_text());
    texts.chain(families.iter().map(|family| family.restore_text())).collect()
}

#[test]
fn sets_and_rules_are_what_they_were() {
    check("shop.txt", &text(&shop(), &RulesetOptions::default()));
    check(
        "shop-all-options.txt",
        &text(&shop(), &RulesetOptions { log_denied: true, anti_spoof: true, ..RulesetOptions::default() }),
    );
    let lacks = MissingMatches { hop_limit: true, length: true, device_group: true };
    let (self_match, keep_established, allow_tunnels) = (SelfMatch::PerEndpoint, true, true);
    let poor = RulesetOptions { self_match, lacks, keep_established, allow_tunnels, ..RulesetOptions::default() };
    check("shop-poor-kernel.txt", &text(&shop(), &poor));
    check("many_pods.txt", &text(&many_pods(), &RulesetOptions::default()));
    check("empty.txt", &text(&Objects::default(), &RulesetOptions::default()));
}

/// Any rules are read as they were written. Otherwise an agent would write rules again and again
/// that are there already.
#[test]
fn rules_are_read_as_they_were_written() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let flags = || (any::<bool>(), any::<bool>(), any::<bool>());
    runner
        .run(
            &(sample::objects(), flags(), flags(), flags()),
            |(objects, lacks, choices, (is_poor, log_denied, is_keyed))| {
                let (hop_limit, length, device_group) = lacks;
                let (keep_established, allow_tunnels, anti_spoof) = choices;
                let options = RulesetOptions {
                    self_match: if is_poor { SelfMatch::PerEndpoint } else { SelfMatch::Bpf },
                    lacks: MissingMatches { hop_limit, length, device_group },
                    keep_established,
                    allow_tunnels,
                    log_denied,
                    anti_spoof,
                    bounds: Bounds::default(),
                    seed: is_keyed.then(|| Seed::from_bytes([1; 32])),
                };
                for node in ["n0", "n1"] {
                    let program = layout::ruleset(&Cluster::new(&objects), node, &options);
                    for part in Family::ALL.map(|family| program.family(family)) {
                        prop_assert_eq!(text::chains(part.family, &part.restore_text()), part.chains.clone());
                    }
                }
                Ok(())
            },
        )
        .unwrap();
}

/// This covers the names of sets that stand in for others while a plan is carried out too.
#[test]
fn the_writes_of_a_plan_are_what_they_were() {
    let mut edited = shop();
    edited.policies.remove(3);
    edited.pods.remove(1);
    edited.pods[0].labels.insert("app".to_owned(), "db".to_owned());
    let state = |objects: &Objects| {
        KernelState::from(&layout::ruleset(&Cluster::new(objects), "n", &RulesetOptions::default()))
    };
    let plan = Plan::between(&state(&shop()), &state(&edited));
    let mut text = String::new();
    for step in &plan.steps {
        match step {
            Step::Sets(writes) => writes.iter().for_each(|write| writeln!(text, "{write}").unwrap()),
            Step::Chains(family, writes) => write!(text, "# {family}\n{}", writes.restore_text(*family)).unwrap(),
            Step::Grace => text.push_str("# grace\n"),
        }
    }
    check("plan.txt", &text);
}
