//! The ends of a flow as rules and selectors name them, as narrowly as their labels and
//! addresses allow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};

use super::answer::NoFix;
use super::change::match_labels;
use super::changed::View;
use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::selector::{Operator, Requirement, Selector};
use crate::algebra::traffic::Traffic;
use crate::algebra::typo::{asks_for, is_close};
use crate::cluster::PodId;
use crate::object::{Family, Labels, NAMESPACE_NAME_LABEL, Protocol, is_controller_label};
use crate::policy::Direction;
use crate::verdict::explain::{Flow, Pair, Party};
use crate::verdict::flow::End;

/// More ipBlocks are no small change.
const BLOCKS: usize = 4;

/// More items of `ports` are no small change.
const PORTS: usize = 4;

/// The labels that name what a pod is, the most usual first.
const NAMES: [&str; 10] = [
    "app.kubernetes.io/name",
    "k8s-app",
    "app",
    "name",
    "app.kubernetes.io/component",
    "component",
    "app.kubernetes.io/instance",
    "role",
    "tier",
    "task",
];

/// Words in keys of labels that change with every release.
const PASSING: [&str; 5] = ["version", "chart", "hash", "revision", "generation"];

/// The other ends of a flow in one direction.
pub(super) enum Other {
    /// Pods of one namespace.
    Pods(Vec<PodId>),
    /// Addresses that no pod has.
    Blocks(Vec<Cidr>),
}

/// The ends that policies of a direction select.
pub(super) fn subjects(pairs: &[Pair], direction: Direction) -> Vec<PodId> {
    let pods = pairs.iter().filter_map(|pair| match pair.question(direction).ends(direction).0 {
        Party::End(End::Pod(pod)) => Some(pod),
        _ => None,
    });
    pods.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The prefixes that a flow has at an end, where they were asked about.
pub(super) fn blocks(flow: &Flow) -> Vec<Cidr> {
    [&flow.from, &flow.to].into_iter().flat_map(|end| end.prefixes.iter().copied()).collect()
}

/// Whether blocks hold all addresses of a family.
fn are_everyone(blocks: &[Cidr]) -> bool {
    Family::ALL.into_iter().any(|family| {
        let of = blocks.iter().filter(|block| block.family == family);
        let all = AddressSet::from_ranges(of.flat_map(|block| block.addresses().ranges().to_vec()));
        cidr::is_everything(family, &all)
    })
}

/// The other ends.
pub(super) fn other(view: View<'_>, flow: &Flow, pairs: &[Pair], direction: Direction) -> Result<Other, NoFix> {
    let name = match direction {
        Direction::Egress => &flow.to,
        Direction::Ingress => &flow.from,
    };
    let asked = if name.is_part() { blocks(flow) } else { Vec::new() };
    let are_everyone = are_everyone(&asked);
    let (mut pods, mut blocks, mut families) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for pair in pairs {
        let question = pair.question(direction);
        match question.ends(direction).1 {
            Party::End(End::Pod(pod)) => {
                pods.insert(pod);
            }
            Party::End(End::Address(address) | End::Unread(address))
                if !view.cluster.holders(address, None).is_empty() =>
            {
                return Err(NoFix::ManyEnds);
            }
            Party::End(End::Address(_) | End::Unread(_)) if are_everyone => return Err(NoFix::EveryAddress),
            Party::End(End::Address(_) | End::Unread(_)) if name.is_part() => blocks.extend(&asked),
            party => {
                let family = question.family.ok_or(NoFix::NoAddress)?;
                blocks.insert(Cidr::of_address(party.address(view.cluster, family).ok_or(NoFix::NoAddress)?));
                if may_move(view, party) {
                    families.insert(family);
                }
            }
        }
    }
    if !families.is_empty() {
        let mut names = BTreeSet::new();
        for (name, address) in families.into_iter().flat_map(|family| addresses_of_nodes(view, family)) {
            names.insert(name);
            blocks.insert(Cidr::of_address(address));
        }
        if !names.is_empty() && blocks.len() > BLOCKS {
            return Err(NoFix::ManyNodes(names.len()));
        }
    }
    let namespaces: BTreeSet<&str> = pods.iter().map(|pod| view.cluster.pod(*pod).namespace.as_str()).collect();
    match (pods.is_empty(), blocks.len()) {
        (true, more) if name.is_part() && more > BLOCKS => Err(NoFix::EveryAddress),
        (false, 0) if namespaces.len() == 1 => Ok(Other::Pods(pods.into_iter().collect())),
        (true, 1..=BLOCKS) => Ok(Other::Blocks(blocks.into_iter().collect())),
        (true, more) if more > BLOCKS => Err(NoFix::ManyAddresses(BLOCKS)),
        _ => Err(NoFix::ManyEnds),
    }
}

/// Whether an end is a hostNetwork pod that may run on any node: one of a workload. The address
/// of one node would admit it there only.
fn may_move(view: View<'_>, party: Party) -> bool {
    match party {
        Party::Host(pod) => view.cluster.pod(pod).workload.is_some(),
        Party::OtherNode(_) => true,
        Party::End(_) => false,
    }
}

/// The name of each node that has an address of a family, and the address by which policies match its network.
fn addresses_of_nodes(view: View<'_>, family: Family) -> impl Iterator<Item = (&str, IpAddr)> {
    let of_family = move |addresses: &BTreeSet<IpAddr>| addresses.iter().copied().find(|of| Family::of(of) == family);
    let hosts = view.cluster.pods().filter(|(_, pod)| pod.host_network && !pod.finished);
    let seen: BTreeMap<&str, IpAddr> =
        hosts.filter_map(|(_, pod)| Some((pod.node.as_deref()?, pod.address(family)?))).collect();
    let address = move |name: &str, all| seen.get(name).copied().or_else(|| of_family(all));
    view.cluster.nodes().iter().filter_map(move |(name, all)| Some((name.as_str(), address(name, all)?)))
}

/// The items of `from` or `to` that mean the other ends, in a policy of this namespace.
pub(super) fn items(view: View<'_>, other: &Other, namespace: &str) -> Result<Vec<Value>, NoFix> {
    match other {
        Other::Blocks(blocks) => {
            Ok(blocks.iter().map(|block| json!({"ipBlock": {"cidr": block.network().to_string()}})).collect())
        }
        Other::Pods(pods) => {
            let labels = narrowest(view, pods)?;
            let own = &view.cluster.pod(pods[0]).namespace;
            let mut item = json!({ "podSelector": match_labels(&labels) });
            if own != namespace {
                item["namespaceSelector"] = namespace_selector(own);
            }
            Ok(vec![item])
        }
    }
}

/// The selector of one namespace.
pub(super) fn namespace_selector(name: &str) -> Value {
    json!({ "matchLabels": { NAMESPACE_NAME_LABEL: name } })
}

/// Whether a label with this key names what a pod is.
pub(super) fn is_name(key: &str) -> bool {
    NAMES.contains(&key)
}

/// The fewest labels that select these pods and no others of their namespace; all labels if others
/// have them too.
pub(super) fn narrowest(view: View<'_>, pods: &[PodId]) -> Result<Labels, NoFix> {
    let of = |pod: &PodId| view.cluster.pod(*pod);
    let first = of(&pods[0]);
    let is_usable = |key: &String, value: &String| {
        let one = Labels::from([(key.clone(), value.clone())]);
        !is_controller_label(key)
            && !Selector::of_labels(&one).is_empty()
            && pods.iter().all(|pod| of(pod).labels.get(key) == Some(value))
    };
    let mut common: Vec<(&String, &String)> =
        first.labels.iter().filter(|(key, value)| is_usable(key, value)).collect();
    common.sort_by_key(|(key, _)| {
        let is_passing = PASSING.iter().any(|word| key.contains(word));
        (is_passing, NAMES.iter().position(|name| name == key).unwrap_or(NAMES.len()))
    });
    if common.is_empty() {
        let (namespace, name) = (first.namespace.clone(), first.name.clone());
        let has_passing = first.labels.keys().any(|key| is_controller_label(key));
        return Err(if has_passing { NoFix::PassingLabels(namespace, name) } else { NoFix::NoLabel(namespace, name) });
    }
    let meant: BTreeSet<(&str, &str)> = pods.iter().map(|pod| of(pod).identity()).collect();
    let means_only_them = |labels: &Labels| {
        let selector = Selector::of_labels(labels);
        let endpoints = view.cluster.endpoints().filter(|(_, pod)| pod.namespace == first.namespace);
        endpoints.into_iter().all(|(_, pod)| !selector.matches(&pod.labels) || meant.contains(&pod.identity()))
    };
    let of_pair = |(key, value): &(&String, &String)| ((*key).clone(), (*value).clone());
    // A label that names what the pods are may stand alone. One of a release says nothing of that, and the
    // next release has another.
    let is_passing = |key: &str| PASSING.iter().any(|word| key.contains(word));
    let have_name = common.iter().any(|(key, _)| is_name(key));
    let alone = common.iter().filter(|(key, _)| if have_name { is_name(key) } else { !is_passing(key) });
    if let Some(one) = alone.map(|pair| Labels::from([of_pair(pair)])).find(means_only_them) {
        return Ok(one);
    }
    let mut labels = Labels::new();
    for pair in &common {
        labels.extend([of_pair(pair)]);
        if means_only_them(&labels) {
            break;
        }
    }
    // The first names what the pods are, and of the others only those stay that tell them from others.
    if means_only_them(&labels) {
        for (key, value) in common.iter().skip(1) {
            if labels.remove(*key).is_some() && !means_only_them(&labels) {
                labels.insert((*key).clone(), (*value).clone());
            }
        }
    }
    Ok(labels)
}

/// The labels of pods that a selector asks for, with the values that the pods have.
/// Where they have one under a key that differs by little, that key takes its place; under another one, the labels that
/// name them.
pub(super) fn as_asked_for(view: View<'_>, selector: &Selector, pods: &[PodId]) -> Option<Labels> {
    let first = &view.cluster.pod(*pods.first()?).labels;
    let (mut labels, mut lacks_some) = (Labels::new(), false);
    for requirement in selector.requirements() {
        let Operator::In(_) = &requirement.operator else { continue };
        let key = &requirement.key;
        let value = first.get(key).filter(|value| {
            let is_theirs = pods.iter().all(|pod| view.cluster.pod(*pod).labels.get(key) == Some(*value));
            is_theirs && (requirement.matches(first) || !is_controller_label(key))
        });
        let value = value.map(|value| (&requirement.key, value));
        match value.or_else(|| under_a_like_key(requirement, selector, first)) {
            Some((key, value)) => drop(labels.insert(key.clone(), value.clone())),
            None => lacks_some = true,
        }
    }
    let have_them =
        |pod: &PodId| labels.iter().all(|(key, value)| view.cluster.pod(*pod).labels.get(key) == Some(value));
    if !pods.iter().all(have_them) {
        labels.clear();
    }
    if lacks_some || labels.is_empty() {
        labels.extend(narrowest(view, pods).ok()?);
    }
    Some(labels)
}

/// The label with a value that is asked for under a key that the selector misspells: `tier` where it asks for `teir`, or
/// `app.kubernetes.io/name` where it asks for `name`.
fn under_a_like_key<'l>(
    requirement: &Requirement,
    selector: &Selector,
    has: &'l Labels,
) -> Option<(&'l String, &'l String)> {
    let last = |key: &str| key.rsplit('/').next().unwrap_or_default().to_owned();
    let is_asked_for = |key: &String| selector.requirements().any(|of| of.key == *key);
    has.iter().find(|(key, value)| {
        let is_like = is_close(key, &requirement.key) || last(key) == last(&requirement.key);
        is_like && asks_for(requirement, value) && !is_asked_for(key) && !has.contains_key(&requirement.key)
    })
}

/// The items of `ports` that mean this traffic; none where everything was asked about, which a rule without
/// ports means.
pub(super) fn ports(traffic: &Traffic) -> Result<Vec<Value>, NoFix> {
    if traffic.is_all() {
        return Ok(Vec::new());
    }
    if traffic.other {
        let has_ports = Protocol::ALL.into_iter().any(|protocol| !traffic.of(protocol).is_empty());
        return Err(if has_ports { NoFix::TooManyPorts } else { NoFix::Icmp });
    }
    let mut items = Vec::new();
    for protocol in Protocol::ALL {
        for (first, last) in traffic.port_ranges(protocol) {
            if (first, last) == Traffic::PORTS {
                return Err(NoFix::TooManyPorts);
            }
            let mut item = json!({ "port": first });
            if first < last {
                item["endPort"] = json!(last);
            }
            if protocol != Protocol::Tcp {
                item["protocol"] = json!(protocol.as_str());
            }
            items.push(item);
        }
    }
    match items.len() {
        0 => Err(NoFix::TooManyPorts),
        1..=PORTS => Ok(items),
        _ => Err(NoFix::TooManyRanges(PORTS)),
    }
}

/// The name that all destinations give to the port that was asked for, as an item of `ports`.
pub(super) fn named_port(view: View<'_>, pairs: &[Pair], direction: Direction) -> Option<Value> {
    let mut names: Option<BTreeSet<(Protocol, &str)>> = None;
    for pair in pairs {
        let question = pair.question(direction);
        let (Party::End(End::Pod(pod)), Some((protocol, port, last))) = (question.to, question.traffic.single()) else {
            return None;
        };
        let ports = view.cluster.pod(pod).ports.iter();
        let meant = ports.filter(|of| (of.protocol, of.port, of.port) == (protocol, port, last));
        let of_pod: BTreeSet<(Protocol, &str)> =
            meant.map(|of| (protocol, of.name.as_str())).filter(|(_, name)| !name.is_empty()).collect();
        names = Some(match names {
            Some(before) => before.intersection(&of_pod).copied().collect(),
            None => of_pod,
        });
    }
    let names = names?;
    let (protocol, name) = names.first()?;
    let mut item = json!({ "port": name });
    if *protocol != Protocol::Tcp {
        item["protocol"] = json!(protocol.as_str());
    }
    Some(item)
}
