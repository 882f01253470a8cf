//! The answer about a rule, and about the jump to npc's chains.

use npc_agent::dataplane::iptables::Hook;
use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, Rule, Target};
use npc_compiler::ruleset::text::{family_of, hook_line, printed_in, rule_line};

use super::answer::{Basis, KernelExplanation};
use super::facts::{Facts, bare};
use crate::command::roles;

impl Facts<'_> {
    /// What there is to say of a rule of a chain of npc, by its text behind the chain's name.
    pub(super) fn rule(&self, chain: &ChainName, text: &str) -> KernelExplanation {
        let said = family_of(text);
        let possible = || Family::ALL.into_iter().filter(|family| said.is_none_or(|said| said == *family));
        let in_actual = |family| {
            let rule = printed_in(family, chain, text);
            position(self.actual.family(family).chains.get(chain)?, &rule)
        };
        let in_desired = |family| {
            let rule = printed_in(family, chain, text);
            position(self.desired.family(family).chains.get(chain)?, &rule)
        };
        let actual: Vec<Family> = possible().filter(|family| in_actual(*family).is_some()).collect();
        let desired: Vec<Family> = possible().filter(|family| in_desired(*family).is_some()).collect();
        let families = [&actual, &desired].into_iter().find(|families| !families.is_empty()).cloned();
        let families = families.unwrap_or_else(|| vec![said.unwrap_or(Family::V4)]);
        let family = families.first().copied().unwrap_or(Family::V4);
        let rule = printed_in(family, chain, text);
        // A rule that npc does not write in this form is another program's, also in a chain with a name of npc.
        let is_foreign = matches!(rule.target, Target::Foreign(_));
        let of = roles::of_chain(chain.role()).what;
        let (judges, policies, more_policies) = self.judged(chain, self.first_rules(chain));
        let mut answer = self.ours(rule_line(family, chain, &rule), "rule");
        answer.role = if is_foreign {
            format!("rule that this version of npc does not write, in a chain of npc ({of})")
        } else {
            format!("rule of the {of}")
        };
        answer.owner = answer.owner.filter(|_| !is_foreign);
        KernelExplanation {
            direction: chain.role().direction(),
            families,
            actual: Some(!actual.is_empty()),
            desired: !desired.is_empty(),
            judges,
            policies,
            more_policies,
            rules: vec![self.whole_rule_answer(family, chain, in_actual(family).or_else(|| in_desired(family)), &rule)],
            ..answer
        }
    }

    /// What there is to say of the jump to npc's chains.
    pub(super) fn hook(&self) -> KernelExplanation {
        let forward = ChainName::forward();
        let families = Self::families(|family| self.actual.family(family).chains.contains_key(&forward));
        let place = |family: &Family| self.hooks.iter().find(|(of, _)| of == family).map(|(_, hook)| *hook);
        let line = |family: &Family| match place(family) {
            _ if self.basis == Basis::Policies => None,
            Some(Hook::First) => None,
            Some(Hook::Absent) => {
                Some(format!("{family}: not in FORWARD, so no packet meets the chains of npc; the agent puts it back"))
            }
            Some(Hook::Displaced(count)) => Some(format!(
                "{family}: in FORWARD {count} times and not, or not only, as its first rule; the agent puts it first"
            )),
            None => Some(format!("{family}: npc could not read FORWARD, or what it was given does not show it")),
        };
        let places: Vec<Option<Hook>> = families.iter().map(place).collect();
        let actual = match places.as_slice() {
            [] => Some(false),
            places if places.contains(&Some(Hook::Absent)) => Some(false),
            places if places.contains(&None) => None,
            _ => Some(true),
        };
        let is_first = !places.is_empty() && places.iter().all(|place| *place == Some(Hook::First));
        let role = "hook: the jump by which every forwarded packet meets the chains of npc";
        KernelExplanation {
            role: if is_first { format!("{role}, first in FORWARD") } else { role.to_owned() },
            actual,
            desired: true,
            differs: families.iter().filter_map(line).collect(),
            families,
            ..self.ours(hook_line(), "rule")
        }
    }
}

/// Where a rule stands in a chain. One without a comment, as older agents write it, is the rule
/// that is the same but for its comment.
fn position(rules: &[Rule], rule: &Rule) -> Option<usize> {
    rules.iter().position(|one| one == rule).or_else(|| rules.iter().position(|one| bare(one) == *rule))
}
