//! The names of chains.

use std::borrow::Borrow;

use crate::policy::Direction;
use crate::ruleset::names::hash::Hash;
use crate::ruleset::short::Short;

/// What every chain of ours begins with.
pub const CHAIN_PREFIX: &str = "NPC-";

/// The chain that the built-in FORWARD chain jumps to first.
pub const FORWARD_CHAIN: &str = "NPC-FORWARD";

/// What a chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ChainRole {
    /// [`FORWARD_CHAIN`], to which the hook jumps.
    Forward,
    /// Judges ICMP errors about flows that the kernel knows.
    Related,
    /// Denies mid-stream TCP segments that no group can judge.
    Stray,
    /// Denies them where their endpoint is isolated in the other direction too; a group
    /// of this direction asks it.
    StrayOf(Direction),
    /// Drops packets with a forged source.
    Spoof,
    /// Drops what the groups of a direction deny.
    Deny(Direction),
    /// Drops the denied mid-stream segments.
    DenyStray,
    /// Begins the dispatch tree of a direction.
    Entry(Direction),
    /// An inner node of the dispatch tree.
    Dispatch(Direction),
    /// A list at the end of the dispatch tree: groups that it cannot distinguish by their
    /// bits.
    DispatchList(Direction),
    /// Judges a group's packets, or those of an address that endpoints of several groups
    /// list.
    Group(Direction),
    /// Loaded to find out what a kernel supports. No packet meets it.
    Probe,
    /// Bears our name, and is none of these: of another version of npc.
    Unknown,
}

/// A name of a chain in the filter table: at most 28 characters. Names are equal and
/// ordered as their texts are.
#[derive(Debug, Clone)]
pub struct ChainName {
    text: Short<{ ChainName::MAX }>,
    role: ChainRole,
}

impl ChainRole {
    /// The roles that one chain has, with the rest of its name.
    const SINGLE: [(Self, &str); 12] = [
        (Self::Forward, "FORWARD"),
        (Self::Related, "RELATED"),
        (Self::Stray, "STRAY"),
        (Self::StrayOf(Direction::Ingress), "STRAY-INGRESS"),
        (Self::StrayOf(Direction::Egress), "STRAY-EGRESS"),
        (Self::Spoof, "SPOOF"),
        (Self::Deny(Direction::Ingress), "DENY-INGRESS"),
        (Self::Deny(Direction::Egress), "DENY-EGRESS"),
        (Self::DenyStray, "DENY-STRAY"),
        (Self::Entry(Direction::Ingress), "INGRESS"),
        (Self::Entry(Direction::Egress), "EGRESS"),
        (Self::Probe, "PROBE"),
    ];

    /// The roles that many chains have, with what the rest of their names begins with.
    const MANY: [(Self, &str); 6] = [
        (Self::Dispatch(Direction::Ingress), "IT-"),
        (Self::Dispatch(Direction::Egress), "ET-"),
        (Self::DispatchList(Direction::Ingress), "IL-"),
        (Self::DispatchList(Direction::Egress), "EL-"),
        (Self::Group(Direction::Ingress), "I-"),
        (Self::Group(Direction::Egress), "E-"),
    ];

    /// The role of the chain with this text behind [`CHAIN_PREFIX`].
    fn read(suffix: &str) -> Self {
        let single = Self::SINGLE.into_iter().find(|(_, name)| *name == suffix);
        let found = single.or_else(|| Self::MANY.into_iter().find(|(_, begin)| suffix.starts_with(begin)));
        found.map_or(Self::Unknown, |(role, _)| role)
    }

    /// What the rest of a name with this role is or begins with.
    fn text(self) -> &'static str {
        let found = Self::SINGLE.into_iter().chain(Self::MANY).find(|(role, _)| *role == self);
        found.map_or("", |(_, text)| text)
    }

    /// The names that chains of this role have, for people: one with a star at its end stands
    /// for many.
    #[must_use]
    pub fn names(self) -> String {
        let is_many = Self::MANY.into_iter().any(|(role, _)| role == self);
        format!("{CHAIN_PREFIX}{}{}", self.text(), if is_many { "*" } else { "" })
    }

    /// The direction that it is about, if it is about one.
    #[must_use]
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::StrayOf(direction)
            | Self::Deny(direction)
            | Self::Entry(direction)
            | Self::Dispatch(direction)
            | Self::DispatchList(direction)
            | Self::Group(direction) => Some(direction),
            Self::Forward
            | Self::Related
            | Self::Stray
            | Self::Spoof
            | Self::DenyStray
            | Self::Probe
            | Self::Unknown => None,
        }
    }

    /// Whether it is of the dispatch tree, which leads to the groups of a direction.
    #[must_use]
    pub const fn is_dispatch(self) -> bool {
        matches!(self, Self::Entry(_) | Self::Dispatch(_) | Self::DispatchList(_))
    }
}

impl ChainName {
    /// The kernel's limit (`XT_EXTENSION_MAXNAMELEN` less the final zero).
    pub const MAX: usize = 28;

    fn of(role: ChainRole, rest: &str) -> Self {
        let (begin, text) = (role.text(), Short::of(&[CHAIN_PREFIX, role.text(), rest]));
        let text = text.unwrap_or_else(|| panic!("chain name {CHAIN_PREFIX}{begin}{rest} is too long"));
        Self { text, role }
    }

    /// A chain of ours: [`CHAIN_PREFIX`] and this suffix. Only tests name chains so: the names that
    /// npc writes are made from what they stand for, and those that it reads are whole.
    #[cfg(test)]
    pub(crate) fn new(suffix: &str) -> Self {
        let name = Short::of(&[CHAIN_PREFIX, suffix]);
        let text = name.unwrap_or_else(|| panic!("chain name {CHAIN_PREFIX}{suffix} is too long"));
        Self { text, role: ChainRole::read(suffix) }
    }

    /// The chain that begins the dispatch tree of a direction.
    #[must_use]
    pub fn entry(direction: Direction) -> Self {
        Self::of(ChainRole::Entry(direction), "")
    }

    /// An inner node of the dispatch tree of a direction, at a place: the bits that lead
    /// there.
    #[must_use]
    pub fn dispatch(direction: Direction, place: &str) -> Self {
        Self::of(ChainRole::Dispatch(direction), place)
    }

    /// A list of the dispatch tree of a direction, at a place: the bits that lead there.
    #[must_use]
    pub fn dispatch_list(direction: Direction, place: &str) -> Self {
        Self::of(ChainRole::DispatchList(direction), place)
    }

    /// The chain of a group of a direction, by the hash of what it does.
    #[must_use]
    pub fn group(direction: Direction, content: &Hash) -> Self {
        Self::of(ChainRole::Group(direction), &content.short())
    }

    /// The chain that drops the TCP segments of connections that the kernel
    /// does not know, where nothing shows which end is the server.
    #[must_use]
    pub fn stray() -> Self {
        Self::of(ChainRole::Stray, "")
    }

    /// The chain that a group of a direction asks about such a segment, before
    /// its rules without ports: whether its endpoint is isolated in the other
    /// direction too.
    #[must_use]
    pub fn stray_of(direction: Direction) -> Self {
        Self::of(ChainRole::StrayOf(direction), "")
    }

    /// The chain in which the packets end that the groups of a direction deny.
    /// Its rules never change, so the kernel's count of them goes on.
    #[must_use]
    pub fn deny(direction: Direction) -> Self {
        Self::of(ChainRole::Deny(direction), "")
    }

    /// The chain in which the segments end that [`ChainName::stray`] is about,
    /// for the same reason.
    #[must_use]
    pub fn deny_stray() -> Self {
        Self::of(ChainRole::DenyStray, "")
    }

    /// The chain that drops what comes from a pod's interface with a source that
    /// is not the pod's.
    #[must_use]
    pub fn spoof() -> Self {
        Self::of(ChainRole::Spoof, "")
    }

    /// The chain that judges ICMP errors about flows that the kernel knows.
    #[must_use]
    pub fn related() -> Self {
        Self::of(ChainRole::Related, "")
    }

    /// Our first chain, [`FORWARD_CHAIN`].
    #[must_use]
    pub fn forward() -> Self {
        Self::of(ChainRole::Forward, "")
    }

    /// The chain into which rules are loaded to find out what a kernel supports.
    #[must_use]
    pub fn probe() -> Self {
        Self::of(ChainRole::Probe, "")
    }

    /// What it is for.
    #[must_use]
    pub const fn role(&self) -> ChainRole {
        self.role
    }

    /// The direction of the group whose chain this is, if it is a group's.
    #[must_use]
    pub const fn direction_of_group(&self) -> Option<Direction> {
        match self.role {
            ChainRole::Group(direction) => Some(direction),
            _ => None,
        }
    }

    /// Whether it belongs to the dispatch tree of a direction.
    #[must_use]
    pub const fn is_dispatch(&self) -> bool {
        self.role.is_dispatch()
    }

    /// A name read back from a kernel, if it is one of ours.
    #[must_use]
    pub fn ours(name: &str) -> Option<Self> {
        let role = ChainRole::read(name.strip_prefix(CHAIN_PREFIX)?);
        Some(Self { text: Short::of(&[name])?, role })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

as_its_text!(ChainName);

/// A chain is looked up by its name; the order is that of the text.
impl Borrow<str> for ChainName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::names::hash::FieldHasher;

    #[test]
    fn a_chains_name_is_read_as_it_was_made() {
        let hash = FieldHasher::of("test").finish();
        let of_direction = |direction| {
            [
                ChainName::entry(direction),
                ChainName::dispatch(direction, ""),
                ChainName::dispatch(direction, "0110"),
                ChainName::dispatch_list(direction, "011010011"),
                ChainName::group(direction, &hash),
                ChainName::deny(direction),
                ChainName::stray_of(direction),
            ]
        };
        let alone = [
            ChainName::forward(),
            ChainName::related(),
            ChainName::stray(),
            ChainName::deny_stray(),
            ChainName::spoof(),
            ChainName::probe(),
        ];
        for name in Direction::ALL.into_iter().flat_map(of_direction).chain(alone) {
            let read = ChainName::ours(name.as_str()).expect("it is ours");
            assert_eq!((&read, read.role()), (&name, name.role()), "{name}");
            assert_ne!(name.role(), ChainRole::Unknown, "{name}");
        }
        for name in ["NPC-", "NPC--", "NPC-LATER", "NPC-IX-0", "NPC-INGRESS-2", "NPC-ingress"] {
            assert_eq!(ChainName::ours(name).map(|name| name.role()), Some(ChainRole::Unknown), "{name}");
        }
        assert_eq!(ChainName::ours("KUBE-FORWARD"), None);
    }
}
