//! Small clusters with the connections that their policies allow, compared with the
//! compiler's matrix: our own cases in `tests/corpora/matrix`, and those of np-guard, another
//! analyser of NetworkPolicy, if they lie beside the repository.
//!
//! np-guard treats some things otherwise than a cluster does, so the test changes the
//! clusters before it compares them: pods on the host's network count as any other,
//! nodes do not matter, and a block never matches a pod. For the last, pods talk to
//! each other by IPv6 here, and to the outside by IPv4, the family of all blocks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use npc_agent::source::manifests::{self, Severity};
use npc_compiler::cluster::Cluster;
use npc_compiler::object::{Family, Objects, Pod, Protocol};
use npc_compiler::verdict::matrix::{self, By, EndpointId, EndpointName};
use npc_tests::corpora::beside;
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

/// Compares each case; how many pairs that were.
fn compare_all(cases: &[(PathBuf, PathBuf)]) -> usize {
    assert!(!cases.is_empty(), "the corpus is empty");
    let mut pairs = 0;
    let mut failed = Vec::new();
    for (manifests, expected) in cases {
        match compare(manifests, expected) {
            Ok(compared) => pairs += compared,
            Err(differences) => failed.push(format!("{}:\n  {}", manifests.display(), differences.join("\n  "))),
        }
    }
    assert!(failed.is_empty(), "{} of {} cases differ:\n{}", failed.len(), cases.len(), failed.join("\n"));
    pairs
}

#[test]
fn the_matrix_is_what_our_cases_expect() {
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora/matrix")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let cases: Vec<_> = folders.map(|folder| (folder.join("cluster.yaml"), folder.join("expected.json"))).collect();
    assert!(cases.len() > 15, "{} cases", cases.len());
    assert!(compare_all(&cases) > 200);
}

#[test]
fn the_matrix_is_what_np_guard_expects() {
    let Some(corpus) = beside("corpora/np-guard") else { return };
    let index = fs::read_to_string(corpus.join("index.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&index).unwrap();
    // Other kinds than NetworkPolicy decide in the rest.
    let folders = cases.iter().filter(|case| !case.anp).map(|case| corpus.join("cases").join(&case.case));
    let cases: Vec<_> = folders.map(|folder| (folder.join("manifests"), folder.join("expected.json"))).collect();
    eprintln!("{} cases, {} pairs", cases.len(), compare_all(&cases));
}

/// Every file of others is read, also those of the cases that are not compared.
#[test]
fn the_manifests_of_others_are_read() {
    let Some(cases) = beside("corpora/np-guard/cases") else { return };
    let (mut read, mut policies) = (0, 0);
    for case in fs::read_dir(cases).unwrap() {
        let folder = case.unwrap().path().join("manifests");
        // One case holds another tool's output among its manifests.
        let allow_errors = folder.ends_with("onlineboutique/manifests");
        let options = manifests::ReadOptions { allow_errors, ..manifests::ReadOptions::default() };
        let loaded = manifests::load(&[folder], &options).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!loaded.objects.pods.is_empty() || !loaded.objects.policies.is_empty());
        let errors = loaded.problems.iter().filter(|problem| problem.severity() == Severity::Error).count();
        assert_eq!(errors, usize::from(allow_errors));
        read += 1;
        policies += loaded.objects.policies.len();
    }
    assert!(read > 100 && policies > 100, "{read} cases, {policies} policies");
    let load = |path: &str| Some(manifests::load(&[beside(path)?], &manifests::ReadOptions::default()).unwrap());
    let Some(cluster) = load("corpora/azure-npm/cluster.yaml") else { return };
    assert_eq!((cluster.objects.pods.len(), cluster.objects.policies.len()), (6, 5));
    let Some(shop) = load("examples/shop") else { return };
    assert_eq!((shop.objects.pods.len(), shop.objects.policies.len()), (4, 4));
    assert_eq!(shop.problems, []);
}

/// How many pairs were compared, or what differs.
fn compare(cluster: &Path, rows: &Path) -> Result<usize, Vec<String>> {
    let options = manifests::ReadOptions { allow_errors: true, ..manifests::ReadOptions::default() };
    let loaded = manifests::load(&[cluster.to_owned()], &options);
    let mut objects = loaded.map_err(|errors| vec![format!("does not load: {errors}")])?.objects;
    let owners = as_np_guard_takes_them(&mut objects);

    let text = fs::read_to_string(rows).unwrap();
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

/// Changes the objects to what np-guard takes them for; answers the names that it gives
/// to the owners of the pods.
fn as_np_guard_takes_them(objects: &mut Objects) -> Vec<String> {
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
    let options = matrix::MatrixOptions { by: By::Pod, addresses: addresses.iter().copied().map(IpAddr::V4).collect() };
    let matrix = matrix::connectivity(&Cluster::new(objects), &options);
    let mut allowed = Allowed::new();
    for row in matrix.connections {
        let is_address = |id: &EndpointId| matches!(id.name(), EndpointName::Address(_));
        let outside = is_address(&row.from) || is_address(&row.to);
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
