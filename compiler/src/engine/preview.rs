//! Finding out what events of a namespace that wait will make: which chains, which sets, and which policies
//! will be over the bounds.
//!
//! For thousands of rules that takes long, so it takes nothing of the engine but values, and can be done on
//! any thread:
//!
//! ```text
//! loop:    Engine::preview ─▶         Engine::count … Engine::count         ─▶ Engine::previewed
//! thread:                      Preview::run ─▶ asks, a portion at a time ─▶
//! ```
//!
//! How many pods the selectors of rules select is known to the engine alone, so it is asked about them, a
//! portion at a time.
//!
//! What is found out holds as long as the namespace stays as it is. Its policies and groups do, because its
//! events wait. Pods of other namespaces may bring one of its policies over the bounds, or
//! back: then it is found out anew.
//!
//! [`Engine::preview`]: super::Engine::preview
//! [`Engine::count`]: super::Engine::count
//! [`Engine::previewed`]: super::Engine::previewed

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use rustc_hash::{FxHashMap, FxHashSet};

use super::local::{LocalClass, Weight};
use super::packed::PackedPolicy;
use super::prepared::{PreparedChanges, PreparedGroup};
use crate::cluster::group::Resolution;
use crate::object::{ContainerPort, Family, NetworkPolicy};
use crate::policy::finding::Finding;
use crate::policy::{Direction, PodPeer, Policy, PolicyRule};
use crate::ruleset::layout::{RulesetOptions, identity};
use crate::ruleset::members::{self, Demand, MadeChains, MemberCount, Sizes};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::node::SetName;
use crate::ruleset::options::Need;

/// How many selectors, or sets, the engine is asked about at once.
const ASKED: usize = 1_000;

/// What becomes of a policy.
#[derive(Debug, Clone)]
pub(super) enum PolicyChange {
    /// It goes.
    Gone,
    /// It will be this one, which takes long to read and is not read yet; with what it isolates.
    Unread(Arc<PackedPolicy>, Arc<SharedPolicy>),
    /// It will be this one, which was read already: one of a megabyte is read once.
    Read(Arc<Policy>, Arc<[Finding]>),
}

impl PolicyChange {
    /// It will be this one, which is read later.
    pub(super) fn unread(policy: PackedPolicy) -> Self {
        Self::Unread(Arc::new(policy), Arc::default())
    }

    /// What it isolates, if it stays or comes.
    pub(super) fn isolates(&self) -> Option<&Policy> {
        match self {
            Self::Gone => None,
            Self::Unread(policy, isolates) => Some(isolates.of(policy.without_rules())),
            Self::Read(policy, _) => Some(policy),
        }
    }

    /// What it makes, or more, if it stays or comes.
    pub(super) fn weight(&self) -> Option<Weight> {
        match self {
            Self::Gone => None,
            Self::Unread(policy, _) => Some(policy.weight()),
            Self::Read(policy, _) => Some(Weight::of(policy)),
        }
    }
}

/// What a policy isolates, once it was asked: a podSelector may have forty thousand values, and most policies
/// are read before a pod of their namespace comes.
#[derive(Debug, Default)]
pub(super) struct SharedPolicy(OnceLock<Policy>);

impl SharedPolicy {
    /// That policy without its rules.
    fn of(&self, policy: &NetworkPolicy) -> &Policy {
        self.0.get_or_init(|| Policy::read_without_rules(policy))
    }
}

/// Endpoints of this node with the same labels: their class, and how many kinds of ports they have.
pub(super) type FutureClass = (LocalClass, BTreeSet<Vec<ContainerPort>>);

/// What a group has.
#[derive(Debug)]
pub(super) struct GroupThere {
    /// The sets of its chains, by family.
    pub(super) sets: [Arc<[SetName]>; 2],
    /// How many of its rules admit something.
    pub(super) rules: u64,
}

/// A copy of all that decides how many rules and sets the events of a namespace will make. The engine goes on while
/// another thread computes them from it.
#[derive(Debug)]
pub struct Preview {
    pub(super) number: u64,
    pub(super) options: RulesetOptions,
    pub(super) namespace: Arc<str>,
    /// The policies in force.
    pub(super) policies: BTreeMap<Arc<str>, Arc<Policy>>,
    /// What comes of some of them, and others.
    pub(super) changes: Vec<(Arc<str>, PolicyChange)>,
    /// The endpoints of this node as they will be; no policy has judged their classes.
    pub(super) classes: Vec<FutureClass>,
    /// The policies that are over the bounds. `stay` are those that stay over them unless they change.
    pub(super) over: BTreeSet<Arc<str>>,
    pub(super) stay: BTreeSet<Arc<str>>,
    /// The groups that have their chains, by direction.
    pub(super) there: [BTreeMap<Hash, GroupThere>; 2],
    /// The size of all pods.
    pub(super) of_all: MemberCount,
}

/// What a [`Preview`] asks the engine: how many members some selectors and some sets make.
#[derive(Debug)]
pub struct CountQuestion {
    pub(super) peers: Vec<PodPeer>,
    pub(super) sets: Vec<SetName>,
}

/// The answer to a [`CountQuestion`], in its order.
#[derive(Debug)]
pub struct Counts {
    pub(super) peers: Vec<MemberCount>,
    pub(super) sets: Vec<u64>,
}

/// What events of a namespace will make.
#[derive(Debug)]
pub struct Previewed {
    pub(super) number: u64,
    pub(super) namespace: Arc<str>,
    /// The policies that were read for it.
    pub(super) read: Vec<ReadPolicy>,
    pub(super) outcome: PreviewedChanges,
}

/// A policy, by its name, and what was not understood of it.
pub(super) type ReadPolicy = (Arc<str>, Arc<Policy>, Vec<Finding>);

/// What will be made, if something holds still.
#[derive(Debug)]
pub(super) struct PreviewedChanges {
    /// The policies that were over the bounds.
    pub(super) over: BTreeSet<Arc<str>>,
    pub(super) prepared: PreparedChanges,
}

impl Preview {
    /// The namespace of the events.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Finds out what the events will make. `ask` is answered by [`Engine::count`](super::Engine::count).
    /// `None` if it is not.
    pub fn run(self, ask: &mut dyn FnMut(CountQuestion) -> Option<Counts>) -> Option<Previewed> {
        let Self { number, options, namespace, mut policies, changes, classes, over, stay, there, of_all } = self;
        let (edited, read) = change(&mut policies, changes);
        let groups = future_groups(&namespace, classes, &policies);
        let is_there = |group: &FutureGroup, out: &BTreeSet<&str>| {
            let is_same = |name: &Arc<str>| !edited.contains(name) && over.contains(name) == out.contains(&**name);
            there[group.direction as usize].contains_key(&group.hash) && group.own.iter().all(is_same)
        };
        let of_there = |group: &FutureGroup| there[group.direction as usize].get(&group.hash);
        let made_of = |group: &FutureGroup| {
            let group = of_there(group)?;
            Some(MadeChains { sets: group.sets.iter().flat_map(|sets| &**sets).collect(), rules: group.rules })
        };
        let future = FutureNamespace { options: &options, namespace: &namespace, policies: &policies };
        let stays = |name: &&Arc<str>| policies.contains_key(*name) && !edited.contains(*name);
        let stay: BTreeSet<&str> = stay.iter().filter(stays).map(|name| &**name).collect();
        let (stays_there, new): (Vec<&FutureGroup>, Vec<&FutureGroup>) =
            groups.iter().partition(|group| is_there(group, &stay));
        let mut known = MemberCounts { of_all, ..MemberCounts::default() };
        let prepared = if new.is_empty() {
            PreparedChanges { over: future.names(&stay), ..PreparedChanges::default() }
        } else {
            known.ask_peers(future.peers(&new), ask)?;
            let stays_there = || stays_there.iter().filter_map(|group| of_there(group));
            let present: BTreeSet<&SetName> =
                stays_there().flat_map(|group| &group.sets).flat_map(|sets| &**sets).collect();
            let rules_there = stays_there().map(|group| group.rules).sum();
            known.ask_sets(&present, ask)?;
            // Of chains that are too much nothing is of use, and they may take a hundred megabytes.
            let within = (!future.may_be_over(&new, &stay)).then(|| future.prepare(&new, &stay)).and_then(|made| {
                let (need, members) = count(&present, &made, &mut known);
                let need = need.plus(Need { members: 0, rules: rules_there });
                options.bounds.admit(need).then_some((made, members))
            });
            if let Some((made, members)) = within {
                PreparedChanges::new(made, members, future.names(&stay))
            } else {
                let all: Vec<&FutureGroup> = groups.iter().collect();
                known.ask_peers(future.peers(&all), ask)?;
                let demand = |group| {
                    let made = if is_there(group, &stay) { made_of(group) } else { None };
                    future.demand(group, made)
                };
                let demands: Vec<Demand<'_>> = groups.iter().map(demand).collect();
                let out = members::choose_over_bound(&demands, stay.clone(), &options, &mut known);
                let new: Vec<&FutureGroup> = groups.iter().filter(|group| !is_there(group, &out)).collect();
                let groups_made = future.prepare(&new, &out);
                let (_, members) = count(&BTreeSet::new(), &groups_made, &mut known);
                PreparedChanges::new(groups_made, members, future.names(&out))
            }
        };
        Some(Previewed { number, namespace, read, outcome: PreviewedChanges { over, prepared } })
    }
}

/// Makes of policies what they will be. Answers the names of those that are others then, and those that were
/// read for it.
fn change(
    policies: &mut BTreeMap<Arc<str>, Arc<Policy>>,
    changes: Vec<(Arc<str>, PolicyChange)>,
) -> (BTreeSet<Arc<str>>, Vec<ReadPolicy>) {
    let (mut edited, mut read) = (BTreeSet::new(), Vec::new());
    for (name, change) in changes {
        let policy = match change {
            PolicyChange::Gone => None,
            PolicyChange::Read(policy, _) => Some(policy),
            PolicyChange::Unread(policy, _) => {
                let (policy, findings) = Policy::read(&policy.unpack());
                let policy = Arc::new(policy);
                read.push((Arc::clone(&name), Arc::clone(&policy), findings));
                Some(policy)
            }
        };
        let is_other = match policy {
            Some(policy) if policies.get(&name).is_some_and(|known| *known == policy) => false,
            Some(policy) => {
                policies.insert(Arc::clone(&name), policy);
                true
            }
            None => policies.remove(&name).is_some(),
        };
        if is_other {
            edited.insert(name);
        }
    }
    (edited, read)
}

/// A group that will be there.
struct FutureGroup {
    direction: Direction,
    /// The names of the policies, sorted.
    own: BTreeSet<Arc<str>>,
    resolution: Resolution,
    hash: Hash,
}

/// The groups of endpoints with these policies.
fn future_groups(
    namespace: &str,
    classes: Vec<FutureClass>,
    policies: &BTreeMap<Arc<str>, Arc<Policy>>,
) -> Vec<FutureGroup> {
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for (mut class, ports) in classes {
        for (name, policy) in policies {
            class.judge(name, Some(policy));
        }
        for direction in Direction::ALL {
            if class.isolating(direction).is_empty() {
                continue;
            }
            for ports in &ports {
                let resolution = class.resolve(direction, policies, ports);
                let own = class.isolating(direction).clone();
                let hash = identity(direction, own.iter().map(|name| (namespace, &**name)), &resolution);
                if seen.insert(hash) {
                    groups.push(FutureGroup { direction, own, resolution, hash });
                }
            }
        }
    }
    groups
}

/// A namespace with the policies that it will have.
struct FutureNamespace<'a> {
    options: &'a RulesetOptions,
    namespace: &'a str,
    policies: &'a BTreeMap<Arc<str>, Arc<Policy>>,
}

impl<'a> FutureNamespace<'a> {
    /// The chains of groups, while some policies are over the bounds.
    fn prepare(&self, groups: &[&FutureGroup], over: &BTreeSet<&str>) -> Vec<PreparedGroup> {
        let prepare = |group: &&FutureGroup| {
            let FutureGroup { direction, own, resolution, hash } = group;
            let within = own.iter().filter(|name| !over.contains(&***name));
            let policies = within.filter_map(|name| self.policies.get(name)).cloned().collect();
            let names = own.iter().map(|name| (self.namespace, &**name));
            PreparedGroup::new((*direction, *hash, resolution), policies, self.options, &names)
        };
        groups.iter().map(prepare).collect()
    }

    /// Names of policies, as the namespace keeps them.
    fn names(&self, over: &BTreeSet<&str>) -> Vec<Arc<str>> {
        over.iter().filter_map(|name| self.policies.get_key_value(*name)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Whether policies of these groups name peers or ports so often that sets or rules alone may be too many,
    /// while some policies are over the bounds.
    fn may_be_over(&self, groups: &[&FutureGroup], over: &BTreeSet<&str>) -> bool {
        let policies = groups.iter().flat_map(|FutureGroup { direction, own, .. }| {
            let within = own.iter().filter(move |name| !over.contains(&***name));
            within.filter_map(move |name| self.policies.get(name)).map(move |policy| policy.rules(*direction))
        });
        let (mut naming, mut matches) = (0_usize, 0_usize);
        for rule in policies.flatten() {
            naming += usize::from(rule.pod_peers().next().is_some());
            matches = matches.saturating_add(Weight::matches_of(rule));
        }
        let of_families = |count: usize| u64::try_from(count.saturating_mul(Family::ALL.len())).unwrap_or(u64::MAX);
        let members = members::count_of_sets(of_families(naming));
        !self.options.bounds.admit(Need { members, rules: of_families(matches) })
    }

    /// The peers of these groups' policies.
    fn peers(&self, groups: &[&FutureGroup]) -> impl Iterator<Item = &'a PodPeer> {
        let mut asked = BTreeMap::<(&str, Direction), &'a Policy>::new();
        for FutureGroup { direction, own, .. } in groups {
            let policies = own.iter().filter_map(|name| self.policies.get_key_value(name));
            asked.extend(policies.map(|(name, policy)| ((&**name, *direction), &**policy)));
        }
        let rules = asked.into_iter().flat_map(|((_, direction), policy)| policy.rules(direction));
        rules.flat_map(PolicyRule::pod_peers)
    }

    /// A group as the bound sees it.
    fn demand<'d>(&self, group: &'d FutureGroup, made: Option<MadeChains<'d>>) -> Demand<'d>
    where
        'a: 'd,
    {
        let FutureGroup { direction, own, resolution, .. } = group;
        let policies = own.iter().filter_map(|name| self.policies.get(name));
        Demand { direction: *direction, policies: policies.map(|policy| &**policy).collect(), resolution, made }
    }
}

/// What the sets of all groups count, those that are there and those of new ones, with the rules of new ones; and
/// what each of the new sets counts.
fn count(
    present: &BTreeSet<&SetName>,
    prepared: &[PreparedGroup],
    known: &mut MemberCounts<'_>,
) -> (Need, BTreeMap<SetName, u64>) {
    let mut of_new = BTreeMap::new();
    for leaf in prepared.iter().flat_map(|group| &group.leaves) {
        for (name, definition) in &leaf.sets {
            if let Some(definition) = definition.as_ref().filter(|_| !of_new.contains_key(name)) {
                of_new.insert(name.clone(), members::count(definition, leaf.family, known));
            }
        }
    }
    let others: Vec<&&SetName> = present.iter().filter(|name| !of_new.contains_key(**name)).collect();
    let of_sets = members::count_of_sets(u64::try_from(of_new.len() + others.len()).unwrap_or(u64::MAX));
    let of_others = others.into_iter().map(|name| known.of_set(name).unwrap_or_default());
    let members = of_others.chain(of_new.values().copied()).fold(of_sets, u64::saturating_add);
    let rules = prepared.iter().flat_map(|group| &group.leaves).map(|leaf| leaf.admitting).sum();
    (Need { members, rules }, of_new)
}

/// What the engine answered.
#[derive(Default)]
struct MemberCounts<'a> {
    of_all: MemberCount,
    peers: FxHashMap<&'a PodPeer, MemberCount>,
    sets: FxHashMap<SetName, u64>,
}

impl<'a> MemberCounts<'a> {
    /// Asks how many members the pods of selectors make.
    fn ask_peers(
        &mut self,
        peers: impl Iterator<Item = &'a PodPeer>,
        ask: &mut dyn FnMut(CountQuestion) -> Option<Counts>,
    ) -> Option<()> {
        let mut seen = FxHashSet::default();
        let new: Vec<&PodPeer> = peers.filter(|peer| !self.peers.contains_key(*peer) && seen.insert(*peer)).collect();
        for some in new.chunks(ASKED) {
            let peers = some.iter().map(|peer| (*peer).clone()).collect();
            let counts = ask(CountQuestion { peers, sets: Vec::new() })?;
            self.peers.extend(some.iter().copied().zip(counts.peers));
        }
        Some(())
    }

    /// Asks what sets count.
    fn ask_sets(
        &mut self,
        sets: &BTreeSet<&SetName>,
        ask: &mut dyn FnMut(CountQuestion) -> Option<Counts>,
    ) -> Option<()> {
        let all: Vec<SetName> = sets.iter().map(|name| (*name).clone()).collect();
        for some in all.chunks(ASKED) {
            let counts = ask(CountQuestion { peers: Vec::new(), sets: some.to_vec() })?;
            self.sets.extend(some.iter().cloned().zip(counts.sets));
        }
        Some(())
    }
}

impl Sizes for MemberCounts<'_> {
    fn of_peer(&mut self, peer: &PodPeer) -> MemberCount {
        // What is counted is an upper bound, so one that was not asked about may be everything.
        self.peers.get(peer).copied().unwrap_or(self.of_all)
    }

    fn of_all(&mut self) -> MemberCount {
        self.of_all
    }

    fn of_set(&self, set: &SetName) -> Option<u64> {
        self.sets.get(set).copied()
    }
}
