//! Where a rule of the kernel comes from, for the comment in that rule: the policies, and the
//! rules of theirs. So `iptables-save | grep NAMESPACE/NAME` finds what a policy made.
//!
//! A comment is the last match of its rule, so the kernel evaluates it only for a packet that all
//! other matches of the rule take: with legacy as a match of its own, with nft as the xtables match
//! that iptables-nft keeps in the rule.

use crate::algebra::traffic::PortSet;
use crate::cluster::group::Admitted;
use crate::cluster::merge::AdmittingRule;
use crate::object::Protocol;
use crate::ruleset::node::Match;
use crate::ruleset::text::{list, with_path};

/// The ports of a policy's rule for which a rule of the kernel is there.
#[derive(Debug, Clone, Copy)]
pub(super) enum PortsOf {
    /// TCP ports that the rule names.
    NamedTcp,
    /// UDP ports of tunnels that it names.
    Tunnels,
    /// All ports of a protocol.
    Of(Protocol),
}

impl PortsOf {
    fn ports(self, admitted: &Admitted) -> &PortSet {
        match self {
            Self::NamedTcp => &admitted.named_tcp,
            Self::Tunnels => &admitted.tunnels,
            Self::Of(protocol) => admitted.traffic.of(protocol),
        }
    }
}

/// The rules of policies that a rule of the kernel comes from. It keeps the first of them: as many
/// as a comment can list are enough for that, and a policy may have thousands for each rule of
/// the kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin<'s> {
    first: Vec<&'s AdmittingRule<'s>>,
    count: usize,
}

impl<'s> Origin<'s> {
    /// The origin that consists of these rules. It keeps at most `keep` of them.
    pub(super) fn of(sources: impl IntoIterator<Item = &'s AdmittingRule<'s>>, keep: usize) -> Self {
        let mut sources = sources.into_iter();
        let first: Vec<_> = sources.by_ref().take(keep).collect();
        Self { count: first.len() + sources.count(), first }
    }

    /// Those that it keeps, each as in [`Named::Rules`](crate::ruleset::text::Named::Rules).
    pub(super) fn rules(&self) -> Vec<(String, String)> {
        let rule = |source: &&AdmittingRule<'_>| {
            (format!("{}/{}", source.policy.namespace, source.policy.name), source.rule.path.clone())
        };
        self.first.iter().map(rule).collect()
    }

    /// The comment that names them.
    pub(super) fn comment(&self) -> Match {
        let mut before = None;
        let items = self.first.iter().map(|source| {
            let (policy, path) = (source.policy, &source.rule.path);
            let is_same = before.replace(policy).is_some_and(|before| std::ptr::eq(before, policy));
            if is_same { path.clone() } else { with_path(&format!("{}/{}", policy.namespace, policy.name), path) }
        });
        Match::Comment(list("", items, self.count))
    }
}

/// For each of these portions of ports, sorted and disjoint: which of the rules ask for some
/// of them, and so many of these rules.
pub(super) fn by_ports<'s>(
    portions: &[Vec<(u16, u16)>],
    ports_of: PortsOf,
    sources: &[&'s AdmittingRule<'s>],
    keep: usize,
) -> Vec<Origin<'s>> {
    let met = meeting(portions, sources.iter().map(|source| ports_of.ports(&source.admitted).ranges()), keep);
    let origin = |met: Met| Origin { first: met.first.into_iter().map(|at| sources[at]).collect(), count: met.count };
    met.into_iter().map(origin).collect()
}

/// The lists of ranges that meet a portion of ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Met {
    /// The numbers of the first, as many as are kept.
    first: Vec<usize>,
    /// How many there are.
    count: usize,
}

/// For each portion, the lists that have a port of it. Portions and lists are sorted and
/// disjoint.
///
/// A policy's owner may write thousands of rules that each meet thousands of portions. So the
/// time grows with the ranges and the portions, not with their product: the lists are counted
/// where they begin and end, and a portion that has its `keep` is not visited again.
fn meeting<'r>(
    portions: &[Vec<(u16, u16)>],
    lists: impl IntoIterator<Item = &'r [(u16, u16)]>,
    keep: usize,
) -> Vec<Met> {
    let ranges: Vec<(usize, (u16, u16))> =
        portions.iter().enumerate().flat_map(|(at, ranges)| ranges.iter().map(move |range| (at, *range))).collect();
    let mut met = vec![Met::default(); portions.len()];
    // How many lists begin at a portion, and how many have ended before it.
    let (mut begun, mut ended) = (vec![0_usize; portions.len() + 1], vec![0_usize; portions.len() + 1]);
    // From a portion to the next one that has room, itself if it has, by shortened steps.
    let mut room: Vec<usize> = (0..=portions.len()).collect();
    for (number, list) in lists.into_iter().enumerate() {
        // The portions before this one have met the list, or do not meet it.
        let mut next = 0;
        for &(first, last) in list {
            let from = ranges.partition_point(|(_, range)| range.1 < first);
            let to = ranges.partition_point(|(_, range)| range.0 <= last);
            if from >= to {
                continue;
            }
            let (from, end) = (ranges[from].0.max(next), ranges[to - 1].0 + 1);
            if from >= end {
                continue;
            }
            next = end;
            begun[from] += 1;
            ended[end] += 1;
            let mut at = with_room(&mut room, from);
            while at < end {
                met[at].first.push(number);
                if met[at].first.len() >= keep {
                    room[at] = at + 1;
                }
                at = with_room(&mut room, at + 1);
            }
        }
    }
    let mut count = 0;
    for ((met, begun), ended) in met.iter_mut().zip(begun).zip(ended) {
        count = count + begun - ended;
        met.count = count;
    }
    met
}

/// The first portion from this one that has room; each step that was taken is made shorter.
fn with_room(room: &mut [usize], mut at: usize) -> usize {
    while room[at] != at {
        room[at] = room[room[at]];
        at = room[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ruleset::text::LISTED;

    /// Sorted, disjoint ranges with gaps between them.
    fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
        prop::collection::vec((1_u16..40, 0_u16..30), 0..12).prop_map(|steps| {
            let mut at = 0;
            let range = |(gap, length): (u16, u16)| {
                let first = at + gap;
                at = first + length + 1;
                (first, at - 1)
            };
            steps.into_iter().map(range).collect()
        })
    }

    proptest! {
        #[test]
        fn each_portion_has_the_lists_that_meet_it(
            all in ranges(),
            sizes in prop::collection::vec(1_usize..4, 12),
            lists in prop::collection::vec(ranges(), 0..60),
        ) {
            let mut rest = &all[..];
            let mut portions = Vec::new();
            for size in sizes {
                let (portion, others) = rest.split_at(size.min(rest.len()));
                portions.extend((!portion.is_empty()).then(|| portion.to_vec()));
                rest = others;
            }
            let naive = portions.iter().map(|portion| {
                let meets = |list: &Vec<(u16, u16)>| {
                    list.iter().any(|(first, last)| portion.iter().any(|range| range.0 <= *last && *first <= range.1))
                };
                let met: Vec<usize> = (0..lists.len()).filter(|at| meets(&lists[*at])).collect();
                Met { count: met.len(), first: met.into_iter().take(LISTED).collect() }
            });
            let naive: Vec<Met> = naive.collect();
            prop_assert_eq!(meeting(&portions, lists.iter().map(Vec::as_slice), LISTED), naive);
        }
    }

    /// By visits of each portion for each list, these would be 1,200,000,000.
    #[test]
    fn many_lists_that_meet_many_portions_cost_their_sum() {
        let portions: Vec<Vec<(u16, u16)>> = (0..4_000).map(|at| vec![(at * 16, at * 16 + 3)]).collect();
        let all = [(0, u16::MAX)];
        let met = meeting(&portions, std::iter::repeat_n(&all[..], 300_000), LISTED);
        let expected = Met { first: (0..LISTED).collect(), count: 300_000 };
        assert!(met.iter().all(|met| *met == expected));
    }
}
