//! The layout: from the groups of one node's endpoints to the sets and chains
//! of its kernel.
//!
//! ```text
//! NPC-FORWARD   established and related, neighbour discovery, a pod itself: RETURN
//!               TCP that opens nothing      -j NPC-STRAY: DROP at isolated endpoints
//!               source ∈ npc4-egress        -j NPC-EGRESS
//!               destination ∈ npc4-ingress  -j NPC-INGRESS
//! NPC-INGRESS   a tree of set matches, by goto, to the group of the address
//! NPC-I-…       the group: what is admitted RETURNs to NPC-FORWARD, the rest is dropped
//! ```
//!
//! Rules come from definitions (policies, and the ports that names resolve
//! to); addresses of pods are in sets only. So a pod that comes or goes in a
//! known group writes set members and no rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv6Network};
use rustc_hash::FxHashMap;

use crate::cluster::{Cluster, PodId};
use crate::group::{Group, GroupId, GroupKey, Groups};
use crate::leaf::Leaf;
use crate::name::{Fields, Hash};
use crate::object::Family;
use crate::policy::Direction;
use crate::program::{ChainName, FamilyProgram, Match, Member, Program, Rule, Set, SetField, SetKind, SetName, Target};
use crate::tree::{Node, SetAt};

/// How a pod's traffic to itself is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SelfMatch {
    /// One `-m bpf` rule for every pod.
    #[default]
    Bpf,
    /// One rule for each isolated endpoint, for kernels without `xt_bpf`.
    PerEndpoint,
}

/// What a program depends on besides the cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How a pod's traffic to itself is told.
    pub self_match: SelfMatch,
    /// Whether flows that were established go on under policies that deny
    /// them. Otherwise their conntrack entries are deleted, and a TCP segment
    /// of an isolated endpoint that opens no connection and belongs to none is
    /// dropped: the kernel would take it for a connection and, where the
    /// server talks, turn the denied one around.
    pub keep_established: bool,
    /// Whether endpoints that are isolated for egress may send [`TUNNELS`]
    /// where a rule admits every protocol.
    ///
    /// [`TUNNELS`]: crate::traffic::TUNNELS
    pub allow_tunnels: bool,
}

/// ICMPv6 types of neighbour discovery: router and neighbour solicitation and
/// advertisement, redirect (RFC 4861, section 4).
const NEIGHBOUR_DISCOVERY: [u8; 5] = [133, 134, 135, 136, 137];

/// `fe80::/10` (RFC 4291, section 2.5.6).
const LINK_LOCAL: Ipv6Network = Ipv6Network::new_checked(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).unwrap();

/// The program of one node.
///
/// It isolates the endpoints that are bound to the node; one that has no
/// address yet has its group's chains and sets all the same.
#[must_use]
pub fn program(cluster: &Cluster, node: &str, options: &Options) -> Program {
    let local = cluster.endpoints().filter(|(_, pod)| pod.node.as_deref() == Some(node));
    let local: Vec<PodId> = local.map(|(id, _)| id).collect();
    let groups = Groups::new(cluster, local.iter().copied());
    let identities: FxHashMap<GroupId, Hash> =
        groups.iter().map(|(id, group)| (id, identity(cluster, &group.key))).collect();
    let family = |family| {
        let mut layout = Layout { cluster, options, family, sets: BTreeMap::new(), chains: BTreeMap::new() };
        let mut isolated = BTreeSet::new();
        for direction in Direction::ALL {
            let mut sides = BTreeMap::<Hash, Side<'_>>::new();
            for (id, group) in groups.iter().filter(|(_, group)| group.key.direction == direction) {
                sides.insert(identities[&id], Side { group, addresses: BTreeSet::new() });
            }
            for pod in &local {
                let side = groups.of(*pod, direction).and_then(|group| sides.get_mut(&identities[&group]));
                if let (Some(side), Some(address)) = (side, cluster.address(*pod, family)) {
                    side.addresses.insert(Member::Address(address));
                    isolated.insert(address);
                }
            }
            layout.direction(direction, &sides);
        }
        layout.forward(!identities.is_empty(), &isolated);
        FamilyProgram { family, sets: layout.sets, chains: layout.chains }
    };
    Program { v4: family(Family::V4), v6: family(Family::V6) }
}

/// What a group is, whatever its policies say today: where it stands in the
/// tree depends on this, so that an edited policy moves no endpoint.
fn identity(cluster: &Cluster, key: &GroupKey) -> Hash {
    let mut fields = Fields::of("group");
    fields.add(key.direction.as_str());
    fields.count(key.policies.len());
    for id in &key.policies {
        let policy = cluster.policy(*id);
        fields.add(&policy.namespace);
        fields.add(&policy.name);
    }
    fields.count(key.resolution.len());
    for ((protocol, name), numbers) in &key.resolution {
        fields.add(protocol.as_str());
        fields.add(name);
        fields.count(numbers.len());
        for number in numbers {
            fields.add(number.to_le_bytes());
        }
    }
    fields.finish()
}

/// One group and the addresses of its endpoints.
struct Side<'a> {
    group: &'a Group,
    addresses: BTreeSet<Member>,
}

/// Where the address of an isolated endpoint stands in a packet.
const fn field(direction: Direction) -> SetField {
    match direction {
        Direction::Ingress => SetField::Destination,
        Direction::Egress => SetField::Source,
    }
}

/// One family's program in the making.
struct Layout<'a> {
    cluster: &'a Cluster,
    options: &'a Options,
    family: Family,
    sets: BTreeMap<SetName, Set>,
    chains: BTreeMap<ChainName, Vec<Rule>>,
}

impl Layout<'_> {
    /// The chain that every forwarded packet meets first.
    fn forward(&mut self, has_groups: bool, isolated: &BTreeSet<IpAddr>) {
        let rule = |matches: Vec<Match>, target| Rule { matches, target };
        let mut rules = vec![rule(vec![Match::EstablishedOrRelated], Target::Return)];
        if self.family == Family::V6 {
            rules.extend(NEIGHBOUR_DISCOVERY.map(|kind| rule(vec![Match::Icmpv6Type(kind)], Target::Return)));
            // Bridged pods reach each other by addresses that no set holds. A
            // router never forwards them (RFC 4291, section 2.5.6), so nothing
            // else is lost.
            if has_groups {
                let link_local = IpNetwork::V6(LINK_LOCAL);
                rules.push(rule(vec![Match::Source(link_local)], Target::Drop));
                rules.push(rule(vec![Match::Destination(link_local)], Target::Drop));
            }
        }
        match self.options.self_match {
            SelfMatch::Bpf => rules.push(rule(vec![Match::SourceIsDestination], Target::Return)),
            SelfMatch::PerEndpoint => rules.extend(isolated.iter().map(|address| {
                let host = IpNetwork::from(*address);
                rule(vec![Match::Source(host), Match::Destination(host)], Target::Return)
            })),
        }
        if !self.options.keep_established {
            let stray = vec![Match::NotSyn, Match::NewOrInvalid];
            rules.push(rule(stray, Target::Jump(ChainName::stray())));
            self.stray();
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let gate = Match::Set(SetName::gate(self.family, direction), field(direction));
            rules.push(rule(vec![gate], Target::Jump(ChainName::entry(direction))));
        }
        self.chains.insert(ChainName::forward(), rules);
    }

    /// The chain for TCP segments that open no connection and belong to none.
    /// Whichever way it is that an endpoint is isolated, both its own segments
    /// and those to it could turn a connection around. One rule leads here, so
    /// that a first packet passes four rules by.
    fn stray(&mut self) {
        let comment = || Match::Comment("of no known connection".to_owned());
        let rules = Direction::ALL.into_iter().flat_map(|direction| {
            [SetField::Source, SetField::Destination].map(|field| Rule {
                matches: vec![Match::Set(SetName::gate(self.family, direction), field), comment()],
                target: Target::Drop,
            })
        });
        self.chains.insert(ChainName::stray(), rules.collect());
    }

    /// The sets and chains of one direction, from its gate to its groups.
    fn direction(&mut self, direction: Direction, sides: &BTreeMap<Hash, Side<'_>>) {
        let address_set = |members, meaning: &str| Set { kind: SetKind::HashIp, members, meaning: meaning.to_owned() };
        let members = |groups: &[Hash]| groups.iter().flat_map(|group| &sides[group].addresses).copied().collect();

        let all: Vec<Hash> = sides.keys().copied().collect();
        let meaning = format!("this node's endpoints that are isolated for {}", direction.as_str());
        self.sets.insert(SetName::gate(self.family, direction), address_set(members(&all), &meaning));

        let chains: BTreeMap<Hash, ChainName> =
            sides.iter().map(|(hash, side)| (*hash, self.group(direction, side.group))).collect();
        let entry = ChainName::entry(direction);
        let Some(tree) = Node::new(all) else {
            // Nothing jumps here, because the gate is empty.
            self.chains.insert(entry, vec![Rule { matches: Vec::new(), target: Target::Drop }]);
            return;
        };
        for (at, groups) in tree.sets() {
            let meaning = match &at {
                SetAt::Left(_) => "which endpoints go left",
                SetAt::Group(_) => "the endpoints of one group",
            };
            self.sets.insert(set_at(self.family, direction, &at), address_set(members(&groups), meaning));
        }
        self.node(direction, &chains, &tree, entry);
    }

    /// The chain of a node of the tree under this name, and those below it.
    fn node(&mut self, direction: Direction, groups: &BTreeMap<Hash, ChainName>, node: &Node, name: ChainName) {
        let goto = |condition: Option<SetAt>, chain: ChainName| Rule {
            matches: (condition.iter())
                .map(|at| Match::Set(set_at(self.family, direction, at), field(direction)))
                .collect(),
            target: Target::Goto(chain),
        };
        let rules = match node {
            Node::Leaf(group) => vec![goto(None, groups[group].clone())],
            Node::List { groups: tried, .. } => {
                let last = tried.len() - 1;
                let condition = |place, group: &Hash| (place < last).then_some(SetAt::Group(*group));
                tried.iter().enumerate().map(|(i, group)| goto(condition(i, group), groups[group].clone())).collect()
            }
            Node::Inner { path, left, right } => vec![
                goto(Some(SetAt::Left(path.clone())), chain_of(direction, groups, left)),
                goto(None, chain_of(direction, groups, right)),
            ],
        };
        self.chains.insert(name, rules);
        if let Node::Inner { left, right, .. } = node {
            for child in [left, right] {
                if !matches!(**child, Node::Leaf(_)) {
                    self.node(direction, groups, child, chain_of(direction, groups, child));
                }
            }
        }
    }

    /// The chain of a group, named by its content, and its sets.
    fn group(&mut self, direction: Direction, group: &Group) -> ChainName {
        let leaf = Leaf::new(self.cluster, group, self.family, self.options.allow_tunnels);
        let name = ChainName::new(&format!("{}-{}", letter(direction), leaf.hash(self.family).short()));
        for (set, definition) in &leaf.sets {
            if !self.sets.contains_key(set) {
                self.sets.insert(set.clone(), definition.resolve(self.cluster, self.family));
            }
        }
        self.chains.insert(name.clone(), leaf.rules);
        name
    }
}

/// The chain that leads to a node from above.
fn chain_of(direction: Direction, groups: &BTreeMap<Hash, ChainName>, node: &Node) -> ChainName {
    match node {
        Node::Leaf(group) => groups[group].clone(),
        Node::Inner { path, .. } => ChainName::new(&format!("{}T-{path}", letter(direction))),
        Node::List { path, .. } => ChainName::new(&format!("{}L-{path}", letter(direction))),
    }
}

/// What the chains of a direction's tree and groups begin with.
const fn letter(direction: Direction) -> char {
    match direction {
        Direction::Ingress => 'I',
        Direction::Egress => 'E',
    }
}

fn set_at(family: Family, direction: Direction, at: &SetAt) -> SetName {
    let place = match at {
        SetAt::Left(path) => format!("t{path}"),
        SetAt::Group(group) => format!("g{}", group.short()),
    };
    SetName::of_tree(family, direction, &place)
}
