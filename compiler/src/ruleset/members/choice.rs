//! The choice of the policies that are over the bounds.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::{Sizes, count, count_of_sets, size_of};
use crate::cluster::group::Resolution;
use crate::cluster::merge::Admission;
use crate::object::Family;
use crate::policy::{Direction, Policy};
use crate::ruleset::group_chain::Leaf;
use crate::ruleset::node::SetName;
use crate::ruleset::options::{Need, RulesetOptions, WHOLE_SHARE};

/// A group with endpoints on the node, and the sets that it needs.
pub(crate) struct Demand<'a> {
    /// Its direction.
    pub(crate) direction: Direction,
    /// Its policies, with their rules.
    pub(crate) policies: Vec<&'a Policy>,
    /// How its endpoints resolve named ports.
    pub(crate) resolution: &'a Resolution,
    /// What it has while the policies that were given as over the bound are, if that is made already.
    pub(crate) made: Option<MadeChains<'a>>,
}

/// What the chains of a group have.
pub(crate) struct MadeChains<'a> {
    /// Their sets. [`Sizes::of_set`] has what these count.
    pub(crate) sets: Vec<&'a SetName>,
    /// How many of their rules admit something.
    pub(crate) rules: u64,
}

/// The sets of a group, by their numbers, and how many of its rules admit something.
#[derive(Debug, Clone, Default)]
struct Chains {
    sets: Vec<usize>,
    rules: u64,
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
    let mut known = KnownSets::default();
    let mut sets_at_low = Vec::new();
    for group in groups {
        sets_at_low.push(match known.made(group, sizes) {
            Some(sets) => sets,
            None => known.make(group, &over, options, sizes),
        });
    }
    let need = known.total(&sets_at_low);
    if options.bounds.admit(need) {
        return over;
    }
    let (bound, mut total_at_low) = (WHOLE_SHARE, options.bounds.share(need));
    let order = order(groups, &over, options, sizes);
    // Without any policy that admits something there is no set, and no rule that counts.
    let mut sets_at_high = vec![Chains::default(); groups.len()];
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
        let sets: Vec<Chains> = groups
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
        let total = options.bounds.share(known.total(&sets));
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
    fn made(&mut self, group: &Demand<'_>, sizes: &dyn Sizes) -> Option<Chains> {
        let MadeChains { sets, rules } = group.made.as_ref()?;
        let counts = sets.iter().map(|name| sizes.of_set(name)).collect::<Option<Vec<u64>>>()?;
        let sets = sets.iter().zip(counts).map(|(name, count)| self.number(name, || count)).collect();
        Some(Chains { sets, rules: *rules })
    }

    /// Makes the sets of a group while some policies are over the bound.
    fn make(
        &mut self,
        group: &Demand<'_>,
        over: &BTreeSet<&str>,
        options: &RulesetOptions,
        sizes: &mut dyn Sizes,
    ) -> Chains {
        let policies = group.policies.iter().filter(|policy| !over.contains(policy.name.as_str()));
        let rules = policies.flat_map(|policy| policy.rules(group.direction).iter().map(move |rule| (*policy, rule)));
        let admission = Admission::new(rules, group.direction, group.resolution);
        let mut chains = Chains::default();
        for family in Family::ALL {
            let leaf = Leaf::without_rules(family, group.direction, options, &admission);
            chains.rules = chains.rules.saturating_add(leaf.admitting);
            for (name, definition) in &leaf.sets {
                chains.sets.push(self.number(name, || count(definition, family, sizes)));
            }
        }
        chains
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

    /// What all groups need together. A set counts once.
    fn total(&self, chains: &[Chains]) -> Need {
        let mut is_counted = vec![false; self.counts.len()];
        let (mut members, mut distinct) = (0_u64, 0);
        for number in chains.iter().flat_map(|chains| &chains.sets) {
            if !std::mem::replace(&mut is_counted[*number], true) {
                members = members.saturating_add(self.counts[*number]);
                distinct += 1;
            }
        }
        let rules = chains.iter().map(|chains| chains.rules).fold(0, u64::saturating_add);
        Need { members: members.saturating_add(count_of_sets(distinct)), rules }
    }
}

/// Policies in the order in which they go over the bound.
struct Order<'a> {
    names: Vec<&'a str>,
    /// The share that each has of the bounds, together with those before it.
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

/// Those policies of some groups that admit something and are not over the bound already: the largest
/// first, and of equal ones those with the last names.
fn order<'a>(
    groups: &[Demand<'a>],
    over: &BTreeSet<&str>,
    options: &RulesetOptions,
    sizes: &mut dyn Sizes,
) -> Order<'a> {
    let mut directions = BTreeMap::<&str, (&Policy, BTreeSet<Direction>)>::new();
    for group in groups {
        for policy in group.policies.iter().filter(|policy| !over.contains(policy.name.as_str())) {
            directions.entry(&policy.name).or_insert_with(|| (*policy, BTreeSet::new())).1.insert(group.direction);
        }
    }
    let size = |(name, (policy, directions)): (_, (&Policy, BTreeSet<Direction>))| {
        let all = directions.into_iter().map(|direction| size_of(policy, direction, sizes));
        (options.bounds.share(all.fold(Need::default(), Need::plus)), name)
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
