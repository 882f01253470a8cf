//! Checks of all that a fix says of itself, in clusters of the tests and in random ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_agent::source::manifests::{ReadOptions, parse_text};
use npc_compiler::algebra::cidr::{self, AddressSet, Cidr};
use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::cluster::Cluster;
use npc_compiler::cluster::group::Groups;
use npc_compiler::object::{Family, NetworkPolicy, Objects, Pod, Protocol, Service};
use npc_compiler::policy::finding;
use npc_compiler::ruleset::layout::{self, Bounds};
use npc_compiler::ruleset::members;
use npc_compiler::verdict::explain::{EndName, Flow, FlowExplanation, Port, QuestionEnd, Verdict, explain};
use npc_compiler::verdict::fix::{Bounded, Change, Closing, Edit, Fix, FlowFix, NoFix, Opened, fixes};
use npc_compiler::verdict::matrix::{self, By, Matrix};
use npc_tests::random;
use proptest::test_runner::{TestCaseError, TestError};
use serde_json::{Value, json};

use super::kind::kind;
use super::mistakes::{self, Client, MEANT, MENDED_BY};
use super::narrow::is_narrow;

/// Addresses that the fixes of random clusters are compared for, beside those of nodes.
const OUTSIDE: [&str; 5] = ["203.0.113.9", "10.0.0.65", "198.51.100.7", "2001:db8:1::9", "fd00::77"];

/// Prefixes that are asked about. Some hold addresses of pods and nodes.
const BLOCKS: [&str; 6] =
    ["203.0.113.0/24", "10.0.0.64/26", "198.51.100.0/25", "2001:db8:1::/48", "fd00::/64", "0.0.0.0/0"];

/// What a text means: a prefix, an address, `svc/NS/NAME` or `NS/NAME` of a pod.
fn target<'a>(objects: &'a Objects, cluster: &Cluster, text: &str) -> Option<QuestionEnd<'a>> {
    if let Some(name) = text.strip_prefix("svc/") {
        let mut services = objects.services.iter();
        return services.find(|of| format!("{}/{}", of.namespace, of.name) == name).map(QuestionEnd::Service);
    }
    if let Some(cidr) = Cidr::parse(text).ok().filter(|_| text.contains('/')) {
        return Some(QuestionEnd::Blocks(vec![cidr]));
    }
    match text.parse::<IpAddr>() {
        Ok(address) => Some(QuestionEnd::Address(address)),
        Err(_) => {
            let is_named = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name) == text;
            cluster.named().find(|(_, pod)| is_named(pod)).map(|(id, _)| QuestionEnd::Pod(id))
        }
    }
}

pub(super) fn explained(
    objects: &Objects,
    cluster: &Cluster,
    from: &str,
    to: &str,
    port: Option<&Port>,
) -> Option<FlowExplanation> {
    let groups = Groups::of_cluster(cluster);
    let (from, to) = (target(objects, cluster, from)?, target(objects, cluster, to)?);
    explain(cluster, &groups, &from, &to, port).ok()
}

/// The document of an object as its author may write it: with no field that it does not need.
fn written(objects: &Objects, change: &Change) -> Value {
    let name = &change.object.name;
    let namespace = change.object.namespace.clone().unwrap_or_default();
    let metadata = |labels: &BTreeMap<String, String>| {
        let mut metadata = json!({ "name": name });
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        if !labels.is_empty() {
            metadata["labels"] = json!(labels);
        }
        metadata
    };
    match change.object.kind.as_str() {
        "NetworkPolicy" => {
            let policy = objects.policies.iter().rfind(|p| p.namespace() == namespace && p.name() == name).unwrap();
            serde_json::to_value(&policy.object).unwrap()
        }
        "Namespace" => {
            let found = objects.namespaces.iter().find(|of| of.name == *name).unwrap();
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata(&found.labels)})
        }
        "Pod" => {
            let found = objects.pods.iter().find(|of| of.name == *name && of.namespace == namespace).unwrap();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(&found.labels), "spec": {"containers": []}})
        }
        kind => {
            let is_meant = |pod: &&Pod| pod.workload.as_ref().is_some_and(|of| of.kind == kind && of.name == *name);
            let found = objects.pods.iter().find(is_meant).unwrap();
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
                "spec": {"template": {"metadata": {"labels": found.labels}, "spec": {"containers": []}}}})
        }
    }
}

/// Applies a change as kubectl would, and reads the result as a file.
fn applied(objects: &mut Objects, change: &Change) -> Result<(), String> {
    let document = match change.new_object() {
        Some(document) => document.clone(),
        None => {
            let mut document = written(objects, change);
            // The patch as it is printed.
            let printed = serde_json::to_string(change.patch().unwrap()).unwrap();
            let patch: json_patch::Patch = serde_json::from_str(&printed).unwrap();
            json_patch::patch(&mut document, &patch).map_err(|error| format!("{printed}: {error}"))?;
            document
        }
    };
    let options = ReadOptions { allow_errors: true, declare_namespaces: false, ..ReadOptions::default() };
    let read = parse_text("fixed.json", &document.to_string(), &options).map_err(|error| error.to_string())?.objects;
    for mut policy in read.policies {
        let same = |old: &&mut NetworkPolicy| old.name() == policy.name() && old.namespace() == policy.namespace();
        match objects.policies.iter_mut().rfind(same) {
            Some(old) => {
                // A file would have them; the object of the API has no place for them.
                policy.unknown_fields.clone_from(&old.unknown_fields);
                *old = policy;
            }
            None => objects.policies.push(policy),
        }
    }
    for namespace in read.namespaces {
        objects.namespaces.iter_mut().filter(|old| old.name == namespace.name).for_each(|old| *old = namespace.clone());
    }
    for pod in read.pods {
        let is_meant = |old: &&mut Pod| match &pod.workload {
            Some(_) => old.namespace == pod.namespace && old.workload == pod.workload,
            None => old.namespace == pod.namespace && old.name == pod.name,
        };
        objects.pods.iter_mut().filter(is_meant).for_each(|old| old.labels.clone_from(&pod.labels));
    }
    objects.forget_computed_slices();
    Ok(())
}

/// What is allowed and what may be, by the ids of two ends and the family.
type Cells = BTreeMap<(String, String, Option<Family>), (Traffic, Traffic)>;

fn cells(cluster: &Cluster) -> Cells {
    let nodes = cluster.nodes().values().flatten().copied();
    let addresses = OUTSIDE.iter().map(|text| text.parse().unwrap()).chain(nodes).collect();
    let matrix = Matrix::new(cluster, &matrix::MatrixOptions { by: By::Pod, addresses });
    let id = |row: usize| matrix.endpoints()[row].id.to_string();
    let cell = |cell: matrix::Cell| {
        let most = cell.traffic.union(&cell.unknown);
        ((id(cell.from), id(cell.to), cell.family), ((*cell.traffic).clone(), most))
    };
    matrix.cells().map(cell).collect()
}

/// Whether an end of what is opened means an id. Nodes' addresses, and those that were asked
/// about, are said by themselves.
fn means(end: &str, id: &str, alone: &[IpAddr]) -> bool {
    let Ok(address) = id.parse::<IpAddr>() else { return end == id };
    if end == id || alone.contains(&address) {
        return end == id;
    }
    let number = cidr::number(address);
    if let Some((first, last)) = end.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse::<IpAddr>(), last.parse::<IpAddr>())
    {
        return Family::of(&first) == Family::of(&address)
            && (cidr::number(first)..=cidr::number(last)).contains(&number);
    }
    Cidr::parse(end).is_ok_and(|cidr| cidr.family == Family::of(&address) && cidr.addresses().contains(number))
}

/// The addresses of an end that is no pod.
fn addresses(end: &EndName, family: Family) -> AddressSet {
    let blocks = end.name.split(',').filter_map(|text| match text.parse::<IpAddr>() {
        Ok(address) => Some(Cidr::of_address(address)),
        Err(_) => Cidr::parse(text).ok(),
    });
    let of_family = blocks.filter(|block| block.family == family);
    AddressSet::from_ranges(of_family.flat_map(|block| block.addresses().ranges().to_vec()))
}

/// Whether an end of a flow is the row of an id. A hostNetwork pod is its node's address.
/// A prefix means the addresses in it that neither a pod nor a node has.
fn is_row(cluster: &Cluster, end: &EndName, id: &str) -> bool {
    match (&end.namespace, id.parse::<IpAddr>()) {
        (Some(namespace), Err(_)) => format!("{namespace}/{}", end.name) == id,
        (Some(_), Ok(address)) => end.host_network && end.addresses.contains(&address),
        (None, Ok(address)) => {
            let is_taken = end.kind == "Block" && cluster.is_node(address);
            !is_taken && addresses(end, Family::of(&address)).contains(cidr::number(address))
        }
        (None, Err(_)) => false,
    }
}

/// Whether two ends of flows have a pod or an address in common.
fn meet(one: &EndName, other: &EndName) -> bool {
    match (&one.namespace, &other.namespace) {
        (Some(_), Some(_)) => (&one.namespace, &one.name) == (&other.namespace, &other.name),
        (None, None) if (one.kind == "Block") != (other.kind == "Block") => false,
        (None, None) => Family::ALL.into_iter().any(|family| {
            let of_one = addresses(one, family);
            of_one.difference(&addresses(other, family)) != of_one
        }),
        _ => false,
    }
}

/// Checks that changed objects allow all flows of a fix.
fn are_allowed(
    changed: &Objects,
    explanation: &FlowExplanation,
    found: &FlowFix,
    (from, to, port): (&str, &str, Option<&Port>),
    bounded: Bounded<'_>,
) -> Result<(), String> {
    let after = bounded(Cluster::new(changed), None);
    let again = explained(changed, &after, from, to, port).ok_or("no answer after the change")?;
    for place in &found.flows {
        let asked = &explanation.flows[*place];
        let is_it = |flow: &&Flow| {
            let family = flow.family.is_none() || asked.family.is_none() || flow.family == asked.family;
            family && meet(&flow.from, &asked.from) && meet(&flow.to, &asked.to)
        };
        let mut allowed = Traffic::none();
        for flow in again.flows.iter().filter(is_it) {
            if flow.verdict == Verdict::Allowed {
                allowed = allowed.union(&flow.traffic);
            } else if !flow.traffic.intersection(&asked.traffic).is_none() {
                return Err(format!("{:?} {} is not allowed", flow.family, flow.traffic));
            }
        }
        if !asked.traffic.difference(&allowed).is_none() {
            return Err(format!("{:?} {} is not allowed", asked.family, asked.traffic));
        }
    }
    Ok(())
}

/// Checks all that a fix says.
pub(super) fn check(
    objects: &Objects,
    before: &Cluster,
    explanation: &FlowExplanation,
    found: &FlowFix,
    fix: &Fix,
    (from, to, port): (&str, &str, Option<&Port>),
    bounded: Bounded<'_>,
) -> Result<(), String> {
    let mut changed = objects.clone();
    for change in &fix.changes {
        let before = change.patch().map_or(Value::Null, |_| written(&changed, change));
        if !is_narrow(change, &before, [from, to], port.is_some()) {
            return Err(format!("{change:?} names not all that it admits"));
        }
        applied(&mut changed, change)?;
    }
    let after = bounded(Cluster::new(&changed), None);
    are_allowed(&changed, explanation, found, (from, to, port), bounded)
        .map_err(|error| format!("{error} after {:?}", fix.changes))?;
    let is_label = |change: &Change| matches!(change.edit, Edit::Labels(..)) && change.object.kind != "Namespace";
    if !fix.is_safe() && !fix.changes.iter().any(is_label) {
        return Err(format!("{:?} closes {:?}", fix.changes, fix.closes));
    }
    let (old, new) = (cells(before), cells(&after));
    let none = (Traffic::none(), Traffic::none());
    let asked_about = [from, to].into_iter().filter_map(|text| text.parse().ok());
    let alone: Vec<IpAddr> = before.nodes().values().flatten().copied().chain(asked_about).collect();
    let asked = |key: &(String, String, Option<Family>)| {
        let flows = found.flows.iter().map(|place| &explanation.flows[*place]);
        let is_meant = |family: Option<Family>| family.is_none() || key.2.is_none() || family == key.2;
        let of_ends = flows.filter(|flow| is_row(before, &flow.from, &key.0) && is_row(before, &flow.to, &key.1));
        let traffic = of_ends.filter(|flow| is_meant(flow.family)).map(|flow| flow.traffic.clone());
        traffic.fold(Traffic::none(), |all, traffic| all.union(&traffic))
    };
    for key in old.keys().chain(new.keys()) {
        let ((least, most), (new_least, new_most)) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        let lists = [
            ("opens", &fix.opens, (least, most), (new_least, new_most), asked(key)),
            ("closes", &fix.closes, (new_least, new_most), (least, most), Traffic::none()),
        ];
        for (verb, list, (least, most), (new_least, new_most), asked) in lists {
            let certain = new_least.difference(most);
            let all = new_least.difference(least).union(&new_most.difference(most));
            for (is_certain, found) in [(true, certain.clone()), (false, all.difference(&certain))] {
                let found = found.difference(&asked);
                let is_it = |of: &&Opened| {
                    means(&of.from.id, &key.0, &alone) && means(&of.to.id, &key.1, &alone) && of.family == key.2
                };
                let said = list.iter().filter(is_it).filter(|of| of.certain == is_certain);
                let said = said.fold(Traffic::none(), |all, of| all.union(&of.traffic));
                if said != found {
                    return Err(format!("{key:?} {is_certain}: {verb} {found}, said {said}; {fix:?}"));
                }
            }
        }
    }
    if fix.changes.len() > 1 && !fix.closing.is_empty() {
        return Err(format!("one change of several would not admit it: {:?}", fix.closing));
    }
    for of in &fix.closing {
        let changed = closing(objects, &old, of, &alone, bounded)?;
        are_allowed(&changed, explanation, found, (from, to, port), bounded)
            .map_err(|error| format!("{error}: {of:?}"))?;
    }
    let pods: BTreeSet<&str> = new.keys().flat_map(|(from, to, _)| [from.as_str(), to.as_str()]).collect();
    let is_known = |id: &str| {
        let is_outside = |text: &str| text.parse::<IpAddr>().is_ok() || Cidr::parse(text).is_ok();
        let is_range = || id.split_once('-').is_some_and(|(first, last)| is_outside(first) && is_outside(last));
        pods.contains(id) || is_outside(id) || is_range()
    };
    if fix.opens.iter().chain(&fix.closes).any(|of| !is_known(&of.from.id) || !is_known(&of.to.id)) {
        return Err(format!("{:?} {:?} name an unknown end", fix.opens, fix.closes));
    }
    Ok(())
}

/// Checks what a change is said to close that is not proposed; the objects after it.
fn closing(
    objects: &Objects,
    old: &Cells,
    of: &Closing,
    alone: &[IpAddr],
    bounded: Bounded<'_>,
) -> Result<Objects, String> {
    let Closing { change, closes } = of;
    let mut changed = objects.clone();
    applied(&mut changed, change)?;
    let new = cells(&bounded(Cluster::new(&changed), None));
    let none = (Traffic::none(), Traffic::none());
    for key in old.keys().chain(new.keys()) {
        let ((least, most), (new_least, new_most)) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        let found = least.difference(new_least).union(&most.difference(new_most));
        let is_it =
            |of: &&Opened| means(&of.from.id, &key.0, alone) && means(&of.to.id, &key.1, alone) && of.family == key.2;
        let said = closes.iter().filter(is_it).fold(Traffic::none(), |all, of| all.union(&of.traffic));
        if said != found || closes.is_empty() {
            return Err(format!("{key:?}: would close {found}, said {said}; {of:?}"));
        }
    }
    Ok(changed)
}

/// Services of some pods of a random cluster, by their labels. Each leads from one port to another.
fn services(objects: &Objects) -> Vec<Service> {
    let service = |(place, pod): (usize, &Pod)| {
        let target = [80, 8080, 443][place % 3];
        let document = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("s{place}"), "namespace": pod.namespace},
            "spec": {"selector": pod.labels, "ports": [{"port": 80, "targetPort": target}]}});
        let read = parse_text("service.json", &document.to_string(), &ReadOptions::default()).unwrap();
        read.objects.services.into_iter().next().unwrap()
    };
    objects.pods.iter().enumerate().filter(|(_, pod)| !pod.labels.is_empty()).map(service).collect()
}

/// The fixes of some denied flows of a cluster, each checked: how many there were of each kind of
/// question.
fn check_fixes(objects: &Objects, seed: usize, counts: &mut BTreeMap<&'static str, usize>) -> Result<(), String> {
    // In some clusters policies are over the bound on set members.
    let options = layout::RulesetOptions {
        bounds: Bounds::of_members(if seed.is_multiple_of(4) { 6 } else { 1_000_000 }),
        ..layout::RulesetOptions::default()
    };
    let bounded = |cluster, namespace: Option<&str>| match namespace {
        Some(namespace) => members::bounded_in(cluster, namespace, &options),
        None => members::bounded(cluster, &options),
    };
    let cluster = bounded(Cluster::new(objects), None);
    if cluster.findings().iter().any(|finding| finding.code == finding::FindingCode::PolicyTooLarge) {
        *counts.entry("over the bound").or_default() += 1;
    }
    let groups = Groups::of_cluster(&cluster);
    let mut ends: Vec<(&str, String)> =
        cluster.named().map(|(_, pod)| ("pod", format!("{}/{}", pod.namespace, pod.name))).collect();
    ends.extend(OUTSIDE.iter().map(|text| ("address", (*text).to_owned())));
    ends.extend(cluster.nodes().values().flatten().map(|address| ("node", address.to_string())));
    ends.extend(BLOCKS.iter().map(|text| ("block", (*text).to_owned())));
    ends.extend(objects.services.iter().map(|of| ("service", format!("svc/{}/{}", of.namespace, of.name))));
    let tcp = |first, last| Some(Port::Numbers(Some(Protocol::Tcp), first, last));
    let ports = [
        ("port", tcp(80, 80)),
        ("port", Some(Port::Numbers(Some(Protocol::Udp), 53, 53))),
        ("port", tcp(8080, 8080)),
        ("range", tcp(8000, 8090)),
        ("port", Some(Port::Numbers(Some(Protocol::Sctp), 443, 443))),
        ("named port", Some(Port::Name("http".to_owned()))),
        ("range", tcp(1, u16::MAX)),
        ("ICMP", Some(Port::Icmp)),
        ("range", tcp(50, 600)),
        ("no port", None),
    ];
    let pairs = ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to)));
    for (place, ((of_from, from), (of_to, to))) in pairs.enumerate().skip(seed % 3).step_by(3) {
        let (of_port, port) = match *of_to {
            "service" => &ports[0],
            _ => &ports[(place / 3 + seed) % ports.len()],
        };
        let Some(explanation) = explained(objects, &cluster, from, to, port.as_ref()) else { continue };
        // Each fix is one of what the fixes before it made of the objects.
        let (mut made, mut before) = (objects.clone(), bounded(Cluster::new(objects), None));
        for found in fixes(objects, &cluster, &groups, &explanation, &(), &bounded, 2) {
            let fix = match &found.fix {
                Ok(fix) => fix,
                Err(NoFix::TargetPort { .. }) => {
                    *counts.entry("targetPort").or_default() += 1;
                    continue;
                }
                Err(_) => continue,
            };
            let families = [from, to].map(|text| text.contains(':'));
            let family = if families.contains(&true) { "IPv6" } else { "IPv4" };
            for kind in BTreeSet::from([*of_from, *of_to, *of_port, family]) {
                *counts.entry(kind).or_default() += 1;
            }
            for change in &fix.changes {
                *counts.entry(kind(change)).or_default() += 1;
            }
            check(&made, &before, &explanation, &found, fix, (from, to, port.as_ref()), &bounded)
                .map_err(|error| format!("{from} -> {to} {port:?}: {error}"))?;
            for change in &fix.changes {
                applied(&mut made, change)?;
            }
            before = bounded(Cluster::new(&made), None);
        }
    }
    Ok(())
}

/// In so many random clusters each kind of change occurs.
const ENOUGH: u32 = 100;

/// A fix that says what another change would close.
const WOULD_CLOSE: &str = "would close";

/// What an author gets wrong is proposed as the change that mends it, and that does what it says.
#[test]
fn the_right_change_corrects_a_mistake_in_a_random_cluster() {
    let cases = std::env::var("NPC_CASES").ok().map_or(ENOUGH, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("NPC_SEED").ok().map_or(1, |text| text.parse().unwrap());
    let counts = std::cell::RefCell::new(BTreeMap::new());
    let check = |(mut objects, mended_by): (Objects, &str)| {
        mistakes::add(&mut objects, mended_by);
        mended(&objects, &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    };
    let samples = (random::objects(), proptest::sample::select(MENDED_BY.to_vec()));
    match random::runner(seed, cases).run(&samples, check) {
        Ok(()) => {
            let counts: BTreeMap<&'static str, usize> = counts.into_inner();
            eprintln!("{counts:?}");
            for kind in MENDED_BY.into_iter().chain([WOULD_CLOSE]) {
                // The rule gets a like one in the other direction.
                let kind = if kind == "a rule's direction" { "a rule" } else { kind };
                let is_met = counts.contains_key(kind) || cases < ENOUGH;
                assert!(is_met, "no fix of {kind} in {cases} clusters: {counts:?}");
            }
        }
        Err(TestError::Fail(reason, (objects, mended_by))) => panic!("{reason}\n\n{mended_by}\n\n{objects:#?}"),
        Err(error @ TestError::Abort(_)) => panic!("{error}"),
    }
}

/// The fix of the flow that a policy with a mistake means, checked, and its kind.
fn mended(objects: &Objects, counts: &mut BTreeMap<&'static str, usize>) -> Result<(), String> {
    let cluster = Cluster::new(objects);
    let (from, to, number) = MEANT;
    let port = Port::Numbers(Some(Protocol::Tcp), number, number);
    let explanation = explained(objects, &cluster, from, to, Some(&port)).ok_or("no answer")?;
    for found in
        fixes(objects, &cluster, &Groups::of_cluster(&cluster), &explanation, &Client, &|cluster, _| cluster, 2)
    {
        let Ok(fix) = &found.fix else { continue };
        for change in &fix.changes {
            *counts.entry(kind(change)).or_default() += 1;
        }
        if !fix.closing.is_empty() {
            *counts.entry(WOULD_CLOSE).or_default() += 1;
        }
        check(objects, &cluster, &explanation, &found, fix, (from, to, Some(&port)), &|cluster, _| cluster)?;
    }
    Ok(())
}

#[test]
fn what_a_fix_says_of_itself_is_true_in_random_clusters() {
    let cases = std::env::var("NPC_CASES").ok().map_or(100, |text| text.parse().unwrap());
    let seed: u64 = std::env::var("NPC_SEED").ok().map_or(1, |text| text.parse().unwrap());
    let counts = std::cell::RefCell::new(BTreeMap::new());
    let count = std::cell::Cell::new(0);
    let check = |mut objects: Objects| {
        objects.services = services(&objects);
        count.set(count.get() + 1);
        check_fixes(&objects, count.get(), &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    };
    match random::runner(seed, cases).run(&random::objects(), check) {
        Ok(()) => {
            let counts = counts.into_inner();
            eprintln!("{counts:?}");
            for kind in ["pod", "address", "block", "service", "port", "range", "named port", "no port", "IPv6"] {
                let found = counts.get(kind).copied().unwrap_or_default();
                assert!(found > cases as usize / 20, "only {found} fixes of a {kind} in {cases} clusters: {counts:?}");
            }
            // An item for a rule opens its other ports too, so a rule of its own is the smaller change here;
            // policies with mistakes have both.
            for kind in ["a port", "a rule", "a new policy", "targetPort", "node", "over the bound"] {
                let is_met = counts.contains_key(kind) || cases < ENOUGH;
                assert!(is_met, "no fix of {kind} in {cases} clusters: {counts:?}");
            }
        }
        Err(TestError::Fail(reason, objects)) => panic!("{reason}\n\n{objects:#?}"),
        Err(error @ TestError::Abort(_)) => panic!("{error}"),
    }
}
