//! The groups of this node's endpoints: which policies apply to which of them. `chains` is what the kernel is
//! to have of them.

mod bound;
mod chains;
mod preview_input;
mod retained;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::bound::Anew;
pub(super) use self::preview_input::{ToCome, WeighedPolicies};
use super::dispatch_trees::DispatchTrees;
use super::local::{LocalClass, LocalNamespace};
use super::peer_sets::PeerSets;
use super::peers::PeerIndex;
use super::prepared::PreparedGroup;
use super::store::{ClassSlot, PodSlot, Store};
use crate::cluster::group::Resolution;
use crate::object::{Family, Labels};
use crate::plan::{Delta, KernelState};
use crate::policy::{Direction, Policy};
use crate::ruleset::layout::{DecidingGroups, RulesetOptions, SelfMatch, identity};
use crate::ruleset::names::hash::Hash;
use crate::ruleset::names::seed::Seed;
use crate::ruleset::node::{ChainName, Rule, SetName};

/// Chains that came, or went.
type Touched = BTreeMap<ChainName, Wanted>;

/// What a chain is to contain.
#[derive(Debug)]
enum Wanted {
    /// It has these rules.
    Rules(Vec<Rule>),
    /// It is as the state has it: all of it was loaded.
    Held,
    /// It goes, if nothing else has it.
    Gone,
}

/// A group of this node.
#[derive(Debug)]
pub(super) struct LiveGroup {
    namespace: Arc<str>,
    policies: Box<[Arc<str>]>,
    resolution: Resolution,
    pub(super) pods: BTreeSet<PodSlot>,
    /// Its chain in each family, and the sets that it asks.
    leaves: Option<OfFamilies>,
    age: Age,
    /// When it lost its last endpoint: the number of that among all.
    emptied: u64,
}

/// A group's chain in each family.
type OfFamilies = [MadeChain; 2];

/// A chain that is made.
#[derive(Debug)]
struct MadeChain {
    name: ChainName,
    /// The sets that it asks.
    sets: Arc<[SetName]>,
    /// How many of its rules admit something.
    admitting: u64,
}

/// For how long a group has had no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// It has some, or lost the last since [`LocalGroups::retire`] was called.
    Fresh,
    /// It had none when that was called.
    Old,
    /// It had none when that was called twice.
    Over,
}

impl LiveGroup {
    /// Its chain, once it is made.
    pub(super) fn chain(&self, family: Family) -> Option<&ChainName> {
        self.leaves.as_ref().map(|leaves| &leaves[family as usize].name)
    }

    fn names(&self) -> impl ExactSizeIterator<Item = (&str, &str)> + Clone {
        self.policies.iter().map(|name| (&*self.namespace, &**name))
    }
}

/// Several groups that decide together about an address that pods of each of
/// them hold; and the chain of that, in each family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Joint {
    groups: Vec<Hash>,
    chains: Option<[ChainName; 2]>,
}

/// The groups of this node.
#[derive(Debug)]
pub(super) struct LocalGroups {
    options: RulesetOptions,
    namespaces: BTreeMap<Arc<str>, LocalNamespace>,
    policy_count: usize,
    /// The endpoints of this node, and their groups as of the last commit.
    local: BTreeMap<PodSlot, [Option<Hash>; 2]>,
    classes: BTreeMap<ClassSlot, LocalClass>,
    groups: [BTreeMap<Hash, LiveGroup>; 2],
    joints: [BTreeMap<Hash, Joint>; 2],
    /// How many groups have a chain; two may have one in common.
    uses: [BTreeMap<ChainName, usize>; 2],
    /// How many of the uses of a chain are not by a group: it is only expected.
    expected: [BTreeMap<ChainName, usize>; 2],
    /// Chains of the next commit that were made already, by group.
    prepared: [BTreeMap<Hash, PreparedGroup>; 2],
    pub(super) trees: DispatchTrees,
    /// Endpoints that are to be grouped anew.
    regrouping: BTreeSet<PodSlot>,
    /// Groups that are new, that may have lost their last endpoint or got their first, or one of
    /// whose policies was edited.
    changed: [BTreeSet<Hash>; 2],
    edited: [BTreeSet<Hash>; 2],
    /// Whether endpoints came or went since the last commit.
    is_stale: bool,
    /// Whether groups outlive their last endpoint.
    retains: bool,
    /// How often a group has lost its last endpoint.
    emptied: u64,
    /// Namespaces where the policies over the bounds must be chosen anew.
    reconsidered: BTreeMap<Arc<str>, Anew>,
    /// How often other policies came to be over the bound.
    over_bound_version: u64,
}

impl LocalGroups {
    pub(super) fn new(options: RulesetOptions) -> Self {
        let mut trees = DispatchTrees::default();
        trees.set_seed(options.seed);
        Self {
            options,
            namespaces: BTreeMap::new(),
            policy_count: 0,
            local: BTreeMap::new(),
            classes: BTreeMap::new(),
            groups: Default::default(),
            joints: Default::default(),
            uses: Default::default(),
            expected: Default::default(),
            prepared: Default::default(),
            trees,
            regrouping: BTreeSet::new(),
            changed: Default::default(),
            edited: Default::default(),
            is_stale: true,
            retains: false,
            emptied: 0,
            reconsidered: BTreeMap::new(),
            over_bound_version: 0,
        }
    }

    pub(super) fn set_options(&mut self, options: RulesetOptions) {
        self.trees.set_seed(options.seed);
        self.options = options;
    }

    /// By what groups stand in the dispatch tree.
    pub(super) fn seed(&self) -> Option<Seed> {
        self.options.seed
    }

    /// Groups outlive their last endpoint from now on.
    pub(super) fn retain_groups(&mut self) {
        self.retains = true;
    }

    /// The groups of an endpoint as of the last commit.
    pub(super) fn of(&self, pod: PodSlot) -> [Option<Hash>; 2] {
        self.local.get(&pod).copied().unwrap_or_default()
    }

    /// The groups to whose chains an address of this node is led, by direction, as of the last commit.
    pub(super) fn groups_of_address(&self, store: &Store, address: IpAddr) -> [Option<Hash>; 2] {
        Direction::ALL.map(|direction| Some(self.deciding_groups(store, address, direction)?.identity))
    }

    fn deciding_groups(&self, store: &Store, address: IpAddr, direction: Direction) -> Option<DecidingGroups> {
        let groups = store.holders(address).iter().filter_map(|pod| self.of(*pod)[direction as usize]);
        DecidingGroups::of(direction, groups)
    }

    /// How many policies there are.
    pub(super) fn policies(&self) -> usize {
        self.policy_count
    }

    /// Namespaces and names of the policies of a group.
    pub(super) fn policies_of(&self, group: Hash, direction: Direction) -> impl Iterator<Item = (&str, &str)> {
        let group = self.groups[direction as usize].get(&group);
        group.into_iter().flat_map(|group| group.policies.iter().map(|name| (&*group.namespace, &**name)))
    }

    /// The endpoints of this node.
    pub(super) fn here(&self) -> impl Iterator<Item = PodSlot> {
        self.local.keys().copied()
    }

    pub(super) fn pod_came(&mut self, store: &Store, id: PodSlot) {
        let pod = store.pod(id);
        if !store.is_here(id) {
            return;
        }
        let class = self.classes.entry(pod.class).or_insert_with(|| {
            let mut class = LocalClass::new(store, pod.class);
            let namespace = self.namespaces.entry(Arc::clone(&class.namespace)).or_default();
            namespace.classes.insert(pod.class);
            for (name, policy) in &namespace.policies {
                class.judge(name, Some(policy));
            }
            class
        });
        class.pods.insert(id);
        self.local.insert(id, [None; 2]);
        self.regrouping.insert(id);
        self.is_stale = true;
    }

    pub(super) fn pod_goes(&mut self, store: &Store, id: PodSlot) {
        let Some(groups) = self.local.remove(&id) else { return };
        self.is_stale = true;
        self.regrouping.remove(&id);
        for direction in Direction::ALL {
            self.leave(direction, groups[direction as usize], id);
        }
        let class = store.pod(id).class;
        let Some(local) = self.classes.get_mut(&class) else { return };
        local.pods.remove(&id);
        if !local.pods.is_empty() {
            return;
        }
        if let Some(local) = self.classes.remove(&class) {
            self.in_namespace(&local.namespace, |namespace| namespace.classes.remove(&class));
        }
    }

    fn leave(&mut self, direction: Direction, hash: Option<Hash>, pod: PodSlot) {
        let Some(hash) = hash else { return };
        if let Some(group) = self.groups[direction as usize].get_mut(&hash) {
            group.pods.remove(&pod);
            if group.pods.is_empty() {
                self.emptied += 1;
                group.emptied = self.emptied;
                self.changed[direction as usize].insert(hash);
            }
        }
    }

    /// Takes something out of a namespace, and the namespace if it is empty
    /// then.
    fn in_namespace<T>(&mut self, name: &str, work: impl FnOnce(&mut LocalNamespace) -> T) -> Option<T> {
        let namespace = self.namespaces.get_mut(name)?;
        let done = work(namespace);
        if namespace.is_empty() {
            self.over_bound_version += u64::from(!namespace.over_bound.is_empty());
            self.namespaces.remove(name);
        }
        Some(done)
    }

    pub(super) fn set_policy(&mut self, policy: &Arc<Policy>) {
        let (namespace, name) = (Arc::from(policy.namespace.as_str()), Arc::from(policy.name.as_str()));
        let here = self.namespaces.entry(Arc::clone(&namespace)).or_default();
        if here.policies.get(&name).is_some_and(|known| known == policy) {
            return;
        }
        let before = here.policies.insert(Arc::clone(&name), Arc::clone(policy));
        here.reweigh(before.as_deref(), Some(policy));
        self.policy_count += usize::from(before.is_none());
        self.policy_changed(&namespace, &name);
    }

    pub(super) fn remove_policy(&mut self, namespace: &str, name: &str) {
        let Some(known) = self.namespaces.get_mut(namespace) else { return };
        let Some((name, policy)) = known.policies.remove_entry(name) else { return };
        known.reweigh(Some(&policy), None);
        self.policy_count -= 1;
        self.policy_changed(namespace, &name);
        self.in_namespace(namespace, |_| ());
    }

    /// A policy came, went or is another now: the endpoints that it concerns are to be regrouped.
    fn policy_changed(&mut self, namespace: &str, name: &Arc<str>) {
        let Some(here) = self.namespaces.get(namespace) else { return };
        if here.over_bound.contains_key(name) {
            self.reconsidered.entry(Arc::from(namespace)).or_default().add(name);
        }
        let policy = here.policies.get(name).map(|policy| &**policy);
        for class in &here.classes {
            let Some(class) = self.classes.get_mut(class) else { continue };
            if class.judge(name, policy) {
                self.regrouping.extend(&class.pods);
                self.is_stale = true;
            }
        }
        // A group may have lost its endpoints and be given others before the
        // next commit, so all that name the policy count.
        for direction in Direction::ALL {
            let groups = &self.groups[direction as usize];
            let names =
                |hash: &&Hash| groups.get(*hash).is_some_and(|group| group.policies.binary_search(name).is_ok());
            let edited: Vec<Hash> = here.groups[direction as usize].iter().filter(names).copied().collect();
            self.is_stale |= !edited.is_empty();
            self.changed[direction as usize].extend(&edited);
            self.edited[direction as usize].extend(edited);
        }
    }

    /// Whether policies of a namespace isolate pods with these labels, by direction.
    pub(super) fn isolates(&self, namespace: &str, labels: &Labels) -> [bool; 2] {
        let policies = || self.namespaces.get(namespace).into_iter().flat_map(|here| here.policies.values());
        let isolates = |policy: &Policy, direction| policy.isolates(direction) && policy.subject.matches(labels);
        Direction::ALL.map(|direction| policies().any(|policy| isolates(policy, direction)))
    }

    /// The endpoints whose groups may change.
    pub(super) fn regrouping(&self) -> impl Iterator<Item = PodSlot> {
        self.regrouping.iter().copied()
    }

    /// Groups the endpoints to regroup anew, and makes chains, trees and the
    /// lists of sets in use accordingly.
    pub(super) fn regroup(
        &mut self,
        store: &mut Store,
        peers: &mut PeerIndex,
        sets: &mut PeerSets,
        state: &KernelState,
        deltas: &mut [Delta; 2],
    ) {
        // Rules for single endpoints follow their addresses, which come and
        // change without a change of groups.
        if !std::mem::take(&mut self.is_stale) && self.options.self_match == SelfMatch::Bpf {
            return;
        }
        self.settle(store);
        let is_new = self.trees.is_new();
        let some_changed = self.changed.iter().any(|changed| !changed.is_empty());
        let mut touched = [Touched::new(), Touched::new()];
        let lead_elsewhere = Direction::ALL.map(|direction| {
            let rewritten = self.rewrite(direction, store, peers, sets, state, &mut touched);
            let joined = self.join(direction, store, &mut touched);
            rewritten || joined || is_new
        });
        for family in Family::ALL {
            let actual = &state.family(family).chains;
            let delta = &mut deltas[family as usize].chains;
            for (chain, desired) in std::mem::take(&mut touched[family as usize]) {
                let uses = self.uses[family as usize].get(&chain);
                let (is_used, is_of_groups) = (uses.is_some(), uses != self.expected[family as usize].get(&chain));
                // Groups may be made more than once before a commit, so what was to be done about the
                // chain may be undone. One that is expected may be there in part.
                match (desired, is_used, actual.get(&chain)) {
                    (Wanted::Rules(rules), true, there) if there == Some(&rules) => drop(delta.remove(&chain)),
                    (Wanted::Rules(rules), true, _) => drop(delta.insert(chain, Some(rules))),
                    // No group has it any more: what is there of it stays, and no more comes by this.
                    (Wanted::Gone, true, _) if !is_of_groups => drop(delta.remove(&chain)),
                    (Wanted::Gone, true, _) => {}
                    (_, false, Some(_)) => drop(delta.insert(chain, None)),
                    (Wanted::Held, true, _) | (_, false, None) => drop(delta.remove(&chain)),
                }
            }
        }
        for direction in Direction::ALL {
            if lead_elsewhere[direction as usize] {
                let leaves = self.leaves(direction, store);
                self.trees.rebuild(direction, &leaves, state, deltas);
            }
        }
        if is_new || some_changed || self.options.self_match == SelfMatch::PerEndpoint {
            self.forward(store, state, deltas);
        }
    }

    /// Puts the endpoints to regroup into the groups that they belong to.
    fn settle(&mut self, store: &Store) {
        let mut known = BTreeMap::<(ClassSlot, Direction, Resolution), Hash>::new();
        for pod in std::mem::take(&mut self.regrouping) {
            let id = store.pod(pod).class;
            let Some(class) = self.classes.get_mut(&id) else { continue };
            let Some(namespace) = self.namespaces.get_mut(&class.namespace) else { continue };
            let mut now = [None; 2];
            for direction in Direction::ALL {
                if class.policies[direction as usize].is_empty() {
                    continue;
                }
                let resolution = class.resolve(direction, &namespace.policies, store.ports(pod));
                let hash = *known.entry((id, direction, resolution.clone())).or_insert_with(|| {
                    let policies = &class.policies[direction as usize];
                    let names: Vec<_> = policies.iter().map(|name| (&*class.namespace, &**name)).collect();
                    identity(direction, names.into_iter(), &resolution)
                });
                let group = self.groups[direction as usize].entry(hash).or_insert_with(|| {
                    namespace.groups[direction as usize].insert(hash);
                    LiveGroup {
                        namespace: Arc::clone(&class.namespace),
                        policies: class.policies[direction as usize].iter().cloned().collect(),
                        resolution,
                        pods: BTreeSet::new(),
                        leaves: None,
                        age: Age::Fresh,
                        emptied: 0,
                    }
                });
                if group.pods.is_empty() {
                    self.changed[direction as usize].insert(hash);
                }
                group.age = Age::Fresh;
                group.pods.insert(pod);
                now[direction as usize] = Some(hash);
            }
            let was = self.local.insert(pod, now).unwrap_or_default();
            for direction in Direction::ALL {
                if was[direction as usize] != now[direction as usize] {
                    self.leave(direction, was[direction as usize], pod);
                }
            }
        }
    }
}
