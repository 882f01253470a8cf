//! The choice of the policies that are over the bound on set members.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::{Sizes, count, count_of_sets, size_of};
use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::object::Family;
use crate::policy::{Direction, Policy};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::node::SetName;
use crate::ruleset::options::RulesetOptions;

/// A group with endpoints on the node, and the sets that it needs.
pub(crate) struct Demand<'a> {
    /// Its direction.
    pub(crate) direction: Direction,
    /// Its policies, with their rules.
    pub(crate) policies: Vec<&'a Policy>,
    /// How its endpoints resolve named ports.
    pub(crate) resolution: &'a Resolution,
    /// Its sets while the policies that were given as over the bound are, if these are made
    /// already. [`Sizes::of_set`] has what they count.
    pub(crate) sets: Option<Vec<&'a SetName>>,
}

/// The policies of a namespace that are over the bound on a node, by name: some that are over it
/// in any case, and as few others as are needed, in the order in which policies go over it.
///
/// `groups` are all of the namespace with endpoints on the node. A search between none of the
/// others and all of them tries a few numbers, and makes only the sets of groups in which
/// policies are tried.
pub(crate) fn choose_over_bound<'a>(
    groups: &[Demand<'a>],
    mut over: BTreeSet<&'a str>,
    options: &RulesetOptions,
    sizes: &mut dyn Sizes,
) -> BTreeSet<&'a str> {
    let bound = options.set_members.0;
    let mut known = KnownSets::default();
    let mut sets_at_low = Vec::new();
    for group in groups {
        sets_at_low.push(match known.made(group, sizes) {
            Some(sets) => sets,
            None => known.make(group, &over, options, sizes),
        });
    }
    let mut total_at_low = known.total(&sets_at_low);
    if total_at_low <= bound {
        return over;
    }
    let order = order(groups, &over, sizes);
    // Without any policy that names peers there is no set.
    let mut sets_at_high: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    let mut total_at_high = 0;
    let (mut low, mut high) = (0, order.names.len());
    let mut tries = 0;
    while high - low > 1 {
        tries += 1;
        let middle = if tries % 3 == 0 {
            low.midpoint(high)
        } else {
            // What is freed is about what these name.
            let (excess, freed) = (total_at_low - bound, total_at_low - total_at_high);
            order.reach(low, high, excess, freed)
        };
        let out: BTreeSet<&str> = over.iter().chain(&order.names[..middle]).copied().collect();
        let sets: Vec<Vec<usize>> = groups
            .iter()
            .zip(&order.places)
            .enumerate()
            .map(|(group, (demand, places))| {
                let has = |from: usize, to: usize| {
                    let first = places.partition_point(|place| *place < from);
                    places.get(first).is_some_and(|place| *place < to)
                };
                if !has(low, middle) {
                    sets_at_low[group].clone()
                } else if !has(middle, high) {
                    sets_at_high[group].clone()
                } else {
                    known.make(demand, &out, options, sizes)
                }
            })
            .collect();
        let total = known.total(&sets);
        if total > bound {
            (low, total_at_low, sets_at_low) = (middle, total, sets);
        } else {
            (high, total_at_high, sets_at_high) = (middle, total, sets);
        }
    }
    over.extend(&order.names[..high]);
    over
}

/// The sets that were made, by number, and what they count.
#[derive(Default)]
struct KnownSets {
    numbers: FxHashMap<SetName, usize>,
    counts: Vec<u64>,
}

impl KnownSets {
    /// The sets of a group, if they are made already.
    fn made(&mut self, group: &Demand<'_>, sizes: &dyn Sizes) -> Option<Vec<usize>> {
        let sets = group.sets.as_ref()?;
        let counts = sets.iter().map(|name| sizes.of_set(name)).collect::<Option<Vec<u64>>>()?;
        Some(sets.iter().zip(counts).map(|(name, count)| self.number(name, || count)).collect())
    }

    /// Makes the sets of a group while some policies are over the bound.
    fn make(
        &mut self,
        group: &Demand<'_>,
        over: &BTreeSet<&str>,
        options: &RulesetOptions,
        sizes: &mut dyn Sizes,
    ) -> Vec<usize> {
        let policies = group.policies.iter().filter(|policy| !over.contains(policy.name.as_str()));
        let rules = policies.flat_map(|policy| policy.rules(group.direction).iter().map(move |rule| (*policy, rule)));
        let admission = Admission::new(rules, group.direction, group.resolution);
        let mut numbers = Vec::new();
        for family in Family::ALL {
            for (name, definition) in &Leaf::sets_of(family, group.direction, options, &admission) {
                numbers.push(self.number(name, || count(definition, family, sizes)));
            }
        }
        numbers
    }

    fn number(&mut self, name: &SetName, count: impl FnOnce() -> u64) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.counts.len();
        self.counts.push(count());
        self.numbers.insert(name.clone(), number);
        number
    }

    /// What the sets of all groups count together, each once.
    fn total(&self, sets: &[Vec<usize>]) -> u64 {
        let mut is_counted = vec![false; self.counts.len()];
        let (mut members, mut distinct) = (0_u64, 0);
        for number in sets.iter().flatten() {
            if !std::mem::replace(&mut is_counted[*number], true) {
                members = members.saturating_add(self.counts[*number]);
                distinct += 1;
            }
        }
        members.saturating_add(count_of_sets(distinct))
    }
}

/// Policies in the order in which they go over the bound.
struct Order<'a> {
    names: Vec<&'a str>,
    /// How many members each names together with those before it.
    sums: Vec<u64>,
    /// For each group, the places of its policies in this order, sorted.
    places: Vec<Vec<usize>>,
}

impl Order<'_> {
    /// A place after `low` and before `high`: the first up to which policies name the part `excess`
    /// / `freed` of all that the policies between the two name.
    fn reach(&self, low: usize, high: usize, excess: u64, freed: u64) -> usize {
        let sum = |place: usize| place.checked_sub(1).map_or(0, |place| u128::from(self.sums[place]));
        let named = sum(high) - sum(low);
        let wanted = sum(low) + (named * u128::from(excess)).div_ceil(u128::from(freed.max(1)));
        let place = self.sums.partition_point(|sum| u128::from(*sum) < wanted) + 1;
        place.clamp(low + 1, high - 1)
    }
}

/// Those policies of some groups that name peers and are not over the bound already: those
/// that name most first, and of equal ones those with the last names.
fn order<'a>(groups: &[Demand<'a>], over: &BTreeSet<&str>, sizes: &mut dyn Sizes) -> Order<'a> {
    let mut directions = BTreeMap::<&str, (&Policy, BTreeSet<Direction>)>::new();
    for group in groups {
        for policy in group.policies.iter().filter(|policy| !over.contains(policy.name.as_str())) {
            directions.entry(&policy.name).or_insert_with(|| (*policy, BTreeSet::new())).1.insert(group.direction);
        }
    }
    let size = |(name, (policy, directions)): (_, (&Policy, BTreeSet<Direction>))| {
        let all = directions.into_iter().map(|direction| size_of(policy, direction, sizes));
        (all.fold(0, u64::saturating_add), name)
    };
    let mut by_size: Vec<(u64, &str)> = directions.into_iter().map(size).filter(|(size, _)| *size > 0).collect();
    by_size.sort_unstable_by(|a, b| b.cmp(a));
    let mut sum = 0_u64;
    let sums = by_size.iter().map(|(size, _)| {
        sum = sum.saturating_add(*size);
        sum
    });
    let sums = sums.collect();
    let names: Vec<&str> = by_size.into_iter().map(|(_, name)| name).collect();
    let of_name: FxHashMap<&str, usize> = names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
    let places = groups.iter().map(|group| {
        let mut places: Vec<usize> =
            group.policies.iter().filter_map(|policy| of_name.get(policy.name.as_str()).copied()).collect();
        places.sort_unstable();
        places
    });
    let places = places.collect();
    Order { names, sums, places }
}
