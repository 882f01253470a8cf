//! Paths below a rule.

use std::fmt;

use crate::policy::Direction;

/// The path of a thing below a rule: `from[0].podSelector`, `ports[1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemPath {
    /// The list that has the item.
    pub list: ItemList,
    /// The item's place in the list.
    pub place: usize,
    /// What of the item is meant.
    pub field: ItemField,
}

/// The two halves of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the words of the API")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum RuleHalf {
    Peer,
    Port,
}

/// The lists of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the words of the API")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ItemList {
    From,
    To,
    Ports,
}

/// What of an item is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the words of the API")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ItemField {
    /// All of it.
    Whole,
    NamespaceSelector,
    PodSelector,
    /// The `cidr` of its ipBlock.
    Cidr,
    /// An `except` of its ipBlock, by its place.
    Except(usize),
    Protocol,
    Port,
    EndPort,
}

impl ItemPath {
    /// The path of an item of a rule's peers.
    pub(in crate::verdict::explain) const fn of_peer(direction: Direction, place: usize) -> Self {
        let list = match direction {
            Direction::Ingress => ItemList::From,
            Direction::Egress => ItemList::To,
        };
        Self { list, place, field: ItemField::Whole }
    }

    /// The path of an item of a rule's ports.
    pub(in crate::verdict::explain) const fn of_port(place: usize) -> Self {
        Self { list: ItemList::Ports, place, field: ItemField::Whole }
    }

    /// The path of a field of the same item.
    #[must_use]
    pub const fn field(self, field: ItemField) -> Self {
        Self { field, ..self }
    }

    /// The path of the item.
    #[must_use]
    pub const fn item(self) -> Self {
        self.field(ItemField::Whole)
    }

    /// The half of the rule that it belongs to.
    #[must_use]
    pub const fn half(self) -> RuleHalf {
        match self.list {
            ItemList::From | ItemList::To => RuleHalf::Peer,
            ItemList::Ports => RuleHalf::Port,
        }
    }
}

impl fmt::Display for ItemPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match self.list {
            ItemList::From => Direction::Ingress.peers_field(),
            ItemList::To => Direction::Egress.peers_field(),
            ItemList::Ports => "ports",
        };
        write!(f, "{list}[{}]", self.place)?;
        match self.field {
            ItemField::Whole => Ok(()),
            ItemField::NamespaceSelector => f.write_str(".namespaceSelector"),
            ItemField::PodSelector => f.write_str(".podSelector"),
            ItemField::Cidr => f.write_str(".ipBlock.cidr"),
            ItemField::Except(place) => write!(f, ".ipBlock.except[{place}]"),
            ItemField::Protocol => f.write_str(".protocol"),
            ItemField::Port => f.write_str(".port"),
            ItemField::EndPort => f.write_str(".endPort"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_the_api_writes_it() {
        let (from, to) = (ItemPath::of_peer(Direction::Ingress, 0), ItemPath::of_peer(Direction::Egress, 2));
        let port = ItemPath::of_port(1);
        for (path, text) in [
            (from, "from[0]"),
            (from.field(ItemField::NamespaceSelector), "from[0].namespaceSelector"),
            (to.field(ItemField::PodSelector), "to[2].podSelector"),
            (to.field(ItemField::Cidr), "to[2].ipBlock.cidr"),
            (to.field(ItemField::Except(3)), "to[2].ipBlock.except[3]"),
            (to.field(ItemField::Except(3)).item(), "to[2]"),
            (port.field(ItemField::Protocol), "ports[1].protocol"),
            (port.field(ItemField::Port), "ports[1].port"),
            (port.field(ItemField::EndPort), "ports[1].endPort"),
        ] {
            assert_eq!(path.to_string(), text);
        }
    }
}
