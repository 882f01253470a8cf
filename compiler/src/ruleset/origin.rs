//! Where a rule of the kernel comes from, as a comment in that rule: the policies, and the
//! rules of theirs. So `iptables-save | grep NAMESPACE/NAME` finds what a policy made.
//!
//! A comment is the last match of its rule, so the kernel evaluates it only for a packet that all
//! other matches of the rule take: with legacy as a match of its own, with nft as the xtables match
//! that iptables-nft keeps in the rule.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::algebra::traffic::PortSet;
use crate::cluster::group::Admitted;
use crate::cluster::merge::AdmittingRule;
use crate::object::Protocol;
use crate::policy::Direction;
use crate::ruleset::node::{Match, Rule};
use crate::ruleset::text::{COMMENT_MAX, comment};

/// What a comment of npc names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The rules of policies that a rule which admits comes from.
    Rules {
        /// Each as the policy, `NAMESPACE/NAME`, and the rule's path, `spec.ingress[0]`.
        rules: Vec<(String, String)>,
        /// How many more there are, for which the comment has no room.
        more: usize,
    },
    /// The policies that isolate the endpoints of a group.
    Policies {
        /// In which direction.
        direction: Direction,
        /// Each as `NAMESPACE/NAME`.
        policies: Vec<String>,
        /// How many more there are, for which the comment has no room.
        more: usize,
    },
}

impl Named {
    /// Reads the comment of a rule; nothing if the rule has none, or one that names no policy.
    /// A name that the comment has in part only is left out and counted.
    #[must_use]
    pub fn of(rule: &Rule) -> Option<Self> {
        let Match::Comment(text) = rule.matches.last()? else { return None };
        let isolated =
            Direction::ALL.into_iter().find_map(|of| Some((of, text.strip_prefix(of.as_str())?.strip_prefix(BY)?)));
        let (mut rules, mut policies, mut more) = (Vec::new(), Vec::new(), 0);
        let mut policy = String::new();
        for item in isolated.map_or(&**text, |(_, names)| names).split(", ") {
            if let Some(count) = item.strip_prefix('+').and_then(|rest| rest.strip_suffix(" more")) {
                // Another program may have written the comment, with any number.
                more = usize::try_from(count.parse::<u32>().ok()?).ok().and_then(|count| count.checked_add(more))?;
            } else if item.ends_with("...") {
                more += 1;
            } else if isolated.is_some() {
                policies.push(item.to_owned());
            } else {
                // Of a name that ends so, a part is left out, and the paths behind it are rules of that policy.
                let path = match item.split_once(' ') {
                    Some((name, path)) => {
                        name.clone_into(&mut policy);
                        path
                    }
                    None => item,
                };
                if !path.starts_with("spec.") || !policy.contains('/') {
                    return None;
                }
                if policy.ends_with("...") {
                    more += 1;
                } else {
                    rules.push((policy.clone(), path.to_owned()));
                }
            }
        }
        Some(match isolated {
            Some((direction, _)) => Self::Policies { direction, policies, more },
            None => Self::Rules { rules, more },
        })
    }
}

/// What stands between a direction and the policies that isolate.
const BY: &str = " isolated by ";

/// A comment lists at most this many rules, because each takes at least 16 bytes.
pub(super) const LISTED: usize = COMMENT_MAX / 16;

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

    /// Those that it keeps, each as in [`Named::Rules`].
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

/// A rule as a comment names it: the policy and the path. Of a name that leaves no room for the path, the end is
/// left out.
fn with_path(policy: &str, path: &str) -> String {
    /// So much room has the path and the number of those for which there is none.
    const ROOM: usize = COMMENT_MAX - ", +1000000 more".len();
    let policy = comment(policy);
    let free = ROOM.saturating_sub(path.len() + 1);
    if policy.len() <= free {
        return format!("{policy} {path}");
    }
    format!("{}... {path}", &policy[..free.saturating_sub("...".len())])
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

/// The comment of a rule that denies the rest: the policies that isolate a group.
pub(super) fn isolated_by<'n>(
    direction: Direction,
    policies: impl IntoIterator<Item = (&'n str, &'n str)>,
) -> Arc<str> {
    let names: Vec<String> = policies.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let count = names.len();
    list(&format!("{}{BY}", direction.as_str()), names, count)
}

/// A list of as many items as a comment takes, and how many more there are. `count` is the
/// number of all, of which `items` may be the first.
fn list(prefix: &str, items: impl IntoIterator<Item = String>, count: usize) -> Arc<str> {
    let more = |rest: usize| if rest == 0 { String::new() } else { format!(", +{rest} more") };
    let mut text = prefix.to_owned();
    let mut listed = 0;
    for item in items {
        let item = comment(&item);
        let (separator, rest) = (if listed == 0 { "" } else { ", " }, more(count - listed - 1));
        let free = COMMENT_MAX.saturating_sub(text.len() + separator.len() + rest.len());
        if item.len() <= free {
            text.extend([separator, &item]);
        } else if listed == 0 {
            // One name of 253 bytes and its namespace are more than a comment.
            let _ = write!(text, "{}...", &item[..free.saturating_sub(3)]);
        } else {
            break;
        }
        listed += 1;
    }
    text.push_str(&more(count - listed));
    text.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ruleset::node::Target;

    fn names(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|n| format!("{}{n:05}", "x".repeat(length - 5))).collect()
    }

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

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(&*list("by ", names(2, 5), 2), "by 00000, 00001");
        assert_eq!(&*list("by ", names(2, 5), 5), "by 00000, 00001, +3 more");
        let text = list("by ", names(100, 17), 1_000);
        assert!(text.ends_with("00011, +988 more"), "{text}");
        // To the last byte.
        let whole = list("", names(4, 62), 4);
        assert_eq!((whole.len(), whole.ends_with("00003")), (254, true));
        let cut = list("", names(4, 63), 4);
        assert!(cut.ends_with("00002, +1 more"), "{cut}");
    }

    /// Two rules of one policy have different comments, however long its name is.
    #[test]
    fn a_long_name_is_cut_and_not_the_path() {
        let long = format!("shop/{}", "p".repeat(248));
        for (name, path) in [(long.as_str(), "spec.ingress[1]"), ("shop/\u{e9}", "spec.egress[1234]")] {
            let item = with_path(name, path);
            let text = list("", [item.clone(), "spec.ingress[2]".to_owned()], 1_000_000);
            assert!(text.starts_with(&item) && text.len() <= COMMENT_MAX, "{text}");
            assert!(item.ends_with(&format!(" {path}")), "{item}");
        }
        // A part of a name is none.
        let read = named(list("", [with_path(&long, "spec.ingress[0]"), "spec.ingress[1]".to_owned()], 2));
        assert_eq!(read, Some(Named::Rules { rules: Vec::new(), more: 2 }));
        assert_eq!(with_path("shop/db", "spec.ingress[0]"), "shop/db spec.ingress[0]");
    }

    #[test]
    fn no_comment_is_longer_than_the_kernel_takes() {
        for (count, length) in (1..40).flat_map(|count| (5..400).map(move |length| (count, length))) {
            let text = list("Ingress isolated by ", names(count, length), count);
            assert!(text.len() <= COMMENT_MAX, "{text}");
            let listed = text.matches('0').count() > 0 || text.contains("...");
            assert!(listed, "{text}");
        }
    }

    fn named(comment: Arc<str>) -> Option<Named> {
        Named::of(&Rule { matches: vec![Match::Comment(comment)], target: Target::Return })
    }

    #[test]
    fn a_comment_is_read_as_it_was_written() {
        let path = |n: usize| format!("spec.ingress[{n}]");
        let items = ["shop/api spec.ingress[0]", "spec.ingress[1]", "shop/db spec.ingress[0]"].map(str::to_owned);
        let rules = vec![("shop/api", path(0)), ("shop/api", path(1)), ("shop/db", path(0))];
        let rules: Vec<_> = rules.into_iter().map(|(policy, path)| (policy.to_owned(), path)).collect();
        for (count, more) in [(3, 0), (7, 4)] {
            let read = named(list("", items.clone(), count));
            assert_eq!(read, Some(Named::Rules { rules: rules.clone(), more }));
        }
        let policies = ["shop/api".to_owned(), "shop/db".to_owned()];
        let read = named(isolated_by(Direction::Egress, [("shop", "api"), ("shop", "db")]));
        assert_eq!(read, Some(Named::Policies { direction: Direction::Egress, policies: policies.into(), more: 0 }));
        // A part of a name is none.
        let long = "x".repeat(253);
        let read = named(isolated_by(Direction::Ingress, [("shop", &*long), ("shop", "db")]));
        assert_eq!(
            read,
            Some(Named::Policies { direction: Direction::Ingress, policies: vec!["shop/db".to_owned()], more: 1 })
        );
        for other in [
            "a tunnel past policies",
            "of no known connection",
            "",
            "+x more",
            "shop/api",
            "a spec.x",
            "shop/api spec.ingress[0], +18446744073709551615 more, +18446744073709551615 more",
        ] {
            assert_eq!(named(other.into()), None, "{other}");
        }
    }

    #[test]
    fn signs_that_could_end_a_comment_are_none() {
        let text = list("", ["a\"b\\c'd\ne\u{e9}".to_owned()], 1);
        assert_eq!(&*text, "a_b_c_d_e_");
    }
}
