//! Random clusters, judged by the compiler and by the oracle: every flow of
//! every cluster must come out the same.
//!
//! `NPC_CASES` is the number of clusters (`make test-full` asks for many), `NPC_SEED`
//! where to begin. A failure
//! prints the smallest cluster that still fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::fmt::Write as _;
use std::thread;

use npc_compiler::object::{Family, Objects, Protocol};
use npc_tests::agreement::differences;
use npc_tests::oracle::{Oracle, Packet, Payload};
use npc_tests::random;
use proptest::test_runner::{TestCaseError, TestError};

const CASES: u32 = 60;

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().map_or(default, |text| text.parse().ok().unwrap_or_else(|| panic!("{name}={text}")))
}

#[test]
fn the_compiler_agrees_with_the_oracle_about_every_flow_of_random_clusters() {
    let cases: u32 = from_environment("NPC_CASES", CASES);
    let seed: u64 = from_environment("NPC_SEED", 1);
    let threads: u32 = thread::available_parallelism().map_or(1, |count| count.get().try_into().unwrap());
    thread::scope(|scope| {
        for thread in 0..threads {
            let share = cases / threads + u32::from(thread < cases % threads);
            scope.spawn(move || agree(seed.wrapping_add(thread.into()), share));
        }
    });
}

fn agree(seed: u64, cases: u32) {
    let check = |objects: Objects| match differences(&objects, &[]).as_slice() {
        [] => Ok(()),
        differences => Err(TestCaseError::fail(differences.join("\n"))),
    };
    match random::runner(seed, cases).run(&random::objects(), check) {
        Ok(()) => {}
        Err(TestError::Fail(reason, objects)) => panic!("{reason}\n\n{}", describe(&objects)),
        Err(error @ TestError::Abort(_)) => panic!("{error}"),
    }
}

/// A cluster, shorter than its `Debug` form.
fn describe(objects: &Objects) -> String {
    let mut text = String::new();
    for namespace in &objects.namespaces {
        writeln!(text, "namespace {} {:?}", namespace.name, namespace.labels).unwrap();
    }
    for node in &objects.nodes {
        writeln!(text, "node {} {:?}", node.name, node.addresses).unwrap();
    }
    for pod in &objects.pods {
        writeln!(text, "{pod:?}").unwrap();
    }
    for policy in &objects.policies {
        let object = serde_json::to_string(&policy.object).unwrap();
        writeln!(text, "policy {object} unknown {:?}", policy.unknown_fields).unwrap();
    }
    text
}

#[test]
fn a_seed_always_makes_the_same_cluster() {
    assert_eq!(random::cluster(7), random::cluster(7));
    assert_ne!(random::cluster(7), random::cluster(8));
}

/// The oracle's ranges stand on where it looks; here it looks everywhere.
#[test]
fn the_oracles_ranges_of_ports_are_what_it_says_of_every_single_port() {
    for seed in 0..2 {
        let objects = random::cluster(seed);
        let oracle = Oracle::new(&objects);
        let ends: Vec<_> = oracle.endpoints().into_iter().map(npc_tests::oracle::End::Pod).collect();
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))).take(3) {
            let ranges = oracle.allowed_ports(from, to, Family::V4, Protocol::Tcp);
            for port in 1..=u16::MAX {
                let packet = Packet { family: Family::V4, payload: Payload::Port(Protocol::Tcp, port) };
                let in_ranges = ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
                assert_eq!(in_ranges, oracle.allows(from, to, packet).allowed(), "seed {seed} port {port}");
            }
        }
    }
}

/// Clusters in which nothing or everything is allowed would prove nothing.
#[test]
fn random_clusters_hold_every_kind_of_verdict() {
    let (mut allowed, mut denied, mut partial) = (0, 0, 0);
    for seed in 0..200 {
        let objects = random::cluster(seed);
        let oracle = Oracle::new(&objects);
        let ends: Vec<_> = oracle.endpoints().into_iter().map(npc_tests::oracle::End::Pod).collect();
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))) {
            if from == to || oracle.address(from, Family::V4).is_none() || oracle.address(to, Family::V4).is_none() {
                continue;
            }
            match oracle.allowed_ports(from, to, Family::V4, Protocol::Tcp).as_slice() {
                [] => denied += 1,
                [(1, u16::MAX)] => allowed += 1,
                _ => partial += 1,
            }
        }
    }
    let all = allowed + denied + partial;
    for (verdict, count) in [("allowed", allowed), ("denied", denied), ("partial", partial)] {
        assert!(count * 16 > all, "{verdict}: only {count} of {all} pairs");
    }
}
