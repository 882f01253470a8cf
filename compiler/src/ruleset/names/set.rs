//! The names of sets.

use std::borrow::Cow;

use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::names::hash::Hash;
use crate::ruleset::names::seed::Seed;
use crate::ruleset::set::SetKind;
use crate::ruleset::short::Short;

/// What every IPv4 set of ours begins with.
pub const SET_PREFIX_V4: &str = "npc4-";

/// What every IPv6 set of ours begins with.
pub const SET_PREFIX_V6: &str = "npc6-";

/// What a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum SetRole {
    /// The local endpoints that are isolated in a direction.
    Isolated(Direction),
    /// Of the dispatch tree: the endpoints that go left at an inner node.
    Dispatch(Direction),
    /// Of the dispatch tree: the endpoints of one group in a list.
    DispatchGroup(Direction),
    /// The peers of a rule.
    Peers,
    /// Named ports of peers.
    NamedPorts,
    /// What may come from the interfaces of pods.
    Own,
    /// Empty; its name keeps the secret that decides where groups stand in the dispatch tree.
    Seed,
    /// Holds the new members of another set while a plan is carried out.
    Shadow,
    /// Stands in for a set of ours whose name another program's set has.
    Alias,
    /// Made to find out what a kernel supports.
    Probe,
    /// Bears our name, and is none of these: of another version of npc.
    Unknown,
}

/// A name of an ipset: at most 31 characters. Names are equal and ordered as their texts
/// are.
#[derive(Debug, Clone)]
pub struct SetName {
    text: Short<{ SetName::MAX }>,
    family: Family,
    role: SetRole,
    /// The role of the set that this one stands in for, as a shadow or an alias; else its own.
    of: SetRole,
}

impl SetRole {
    /// The roles that one set of a family has, with the rest of its name.
    const SINGLE: [(Self, &str); 7] = [
        (Self::Isolated(Direction::Ingress), "ingress"),
        (Self::Isolated(Direction::Egress), "egress"),
        (Self::Own, "own"),
        (Self::Probe, "probe-ip"),
        (Self::Probe, "probe-net"),
        (Self::Probe, "probe-port"),
        (Self::Probe, "probe-iface"),
    ];

    /// The roles that many sets have, with what the rest of their names begins with.
    const MANY: [(Self, &str); 8] = [
        (Self::Dispatch(Direction::Ingress), "i-t"),
        (Self::Dispatch(Direction::Egress), "e-t"),
        (Self::DispatchGroup(Direction::Ingress), "i-g"),
        (Self::DispatchGroup(Direction::Egress), "e-g"),
        (Self::Peers, "p-"),
        (Self::NamedPorts, "n-"),
        (Self::Alias, "a-"),
        (Self::Seed, "seed-"),
    ];

    /// What the rest of a shadow's name begins with, before a dash: letters that no other
    /// name begins with.
    const SHADOWS: [&str; 8] = ["s", "t", "u", "v", "w", "x", "y", "z"];

    /// The role of the set with this text behind the prefix of its family.
    fn read(suffix: &str) -> Self {
        let single = Self::SINGLE.into_iter().find(|(_, name)| *name == suffix);
        let found = single.or_else(|| Self::MANY.into_iter().find(|(_, begin)| suffix.starts_with(begin)));
        let is_shadow = || suffix.split_once('-').is_some_and(|(letter, _)| Self::SHADOWS.contains(&letter));
        found.map_or_else(|| if is_shadow() { Self::Shadow } else { Self::Unknown }, |(role, _)| role)
    }

    /// The role of the set that one of this role, with this text behind the prefix, stands in for, and the
    /// text of that; its own, if it stands in for none.
    fn inner(self, suffix: &str) -> (Self, &str) {
        let (mut suffix, mut role) = (suffix, self);
        while let (Self::Alias | Self::Shadow, Some((_, rest))) = (role, suffix.split_once('-')) {
            (suffix, role) = (rest, Self::read(rest));
        }
        (role, suffix)
    }

    /// What the rest of a name with this role is or begins with.
    fn text(self) -> &'static str {
        let found = Self::SINGLE.into_iter().chain(Self::MANY).find(|(role, _)| *role == self);
        found.map_or("", |(_, text)| text)
    }
}

impl SetName {
    /// The kernel's limit (`IPSET_MAXNAMELEN` less the final zero).
    pub const MAX: usize = 31;

    fn of(family: Family, role: SetRole, parts: [&str; 3]) -> Self {
        let prefix = prefix(family);
        let name = Short::of(&[prefix, parts[0], parts[1], parts[2]]);
        let text = name.unwrap_or_else(|| panic!("set name {prefix}{} is too long", parts.concat()));
        Self { text, family, role, of: role }
    }

    /// A set of ours: the family's prefix and this suffix.
    ///
    /// # Panics
    /// If the name would be too long; suffixes are made from hashes and fixed
    /// words, never from what a user chose.
    #[must_use]
    pub fn new(family: Family, suffix: &str) -> Self {
        let role = SetRole::read(suffix);
        Self { of: role.inner(suffix).0, ..Self::of(family, role, [suffix, "", ""]) }
    }

    /// The set of a node's endpoints that are isolated in a direction.
    #[must_use]
    pub fn isolated(family: Family, direction: Direction) -> Self {
        let role = SetRole::Isolated(direction);
        Self::of(family, role, [role.text(), "", ""])
    }

    /// A set of the dispatch tree: the endpoints that go left at the inner node at a
    /// place, the bits that lead there.
    #[must_use]
    pub fn dispatch(family: Family, direction: Direction, place: &str) -> Self {
        let role = SetRole::Dispatch(direction);
        Self::of(family, role, [role.text(), place, ""])
    }

    /// A set of the dispatch tree: the endpoints of one group in a list.
    #[must_use]
    pub fn dispatch_group(family: Family, direction: Direction, group: &Hash) -> Self {
        let role = SetRole::DispatchGroup(direction);
        Self::of(family, role, [role.text(), &group.short(), ""])
    }

    /// A set of peers, by the hash of what defines them.
    #[must_use]
    pub fn peers(family: Family, definition: &Hash) -> Self {
        Self::of(family, SetRole::Peers, [SetRole::Peers.text(), &definition.short(), ""])
    }

    /// A set of named ports, by the hash of what defines them.
    #[must_use]
    pub fn named_ports(family: Family, definition: &Hash) -> Self {
        Self::of(family, SetRole::NamedPorts, [SetRole::NamedPorts.text(), &definition.short(), ""])
    }

    /// The set of what may come from the interfaces of pods.
    #[must_use]
    pub fn own(family: Family) -> Self {
        Self::of(family, SetRole::Own, [SetRole::Own.text(), "", ""])
    }

    /// The empty set whose name keeps a node's secret. The node has one, in the family that
    /// every node has.
    #[must_use]
    pub fn seed(seed: &Seed) -> Self {
        Self::of(Family::V4, SetRole::Seed, [SetRole::Seed.text(), seed.as_str(), ""])
    }

    /// The secret that it keeps, if it keeps one.
    #[must_use]
    pub fn seed_kept(&self) -> Option<Seed> {
        if self.role != SetRole::Seed {
            return None;
        }
        self.suffix().strip_prefix(SetRole::Seed.text())?.parse().ok()
    }

    /// The name as a log may show it: without the secret of a node.
    #[must_use]
    pub fn shown(&self) -> Cow<'_, str> {
        let (SetRole::Seed, name) = self.role.inner(self.suffix()) else { return Cow::Borrowed(self.as_str()) };
        let secret = name.len() - SetRole::Seed.text().len();
        let text = self.as_str();
        Cow::Owned(format!("{}…", &text[..text.len() - secret]))
    }

    /// The set of a kind that is made to find out what a kernel supports.
    #[must_use]
    pub fn probe(family: Family, kind: SetKind) -> Self {
        let suffix = match kind {
            SetKind::HashIp => "probe-ip",
            SetKind::HashNet => "probe-net",
            SetKind::HashIpPort => "probe-port",
            SetKind::HashNetIface => "probe-iface",
        };
        Self::of(family, SetRole::Probe, [suffix, "", ""])
    }

    /// What it is for.
    #[must_use]
    pub const fn role(&self) -> SetRole {
        self.role
    }

    /// Whose addresses it holds.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether it is the set of what may come from the interfaces of pods.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(self.role, SetRole::Own)
    }

    /// Whether it is an isolated set or a dispatch set, of either direction.
    #[must_use]
    pub const fn leads_to_groups(&self) -> bool {
        matches!(self.role, SetRole::Isolated(_) | SetRole::Dispatch(_) | SetRole::DispatchGroup(_))
    }

    /// Whether it is the isolated set of a direction.
    #[must_use]
    pub const fn is_isolated_set(&self) -> bool {
        matches!(self.role, SetRole::Isolated(_))
    }

    /// Whether it is the isolated set or a dispatch set of a direction.
    #[must_use]
    pub fn is_of(&self, direction: Direction) -> bool {
        match self.role {
            SetRole::Isolated(of) | SetRole::Dispatch(of) | SetRole::DispatchGroup(of) => of == direction,
            _ => false,
        }
    }

    /// The name without what all sets of a family begin with.
    fn suffix(&self) -> &str {
        self.as_str().strip_prefix(prefix(self.family)).unwrap_or_default()
    }

    /// The name of a set that stands in for this one while a plan is carried
    /// out; one that is not taken, because a plan may have been cut short.
    #[must_use]
    pub fn shadow(&self, taken: impl Fn(&Self) -> bool) -> Self {
        let shadow = |letter| {
            let name = Self::of(self.family, SetRole::Shadow, [letter, "-", self.suffix()]);
            Self { of: self.of, ..name }
        };
        let mut shadows = SetRole::SHADOWS.into_iter().map(shadow);
        shadows.find(|name| !taken(name)).unwrap_or_else(|| shadow(SetRole::SHADOWS[0]))
    }

    /// The name that this set has while another program's set has its own; none for a name
    /// that is too long for that, which no set of ours has.
    #[must_use]
    pub fn alias(&self) -> Option<Self> {
        let text = Short::of(&[prefix(self.family), SetRole::Alias.text(), self.suffix()])?;
        Some(Self { text, role: SetRole::Alias, ..self.clone() })
    }

    /// A name read back from a kernel, if it is one of ours.
    #[must_use]
    pub fn ours(name: &str) -> Option<Self> {
        let read = |family| Some((family, name.strip_prefix(prefix(family))?));
        let (family, suffix) = Family::ALL.into_iter().find_map(read)?;
        let role = SetRole::read(suffix);
        Some(Self { text: Short::of(&[name])?, family, role, of: role.inner(suffix).0 })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

/// What every set of a family begins with.
const fn prefix(family: Family) -> &'static str {
    match family {
        Family::V4 => SET_PREFIX_V4,
        Family::V6 => SET_PREFIX_V6,
    }
}

as_its_text!(SetName);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::names::hash::FieldHasher;

    #[test]
    fn a_sets_name_is_read_as_it_was_made() {
        let hash = FieldHasher::of("test").finish();
        for family in Family::ALL {
            let of_direction = |direction| {
                [
                    SetName::isolated(family, direction),
                    SetName::dispatch(family, direction, ""),
                    SetName::dispatch(family, direction, "0110"),
                    SetName::dispatch_group(family, direction, &hash),
                ]
            };
            let alone = [SetName::own(family), SetName::peers(family, &hash), SetName::named_ports(family, &hash)];
            let probes = SetKind::ALL.map(|kind| SetName::probe(family, kind));
            for name in Direction::ALL.into_iter().flat_map(of_direction).chain(alone).chain(probes) {
                let (shadow, alias) = (name.shadow(|_| false), name.alias().expect("it fits"));
                let (second, last) = (name.shadow(|taken| *taken == shadow), name.shadow(|_| true));
                assert_eq!((shadow != second, shadow == last), (true, true), "{name}");
                let of = name.role();
                for name in [name, shadow, second, alias] {
                    let read = SetName::ours(name.as_str()).expect("it is ours");
                    assert_eq!((&read, read.role(), read.family()), (&name, name.role(), family), "{name}");
                    assert_eq!((read.of, name.of), (of, of), "{name}");
                    assert_ne!(name.role(), SetRole::Unknown, "{name}");
                }
            }
        }
        for name in ["npc4-", "npc4-later", "npc6-ingress-2", "npc6-i-x", "npc6-ports"] {
            assert_eq!(SetName::ours(name).map(|name| name.role()), Some(SetRole::Unknown), "{name}");
        }
        assert_eq!(SetName::ours("npc5-own"), None);
        // The secret is hidden wherever it stands, and no other name is.
        let seed = SetName::seed(&Seed::from_bytes([7; 32]));
        for (name, shown) in [
            (seed.clone(), "npc4-seed-…"),
            (seed.alias().expect("it fits"), "npc4-a-seed-…"),
            (seed.shadow(|_| false), "npc4-s-seed-…"),
            (seed.shadow(|_| false).alias().expect("it fits"), "npc4-a-s-seed-…"),
            (SetName::new(Family::V4, "p-seed-a"), "npc4-p-seed-a"),
            (SetName::own(Family::V6), "npc6-own"),
        ] {
            assert_eq!(name.shown(), shown);
        }
        // Another program can give a set any name.
        let long = SetName::ours(&format!("npc4-{}", "x".repeat(SetName::MAX - 5))).map(|name| name.alias());
        assert_eq!(long, Some(None));
    }
}
