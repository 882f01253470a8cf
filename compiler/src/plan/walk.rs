//! Where the tree of a state leads an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::FamilyState;
use super::delta::StateView;
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{ChainName, ChainRole, Match, Rule, SetName, Target};

/// More chains than the tree of a node has, whose groups are of its few hundred
/// endpoints.
const CHAINS: usize = 1 << 14;

/// The tree of one direction, as the rules have it.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    view: StateView<'a>,
    isolated_set: Option<&'a SetName>,
    entry: ChainName,
    deny: ChainName,
}

impl FamilyState {
    /// The chain of the group whose rules judge the packets of an address in a direction; none if the address
    /// is not isolated, or if the rules lead it to no group, in a kernel that another program changed.
    #[must_use]
    pub fn group_chain_of(&self, direction: Direction, address: IpAddr) -> Option<ChainName> {
        let tree = Tree::new(StateView { family: Family::of(&address), actual: self, delta: None }, direction);
        let is_group = |chain: &ChainName, _: Option<&[Rule]>| matches!(chain.role(), ChainRole::Group(_));
        tree.is_isolated(address).then(|| tree.walk(address, is_group).1).flatten()
    }
}

/// How an address comes to its group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traversal<'a> {
    /// The sets that are asked, in order.
    pub(super) asked: Vec<&'a SetName>,
    /// The rules of the group and those of the chain to which they lead; `None` if the
    /// tree leads nowhere, in a kernel that another program changed.
    pub(super) rules: Option<Vec<&'a Rule>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(view: StateView<'a>, direction: Direction) -> Self {
        let entry = ChainName::entry(direction);
        let forward = view.chain(&ChainName::forward()).unwrap_or_default();
        // The rule in NPC-FORWARD says which set is the isolated set: in the middle of a
        // plan it may be a shadow.
        let jump = forward.iter().find(|rule| rule.target == Target::Jump(entry.clone()));
        let isolated_set = jump.and_then(asked);
        Self { view, isolated_set, entry, deny: ChainName::deny(direction) }
    }

    /// Whether the address is isolated at all.
    pub(super) fn is_isolated(&self, address: IpAddr) -> bool {
        self.isolated_set.is_some_and(|set| self.view.holds(set, address))
    }

    /// The addresses that are isolated.
    pub(super) fn isolated(&self) -> Vec<IpAddr> {
        self.isolated_set.map(|set| self.view.addresses(set)).unwrap_or_default()
    }

    /// How an address comes to its group, whether it is isolated or not.
    pub(super) fn traverse(&self, address: IpAddr) -> Traversal<'a> {
        let (asked, leaf) = self.walk(address, |_, rules| self.is_leaf(rules));
        Traversal { asked, rules: self.rules_of(leaf.as_ref()) }
    }

    /// The chain to which the tree leads an address; `None` if it leads nowhere.
    pub(super) fn leaf(&self, address: IpAddr) -> Option<ChainName> {
        self.walk(address, |_, rules| self.is_leaf(rules)).1
    }

    /// The rules of a chain to which the tree leads, as [`Traversal::rules`] has them.
    pub(super) fn rules_of(&self, leaf: Option<&ChainName>) -> Option<Vec<&'a Rule>> {
        Some(self.rules(self.view.chain(leaf?)?))
    }

    /// The sets that are asked about an address, in order, and the first chain on its path that is an end.
    fn walk(
        &self,
        address: IpAddr,
        is_end: impl Fn(&ChainName, Option<&[Rule]>) -> bool,
    ) -> (Vec<&'a SetName>, Option<ChainName>) {
        let mut asked = Vec::new();
        let mut chain = &self.entry;
        // A kernel that another program changed could lead in a circle.
        for _ in 0..64 {
            let rules = self.view.chain(chain);
            if is_end(chain, rules) {
                return (asked, Some(chain.clone()));
            }
            // A rule that is no step of the tree may do anything, so the path ends at it.
            let taken = rules.into_iter().flatten().map(|rule| self.step(rule)).find(|step| {
                step.and_then(|(set, _)| set).is_none_or(|set| {
                    asked.push(set);
                    self.view.holds(set, address)
                })
            });
            match taken.flatten() {
                Some((_, next)) => chain = next,
                None => break,
            }
        }
        (asked, None)
    }

    /// Whether a chain with these rules is not of the tree, so the tree ends at it.
    fn is_leaf(&self, rules: Option<&[Rule]>) -> bool {
        rules.is_some_and(|rules| rules.iter().any(|rule| self.step(rule).is_none()))
    }

    /// The rules to which the tree leads, as [`Traversal::rules`] has them, and the answers of its
    /// sets on one path to each.
    pub(super) fn leaves(&self) -> BTreeMap<Vec<&'a Rule>, Vec<(&'a SetName, bool)>> {
        let mut leaves = BTreeMap::new();
        let Some(entry) = self.view.chain(&self.entry) else { return leaves };
        let mut open = vec![(entry, Vec::new())];
        let mut visited = 0;
        while let Some((rules, mut answers)) = open.pop() {
            // As above.
            visited += 1;
            if visited > CHAINS || answers.len() > 64 {
                break;
            }
            let Some(steps) = self.steps(rules) else {
                leaves.entry(self.rules(rules)).or_insert(answers);
                continue;
            };
            for (set, next) in steps {
                let next = self.view.chain(next);
                let Some(set) = set else {
                    open.extend(next.map(|next| (next, answers)));
                    break;
                };
                let yes = answers.iter().copied().chain([(set, true)]).collect();
                open.extend(next.map(|next| (next, yes)));
                answers.push((set, false));
            }
        }
        leaves
    }

    /// Of a chain of the dispatch tree: the sets that it asks one after another, and
    /// where it leads the members of each; nothing if the chain is not of the tree.
    fn steps(&self, rules: &'a [Rule]) -> Option<impl Iterator<Item = (Option<&'a SetName>, &'a ChainName)> + use<'a>> {
        let is_of_tree = !self.is_leaf(Some(rules));
        is_of_tree.then(|| rules.iter().filter_map(|rule| Some((asked(rule), rule.goes_to()?))))
    }

    /// The set that a rule of the dispatch tree asks, if it asks one, and where it leads; nothing if the rule
    /// is not of the tree.
    fn step<'r>(&self, rule: &'r Rule) -> Option<(Option<&'r SetName>, &'r ChainName)> {
        let next = rule.goes_to().filter(|chain| **chain != self.deny)?;
        matches!(rule.matches[..], [] | [Match::Set(..)]).then(|| (asked(rule), next))
    }

    /// The rules of a group, and those of the chain to which they lead. Where
    /// several groups decide together, behind each rule that leads to one of
    /// them the rules of that.
    fn rules(&self, rules: &'a [Rule]) -> Vec<&'a Rule> {
        let mut all = Vec::with_capacity(rules.len());
        let mut denies = false;
        for rule in rules {
            all.push(rule);
            match rule.leads_to() {
                Some(chain) if *chain == self.deny => denies = true,
                Some(chain) => {
                    let of_group = self.view.chain(chain).unwrap_or_default();
                    denies |= of_group.iter().any(|rule| rule.goes_to() == Some(&self.deny));
                    all.extend(of_group);
                }
                None => {}
            }
        }
        // What denies may be missing in a kernel that another program changed.
        let deny = denies.then(|| self.view.chain(&self.deny)).flatten().unwrap_or_default();
        all.extend(deny);
        all
    }
}

/// The first set that a rule asks.
fn asked(rule: &Rule) -> Option<&SetName> {
    rule.sets().next()
}

/// The sets that rules, as [`Traversal::rules`] has them, ask.
pub(super) fn sets_of<'a>(rules: &[&'a Rule]) -> impl Iterator<Item = &'a SetName> {
    rules.iter().flat_map(|rule| rule.sets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::node::{Foreign, Member, SetField, SetKind};

    fn chain(name: &str) -> ChainName {
        ChainName::ours(name).expect("a name of ours")
    }

    fn asking(sets: &[&SetName], target: Target) -> Rule {
        Rule { matches: sets.iter().map(|set| Match::Set((*set).clone(), SetField::Destination)).collect(), target }
    }

    /// Two groups: that of members of a dispatch set, and that of the other isolated addresses.
    fn state() -> FamilyState {
        let (isolated, left) = (SetName::isolated(Family::V4, Direction::Ingress), SetName::new(Family::V4, "i-t0-x"));
        let to = |name: &str| Target::Goto(chain(name));
        let members = |last: &[u8]| last.iter().map(|last| Member::Address([10, 0, 0, *last].into())).collect();
        FamilyState {
            sets: [
                (isolated.clone(), (SetKind::HashIp, members(&[1, 2]))),
                (left.clone(), (SetKind::HashIp, members(&[1, 3]))),
            ]
            .into(),
            chains: [
                (ChainName::forward(), vec![asking(&[&isolated], Target::Jump(chain("NPC-INGRESS")))]),
                (chain("NPC-INGRESS"), vec![asking(&[&left], to("NPC-IL-x")), asking(&[], to("NPC-I-b"))]),
                (chain("NPC-IL-x"), vec![asking(&[], to("NPC-I-a"))]),
            ]
            .into(),
        }
    }

    #[test]
    fn an_isolated_address_comes_to_the_chain_of_its_group() {
        let state = state();
        let of = |direction, last: u8| state.group_chain_of(direction, [10, 0, 0, last].into());
        assert_eq!(of(Direction::Ingress, 1), Some(chain("NPC-I-a")));
        assert_eq!(of(Direction::Ingress, 2), Some(chain("NPC-I-b")));
        assert_eq!((of(Direction::Ingress, 3), of(Direction::Egress, 1)), (None, None), "it is not isolated");
    }

    #[test]
    fn a_tree_that_another_program_changed_may_lead_nowhere() {
        let mut foreign = state();
        let rules = foreign.chains.get_mut(&chain("NPC-IL-x")).expect("the list");
        rules.insert(0, Rule::foreign(Foreign::Unprintable));
        let of = |state: &FamilyState, last: u8| state.group_chain_of(Direction::Ingress, [10, 0, 0, last].into());
        assert_eq!((of(&foreign, 1), of(&foreign, 2)), (None, Some(chain("NPC-I-b"))));
        let mut circle = state();
        circle.chains.insert(chain("NPC-IL-x"), vec![asking(&[], Target::Goto(chain("NPC-INGRESS")))]);
        assert_eq!(of(&circle, 1), None);
    }
}
