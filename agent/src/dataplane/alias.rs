//! Sets that go by another name, because somebody's set of another kind has
//! theirs and a rule asks it, so that it cannot be removed.
//!
//! Names are translated on the way into the kernel and back. In what is read,
//! the two names change places: so rules that ask somebody's set differ from
//! those that are wanted, and are written anew in one commit as any others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use npc_compiler::object::Family;
use npc_compiler::plan::{ChainWrites, Held, SetWrite};
use npc_compiler::ruleset::program::{ChainName, SetName};

/// The sets that go by another name in the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases(BTreeMap<SetName, SetName>);

impl Aliases {
    /// Calls a set something else from now on; what.
    pub(super) fn call(&mut self, name: &SetName, family: Family) -> SetName {
        let suffix = name.as_str().split_once('-').map_or(name.as_str(), |(_, suffix)| suffix);
        // Nothing of ours begins so, the shadows of a plan neither.
        let other = SetName::new(family, &format!("a-{suffix}"));
        self.0.insert(name.clone(), other.clone());
        other
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The names that somebody else's sets have.
    pub(super) fn taken(&self) -> impl Iterator<Item = &SetName> {
        self.0.keys()
    }

    /// What a set is called in the kernel.
    pub(super) fn in_kernel<'a>(&'a self, name: &'a SetName) -> &'a SetName {
        self.0.get(name).unwrap_or(name)
    }

    /// What a set of the kernel is called by us, and the other way round.
    fn swapped<'a>(&'a self, name: &'a SetName) -> &'a SetName {
        let of_alias = || self.0.iter().find(|(_, alias)| *alias == name).map(|(name, _)| name);
        self.0.get(name).or_else(of_alias).unwrap_or(name)
    }

    /// A write to the set that is meant.
    pub(super) fn write<'a>(&self, write: &'a SetWrite) -> Cow<'a, SetWrite> {
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
    pub(super) fn chains<'a>(&self, writes: &'a ChainWrites) -> Cow<'a, ChainWrites> {
        if self.is_empty() {
            return Cow::Borrowed(writes);
        }
        let mut writes = writes.clone();
        self.swap(&mut writes.replace);
        Cow::Owned(writes)
    }

    /// Exchanges the names in rules.
    pub(super) fn swap(&self, chains: &mut BTreeMap<ChainName, Vec<String>>) {
        for line in chains.values_mut().flatten() {
            if let Some(swapped) = self.swapped_in(line) {
                *line = swapped;
            }
        }
    }

    fn swapped_in(&self, line: &str) -> Option<String> {
        let (before, rest) = line.split_once(" --match-set ")?;
        let (name, after) = rest.split_once(' ')?;
        let (name, _) = SetName::ours(name)?;
        let swapped = self.swapped(&name);
        let after = self.swapped_in(after).unwrap_or_else(|| after.to_owned());
        Some(format!("{before} --match-set {swapped} {after}"))
    }

    /// What a kernel holds, by our names.
    pub(super) fn read(&self, held: &mut Held) {
        if self.is_empty() {
            return;
        }
        let sets = std::mem::take(&mut held.sets);
        held.sets = sets.into_iter().map(|(name, set)| (self.swapped(&name).clone(), set)).collect();
        self.swap(&mut held.chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_places_in_what_is_read_and_written() {
        let (peers, other) = (SetName::new(Family::V4, "p-1"), SetName::new(Family::V4, "p-2"));
        let mut aliases = Aliases::default();
        let alias = aliases.call(&peers, Family::V4);
        assert_eq!(alias.as_str(), "npc4-a-p-1");
        let ours = "-A NPC-X -m set --match-set npc4-p-1 src -m set --match-set npc4-p-2 dst -j RETURN".to_owned();
        let theirs = "-A NPC-X -m set --match-set npc4-a-p-1 src -m set --match-set npc4-p-2 dst -j RETURN".to_owned();
        let chains = |line: &String| BTreeMap::from([(ChainName::new("X"), vec![line.clone()])]);
        let writes = ChainWrites { replace: chains(&ours), ..ChainWrites::default() };
        assert_eq!(aliases.chains(&writes).replace, chains(&theirs));
        for (read, as_ours) in [(&theirs, &ours), (&ours, &theirs)] {
            let mut read = chains(read);
            aliases.swap(&mut read);
            assert_eq!(read, chains(as_ours));
        }
        let write = SetWrite::Destroy(peers);
        assert_eq!(aliases.write(&write).set(), &alias);
        let write = SetWrite::Destroy(other);
        assert_eq!(*aliases.write(&write), write);
    }
}
