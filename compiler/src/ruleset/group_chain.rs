//! The chain of one group: the fewest rules that admit what its policies do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::traffic::{PortSet, TUNNELS, Traffic};
use crate::cluster::group::{Admitted, Atom};
use crate::cluster::merge::{Admission, AdmittingRule};
use crate::object::{Family, Protocol};
use crate::policy::Direction;
use crate::ruleset::group_ports::{beyond, chunks, count_of_chunks, unnamed_tunnels, without};
use crate::ruleset::names::hash::{FieldHasher, Hash};
use crate::ruleset::node::{ChainName, Match, Rule, SetField, SetName, Target};
use crate::ruleset::options::RulesetOptions;
use crate::ruleset::origin::{self, Origin, PortsOf};
use crate::ruleset::set_definition::{Definition, PortNames};
use crate::ruleset::text;

/// The rules of a group in one family, and the sets that they name.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a choice that stands by itself")]
pub(crate) struct Leaf {
    pub(crate) rules: Vec<Rule>,
    pub(crate) sets: BTreeMap<SetName, Definition>,
    /// How many of the rules admit something; so many it would have if only sets are wanted.
    pub(crate) admitting: u64,
    direction: Direction,
    drop_tunnels: bool,
    /// Whether TCP segments that belong to no known connection have rules of
    /// their own.
    judge_strays: bool,
    log_denied: bool,
    /// Whether only its sets are wanted, and no rules.
    is_ruleless: bool,
    /// For each rule that admits something, all rules of policies that it comes from. Only
    /// [`Leaf::with_origins`] fills it, because there may be many more of them than rules.
    origins: Option<Origins>,
}

/// For rules of a chain, the rules of policies that they come from, each as in
/// [`text::Named::Rules`].
pub(crate) type Origins = BTreeMap<Rule, Vec<(String, String)>>;

impl Leaf {
    /// The chain of a group in one family, from what the group admits and the
    /// names of the policies that isolate it.
    pub(crate) fn new<'n>(
        family: Family,
        direction: Direction,
        options: &RulesetOptions,
        admission: &Admission<'_>,
        policies: impl IntoIterator<Item = (&'n str, &'n str)>,
    ) -> Self {
        Self::with(family, direction, options, admission, policies, None)
    }

    /// The sets that [`Leaf::new`] asks, and how many of its rules admit something, without the rules.
    pub(crate) fn without_rules(
        family: Family,
        direction: Direction,
        options: &RulesetOptions,
        admission: &Admission<'_>,
    ) -> Self {
        let mut leaf = Self { is_ruleless: true, ..Self::empty(direction, options) };
        leaf.admit(family, direction, admission);
        leaf
    }

    fn empty(direction: Direction, options: &RulesetOptions) -> Self {
        Self {
            rules: Vec::new(),
            sets: BTreeMap::new(),
            admitting: 0,
            direction,
            drop_tunnels: !options.allow_tunnels && direction == Direction::Egress,
            judge_strays: !options.keep_established,
            log_denied: options.log_denied,
            is_ruleless: false,
            origins: None,
        }
    }

    /// The same, and all that its rules come from.
    pub(crate) fn with_origins<'n>(
        family: Family,
        direction: Direction,
        options: &RulesetOptions,
        admission: &Admission<'_>,
        policies: impl IntoIterator<Item = (&'n str, &'n str)>,
    ) -> (Self, Origins) {
        let mut leaf = Self::with(family, direction, options, admission, policies, Some(Origins::new()));
        let origins = leaf.origins.take().unwrap_or_default();
        (leaf, origins)
    }

    fn with<'n>(
        family: Family,
        direction: Direction,
        options: &RulesetOptions,
        admission: &Admission<'_>,
        policies: impl IntoIterator<Item = (&'n str, &'n str)>,
        origins: Option<Origins>,
    ) -> Self {
        let mut leaf = Self { origins, ..Self::empty(direction, options) };
        leaf.admit(family, direction, admission);
        leaf.deny(&[], text::isolated_by(direction, policies));
        leaf
    }

    fn admit(&mut self, family: Family, direction: Direction, admission: &Admission<'_>) {
        let admitted = &admission.admitted;
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
        let by_anyone = admission.sources(of_anyone.iter().map(|(_, admitted)| &***admitted));
        let to_some = by_admitted(of_some);
        let rest =
            || of_anyone.iter().map(|(_, admitted)| &***admitted).chain(to_some.iter().map(|(admitted, _)| *admitted));

        let kept = if self.drop_tunnels { unnamed_tunnels(&of_anyone, rest()) } else { PortSet::default() };
        let is_covered = |admitted: &Admitted, protocol| {
            let everything = to_anyone.is_all() || admitted.traffic.is_all();
            let is_asked_apart = match protocol {
                Protocol::Tcp => self.judge_strays,
                Protocol::Udp => !kept.is_empty(),
                Protocol::Sctp => false,
            };
            everything && !is_asked_apart
        };
        let mut shared = FxHashMap::<*const Admitted, PortNames>::default();
        let named = admitted.iter().filter(|(atom, _)| present(atom)).filter_map(|(atom, admitted)| {
            let names = shared.entry(Arc::as_ptr(admitted)).or_insert_with(|| {
                let names = admitted.named.iter().filter(|(protocol, _)| !is_covered(admitted, *protocol));
                Arc::new(names.cloned().collect())
            });
            (!names.is_empty()).then(|| (atom.clone(), &**admitted, Arc::clone(names)))
        });
        let (of_named, named): (Vec<&Admitted>, BTreeMap<Atom, PortNames>) =
            named.map(|(atom, admitted, names)| (admitted, (atom, names))).unzip();
        let mut named = self.named_ports(family, named, &admission.sources(of_named));

        // What names a TCP port comes first, because it alone admits strays.
        let mut done = PortSet::default();
        let mut is_wide = false;
        if self.judge_strays {
            done = PortSet::union_of(of_anyone.iter().map(|(_, admitted)| &admitted.named_tcp));
            self.ports(Protocol::Tcp, &done, None, PortsOf::NamedTcp, &by_anyone);
            let wanted = |admitted: &Admitted| beyond(&admitted.named_tcp, &done);
            self.joined(family, field, Protocol::Tcp, (&to_some, admission, PortsOf::NamedTcp), wanted);
            self.rules.extend(named.take());
            let unnamed = |admitted: &Admitted| {
                let all = admitted.traffic.of(Protocol::Tcp);
                !all.difference(&done).difference(&admitted.named_tcp).is_empty()
            };
            is_wide = rest().any(unnamed);
            self.stray(if is_wide { Target::Jump(ChainName::stray_of(direction)) } else { deny_stray() });
        }
        if !kept.is_empty() {
            let wanted = |admitted: &Admitted| admitted.tunnels.intersection(&kept);
            self.joined(family, field, Protocol::Udp, (&to_some, admission, PortsOf::Tunnels), wanted);
            self.rules.extend(named.take());
            self.keep(&[Match::Protocol(Protocol::Udp), Match::DestinationPorts(kept.ranges().to_vec())]);
        }
        if to_anyone.is_all() {
            self.everything(by_anyone, None);
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
            self.ports(
                protocol,
                &asked(protocol, None, to_anyone.of(protocol)),
                None,
                PortsOf::Of(protocol),
                &by_anyone,
            );
        }
        let (whole, partly): (Vec<_>, Vec<_>) =
            to_some.into_iter().partition(|(admitted, _)| admitted.traffic.is_all());
        for protocol in Protocol::ALL {
            self.joined(family, field, protocol, (&partly, admission, PortsOf::Of(protocol)), |admitted| {
                let ports = beyond(admitted.traffic.of(protocol), to_anyone.of(protocol));
                asked(protocol, Some(admitted), &ports)
            });
        }
        self.rules.extend(named);
        if !whole.is_empty() {
            let sources = admission.sources(whole.iter().map(|(admitted, _)| *admitted));
            let peers = self.peers(family, field, whole.into_iter().flat_map(|(_, atoms)| atoms));
            self.everything(sources, peers);
        }
        if is_wide {
            self.stray(deny_stray());
        }
    }

    /// The rule that admits everything, to everyone or to peers.
    fn everything(&mut self, sources: Vec<&AdmittingRule<'_>>, peers: Option<Match>) {
        self.admitting += 1;
        if self.is_ruleless {
            return;
        }
        self.tunnels();
        let sources = sources.into_iter().filter(|source| source.admitted.traffic.is_all());
        let origin = Origin::of(sources, self.kept());
        self.allow(peers.into_iter().collect(), &origin);
    }

    /// A rule for TCP segments that open no connection and belong to none.
    fn stray(&mut self, target: Target) {
        if self.is_ruleless {
            return;
        }
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
        (peers, admission, ports_of): (&[(&Admitted, Vec<&Atom>)], &Admission<'_>, PortsOf),
        wanted: impl Fn(&Admitted) -> PortSet,
    ) {
        let mut by_ports = BTreeMap::<PortSet, (Vec<&Atom>, Vec<&Admitted>)>::new();
        for (admitted, atoms) in peers {
            let ports = wanted(admitted);
            if !ports.is_empty() {
                let (of_ports, of) = by_ports.entry(ports).or_default();
                of_ports.extend(atoms);
                of.push(admitted);
            }
        }
        for (ports, (atoms, admitted)) in by_ports {
            let peers = self.peers(family, field, atoms);
            self.ports(protocol, &ports, peers.as_ref(), ports_of, &admission.sources(admitted));
        }
    }

    /// The rule for ports that each destination resolves for itself.
    fn named_ports(
        &mut self,
        family: Family,
        named: BTreeMap<Atom, PortNames>,
        sources: &[&AdmittingRule<'_>],
    ) -> Option<Rule> {
        if named.is_empty() {
            return None;
        }
        let name = self.set(family, Definition::NamedPorts(named));
        self.admitting += 1;
        if self.is_ruleless {
            return None;
        }
        let asking = sources.iter().filter(|source| !source.admitted.named.is_empty());
        let origin = Origin::of(asking.copied(), self.kept());
        Some(self.admitting(vec![Match::Set(name, SetField::DestinationPort)], &origin))
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
        self.deny(tunnel, "a tunnel past policies".into());
    }

    /// A rule that denies, and if so wanted one before it that reports it: of
    /// each group, so that a flood of one uses up no other's limit.
    fn deny(&mut self, matches: &[Match], comment: Arc<str>) {
        if self.is_ruleless {
            return;
        }
        if self.log_denied {
            self.rules.push(Rule { matches: [matches, &[Match::Limited]].concat(), target: Target::Log });
        }
        let target = Target::Goto(ChainName::deny(self.direction));
        self.rules.push(Rule { matches: [matches, &[Match::Comment(comment)]].concat(), target });
    }

    /// The rules that admit some ports of a protocol, to everyone or to peers.
    fn ports(
        &mut self,
        protocol: Protocol,
        ports: &PortSet,
        peers: Option<&Match>,
        ports_of: PortsOf,
        sources: &[&AdmittingRule<'_>],
    ) {
        if self.is_ruleless {
            self.admitting += count_of_chunks(ports);
            return;
        }
        let portions = chunks(ports);
        self.admitting += portions.len() as u64;
        let origins = origin::by_ports(&portions, ports_of, sources, self.kept());
        for (ports, origin) in portions.into_iter().zip(origins) {
            let mut matches = vec![Match::Protocol(protocol)];
            if ports != [Traffic::PORTS] {
                matches.push(Match::DestinationPorts(ports));
            }
            matches.extend(peers.cloned());
            self.allow(matches, &origin);
        }
    }

    /// A rule that admits, with the rules of policies that it comes from.
    fn allow(&mut self, matches: Vec<Match>, origin: &Origin<'_>) {
        let rule = self.admitting(matches, origin);
        self.rules.push(rule);
    }

    /// The same, to be added later.
    fn admitting(&mut self, mut matches: Vec<Match>, origin: &Origin<'_>) -> Rule {
        matches.push(origin.comment());
        let rule = Rule { matches, target: Target::Return };
        if let Some(origins) = &mut self.origins {
            origins.insert(rule.clone(), origin.rules());
        }
        rule
    }

    /// How many origins a rule keeps.
    const fn kept(&self) -> usize {
        if self.origins.is_some() { usize::MAX } else { text::LISTED }
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

    /// A hash of the chain's content, which is the same under any name. Text for iptables is no
    /// part of it: what goes into names has an encoding of its own.
    pub(crate) fn hash(&self) -> Hash {
        let mut fields = FieldHasher::of("chain");
        for rule in &self.rules {
            fields.add(text::name_encoding(rule));
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

/// Where denied strays end.
fn deny_stray() -> Target {
    Target::Goto(ChainName::deny_stray())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::Cluster;
    use crate::cluster::group::Groups;
    use crate::sample;

    proptest! {
        /// The bounds count sets and rules without making rules.
        #[test]
        fn a_chain_has_just_the_sets_and_rules_that_are_counted_for_it(
            objects in sample::objects(),
            keep_established: bool,
            allow_tunnels: bool,
        ) {
            let cluster = Cluster::new(&objects);
            let options = RulesetOptions { keep_established, allow_tunnels, ..RulesetOptions::default() };
            for (_, group) in Groups::of_cluster(&cluster).iter() {
                let (direction, admission) = (group.key.direction, group.admission(&cluster));
                for family in Family::ALL {
                    let leaf = Leaf::new(family, direction, &options, &admission, []);
                    let asked: BTreeSet<&SetName> = leaf.rules.iter().flat_map(Rule::sets).collect();
                    let of_peers = asked.into_iter().filter(|name| leaf.sets.contains_key(*name)).count();
                    prop_assert_eq!(of_peers, leaf.sets.len(), "each is asked");
                    let admitting = leaf.rules.iter().filter(|rule| rule.target == Target::Return).count();
                    prop_assert_eq!(leaf.admitting, admitting as u64);
                    let counted = Leaf::without_rules(family, direction, &options, &admission);
                    prop_assert_eq!((leaf.sets, leaf.admitting), (counted.sets, counted.admitting));
                }
            }
        }

        /// What names a chain has a frozen encoding, so no respelled rule renames it.
        #[test]
        fn every_rule_of_a_chain_can_name_it(
            objects in sample::objects(),
            keep_established: bool,
            allow_tunnels: bool,
            log_denied: bool,
        ) {
            let cluster = Cluster::new(&objects);
            let options = RulesetOptions { keep_established, allow_tunnels, log_denied, ..RulesetOptions::default() };
            for (_, group) in Groups::of_cluster(&cluster).iter() {
                let (direction, admission) = (group.key.direction, group.admission(&cluster));
                for family in Family::ALL {
                    let leaf = Leaf::new(family, direction, &options, &admission, [("shop", "db")]);
                    for rule in &leaf.rules {
                        prop_assert!(text::is_encoded(rule), "{rule:?}");
                    }
                }
            }
        }
    }
}
