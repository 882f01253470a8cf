//! The chain of one group: the fewest rules that admit what its policies do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::algebra::selector::{Operator, Selector};
use crate::algebra::traffic::{PortSet, TUNNELS, Traffic};
use crate::cluster::Cluster;
use crate::cluster::group::{Admitted, Atom};
use crate::object::{ContainerPort, Family, Protocol};
use crate::policy::{Direction, Namespaces, PodPeer};
use crate::ruleset::name::{Fields, Hash};
use crate::ruleset::node::{ChainName, Match, Member, Rule, Set, SetField, SetKind, SetName, Target};
use crate::ruleset::options::Options;
use crate::ruleset::text;
use crate::verdict::flow::End;

/// How many ports one multiport match takes; a range counts two.
const MULTIPORT_SLOTS: usize = 15;

/// How much of a set's definition is put in words.
const MEANING_MAX: usize = 200;

/// The rules of a group in one family, and the sets that they name.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) rules: Vec<Rule>,
    pub(crate) sets: BTreeMap<SetName, Definition>,
    direction: Direction,
    drop_tunnels: bool,
    /// Whether TCP segments that belong to no known connection have rules of
    /// their own.
    judge_strays: bool,
    log_denied: bool,
}

/// What a set stands for. Its name is made from this and nothing else, so one
/// name always has one meaning, and equal sets of many groups are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Definition {
    /// Peers: the addresses of pods, and prefixes.
    Peers { pods: BTreeSet<PodPeer>, addresses: AddressSet },
    /// The named ports of peers: address, protocol and number of each.
    NamedPorts(BTreeSet<(Atom, Protocol, String)>),
}

impl Leaf {
    /// The chain of a group in one family, from what the group admits and the
    /// names of the policies that isolate it.
    pub(crate) fn new<'n>(
        family: Family,
        direction: Direction,
        options: &Options,
        admitted: &BTreeMap<Atom, Arc<Admitted>>,
        policies: impl IntoIterator<Item = (&'n str, &'n str)>,
    ) -> Self {
        let mut leaf = Self {
            rules: Vec::new(),
            sets: BTreeMap::new(),
            direction,
            drop_tunnels: !options.allow_tunnels && direction == Direction::Egress,
            judge_strays: !options.keep_established,
            log_denied: options.log_denied,
        };
        leaf.admit(family, direction, admitted);
        let names: Vec<String> = policies.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        let comment = text::comment(&format!("{} isolated by {}", direction.as_str(), names.join(", ")));
        leaf.deny(&[], comment);
        leaf
    }

    fn admit(&mut self, family: Family, direction: Direction, admitted: &BTreeMap<Atom, Arc<Admitted>>) {
        let field = match direction {
            Direction::Ingress => SetField::Source,
            Direction::Egress => SetField::Destination,
        };
        // What everyone is admitted to needs no set, and covers the rest.
        let anyone = |atom: &Atom| match atom {
            Atom::Everyone => true,
            Atom::Block(block) => block.family == family && cidr::is_everything(family, &block.addresses),
            Atom::Pods(_) => false,
        };
        let present =
            |atom: &Atom| !matches!(atom, Atom::Block(block) if block.family != family || block.addresses.is_empty());
        let (of_anyone, of_some): (Vec<_>, Vec<_>) =
            admitted.iter().filter(|(atom, _)| present(atom)).partition(|(atom, _)| anyone(atom));
        let to_anyone = Traffic::union_of(of_anyone.iter().map(|(_, admitted)| &admitted.traffic));
        let to_some = by_admitted(of_some);
        let rest =
            || of_anyone.iter().map(|(_, admitted)| &***admitted).chain(to_some.iter().map(|(admitted, _)| *admitted));

        let kept = if self.drop_tunnels {
            let named = PortSet::union_of(of_anyone.iter().map(|(_, admitted)| &admitted.tunnels));
            let unnamed: Vec<PortSet> = rest().map(Admitted::unnamed_tunnel_ports).collect();
            PortSet::union_of(&unnamed).difference(&named)
        } else {
            PortSet::default()
        };
        let is_covered = |admitted: &Admitted, protocol| {
            let everything = to_anyone.is_all() || admitted.traffic.is_all();
            let is_asked_apart = match protocol {
                Protocol::Tcp => self.judge_strays,
                Protocol::Udp => !kept.is_empty(),
                Protocol::Sctp => false,
            };
            everything && !is_asked_apart
        };
        let named = admitted.iter().filter(|(atom, _)| present(atom)).flat_map(|(atom, admitted)| {
            let names = admitted.named.iter().filter(move |(protocol, _)| !is_covered(admitted, *protocol));
            names.map(|(protocol, name)| (atom.clone(), *protocol, name.clone()))
        });
        let named: BTreeSet<_> = named.collect();
        let mut named = self.named_ports(family, named);

        // What names a TCP port comes first, because it alone admits strays.
        let mut done = PortSet::default();
        let mut is_wide = false;
        if self.judge_strays {
            done = PortSet::union_of(of_anyone.iter().map(|(_, admitted)| &admitted.named_tcp));
            self.ports(Protocol::Tcp, &done, None);
            self.joined(family, field, Protocol::Tcp, &to_some, |admitted| admitted.named_tcp.difference(&done));
            self.rules.extend(named.take());
            let unnamed = |admitted: &Admitted| {
                let all = admitted.traffic.of(Protocol::Tcp);
                !all.difference(&done).difference(&admitted.named_tcp).is_empty()
            };
            is_wide = rest().any(unnamed);
            self.stray(if is_wide { Target::Jump(ChainName::stray_of(direction)) } else { deny_stray() });
        }
        if !kept.is_empty() {
            self.joined(family, field, Protocol::Udp, &to_some, |admitted| admitted.tunnels.intersection(&kept));
            self.rules.extend(named.take());
            self.keep(&[Match::Protocol(Protocol::Udp), Match::DestinationPorts(kept.ranges().to_vec())]);
        }
        if to_anyone.is_all() {
            self.tunnels();
            self.rules.push(Rule { matches: Vec::new(), target: Target::Return });
            return;
        }
        // No packet to ports that were asked about before meets what follows.
        let judge_strays = self.judge_strays;
        let nothing = PortSet::default();
        let asked = |protocol, admitted: Option<&Admitted>, ports: &PortSet| match protocol {
            Protocol::Tcp if judge_strays => {
                without(ports, &done, admitted.map_or(&nothing, |admitted| &admitted.named_tcp))
            }
            Protocol::Udp => without(ports, &kept, &nothing),
            _ => ports.clone(),
        };
        for protocol in Protocol::ALL {
            self.ports(protocol, &asked(protocol, None, to_anyone.of(protocol)), None);
        }
        let (whole, partly): (Vec<_>, Vec<_>) =
            to_some.into_iter().partition(|(admitted, _)| admitted.traffic.is_all());
        for protocol in Protocol::ALL {
            self.joined(family, field, protocol, &partly, |admitted| {
                let ports = admitted.traffic.of(protocol).difference(to_anyone.of(protocol));
                asked(protocol, Some(admitted), &ports)
            });
        }
        self.rules.extend(named);
        if !whole.is_empty() {
            self.tunnels();
            let peers = self.peers(family, field, whole.into_iter().flat_map(|(_, atoms)| atoms));
            self.rules.push(Rule { matches: peers.into_iter().collect(), target: Target::Return });
        }
        if is_wide {
            self.stray(deny_stray());
        }
    }

    /// A rule for TCP segments that open no connection and belong to none.
    fn stray(&mut self, target: Target) {
        self.rules.push(Rule { matches: vec![Match::NotSyn, Match::NewOrInvalid], target });
    }

    /// The rules that admit peers to ports of a protocol. Peers of the same
    /// ports are joined by definition, never by today's members: otherwise a
    /// pod that comes or goes would change rules.
    fn joined(
        &mut self,
        family: Family,
        field: SetField,
        protocol: Protocol,
        peers: &[(&Admitted, Vec<&Atom>)],
        wanted: impl Fn(&Admitted) -> PortSet,
    ) {
        let mut by_ports = BTreeMap::<PortSet, Vec<&Atom>>::new();
        for (admitted, atoms) in peers {
            let ports = wanted(admitted);
            if !ports.is_empty() {
                by_ports.entry(ports).or_default().extend(atoms);
            }
        }
        for (ports, atoms) in by_ports {
            let peers = self.peers(family, field, atoms);
            self.ports(protocol, &ports, peers.as_ref());
        }
    }

    /// The rule for ports that each destination resolves for itself.
    fn named_ports(&mut self, family: Family, named: BTreeSet<(Atom, Protocol, String)>) -> Option<Rule> {
        if named.is_empty() {
            return None;
        }
        let name = self.set(family, Definition::NamedPorts(named));
        Some(Rule { matches: vec![Match::Set(name, SetField::DestinationPort)], target: Target::Return })
    }

    /// The rules that keep tunnels without ports out. They stand before the
    /// rules without ports and nowhere else, because no other rule would admit
    /// them.
    fn tunnels(&mut self) {
        if !self.drop_tunnels {
            return;
        }
        for number in TUNNELS {
            self.keep(&[Match::ProtocolNumber(number)]);
        }
    }

    /// A rule that keeps a tunnel from the pods.
    fn keep(&mut self, tunnel: &[Match]) {
        self.deny(tunnel, "a tunnel past policies".to_owned());
    }

    /// A rule that denies, and if so wanted one before it that tells of it: of
    /// each group, so that a flood of one uses up no other's limit.
    fn deny(&mut self, matches: &[Match], comment: String) {
        if self.log_denied {
            self.rules.push(Rule { matches: [matches, &[Match::Limited]].concat(), target: Target::Log });
        }
        let target = Target::Goto(ChainName::deny(self.direction));
        self.rules.push(Rule { matches: [matches, &[Match::Comment(comment)]].concat(), target });
    }

    /// The rules that admit some ports of a protocol, to everyone or to peers.
    fn ports(&mut self, protocol: Protocol, ports: &PortSet, peers: Option<&Match>) {
        for ports in chunks(ports) {
            let mut matches = vec![Match::Protocol(protocol)];
            if ports != [Traffic::PORTS] {
                matches.push(Match::DestinationPorts(ports));
            }
            matches.extend(peers.cloned());
            self.rules.push(Rule { matches, target: Target::Return });
        }
    }

    /// The match for some peers; `None` where together they are everyone.
    fn peers<'p>(
        &mut self,
        family: Family,
        field: SetField,
        atoms: impl IntoIterator<Item = &'p Atom>,
    ) -> Option<Match> {
        let mut pods = BTreeSet::new();
        let mut blocks = Vec::new();
        for atom in atoms {
            match atom {
                Atom::Everyone => return None,
                Atom::Pods(peer) => {
                    pods.insert(peer.clone());
                }
                Atom::Block(block) => blocks.push(&block.addresses),
            }
        }
        let addresses = AddressSet::union_of(blocks);
        if cidr::is_everything(family, &addresses) {
            return None;
        }
        Some(Match::Set(self.set(family, Definition::Peers { pods, addresses }), field))
    }

    fn set(&mut self, family: Family, definition: Definition) -> SetName {
        let name = definition.name(family);
        self.sets.entry(name.clone()).or_insert(definition);
        name
    }

    /// A hash of the chain's content, which is the same under any name.
    pub(crate) fn hash(&self, family: Family) -> Hash {
        let nowhere = ChainName::new("");
        let mut fields = Fields::of("chain");
        for rule in &self.rules {
            fields.add(text::rule_line(family, &nowhere, rule));
        }
        fields.finish()
    }
}

/// Atoms that may send or get the same, together: what, and which.
fn by_admitted<'a>(admitted: Vec<(&'a Atom, &'a Arc<Admitted>)>) -> Vec<(&'a Admitted, Vec<&'a Atom>)> {
    let mut places = FxHashMap::<*const Admitted, usize>::default();
    let mut together = Vec::<(&Admitted, Vec<&Atom>)>::new();
    for (atom, admitted) in admitted {
        let place = *places.entry(Arc::as_ptr(admitted)).or_insert(together.len());
        match together.get_mut(place) {
            Some((_, atoms)) => atoms.push(atom),
            None => together.push((&**admitted, vec![atom])),
        }
    }
    together
}

/// The ports for a rule that no packet to some of them meets, those in either set: with
/// or without these, whatever is shorter to say.
fn without(ports: &PortSet, asked: &PortSet, also_asked: &PortSet) -> PortSet {
    let others = ports.difference(asked).difference(also_asked);
    if others.is_empty() || others.ranges().len() < ports.ranges().len() { others } else { ports.clone() }
}

/// Where denied strays end.
fn deny_stray() -> Target {
    Target::Goto(ChainName::deny_stray())
}

/// Ports in portions that fit one match.
fn chunks(ports: &PortSet) -> Vec<Vec<(u16, u16)>> {
    let mut chunks: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut free = 0;
    for &(first, last) in ports.ranges() {
        let slots = if first == last { 1 } else { 2 };
        if slots > free {
            chunks.push(Vec::new());
            free = MULTIPORT_SLOTS;
        }
        free -= slots;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((first, last));
        }
    }
    chunks
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

    fn name(&self, family: Family) -> SetName {
        match self {
            Self::Peers { pods, addresses } => {
                let mut fields = Fields::of("peers");
                fields.count(pods.len());
                for peer in pods {
                    add_pod_peer(&mut fields, peer);
                }
                add_addresses(&mut fields, addresses);
                SetName::peers(family, &fields.finish())
            }
            Self::NamedPorts(entries) => {
                let mut fields = Fields::of("named ports");
                for (atom, protocol, name) in entries {
                    match atom {
                        Atom::Everyone => fields.add("everyone"),
                        Atom::Pods(peer) => {
                            fields.add("pods");
                            add_pod_peer(&mut fields, peer);
                        }
                        Atom::Block(block) => {
                            fields.add("block");
                            add_addresses(&mut fields, &block.addresses);
                        }
                    }
                    fields.add(protocol.as_str());
                    fields.add(name);
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
        let mut words: Vec<String> = Vec::new();
        match self {
            Self::Peers { pods, addresses } => {
                words.extend(pods.iter().map(describe));
                words.extend(cidr::prefixes(family, addresses).iter().take(8).map(ToString::to_string));
            }
            Self::NamedPorts(entries) => words.extend(entries.iter().map(|(atom, protocol, name)| {
                let whose = match atom {
                    Atom::Everyone => "every pod".to_owned(),
                    Atom::Pods(peer) => describe(peer),
                    Atom::Block(_) => "pods in a block".to_owned(),
                };
                format!("port {name} ({protocol}) of {whose}")
            })),
        }
        let mut meaning = words.join("; ");
        if meaning.len() > MEANING_MAX {
            let end = (0..=MEANING_MAX).rev().find(|end| meaning.is_char_boundary(*end)).unwrap_or(0);
            meaning.truncate(end);
            meaning.push('…');
        }
        meaning
    }
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
    entries: &BTreeSet<(Atom, Protocol, String)>,
) -> BTreeSet<Member> {
    let mut atoms = BTreeMap::<(Protocol, &str), Vec<&Atom>>::new();
    for (atom, protocol, name) in entries {
        atoms.entry((*protocol, name)).or_default().push(atom);
    }
    let mut members = BTreeSet::new();
    for (_, pod) in cluster.endpoints().filter(|(_, pod)| !pod.ports.is_empty()) {
        let Some(address) = pod.address(family) else { continue };
        let other = End::Address(address).seen(cluster, Some(node), Some(family));
        let is_named = |port: &&ContainerPort| {
            let atoms = atoms.get(&(port.protocol, port.name.as_str())).into_iter().flatten();
            atoms.into_iter().any(|atom| atom.holds(cluster, other))
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

fn add_addresses(fields: &mut Fields, addresses: &AddressSet) {
    fields.count(addresses.ranges().len());
    for (first, last) in addresses.ranges() {
        fields.add(first.to_le_bytes());
        fields.add(last.to_le_bytes());
    }
}

fn add_pod_peer(fields: &mut Fields, peer: &PodPeer) {
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

fn add_selector(fields: &mut Fields, selector: &Selector) {
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
