//! What the answer is made of: the kernel and the policies of the input, and what both say of a chain, a set or a
//! rule.

use std::collections::{BTreeSet, HashSet};

use npc_agent::dataplane::iptables::Hook;
use npc_agent::finding::Place;
use npc_compiler::cluster::PodId;
use npc_compiler::cluster::group::RetainedGroup;
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::layout::{self, GroupChain, RulesetOptions};
use npc_compiler::ruleset::node::{ChainName, ChainRole, Match, NodeRuleset, Rule, SetName, Target};
use npc_compiler::ruleset::text::{Named, rule_line};

use super::answer::{Basis, Endpoint, KernelExplanation, PolicyPlace, RuleAnswer, RuleOrigin};
use super::thing::Thing;
use super::words;
use crate::command::input::Input;
use crate::command::roles;
use crate::command::words::{policy_name, shorten};

/// At most this many numbers of rules are written out.
const NUMBERS: usize = 6;

/// What the answer is made of.
pub(super) struct Facts<'a> {
    pub(super) input: &'a Input,
    pub(super) node: &'a str,
    /// What the kernel holds.
    pub(super) actual: KernelState,
    /// What the policies ask for.
    pub(super) desired: NodeRuleset,
    pub(super) groups: Vec<GroupChain>,
    /// The options of the desired rules.
    pub(super) options: RulesetOptions,
    pub(super) retained: Vec<RetainedGroup>,
    pub(super) basis: Basis,
    /// Where the jump to npc's chains stands, in each family whose FORWARD was read.
    pub(super) hooks: Vec<(Family, Hook)>,
    /// Whether the kernel's sets were read.
    pub(super) has_sets: bool,
    /// Whether it is known by which secret groups stand in the dispatch tree.
    pub(super) knows_seed: bool,
}

impl KernelExplanation {
    /// What there is to say of a thing of npc, or an address.
    pub(super) fn new(facts: &Facts<'_>, thing: &Thing) -> Self {
        let mut answer = match thing {
            Thing::Chain(chain) => facts.chain(chain),
            Thing::Set(set) => facts.set(set),
            Thing::Rule(chain, text) => facts.rule(chain, text),
            Thing::Hook => facts.hook(),
            Thing::Address(address) => facts.address(*address),
            Thing::Other(other) => Self::of_other(other, facts.node),
        };
        answer.basis = Some(facts.basis);
        let is_place = |name: &SetName| name.leads_to_groups() && !name.is_isolated_set();
        let needs_seed = match thing {
            Thing::Chain(chain) | Thing::Rule(chain, _) => chain.is_dispatch(),
            Thing::Set(set) => is_place(set),
            // In which sets of the dispatch tree an isolated pod's address is depends on the secret, and whether
            // it is in one at all.
            Thing::Address(address) => {
                answer.sets.iter().any(|set| set.name.is_isolated_set())
                    && facts.desired.family(Family::of(address)).sets.keys().any(is_place)
            }
            Thing::Hook | Thing::Other(_) => false,
        };
        answer.seed_known = facts.knows_seed || !needs_seed;
        if facts.basis == Basis::Policies {
            answer.actual = None;
        }
        answer
    }
}

impl Facts<'_> {
    pub(super) fn ours(&self, thing: String, is: &'static str) -> KernelExplanation {
        KernelExplanation { owner: Some("npc".to_owned()), ..KernelExplanation::empty(thing, is, self.node) }
    }

    pub(super) fn chain(&self, chain: &ChainName) -> KernelExplanation {
        let in_actual: Vec<Family> = Self::families(|family| self.actual.family(family).chains.contains_key(chain));
        let in_desired: Vec<Family> = Self::families(|family| self.desired.family(family).chains.contains_key(chain));
        let families = if in_actual.is_empty() { in_desired.clone() } else { in_actual.clone() };
        let rules_of = |family: Family| {
            let actual = self.actual.family(family).chains.get(chain);
            actual.or_else(|| self.desired.family(family).chains.get(chain)).map(Vec::as_slice).unwrap_or_default()
        };
        let (judges, policies, more_policies) = self.judged(chain, self.first_rules(chain));
        let mut rules: Vec<RuleAnswer> = Vec::new();
        for family in &families {
            let of_family = self.rules(*family, chain, rules_of(*family));
            let says = |one: &RuleAnswer| (one.text.clone(), one.means.clone());
            // What both families have alike is said once.
            if !rules.iter().map(says).eq(of_family.iter().map(says)) {
                rules.extend(of_family);
            }
        }
        KernelExplanation {
            role: roles::of_chain(chain.role()).what.to_owned(),
            direction: chain.role().direction(),
            actual: Some(!in_actual.is_empty()),
            desired: !in_desired.is_empty(),
            judges,
            policies,
            more_policies,
            differs: self.chain_differs(chain),
            rules,
            families,
            ..self.ours(chain.to_string(), "chain")
        }
    }

    /// In which families a chain that the kernel holds has other rules than the policies ask for.
    fn chain_differs(&self, chain: &ChainName) -> Vec<String> {
        // The rules of the dispatch tree contain names that depend on the secret.
        if chain.is_dispatch() && !self.knows_seed {
            return Vec::new();
        }
        let line = |family: Family| {
            let actual = self.actual.family(family).chains.get(chain)?;
            let desired = self.desired.family(family).chains.get(chain)?;
            // An older agent writes rules without comments. They do the same.
            let desired: Vec<Rule> = desired.iter().map(bare).collect();
            let actual: Vec<Rule> = actual.iter().map(bare).collect();
            if actual == desired {
                return None;
            }
            let asked: HashSet<&Rule> = desired.iter().collect();
            let is_other = |(_, rule): &(usize, &Rule)| !asked.contains(rule);
            let others = actual.iter().enumerate().filter(is_other);
            let others: Vec<String> = others.map(|(index, _)| (index + 1).to_string()).collect();
            let which = match others.as_slice() {
                [] => String::new(),
                [one] => format!("; rule {one} is not asked for"),
                more => format!("; rules {} are not asked for", shorten(more, NUMBERS, ", ")),
            };
            Some(format!("{family}: the kernel has other rules in it than the policies of the input ask for{which}"))
        };
        Family::ALL.into_iter().filter_map(line).collect()
    }

    /// The policies or rules that a rule came from, as its comment names them; of a rule without
    /// comment those of the same rule that the policies ask for.
    fn named(&self, family: Family, chain: &ChainName, rule: &Rule) -> Option<Named> {
        Named::of(rule).or_else(|| {
            let desired = self.desired.family(family).chains.get(chain)?;
            let same = desired.iter().find(|desired| bare(desired) == *rule)?;
            Named::of(same)
        })
    }

    fn set(&self, set: &SetName) -> KernelExplanation {
        let family = set.family();
        let (actual, desired) = (self.actual.family(family), self.desired.family(family));
        let chains = if actual.chains.is_empty() { &desired.chains } else { &actual.chains };
        let mut rules = Vec::new();
        let (mut policies, mut more_policies) = (BTreeSet::<String>::new(), 0_usize);
        for (chain, of_chain) in chains {
            for (index, rule) in of_chain.iter().enumerate().filter(|(_, rule)| rule.sets().any(|asked| asked == set)) {
                // The comment of a rule may have no room for all.
                let whole = self.whole_rule_answer(family, chain, Some(index), rule);
                policies.extend(whole.origins.into_iter().map(|origin| origin.policy));
                more_policies = more_policies.saturating_add(whole.more);
                rules.push(self.rule_answer(family, chain, Some(index), rule));
            }
        }
        let members = actual.sets.get(set).map(|(_, members)| members);
        let direction = words::set_direction(set.role());
        let is_member = |pod: &PodId| {
            let holds = |address| members.is_some_and(|all| all.iter().any(|one| one.holds(address)));
            self.input.cluster.pod(*pod).addresses().any(holds)
        };
        let pods = self.groups.iter().filter(|group| Some(group.direction) == direction).flat_map(|group| &group.pods);
        let judges = pods.copied().filter(is_member).map(|pod| self.endpoint(pod)).collect();
        let policies = policies.iter().map(|policy| self.policy(policy)).collect();
        let is_asked = !rules.is_empty();
        KernelExplanation {
            role: match desired.sets.get(set) {
                Some(desired) => format!("{}: {}", words::set(set.role()), desired.meaning),
                None => words::set(set.role()).to_owned(),
            },
            direction,
            families: vec![family],
            actual: Some(members.is_some() || (self.basis == Basis::Dumps && is_asked)),
            desired: desired.sets.contains_key(set),
            judges,
            policies,
            more_policies,
            rules,
            ..self.ours(set.shown().into_owned(), "set")
        }
    }

    /// The endpoints that a group chain judges, and their policies.
    pub(super) fn judged(&self, chain: &ChainName, rules: &[Rule]) -> (Vec<Endpoint>, Vec<PolicyPlace>, usize) {
        let groups = || self.groups.iter().filter(|group| group.chains.contains(chain));
        if groups().next().is_some() {
            let pods: BTreeSet<PodId> = groups().flat_map(|group| group.pods.iter().copied()).collect();
            let policies = groups().flat_map(|group| &group.policies).map(|id| policy_name(&self.input.cluster, *id));
            let policies: BTreeSet<String> = policies.collect();
            let policies = policies.iter().map(|policy| self.policy(policy)).collect();
            return (pods.into_iter().map(|pod| self.endpoint(pod)).collect(), policies, 0);
        }
        // Several groups decide together about an address that several pods list.
        let led: Vec<&ChainName> = rules.iter().filter_map(Rule::leads_to).collect();
        let is_joint = matches!(chain.role(), ChainRole::Group(_))
            && led.iter().all(|next| matches!(next.role(), ChainRole::Group(_)))
            && !led.is_empty();
        if is_joint {
            let (mut judges, mut policies) = (Vec::new(), Vec::new());
            let mut more = 0_usize;
            // A group's chain leads to no other group's, so this goes no deeper.
            let deep = |next: &ChainName| next == chain || self.actual_rules(next).iter().any(leads_to_group);
            for next in led.into_iter().filter(|next| !deep(next)) {
                let (endpoints, of_group, more_of_group) = self.judged(next, self.actual_rules(next));
                judges.extend(endpoints);
                policies.extend(of_group);
                more = more.saturating_add(more_of_group);
            }
            policies.sort_by(|a: &PolicyPlace, b| a.policy.cmp(&b.policy));
            policies.dedup();
            return (judges, policies, more);
        }
        // The policies do not ask for it: what its comments name.
        match rules.iter().rev().find_map(Named::of) {
            Some(Named::Policies { policies, more, .. }) => {
                (Vec::new(), policies.iter().map(|policy| self.policy(policy)).collect(), more)
            }
            _ => (Vec::new(), Vec::new(), 0),
        }
    }

    /// The rules of a chain of the kernel, or else those that the policies ask for; of the first
    /// family that has it.
    pub(super) fn first_rules(&self, chain: &ChainName) -> &[Rule] {
        let actual = |family| self.actual.family(family).chains.get(chain);
        let desired = |family| self.desired.family(family).chains.get(chain);
        let found = Family::ALL.into_iter().find_map(actual).or_else(|| Family::ALL.into_iter().find_map(desired));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// The rules of a chain of the kernel, of the first family that has it.
    fn actual_rules(&self, chain: &ChainName) -> &[Rule] {
        let actual = |family| self.actual.family(family).chains.get(chain).map(Vec::as_slice);
        Family::ALL.into_iter().find_map(actual).unwrap_or_default()
    }

    fn rules(&self, family: Family, chain: &ChainName, rules: &[Rule]) -> Vec<RuleAnswer> {
        rules.iter().enumerate().map(|(index, rule)| self.rule_answer(family, chain, Some(index), rule)).collect()
    }

    fn rule_answer(&self, family: Family, chain: &ChainName, index: Option<usize>, rule: &Rule) -> RuleAnswer {
        let named = self.named(family, chain, rule).filter(|_| rule.target == Target::Return);
        let (origins, more) = match named {
            Some(Named::Rules { rules, more }) => (rules, more),
            _ => (Vec::new(), 0),
        };
        let origins = origins.into_iter().map(|origin| self.origin(origin)).collect();
        RuleAnswer {
            family,
            chain: chain.to_string(),
            number: index.map(|index| index + 1),
            text: rule_line(family, chain, rule),
            means: words::rule(rule, chain.role(), |set| self.meaning(family, set)),
            origins,
            more,
        }
    }

    /// The same of one rule, with all its origins if the policies ask for it.
    pub(super) fn whole_rule_answer(
        &self,
        family: Family,
        chain: &ChainName,
        index: Option<usize>,
        rule: &Rule,
    ) -> RuleAnswer {
        let mut answer = self.rule_answer(family, chain, index, rule);
        if answer.more > 0 {
            let made_by = (&self.options, self.retained.as_slice());
            let all = layout::origins(&self.input.cluster, self.node, made_by, family, chain, rule);
            if !all.is_empty() {
                answer.origins = all.into_iter().map(|origin| self.origin(origin)).collect();
                answer.more = 0;
            }
        }
        answer
    }

    fn origin(&self, (policy, path): (String, String)) -> RuleOrigin {
        let location = self.place(&policy, &path);
        RuleOrigin { policy, path, location }
    }

    /// What the members of a set are.
    pub(super) fn meaning(&self, family: Family, set: &SetName) -> String {
        let desired = self.desired.family(family).sets.get(set);
        desired.map_or_else(|| format!("the members of {}", set.shown()), |set| set.meaning.clone())
    }

    pub(super) fn endpoint(&self, pod: PodId) -> Endpoint {
        let pod = self.input.cluster.pod(pod);
        Endpoint {
            namespace: pod.namespace.clone(),
            full_name: format!("{}/{}", pod.namespace, pod.name),
            addresses: pod.addresses().collect(),
        }
    }

    pub(super) fn policy(&self, policy: &str) -> PolicyPlace {
        PolicyPlace { policy: policy.to_owned(), location: self.place(policy, "") }
    }

    /// Where a field of a policy stands, if it was read from a file.
    fn place(&self, policy: &str, path: &str) -> Option<Place> {
        let (namespace, name) = policy.split_once('/')?;
        self.input.loaded.positions.locate("NetworkPolicy", namespace, name, path).as_ref().map(Place::from)
    }

    pub(super) fn families(is_in: impl Fn(Family) -> bool) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| is_in(*family)).collect()
    }
}

/// A rule without its comment, which decides nothing.
pub(super) fn bare(rule: &Rule) -> Rule {
    let matches = rule.matches.iter().filter(|one| !matches!(one, Match::Comment(_)));
    Rule { matches: matches.cloned().collect(), target: rule.target.clone() }
}

/// Whether a rule leads to the chain of a group.
fn leads_to_group(rule: &Rule) -> bool {
    rule.leads_to().is_some_and(|next| matches!(next.role(), ChainRole::Group(_)))
}
