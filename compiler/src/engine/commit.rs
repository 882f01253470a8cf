//! From the addresses, groups and sets that events touched to the difference of two rulesets.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::peer_sets::SetId;
use super::store::PodSlot;
use crate::object::Family;
use crate::plan::{Delta, Plan, SetDelta};
use crate::policy::Direction;
use crate::ruleset::node::{Member, SetKind, SetName};

impl Engine {
    /// Brings the state up to date, and plans the writes that do so in the
    /// kernel, which holds the state of the last commit.
    pub fn commit(&mut self) -> Plan {
        let [v4, v6] = self.deltas();
        let plan = Plan::of_deltas(&self.state, &v4, &v6);
        v4.apply(&mut self.state.v4);
        v6.apply(&mut self.state.v6);
        plan
    }

    fn deltas(&mut self) -> [Delta; 2] {
        self.touch_relabelled();
        self.give();
        // Endpoints whose groups change without an event of their own, because
        // a policy did.
        let moving: Vec<PodSlot> = self.groups.regrouping().collect();
        for pod in moving {
            for family in Family::ALL {
                if let Some(address) = self.store.address(pod, family) {
                    self.touch(address);
                }
            }
        }
        let mut deltas = [Delta::default(), Delta::default()];
        loop {
            self.groups.regroup(&mut self.store, &mut self.peers, &mut self.sets, &self.state, &mut deltas);
            self.peers.measure(&self.store);
            self.sets.count(&self.store, &mut self.peers);
            if !self.groups.enforce_bound(&mut self.store, &mut self.peers, &mut self.sets) {
                break;
            }
        }
        for (family, chain) in self.release_expected() {
            if self.state.family(family).chains.contains_key(&chain) {
                deltas[family as usize].chains.insert(chain, None);
            } else {
                deltas[family as usize].chains.remove(&chain);
            }
        }
        let most = self.swept_at_once();
        for (family, name) in self.sets.sweep(&mut self.store, &mut self.peers, most) {
            deltas[family as usize].sets.insert(name, SetDelta::Gone);
        }
        // What is over the bound is gone by now.
        self.peers.settle(&self.store);

        let mut changes = MembersBySet::default();
        for (address, before) in std::mem::take(&mut self.touched) {
            let family = Family::of(&address);
            let now = self.sets.memberships(&self.store, &self.peers, address);
            changes.differ(&before.memberships, &now);
            let groups = self.groups.groups_of_address(&self.store, address);
            for direction in Direction::ALL {
                let (old, new) = (before.groups[direction as usize], groups[direction as usize]);
                let delta = &mut deltas[family as usize];
                self.groups.trees.lead(direction, &Member::Address(address), family, old, new, delta);
            }
        }
        for (id, (added, removed)) in changes.of_set {
            // A set that went took its members with it.
            if let Some((family, name)) = self.sets.name(id) {
                let change = SetDelta::Changed { added, removed };
                deltas[family as usize].sets.insert(name.clone(), change);
            }
        }
        for (family, name, kind, members) in self.sets.materialise(&self.store, &self.peers) {
            let change = match self.state.family(family).sets.get(&name) {
                None => SetDelta::Created(kind, members),
                // It was loaded in part, for a chain that is expected.
                Some((_, present)) if *present == members => continue,
                Some((_, present)) => SetDelta::changed(present, &members),
            };
            deltas[family as usize].sets.insert(name, change);
        }
        for (family, own) in Family::ALL.into_iter().zip(self.own.iter().flatten()) {
            let name = SetName::own(family);
            let change = match self.state.family(family).sets.get(&name) {
                Some((_, present)) if present == own => continue,
                Some((_, present)) => SetDelta::changed(present, own),
                None => SetDelta::Created(SetKind::HashNetIface, own.clone()),
            };
            deltas[family as usize].sets.insert(name, change);
        }
        if let Some(name) = self.groups.seed().map(|seed| SetName::seed(&seed))
            && !self.state.family(name.family()).sets.contains_key(&name)
        {
            let created = SetDelta::Created(SetKind::HashIp, BTreeSet::new());
            deltas[name.family() as usize].sets.insert(name, created);
        }
        self.groups.trees.committed();
        self.is_first = false;
        deltas
    }
}

/// The members that come and go, by set.
#[derive(Debug, Default)]
struct MembersBySet {
    of_set: BTreeMap<SetId, (BTreeSet<Member>, BTreeSet<Member>)>,
}

impl MembersBySet {
    fn differ(&mut self, before: &[(SetId, Member)], now: &[(SetId, Member)]) {
        for (id, member) in now.iter().filter(|member| before.binary_search(member).is_err()) {
            self.of_set.entry(*id).or_default().0.insert(member.clone());
        }
        for (id, member) in before.iter().filter(|member| now.binary_search(member).is_err()) {
            self.of_set.entry(*id).or_default().1.insert(member.clone());
        }
    }
}
