//! Azure NPM's rules for known clusters, and the compiler's model of Azure NPM.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use npc_agent::source::manifests;
use npc_compiler::azure::{Model, Placement};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects, Protocol};
use npc_compiler::verdict::flow::End;
use npc_tests::azure::{Capture, Outcome, Packet};
use npc_tests::corpora::beside;

/// A real capture, of Azure NPM 1.4.43, where it lies beside the repository.
fn real_capture() -> Option<PathBuf> {
    beside("corpora/azure-npm")
}

fn objects(folder: &Path) -> Objects {
    manifests::load(&[folder.join("cluster.yaml")], &manifests::ReadOptions::default()).unwrap().objects
}

fn capture(folder: &Path, rules: &str) -> Capture {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    Capture::read(&read(rules), &read("ipset-save.txt")).unwrap()
}

/// Where something can change: the edges of all ports that policies and pods
/// name, and of everything.
fn ports() -> Vec<u16> {
    let named = [53_u16, 443, 3000, 3100, 5432, 6379, 8080, 9000, 9090, 9100];
    let edges = named.iter().flat_map(|port| [port - 1, *port, port + 1]);
    edges.chain([1, u16::MAX]).collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn the_model_judges_as_the_captured_rules_do() {
    let Some(folder) = real_capture() else { return };
    let outside = ["203.0.112.255", "203.0.113.0", "203.0.113.127", "203.0.113.128", "203.0.113.255", "203.0.114.0"];
    let outside: Vec<&str> =
        outside.into_iter().chain(["8.8.8.8", "10.244.1.1", "10.244.1.8", "168.63.129.16"]).collect();
    let [asked, allowed] = compare(&folder, "iptables-nft-save.txt", &outside);
    // Neither is trivial.
    assert_eq!(asked, (16 * 16 - 10 * 10) * (3 * ports().len() + 1));
    assert!(allowed > asked / 20 && allowed < asked / 2, "{allowed} of {asked} allowed");
}

#[test]
fn the_model_judges_as_our_own_rules_of_its_form_do() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/azure-npm");
    let outside =
        ["198.51.99.255", "198.51.100.0", "198.51.100.63", "198.51.100.64", "198.51.100.127", "198.51.100.128"];
    let outside: Vec<&str> =
        outside.into_iter().chain(["198.51.100.255", "198.51.101.0", "8.8.8.8", "10.250.0.9"]).collect();
    let [asked, allowed] = compare(&folder, "iptables-save.txt", &outside);
    assert_eq!(asked, (14 * 14 - 10 * 10) * (3 * ports().len() + 1));
    assert!(allowed > asked / 20 && allowed < asked / 2, "{allowed} of {asked} allowed");
}

/// Asks the model and the rules about all pairs of pods and these addresses; how many
/// packets that were, and how many were allowed.
fn compare(folder: &Path, rules: &str, outside: &[&str]) -> [usize; 2] {
    let (objects, capture) = (objects(folder), capture(folder, rules));
    let cluster = Cluster::new(&objects);
    let model = Model::new(&cluster, &objects.policies, Placement::First);
    let pods: Vec<Ipv4Addr> = objects.pods.iter().filter_map(|pod| pod.ipv4).collect();
    let outside = outside.iter().copied();
    let addresses: Vec<Ipv4Addr> = pods.into_iter().chain(outside.map(|text| text.parse().unwrap())).collect();
    let (mut asked, mut allowed) = (0, 0);
    for (source, destination) in addresses.iter().flat_map(|from| addresses.iter().map(move |to| (*from, *to))) {
        let [from, to] = [source, destination].map(|address| End::of_address(&cluster, IpAddr::V4(address)));
        let traffic = match (from, to) {
            // No policy is asked about these, so there is no model of them.
            (End::Address(_), End::Address(_)) => continue,
            _ => model.verdict(from, to, Some(Family::V4)),
        };
        let with_ports = Protocol::ALL.into_iter().flat_map(|protocol| ports().into_iter().map(move |p| (protocol, p)));
        for port in with_ports.map(Some).chain([None]) {
            let outcome = capture.run(&Packet { source, destination, port });
            let modelled = port.map_or(traffic.other, |(protocol, port)| traffic.of(protocol).contains(port));
            let expected = if modelled { Outcome::Accepted } else { Outcome::Dropped };
            assert_eq!(outcome, expected, "{source} -> {destination} {port:?}");
            asked += 1;
            allowed += usize::from(modelled);
        }
    }
    [asked, allowed]
}
