//! The groups of this node's endpoints, their chains, and the trees that lead
//! to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::intern::{Interner, Text};
use super::live::LiveSets;
use super::peers::PeerIndex;
use super::store::{ClassId, PodId, Store};
use crate::group::{Resolution, melt, names_to_resolve, resolve};
use crate::layout::{Options, SelfMatch, chain_of_leaf, forward, identity, lead, set_at};
use crate::leaf::Leaf;
use crate::name::Hash;
use crate::object::{Family, Labels, Protocol};
use crate::plan::{Delta, KernelState, SetDelta};
use crate::policy::{Direction, Policy};
use crate::program::{ChainName, Member, Rule, SetKind, SetName};
use crate::text::rule_line;
use crate::tree::Node;

/// The rules of chains, as text.
type Chains = BTreeMap<ChainName, Vec<String>>;

/// A class with endpoints on this node.
#[derive(Debug)]
struct LocalClass {
    namespace: String,
    labels: Labels,
    pods: BTreeSet<PodId>,
    /// The policies that isolate it, by direction.
    policies: [BTreeSet<String>; 2],
    /// The port names in their ingress rules, once somebody asked.
    names: Option<BTreeSet<(Protocol, String)>>,
}

/// A group with endpoints on this node.
#[derive(Debug)]
struct LiveGroup {
    namespace: String,
    policies: BTreeSet<String>,
    resolution: Resolution,
    pods: BTreeSet<PodId>,
    /// Its chain in each family, and the sets that it asks.
    leaves: Option<[(ChainName, Vec<SetName>); 2]>,
}

/// The groups of this node.
#[derive(Debug)]
pub(super) struct LocalGroups {
    node: Text,
    options: Options,
    policies: BTreeMap<String, BTreeMap<String, Policy>>,
    /// How many that is.
    policy_count: usize,
    /// The endpoints of this node, and their groups as of the last commit.
    local: BTreeMap<PodId, [Option<Hash>; 2]>,
    classes: BTreeMap<ClassId, LocalClass>,
    groups: [BTreeMap<Hash, LiveGroup>; 2],
    /// How many groups have a chain; two may have one in common.
    uses: [BTreeMap<ChainName, usize>; 2],
    trees: [Option<Node>; 2],
    /// The trees as of the last commit, while another is made.
    before: Option<[Option<Node>; 2]>,
    /// The chains of the trees, by direction and family.
    leading: [[Chains; 2]; 2],
    /// Endpoints that are to be grouped anew.
    restless: BTreeSet<PodId>,
    /// Groups of which a policy was edited.
    edited: [BTreeSet<Hash>; 2],
    /// Whether groups may have changed since the last commit.
    is_stale: bool,
}

impl LocalGroups {
    pub(super) fn new(strings: &mut Interner, node: &str, options: Options) -> Self {
        Self {
            node: strings.keep(node),
            options,
            policies: BTreeMap::new(),
            policy_count: 0,
            local: BTreeMap::new(),
            classes: BTreeMap::new(),
            groups: Default::default(),
            uses: Default::default(),
            trees: Default::default(),
            before: None,
            leading: Default::default(),
            restless: BTreeSet::new(),
            edited: Default::default(),
            is_stale: true,
        }
    }

    /// The groups of an endpoint as of the last commit.
    pub(super) fn of(&self, pod: PodId) -> [Option<Hash>; 2] {
        self.local.get(&pod).copied().unwrap_or_default()
    }

    /// How many policies there are.
    pub(super) fn policies(&self) -> usize {
        self.policy_count
    }

    /// Namespaces and names of the policies of a group.
    pub(super) fn policies_of(&self, group: Hash, direction: Direction) -> impl Iterator<Item = (&str, &str)> {
        let group = self.groups[direction as usize].get(&group);
        group.into_iter().flat_map(|group| group.policies.iter().map(|name| (group.namespace.as_str(), name.as_str())))
    }

    /// The endpoints of this node.
    pub(super) fn here(&self) -> impl Iterator<Item = PodId> {
        self.local.keys().copied()
    }

    pub(super) fn pod_came(&mut self, store: &Store, id: PodId) {
        let pod = store.pod(id);
        if pod.node != Some(self.node) {
            return;
        }
        let policies = &self.policies;
        let class = self.classes.entry(pod.class).or_insert_with(|| LocalClass::new(store, pod.class, policies));
        class.pods.insert(id);
        self.local.insert(id, [None; 2]);
        self.restless.insert(id);
        self.is_stale = true;
    }

    pub(super) fn pod_goes(&mut self, store: &Store, id: PodId) {
        let Some(groups) = self.local.remove(&id) else { return };
        self.is_stale = true;
        self.restless.remove(&id);
        for direction in Direction::ALL {
            self.leave(direction, groups[direction as usize], id);
        }
        let class = store.pod(id).class;
        if let Some(local) = self.classes.get_mut(&class) {
            local.pods.remove(&id);
            if local.pods.is_empty() {
                self.classes.remove(&class);
            }
        }
    }

    fn leave(&mut self, direction: Direction, group: Option<Hash>, pod: PodId) {
        if let Some(group) = group.and_then(|group| self.groups[direction as usize].get_mut(&group)) {
            group.pods.remove(&pod);
        }
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        let known = self.policies.entry(policy.namespace.clone()).or_default();
        if known.get(&policy.name) == Some(&policy) {
            return;
        }
        let (namespace, name) = (policy.namespace.clone(), policy.name.clone());
        self.policy_count += usize::from(known.insert(name.clone(), policy).is_none());
        self.policy_changed(&namespace, &name);
    }

    pub(super) fn remove_policy(&mut self, namespace: &str, name: &str) {
        let Some(known) = self.policies.get_mut(namespace) else { return };
        if known.remove(name).is_none() {
            return;
        }
        self.policy_count -= 1;
        if known.is_empty() {
            self.policies.remove(namespace);
        }
        self.policy_changed(namespace, name);
    }

    /// A policy came, went or is another now: who is concerned is restless.
    fn policy_changed(&mut self, namespace: &str, name: &str) {
        let policy = self.policies.get(namespace).and_then(|policies| policies.get(name));
        for class in self.classes.values_mut().filter(|class| class.namespace == namespace) {
            for direction in Direction::ALL {
                let applies = policy.is_some_and(|policy| class.is_isolated_by(policy, direction));
                let policies = &mut class.policies[direction as usize];
                if applies {
                    policies.insert(name.to_owned());
                } else if !policies.remove(name) {
                    continue;
                }
                self.is_stale = true;
                class.names = None;
                self.restless.extend(&class.pods);
            }
        }
        // A group may have lost its endpoints and be given others before the
        // next commit, so all that name the policy count.
        for direction in Direction::ALL {
            let names = |group: &LiveGroup| group.namespace == namespace && group.policies.contains(name);
            let groups = self.groups[direction as usize].iter().filter(|(_, group)| names(group));
            self.edited[direction as usize].extend(groups.map(|(hash, _)| *hash));
        }
    }

    /// The endpoints whose groups may change.
    pub(super) fn restless(&self) -> impl Iterator<Item = PodId> {
        self.restless.iter().copied()
    }

    /// Groups the restless endpoints anew, and makes chains, trees and the
    /// lists of sets in use accordingly.
    pub(super) fn regroup(
        &mut self,
        store: &mut Store,
        peers: &mut PeerIndex,
        sets: &mut LiveSets,
        state: &KernelState,
        deltas: &mut [Delta; 2],
    ) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        self.before = Some(self.trees.clone());
        self.settle(store);
        let mut touched = [BTreeMap::new(), BTreeMap::new()];
        for direction in Direction::ALL {
            self.rewrite(direction, store, peers, sets, &mut touched);
        }
        for family in Family::ALL {
            let held = &state.family(family).chains;
            let delta = &mut deltas[family as usize].chains;
            for (chain, lines) in std::mem::take(&mut touched[family as usize]) {
                let is_used = self.uses[family as usize].contains_key(&chain);
                match lines {
                    Some(lines) if is_used && !held.contains_key(&chain) => drop(delta.insert(chain, Some(lines))),
                    _ if !is_used && held.contains_key(&chain) => drop(delta.insert(chain, None)),
                    _ => {}
                }
            }
        }
        for direction in Direction::ALL {
            self.lead_to_groups(direction, store, deltas);
        }
        self.forward(store, state, deltas);
    }

    /// Puts the restless endpoints into the groups that they belong to.
    fn settle(&mut self, store: &Store) {
        let mut known = BTreeMap::<(ClassId, Direction, Resolution), Hash>::new();
        for pod in std::mem::take(&mut self.restless) {
            let entry = store.pod(pod);
            let Some(class) = self.classes.get_mut(&entry.class) else { continue };
            let mut now = [None; 2];
            for direction in Direction::ALL {
                let policies = &class.policies[direction as usize];
                if policies.is_empty() {
                    continue;
                }
                let resolution = match direction {
                    Direction::Ingress => {
                        let here = &self.policies[&class.namespace];
                        let rules = || policies.iter().flat_map(|name| here[name].rules(direction));
                        let names = class.names.get_or_insert_with(|| names_to_resolve(rules(), direction));
                        resolve(names, entry.ports())
                    }
                    Direction::Egress => Resolution::new(),
                };
                let hash = known.entry((entry.class, direction, resolution.clone())).or_insert_with(|| {
                    let names: Vec<_> = policies.iter().map(|name| (class.namespace.as_str(), name.as_str())).collect();
                    identity(direction, names.into_iter(), &resolution)
                });
                let group = self.groups[direction as usize].entry(*hash).or_insert_with(|| LiveGroup {
                    namespace: class.namespace.clone(),
                    policies: policies.clone(),
                    resolution,
                    pods: BTreeSet::new(),
                    leaves: None,
                });
                group.pods.insert(pod);
                now[direction as usize] = Some(*hash);
            }
            let was = self.local.insert(pod, now).unwrap_or_default();
            for direction in Direction::ALL {
                if was[direction as usize] != now[direction as usize] {
                    self.leave(direction, was[direction as usize], pod);
                }
            }
        }
    }

    /// Makes the chains of groups that are new or edited, and drops the groups
    /// that have no endpoint. All chains that came or went are noted.
    fn rewrite(
        &mut self,
        direction: Direction,
        store: &mut Store,
        peers: &mut PeerIndex,
        sets: &mut LiveSets,
        touched: &mut [BTreeMap<ChainName, Option<Vec<String>>>; 2],
    ) {
        let edited = std::mem::take(&mut self.edited[direction as usize]);
        let mut dropped = Vec::new();
        for (hash, group) in &mut self.groups[direction as usize] {
            if group.pods.is_empty() {
                dropped.extend(group.leaves.take());
                continue;
            }
            if group.leaves.is_some() && !edited.contains(hash) {
                continue;
            }
            let here = &self.policies[&group.namespace];
            let rules = group.policies.iter().flat_map(|name| here[name].rules(direction));
            let admitted = melt(rules, direction, &group.resolution);
            let leaves = Family::ALL.map(|family| {
                let names = group.policies.iter().map(|name| (group.namespace.as_str(), name.as_str()));
                let leaf = Leaf::new(family, direction, &self.options, &admitted, names);
                for (name, definition) in &leaf.sets {
                    sets.keep(store, peers, family, name, definition);
                }
                let chain = chain_of_leaf(family, direction, &leaf);
                *self.uses[family as usize].entry(chain.clone()).or_default() += 1;
                touched[family as usize].insert(chain.clone(), Some(lines(family, &chain, &leaf.rules)));
                (chain, leaf.sets.into_keys().collect())
            });
            dropped.extend(group.leaves.replace(leaves));
        }
        self.groups[direction as usize].retain(|_, group| !group.pods.is_empty());
        for leaves in dropped {
            for (family, (chain, names)) in Family::ALL.into_iter().zip(leaves) {
                for name in &names {
                    sets.release(name);
                }
                let uses = &mut self.uses[family as usize];
                if let Some(count) = uses.get_mut(&chain) {
                    *count -= 1;
                    if *count == 0 {
                        uses.remove(&chain);
                    }
                }
                touched[family as usize].entry(chain).or_insert(None);
            }
        }
    }

    /// The tree of a direction, its chains, and the sets that are new in it.
    fn lead_to_groups(&mut self, direction: Direction, store: &Store, deltas: &mut [Delta; 2]) {
        let groups = &self.groups[direction as usize];
        let tree = Node::new(groups.keys().copied().collect());
        for family in Family::ALL {
            let delta = &mut deltas[family as usize];
            let chains = groups
                .iter()
                .filter_map(|(hash, group)| Some((*hash, group.leaves.as_ref()?[family as usize].0.clone())));
            let rules = lead(family, direction, tree.as_ref(), &chains.collect());
            let new: Chains = rules.iter().map(|(chain, rules)| (chain.clone(), lines(family, chain, rules))).collect();
            let old = std::mem::take(&mut self.leading[direction as usize][family as usize]);
            for chain in old.keys().filter(|chain| !new.contains_key(*chain)) {
                delta.chains.insert(chain.clone(), None);
            }
            for (chain, lines) in new.iter().filter(|(chain, lines)| old.get(*chain) != Some(lines)) {
                delta.chains.insert(chain.clone(), Some(lines.clone()));
            }

            let members = |of: &mut dyn Iterator<Item = &Hash>| -> BTreeSet<Member> {
                let pods = of.filter_map(|hash| groups.get(hash)).flat_map(|group| &group.pods);
                pods.filter_map(|pod| store.address(*pod, family)).map(Member::Address).collect()
            };
            if old.is_empty() {
                let all = members(&mut groups.keys());
                let gate = SetName::gate(family, direction);
                delta.sets.insert(gate, SetDelta::Created(SetKind::HashIp, all));
            }
            if tree == self.trees[direction as usize] {
                self.leading[direction as usize][family as usize] = new;
                continue;
            }
            let was = self.trees[direction as usize].as_ref().map(Node::sets).unwrap_or_default();
            let is = tree.as_ref().map(Node::sets).unwrap_or_default();
            for at in was.keys().filter(|at| !is.contains_key(*at)) {
                delta.sets.insert(set_at(family, direction, at), SetDelta::Gone);
            }
            for (at, of) in is.iter().filter(|(at, _)| !was.contains_key(*at)) {
                let created = SetDelta::Created(SetKind::HashIp, members(&mut of.iter()));
                delta.sets.insert(set_at(family, direction, at), created);
            }
            self.leading[direction as usize][family as usize] = new;
        }
        self.trees[direction as usize] = tree;
    }

    /// Leads an address that was in one group to another, in the sets that
    /// were there and stay.
    pub(super) fn lead(
        &self,
        direction: Direction,
        member: Member,
        family: Family,
        was: Option<Hash>,
        is: Option<Hash>,
        delta: &mut Delta,
    ) {
        let before = match &self.before {
            None if was == is => return,
            None => &self.trees,
            Some(before) => before,
        };
        let sets = |tree: &Option<Node>, group: Option<Hash>| -> BTreeSet<SetName> {
            let (Some(tree), Some(group)) = (tree, group) else { return BTreeSet::new() };
            let asked = tree.sets_of(&group).into_iter().map(|at| set_at(family, direction, &at));
            asked.chain([SetName::gate(family, direction)]).collect()
        };
        let was = sets(&before[direction as usize], was);
        let is = sets(&self.trees[direction as usize], is);
        for (name, comes) in is.difference(&was).map(|n| (n, true)).chain(was.difference(&is).map(|n| (n, false))) {
            let change = delta
                .sets
                .entry(name.clone())
                .or_insert_with(|| SetDelta::Changed { added: BTreeSet::new(), removed: BTreeSet::new() });
            // What was created has its members, and what is gone needs none.
            if let SetDelta::Changed { added, removed } = change {
                if comes {
                    added.insert(member)
                } else {
                    removed.insert(member)
                };
            }
        }
    }

    /// The commit is made.
    pub(super) fn committed(&mut self) {
        self.before = None;
    }

    /// The first chains, where they change.
    fn forward(&self, store: &Store, state: &KernelState, deltas: &mut [Delta; 2]) {
        let has_groups = self.groups.iter().any(|groups| !groups.is_empty());
        for family in Family::ALL {
            let mut isolated = BTreeSet::<IpAddr>::new();
            if self.options.self_match == SelfMatch::PerEndpoint {
                let pods = self.groups.iter().flat_map(BTreeMap::values).flat_map(|group| &group.pods);
                isolated.extend(pods.filter_map(|pod| store.address(*pod, family)));
            }
            for (name, rules) in forward(family, &self.options, has_groups, &isolated) {
                let lines = lines(family, &name, &rules);
                if state.family(family).chains.get(&name) != Some(&lines) {
                    deltas[family as usize].chains.insert(name, Some(lines));
                }
            }
        }
    }
}

impl LocalClass {
    fn new(store: &Store, id: ClassId, policies: &BTreeMap<String, BTreeMap<String, Policy>>) -> Self {
        let class = store.class(id);
        let text = |text| store.strings.text(text).to_owned();
        let mut local = Self {
            namespace: text(class.namespace),
            labels: class.labels.iter().map(|(key, value)| (text(*key), text(*value))).collect(),
            pods: BTreeSet::new(),
            policies: Default::default(),
            names: None,
        };
        for (name, policy) in policies.get(&local.namespace).into_iter().flatten() {
            for direction in Direction::ALL {
                if local.is_isolated_by(policy, direction) {
                    local.policies[direction as usize].insert(name.clone());
                }
            }
        }
        local
    }

    fn is_isolated_by(&self, policy: &Policy, direction: Direction) -> bool {
        policy.isolates(direction) && policy.subject.matches(&self.labels)
    }
}

fn lines(family: Family, chain: &ChainName, rules: &[Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule_line(family, chain, rule)).collect()
}
