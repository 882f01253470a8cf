//! np-guard's corpus: clusters with the connections that another analyser of
//! NetworkPolicy found in them, which yet another one confirmed. Used where it
//! lies next to the project; it is no part of it.
//!
//! np-guard sees some things otherwise than a cluster does, so the clusters
//! are bent before they are compared: pods on the host's network count as any
//! other, nodes do not matter, and a block never matches a pod. For the last,
//! pods talk to each other by IPv6 here, and to the outside by IPv4, which all
//! blocks of the corpus are of.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use npc_agent::source::manifests;
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects, Pod, Protocol};
use npc_compiler::verdict::matrix::{self, By};
use npc_tests::random;
use serde::Deserialize;

/// One line of `index.json`.
#[derive(Deserialize)]
struct Case {
    case: String,
    /// It has kinds other than NetworkPolicy that decide too.
    anp: bool,
}

/// One line of `expected.json`.
#[derive(Deserialize)]
struct Row {
    src: String,
    dst: String,
    conn: String,
}

/// Ports by protocol.
type Ports = BTreeMap<Protocol, BTreeSet<(u16, u16)>>;

/// What is allowed, by source and destination; nothing where there is no
/// entry.
type Allowed = BTreeMap<(String, String), Ports>;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora/np-guard")
}

/// To standard error past the test harness, which shows only what failing
/// tests print.
fn say(text: &str) {
    io::stderr().write_all(format!("np-guard corpus: {text}\n").as_bytes()).unwrap();
}

#[test]
fn the_matrix_is_what_np_guard_expects() {
    let corpus = corpus();
    let Ok(index) = fs::read_to_string(corpus.join("index.json")) else {
        say(&format!("SKIPPED, it is not at {}", corpus.display()));
        return;
    };
    let cases: Vec<Case> = serde_json::from_str(&index).unwrap();
    let (mut ran, mut skipped, mut flows) = (0, 0, 0);
    let mut failed = Vec::new();
    for case in &cases {
        if case.anp {
            skipped += 1;
            continue;
        }
        ran += 1;
        match compare(&corpus.join("cases").join(&case.case)) {
            Ok(compared) => flows += compared,
            Err(differences) => failed.push(format!("{}:\n  {}", case.case, differences.join("\n  "))),
        }
    }
    say(&format!("{ran} cases ran, {flows} pairs compared; {skipped} skipped (not NetworkPolicy v1 alone)"));
    assert!(failed.is_empty(), "{} of {ran} cases differ:\n{}", failed.len(), failed.join("\n"));
    assert!(ran > 0, "the corpus is empty");
}

/// How many pairs were compared, or what differs.
fn compare(case: &Path) -> Result<usize, Vec<String>> {
    let options = manifests::Options { allow_errors: true, ..manifests::Options::default() };
    let loaded = manifests::load(&[case.join("manifests")], &options);
    let mut objects = loaded.map_err(|errors| vec![format!("does not load: {errors}")])?.objects;
    let owners = bend(&mut objects);

    let text = fs::read_to_string(case.join("expected.json")).unwrap();
    let rows: Vec<Row> = serde_json::from_str(&text).unwrap();
    // The edges that np-guard knows, and ours, should it have joined ranges.
    let ranges = rows.iter().flat_map(|row| [external(&row.src), external(&row.dst)]).flatten();
    let mut addresses: BTreeSet<Ipv4Addr> = ranges.flat_map(|(first, last)| [first, last]).collect();
    addresses.extend(random::addresses(&objects).into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }));
    addresses.retain(|address| !objects.pods.iter().any(|pod| pod.ipv4 == Some(*address)));

    let expected = expected(&rows, &addresses);
    let seen = allowed(&objects, &addresses);
    let nothing = Ports::new();
    let mut compared = 0;
    let mut differences = Vec::new();
    let mut check = |from: (&str, &str), to: (&str, &str)| {
        let expected = expected.get(&(from.1.to_owned(), to.1.to_owned())).unwrap_or(&nothing);
        let seen = seen.get(&(from.0.to_owned(), to.0.to_owned())).unwrap_or(&nothing);
        compared += 1;
        if seen != expected {
            differences.push(format!("{} -> {}: {expected:?} expected, {seen:?} seen", from.1, to.1));
        }
    };
    let ids: Vec<String> = objects.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    for (id, owner) in ids.iter().zip(&owners) {
        for (other_id, other) in ids.iter().zip(&owners).filter(|(_, other)| *other != owner) {
            check((id, owner), (other_id, other));
        }
        for address in &addresses {
            let address = address.to_string();
            check((id, owner), (&address, &address));
            check((&address, &address), (id, owner));
        }
    }
    differences.truncate(5);
    if differences.is_empty() { Ok(compared) } else { Err(differences) }
}

/// What np-guard expects, its ranges of addresses replaced by those of the
/// addresses that are in them. Ranges of different rows may overlap.
fn expected(rows: &[Row], addresses: &BTreeSet<Ipv4Addr>) -> Allowed {
    let names = |end: &str| match external(end) {
        None => vec![end.to_owned()],
        Some((first, last)) => addresses.range(first..=last).map(ToString::to_string).collect(),
    };
    let mut expected = Allowed::new();
    for row in rows {
        for from in names(&row.src) {
            for to in names(&row.dst) {
                let ports = expected.entry((from.clone(), to)).or_default();
                for (protocol, ranges) in read_ports(&row.conn) {
                    ports.entry(protocol).or_default().extend(ranges);
                }
            }
        }
    }
    expected
}

/// Makes the objects what np-guard takes them for; the names that it gives to
/// the owners of the pods.
fn bend(objects: &mut Objects) -> Vec<String> {
    objects.nodes.clear();
    let mut owners = Vec::new();
    for (index, pod) in objects.pods.iter_mut().enumerate() {
        owners.push(owner(pod));
        let index = u16::try_from(index).unwrap();
        let [high, low] = index.to_be_bytes();
        // Nothing in the corpus is about 250/8, nor about IPv6.
        pod.ipv4 = Some(Ipv4Addr::new(250, 0, high, low));
        pod.ipv6 = Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, index));
        pod.name = index.to_string();
        pod.node = None;
        pod.host_addresses.clear();
        pod.host_network = false;
        pod.finished = false;
    }
    owners
}

/// `ns/owner[Kind]`, the owner being the first ownerReference; `Pod` where that
/// has no kind.
fn owner(pod: &Pod) -> String {
    let namespace = &pod.namespace;
    match (&pod.workload, pod.labels.get("pod-template-hash")) {
        // Our loader looks through the ReplicaSet at its Deployment.
        (Some(workload), Some(hash)) if workload.kind == "Deployment" => {
            format!("{namespace}/{}-{hash}[ReplicaSet]", workload.name)
        }
        (Some(workload), _) if workload.kind.is_empty() => format!("{namespace}/{}[Pod]", workload.name),
        (Some(workload), _) => format!("{namespace}/{}[{}]", workload.name, workload.kind),
        (None, _) => format!("{namespace}/{}[Pod]", pod.name),
    }
}

/// The matrix: of pods with each other in IPv6, of pods with addresses in
/// IPv4.
fn allowed(objects: &Objects, addresses: &BTreeSet<Ipv4Addr>) -> Allowed {
    let options = matrix::Options { by: By::Pod, addresses: addresses.iter().copied().map(IpAddr::V4).collect() };
    let matrix = matrix::connectivity(&Cluster::new(objects), &options);
    let mut allowed = Allowed::new();
    for row in matrix.connections {
        let outside = !row.from.contains('/') || !row.to.contains('/');
        let wanted = if outside { Family::V4 } else { Family::V6 };
        let Some(protocol) = Protocol::parse(row.protocol) else { continue };
        if row.family == Some(wanted) {
            let ports = row.ports.unwrap().into_iter().map(|[first, last]| (first, last)).collect();
            allowed.entry((row.from.to_string(), row.to.to_string())).or_default().insert(protocol, ports);
        }
    }
    allowed
}

/// `10.0.0.0-10.255.255.255[External]`
fn external(name: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = name.strip_suffix("[External]")?.split_once('-')?;
    Some((first.parse().unwrap(), last.parse().unwrap()))
}

/// `All Connections`, or `TCP 80,443,UDP 1-65535`.
fn read_ports(text: &str) -> Ports {
    if text == "All Connections" {
        return Protocol::ALL.map(|protocol| (protocol, BTreeSet::from([(1, u16::MAX)]))).into();
    }
    let mut ports = Ports::new();
    let mut current = None;
    for word in text.split(',') {
        let range = match word.split_once(' ') {
            Some((protocol, range)) => {
                current = Protocol::parse(protocol);
                range
            }
            None => word,
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        ports.entry(current.unwrap()).or_default().insert((first.parse().unwrap(), last.parse().unwrap()));
    }
    ports
}
