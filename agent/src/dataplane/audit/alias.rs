//! Sets of ours that have another name, because another program's set of another kind has
//! theirs and a rule asks it, so that it cannot be removed.
//!
//! Names are translated on the way into the kernel and back. In what is read,
//! the two names change places: so rules that ask the other program's set differ from
//! those that are desired, and are written anew in one commit as any others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use npc_compiler::plan::{ChainWrites, FamilyState, SetWrite};
use npc_compiler::ruleset::node::{ChainName, Rule, SetName};

/// The sets that go by another name in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Aliases(BTreeMap<SetName, SetName>);

impl Aliases {
    /// Calls a set something else from now on; what. Nothing for a name that no set of ours
    /// can have.
    pub(in super::super) fn call(&mut self, name: &SetName) -> Option<SetName> {
        let other = name.alias()?;
        self.0.insert(name.clone(), other.clone());
        Some(other)
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in super::super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The names that other programs' sets have.
    pub(in super::super) fn taken(&self) -> impl Iterator<Item = &SetName> {
        self.0.keys()
    }

    /// What a set is called in the kernel.
    pub(in super::super) fn in_kernel<'a>(&'a self, name: &'a SetName) -> &'a SetName {
        self.0.get(name).unwrap_or(name)
    }

    /// What a set of the kernel is called by us, and the other way round; nothing if
    /// that is the same.
    fn swapped(&self, name: &SetName) -> Option<&SetName> {
        let of_alias = || self.0.iter().find(|(_, alias)| *alias == name).map(|(name, _)| name);
        self.0.get(name).or_else(of_alias)
    }

    /// Puts our name of a set in place of the one that it has in the kernel.
    pub(in crate::dataplane) fn as_ours(&self, name: &mut SetName) {
        if let Some(ours) = self.0.iter().find(|(_, alias)| *alias == name).map(|(ours, _)| ours) {
            name.clone_from(ours);
        }
    }

    /// A write to the set that is meant.
    pub(in super::super) fn write<'a>(&self, write: &'a SetWrite) -> Cow<'a, SetWrite> {
        let Some(alias) = self.0.get(write.set()) else { return Cow::Borrowed(write) };
        let alias = alias.clone();
        Cow::Owned(match write {
            SetWrite::Create(_, family, kind) => SetWrite::Create(alias, *family, *kind),
            SetWrite::Add(_, member) => SetWrite::Add(alias, member.clone()),
            SetWrite::Delete(_, member) => SetWrite::Delete(alias, member.clone()),
            SetWrite::Destroy(_) => SetWrite::Destroy(alias),
        })
    }

    /// Rules that ask the sets that are meant.
    pub(in super::super) fn chains<'a>(&self, writes: &'a ChainWrites) -> Cow<'a, ChainWrites> {
        if self.is_empty() {
            return Cow::Borrowed(writes);
        }
        let mut writes = writes.clone();
        self.swap(&mut writes.replace);
        self.swap(&mut writes.append);
        Cow::Owned(writes)
    }

    /// Exchanges the names in rules.
    pub(in super::super) fn swap(&self, chains: &mut BTreeMap<ChainName, Vec<Rule>>) {
        if self.is_empty() {
            return;
        }
        for rule in chains.values_mut().flatten() {
            if let Some(swapped) = rule.with_sets(|set| self.swapped(set)) {
                *rule = swapped;
            }
        }
    }

    /// What a kernel holds, by our names.
    pub(in super::super) fn read(&self, actual: &mut FamilyState) {
        if self.is_empty() {
            return;
        }
        let sets = std::mem::take(&mut actual.sets);
        actual.sets = sets.into_iter().map(|(name, set)| (self.swapped(&name).cloned().unwrap_or(name), set)).collect();
        self.swap(&mut actual.chains);
    }
}

#[cfg(test)]
mod tests {
    use npc_compiler::object::Family;
    use npc_compiler::ruleset::node::{Match, SetField, Target};

    use super::*;

    #[test]
    fn names_change_places_in_what_is_read_and_written() {
        let (peers, other) = (SetName::new(Family::V4, "p-1"), SetName::new(Family::V4, "p-2"));
        let mut aliases = Aliases::default();
        let alias = aliases.call(&peers).expect("it fits");
        assert_eq!(alias.as_str(), "npc4-a-p-1");
        let asks = |first: &SetName| Rule {
            matches: vec![
                Match::Set(first.clone(), SetField::Source),
                Match::NotInSet(other.clone(), SetField::Destination),
            ],
            target: Target::Return,
        };
        let (ours, theirs) = (asks(&peers), asks(&alias));
        let chains =
            |rule: &Rule| BTreeMap::from([(ChainName::ours("NPC-X").expect("a name of ours"), vec![rule.clone()])]);
        let writes = ChainWrites { replace: chains(&ours), append: chains(&ours), ..ChainWrites::default() };
        let written = aliases.chains(&writes);
        assert_eq!((&written.replace, &written.append), (&chains(&theirs), &chains(&theirs)));
        for (read, as_ours) in [(&theirs, &ours), (&ours, &theirs)] {
            let mut read = chains(read);
            aliases.swap(&mut read);
            assert_eq!(read, chains(as_ours));
        }
        let write = SetWrite::Destroy(peers.clone());
        let mut written = aliases.write(&write).set().clone();
        assert_eq!(written, alias);
        aliases.as_ours(&mut written);
        assert_eq!(written, peers);
        let write = SetWrite::Destroy(other);
        assert_eq!(*aliases.write(&write), write);
    }
}
