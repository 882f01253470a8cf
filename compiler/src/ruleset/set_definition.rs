//! What a set of peers or of named ports stands for, its name, and its members.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::algebra::block_text::written_blocks;
use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::algebra::selector::{Operator, Selector};
use crate::algebra::short_text::shorten;
use crate::cluster::Cluster;
use crate::cluster::end::End;
use crate::cluster::group::Atom;
use crate::object::{ContainerPort, Family, Protocol};
use crate::policy::{Namespaces, PodPeer};
use crate::ruleset::names::hash::{FieldHasher, Hash};
use crate::ruleset::node::{Member, Set, SetKind, SetName};

/// How much of a set's definition is put in words.
const MEANING_MAX: usize = 200;

/// Of how many pairs of a peer and a name the name of a set is made, pair by pair. A rule
/// of 1 MB can have a hundred million.
const MOST_PAIRS: usize = 100_000;

/// Names of ports by protocol. The peers of a rule share one value.
pub(crate) type PortNames = Arc<BTreeSet<(Protocol, String)>>;

/// What a set stands for. Its name is made from this and nothing else, so one
/// name always has one meaning, and equal sets of many groups are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Definition {
    /// Peers: the addresses of pods, and prefixes.
    Peers { pods: BTreeSet<PodPeer>, addresses: AddressSet },
    /// The named ports of peers: address, protocol and number of each.
    NamedPorts(BTreeMap<Atom, PortNames>),
}

impl Definition {
    /// The type of the set: by what it is defined to hold, not by what it
    /// holds today.
    pub(crate) fn kind(&self) -> SetKind {
        match self {
            Self::Peers { addresses, .. } if addresses.is_empty() => SetKind::HashIp,
            Self::Peers { .. } => SetKind::HashNet,
            Self::NamedPorts(_) => SetKind::HashIpPort,
        }
    }

    pub(super) fn name(&self, family: Family) -> SetName {
        match self {
            Self::Peers { pods, addresses } => {
                let mut fields = FieldHasher::of("peers");
                fields.count(pods.len());
                for peer in pods {
                    add_pod_peer(&mut fields, peer);
                }
                add_addresses(&mut fields, addresses);
                SetName::peers(family, &fields.finish())
            }
            Self::NamedPorts(entries) if entries.values().map(|names| names.len()).sum::<usize>() <= MOST_PAIRS => {
                let mut fields = FieldHasher::of("named ports");
                for (atom, names) in entries {
                    for (protocol, name) in &**names {
                        add_atom(&mut fields, atom);
                        fields.add(protocol.as_str());
                        fields.add(name);
                    }
                }
                SetName::named_ports(family, &fields.finish())
            }
            Self::NamedPorts(entries) => {
                let mut hashes = FxHashMap::<*const BTreeSet<_>, Hash>::default();
                let mut fields = FieldHasher::of("many named ports");
                for (atom, names) in entries {
                    add_atom(&mut fields, atom);
                    let hash = hashes.entry(Arc::as_ptr(names)).or_insert_with(|| {
                        let mut fields = FieldHasher::of("port names");
                        for (protocol, name) in &**names {
                            fields.add(protocol.as_str());
                            fields.add(name);
                        }
                        fields.finish()
                    });
                    fields.add(hash.bytes());
                }
                SetName::named_ports(family, &fields.finish())
            }
        }
    }

    /// The set as it is today on a node.
    pub(crate) fn resolve(&self, cluster: &Cluster, node: &str, family: Family) -> Set {
        let members = match self {
            Self::Peers { pods, addresses } => {
                let classes: BTreeSet<_> = pods.iter().flat_map(|peer| cluster.selected(peer)).collect();
                let endpoints = classes.into_iter().flat_map(|class| &cluster.class(class).endpoints);
                let own = endpoints.filter_map(|pod| cluster.pod(*pod).address(family));
                let is_meant = |address: &IpAddr| {
                    // What one pod alone lists is that pod's.
                    cluster.contest(*address).is_none() || {
                        let other = End::Address(*address).seen(cluster, Some(node), Some(family));
                        pods.iter().any(|peer| Atom::Pods(peer.clone()).holds(cluster, other))
                    }
                };
                // A prefix holds its pods already.
                let own = own.filter(|address| !addresses.contains(cidr::number(*address)) && is_meant(address));
                let own = own.map(Member::Address);
                own.chain(prefixes(family, addresses).into_iter().map(Member::from)).collect()
            }
            Self::NamedPorts(entries) => named_members(cluster, node, family, entries),
        };
        Set { kind: self.kind(), members, meaning: self.meaning(family) }
    }

    fn meaning(&self, family: Family) -> String {
        let mut meaning = String::new();
        // Whether there is room for more words.
        let mut add = |words: &str| {
            if !meaning.is_empty() {
                meaning.push_str("; ");
            }
            meaning.push_str(words);
            meaning.len() <= MEANING_MAX
        };
        match self {
            Self::Peers { pods, addresses } => {
                let mut blocks = written_blocks(family, addresses).into_iter().take(8);
                let _ = pods.iter().all(|peer| add(&describe(peer))) && blocks.all(|block| add(&block.to_string()));
            }
            Self::NamedPorts(entries) => {
                let _ = entries.iter().all(|(atom, names)| {
                    let whose = match atom {
                        Atom::Everyone => "every pod".to_owned(),
                        Atom::Pods(peer) => describe(peer),
                        Atom::Block(_) => "pods in a block".to_owned(),
                    };
                    names.iter().all(|(protocol, name)| add(&format!("port {name} ({protocol}) of {whose}")))
                });
            }
        }
        shorten(&mut meaning, MEANING_MAX);
        meaning
    }
}

/// Names of ports with the atoms that share them.
pub(crate) fn by_names(entries: &BTreeMap<Atom, PortNames>) -> Vec<(&PortNames, Vec<&Atom>)> {
    let mut places = FxHashMap::<*const BTreeSet<_>, usize>::default();
    let mut together = Vec::<(&PortNames, Vec<&Atom>)>::new();
    for (atom, names) in entries {
        let place = *places.entry(Arc::as_ptr(names)).or_insert(together.len());
        match together.get_mut(place) {
            Some((_, atoms)) => atoms.push(atom),
            None => together.push((names, vec![atom])),
        }
    }
    together
}

/// The prefixes of a set, without one of length 0, which `hash:net` refuses.
pub(crate) fn prefixes(family: Family, addresses: &AddressSet) -> Vec<ipnetwork::IpNetwork> {
    let half = cidr::last_number(family) / 2;
    let (low, high) = (RangeSet::range(0, half), RangeSet::range(half + 1, cidr::last_number(family)));
    let mut both = cidr::prefixes(family, &addresses.intersection(&low));
    both.extend(cidr::prefixes(family, &addresses.intersection(&high)));
    both
}

fn named_members(
    cluster: &Cluster,
    node: &str,
    family: Family,
    entries: &BTreeMap<Atom, PortNames>,
) -> BTreeSet<Member> {
    let together = by_names(entries);
    let mut places = BTreeMap::<(Protocol, &str), Vec<usize>>::new();
    for (place, (names, _)) in together.iter().enumerate() {
        for (protocol, name) in &***names {
            places.entry((*protocol, name)).or_default().push(place);
        }
    }
    let mut members = BTreeSet::new();
    for (_, pod) in cluster.endpoints().filter(|(_, pod)| !pod.ports.is_empty()) {
        let Some(address) = pod.address(family) else { continue };
        let other = End::Address(address).seen(cluster, Some(node), Some(family));
        let is_named = |port: &&ContainerPort| {
            let places = places.get(&(port.protocol, port.name.as_str())).into_iter().flatten();
            places.flat_map(|place| &together[*place].1).any(|atom| atom.holds(cluster, other))
        };
        let ports = other.ports.iter().filter(is_named);
        members.extend(ports.map(|port| Member::AddressPort(address, port.protocol, port.port)));
    }
    members
}

fn describe(peer: &PodPeer) -> String {
    let all = |selector: &Selector| if selector.is_empty() { "*".to_owned() } else { selector.to_string() };
    let mut words = format!("pods {}", all(&peer.pods));
    // Writing to a String cannot fail.
    let _ = match &peer.namespaces {
        Namespaces::Own(name) => write!(words, " of namespace {name}"),
        Namespaces::Selected(selector) => write!(words, " of namespaces {}", all(selector)),
    };
    words
}

fn add_atom(fields: &mut FieldHasher, atom: &Atom) {
    match atom {
        Atom::Everyone => fields.add("everyone"),
        Atom::Pods(peer) => {
            fields.add("pods");
            add_pod_peer(fields, peer);
        }
        Atom::Block(block) => {
            fields.add("block");
            add_addresses(fields, &block.addresses);
        }
    }
}

fn add_addresses(fields: &mut FieldHasher, addresses: &AddressSet) {
    fields.count(addresses.ranges().len());
    for (first, last) in addresses.ranges() {
        fields.add(first.to_le_bytes());
        fields.add(last.to_le_bytes());
    }
}

fn add_pod_peer(fields: &mut FieldHasher, peer: &PodPeer) {
    match &peer.namespaces {
        Namespaces::Own(name) => {
            fields.add("own");
            fields.add(name);
        }
        Namespaces::Selected(selector) => {
            fields.add("selected");
            add_selector(fields, selector);
        }
    }
    add_selector(fields, &peer.pods);
}

fn add_selector(fields: &mut FieldHasher, selector: &Selector) {
    fields.count(selector.requirements().count());
    for requirement in selector.requirements() {
        fields.add(&requirement.key);
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => ("in", Some(values)),
            Operator::NotIn(values) => ("notin", Some(values)),
            Operator::Exists => ("exists", None),
            Operator::DoesNotExist => ("absent", None),
        };
        fields.add(operator);
        fields.count(values.map_or(0, |values| values.len()));
        values.into_iter().flat_map(|values| &**values).for_each(|value| fields.add(value));
    }
}
