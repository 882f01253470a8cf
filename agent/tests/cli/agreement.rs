//! One truth in all commands: what the JSON of `npc explain any any` says of two pods or templates is
//! what that of `npc matrix` says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::cases::{questions, yaml_files};
use crate::{Files, SHOP};

/// Protocols and ports that are allowed: sorted, disjoint ranges by protocol. ICMP has one of its own.
type Ports = BTreeMap<String, Vec<(u64, u64)>>;

/// What is allowed from one end to another.
type Allowed = BTreeMap<(String, String), Ports>;

fn add(ports: &mut Ports, protocol: &Value, ranges: &Value) {
    let all = |protocol: &str| (protocol.to_owned(), if protocol == "ICMP" { (0, 0) } else { (1, 65535) });
    let added: Vec<(String, (u64, u64))> = match (protocol.as_str(), ranges.as_array()) {
        (None, _) => ["TCP", "UDP", "SCTP", "ICMP"].map(all).to_vec(),
        (Some(protocol), None) => vec![all(protocol)],
        (Some(protocol), Some(ranges)) => {
            let number = |range: &Value, at: usize| range[at].as_u64().unwrap();
            ranges.iter().map(|range| (protocol.to_owned(), (number(range, 0), number(range, 1)))).collect()
        }
    };
    for (protocol, range) in added {
        let of = ports.entry(protocol).or_default();
        of.push(range);
        of.sort_unstable();
        let mut joined = Vec::<(u64, u64)>::new();
        for (first, last) in of.drain(..) {
            match joined.last_mut() {
                Some((_, end)) if *end + 1 >= first => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        *of = joined;
    }
}

/// The connections of a matrix, of both families together, and its endpoints.
fn of_matrix(json: &Value) -> (Allowed, BTreeSet<String>) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut allowed = Allowed::new();
    for connection in json["connections"].as_array().unwrap() {
        let ports = allowed.entry((text(&connection["from"]), text(&connection["to"]))).or_default();
        add(ports, &connection["protocol"], &connection["ports"]);
    }
    (allowed, json["endpoints"].as_array().unwrap().iter().map(|endpoint| text(&endpoint["id"])).collect())
}

/// The pairs of a list of a matrix.
fn json_pairs(json: &Value, list: &str) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    json[list].as_array().into_iter().flatten().map(|row| (text(&row["from"]), text(&row["to"]))).collect()
}

/// An end of a flow: whether it is a pod with an address, which the matrix by pod has rows of; its id
/// there, and in the matrix by workload.
fn end(json: &Value) -> Option<(bool, String, String)> {
    let (kind, namespace, name) = (json["kind"].as_str()?, json["namespace"].as_str()?, json["name"].as_str()?);
    let is_in_cluster = json["hostNetwork"] == false && kind != "Service";
    let has_address = json["addresses"].as_array().is_some_and(|of| !of.is_empty());
    is_in_cluster
        .then(|| (kind == "Pod" && has_address, format!("{namespace}/{name}"), format!("{namespace}/{kind}/{name}")))
}

/// The pairs of ends that a flow stands for.
fn pairs(flow: &Value, ends: &Value) -> Vec<(Value, Value)> {
    let alike = &flow["alike"];
    if alike.is_null() {
        return vec![(flow["from"].clone(), flow["to"].clone())];
    }
    let listed = |side: &str| {
        let ranges = alike[side].as_array().unwrap().iter();
        let places = ranges.flat_map(|range| range[0].as_u64().unwrap()..=range[1].as_u64().unwrap());
        places.map(|place| ends[usize::try_from(place).unwrap()].clone()).collect::<Vec<_>>()
    };
    let (from, to) = (listed("from"), listed("to"));
    let is_meant = |from: &Value, to: &Value| match alike["pairs"].as_str() {
        Some("others") => from != to,
        Some("itself") => from == to,
        _ => false,
    };
    let all = from.iter().flat_map(|from| to.iter().map(move |to| (from.clone(), to.clone())));
    all.filter(|(from, to)| is_meant(from, to)).collect()
}

/// The inputs of `tests/cases` with their names, each with the other files that it names, and the shop.
fn inputs() -> Vec<(String, String)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases"));
    let mut inputs = vec![("shop".to_owned(), SHOP.to_owned())];
    for path in yaml_files(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let (_, with) = questions(&text);
        let with = with.iter().map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
        let whole = std::iter::once(text.clone()).chain(with).collect::<Vec<_>>().join("\n---\n");
        inputs.push((path.file_name().unwrap().to_string_lossy().into_owned(), whole));
    }
    inputs
}

/// What is said of each pair of ends that the matrix can have rows of: by pod where both are pods with
/// addresses, and otherwise by workload.
type Said = BTreeMap<(bool, String, String), Ports>;

/// What `npc explain any any` says of each pair, and the ends of these pairs: whether each is a pod with an
/// address, and its ids.
fn of_explain(explained: &Value) -> (Said, BTreeSet<(bool, String, String)>) {
    let (mut said, mut ends) = (Said::new(), BTreeSet::new());
    for flow in explained["flows"].as_array().unwrap() {
        // A template's pod and itself are no matter of a matrix.
        if flow["way"] == "itself" {
            continue;
        }
        for (from, to) in pairs(flow, &explained["ends"]) {
            let (Some(from), Some(to)) = (end(&from), end(&to)) else { continue };
            let are_pods = from.0 && to.0;
            let key =
                if are_pods { (true, from.1.clone(), to.1.clone()) } else { (false, from.2.clone(), to.2.clone()) };
            ends.extend([from, to]);
            let ports = said.entry(key).or_default();
            if flow["verdict"] == "Allowed" {
                add(ports, &flow["protocol"], &flow["ports"]);
            }
        }
    }
    (said, ends)
}

#[test]
fn explain_any_any_says_in_json_what_the_matrix_does() {
    let (mut compared, mut wrong) = (0, Vec::new());
    for (name, text) in &inputs() {
        let files = Files::of(text);
        let explained = files.npc("explain", &["any", "any", "-o", "json", "--allow-errors"]);
        let by_pod = files.npc("matrix", &["-o", "json", "--by", "pod", "--allow-errors"]);
        let by_workload = files.npc("matrix", &["-o", "json", "--allow-errors"]);
        // Some inputs have policies alone.
        if explained.code == 3 && explained.err.contains("there are no endpoints") {
            continue;
        }
        assert!([0, 1, 4].contains(&explained.code), "{name}: {} {}", explained.code, explained.err);
        assert_eq!([by_pod.code, by_workload.code], [0, 0], "{name}: {}{}", by_pod.err, by_workload.err);
        let explained = explained.json();
        // Which of several pods has an address depends on the node, and then the two may differ.
        let is_contested = |of: &Value| of["code"] == "address-contested";
        if explained["findings"].as_array().unwrap().iter().any(is_contested) {
            continue;
        }
        let matrices = [of_matrix(&by_workload.json()), of_matrix(&by_pod.json())];
        let (mut said, ends) = of_explain(&explained);
        said.retain(|(are_pods, from, to), _| {
            let (_, ids) = &matrices[usize::from(*are_pods)];
            ids.contains(from) && ids.contains(to)
        });
        // Replicas with and without an address are one row of the matrix by workload.
        let differing = json_pairs(&by_workload.json(), "differs");
        for ((are_pods, from, to), ports) in &said {
            if !are_pods && differing.contains(&(from.clone(), to.clone())) {
                continue;
            }
            compared += 1;
            let (allowed, _) = &matrices[usize::from(*are_pods)];
            let expected = allowed.get(&(from.clone(), to.clone())).cloned().unwrap_or_default();
            if *ports != expected {
                wrong.push(format!("{name}: {from} -> {to}: explain {ports:?}, matrix {expected:?}"));
            }
        }
        // No row of a matrix is about a pair of ends that explain passes over.
        for are_pods in [false, true] {
            // Both ids of an end by workload, so that pairs of pods with addresses are left to the other matrix.
            let known: BTreeMap<&str, bool> = (ends.iter())
                .filter(|(is_pod, ..)| *is_pod || !are_pods)
                .map(|(is_pod, pod, workload)| (if are_pods { &**pod } else { &**workload }, *is_pod))
                .collect();
            for (from, to) in matrices[usize::from(are_pods)].0.keys().filter(|(from, to)| from != to) {
                let (Some(one), Some(other)) = (known.get(&**from), known.get(&**to)) else { continue };
                let is_meant = are_pods || !(*one && *other);
                if is_meant && !said.contains_key(&(are_pods, from.clone(), to.clone())) {
                    wrong.push(format!("{name}: {from} -> {to}: the matrix has a row, explain says nothing"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
    assert!(compared > 500, "only {compared} pairs were compared");
}
