//! Whether sets are as they were written: the heads of all of them, and members in turn.

use std::collections::BTreeSet;
use std::time::Duration;

use npc_compiler::object::Family;
use npc_compiler::plan::{KernelState, SetDelta};
use npc_compiler::ruleset::node::{Member, SetName, SetRole};

use super::alias::Aliases;
use super::{Audit, Auditor};
use crate::dataplane::Error;
use crate::dataplane::ipset::{Ipset, SetSummary};

impl Auditor {
    /// Compares the heads of all sets, and the members of some.
    pub(super) fn sets(
        &mut self,
        ipset: &mut Ipset,
        aliases: &Aliases,
        (families, most): (&[Family], usize),
        desired: &KernelState,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let heads = ipset.heads()?;
        let mut alike = Vec::new();
        for family in families {
            for (name, (kind, members)) in &desired.family(*family).sets {
                match heads.get(aliases.in_kernel(name)) {
                    None => {
                        audit.family_mut(*family).sets.insert(name.clone(), SetDelta::Gone);
                    }
                    Some(head) if head.kind != Some(*kind) => audit.replaced.push((*family, name.clone())),
                    Some(SetSummary { members: Some(count), .. }) if *count == members.len() => {
                        alike.push((*family, name, members));
                    }
                    Some(_) => members_of(ipset, aliases, (*family, name, members), audit)?,
                }
            }
        }
        self.round(ipset, aliases, &alike, most, audit)?;
        for name in aliases.taken().filter(|name| !heads.contains_key(name)) {
            // It went, and the set can have its name back.
            audit.replaced.push((name.family(), name.clone()));
        }
        let known: BTreeSet<&SetName> = families
            .iter()
            .flat_map(|family| desired.family(*family).sets.keys())
            .map(|name| aliases.in_kernel(name))
            .collect();
        let is_unneeded = |name: &SetName| {
            families.contains(&name.family()) && !known.contains(name) && name.role() != SetRole::Probe
        };
        let unneeded = heads.into_keys().filter(is_unneeded);
        for name in unneeded.collect::<Vec<_>>() {
            let went = ipset.destroy(std::slice::from_ref(&name), Duration::ZERO)?.is_empty();
            let was_known = aliases.taken().any(|taken| *taken == name)
                || if went { self.left_sets.remove(&name) } else { !self.left_sets.insert(name.clone()) };
            if !was_known {
                audit.unneeded.push((name.family(), name, went));
            }
        }
        Ok(())
    }

    /// Compares this many members, of sets that have as many members as they should.
    fn round(
        &mut self,
        ipset: &mut Ipset,
        aliases: &Aliases,
        alike: &[(Family, &SetName, &BTreeSet<Member>)],
        most: usize,
        audit: &mut Audit,
    ) -> Result<(), Error> {
        let is_behind = |(family, name, _): &(Family, &SetName, _)| {
            self.behind.as_ref().is_none_or(|(last, set)| (*family, *name) > (*last, set))
        };
        let begin = alike.iter().position(is_behind).unwrap_or(0);
        let mut compared = 0;
        for set in alike.iter().cycle().skip(begin).take(alike.len()) {
            // One at least, however large it is, or it would never be compared.
            if compared + set.2.len() > most && (compared > 0 || most == 0) {
                break;
            }
            // A set costs something by itself.
            compared += set.2.len() + 10;
            members_of(ipset, aliases, *set, audit)?;
            self.behind = Some((set.0, set.1.clone()));
        }
        Ok(())
    }
}

/// Compares the members of one set.
fn members_of(
    ipset: &mut Ipset,
    aliases: &Aliases,
    (family, name, desired): (Family, &SetName, &BTreeSet<Member>),
    audit: &mut Audit,
) -> Result<(), Error> {
    let difference = match ipset.members_of(aliases.in_kernel(name), family)? {
        Some((Some(_), members)) if members == *desired => return Ok(()),
        Some((Some(_), members)) => SetDelta::Changed {
            added: members.difference(desired).cloned().collect(),
            removed: desired.difference(&members).cloned().collect(),
        },
        Some((None, _)) => {
            audit.replaced.push((family, name.clone()));
            return Ok(());
        }
        // It went a moment ago.
        None => SetDelta::Gone,
    };
    audit.family_mut(family).sets.insert(name.clone(), difference);
    Ok(())
}
