//! The comments that name the policies of a rule: written, and read again.

use std::fmt::Write as _;
use std::sync::Arc;

use super::COMMENT_MAX;
use super::write::comment;
use crate::policy::Direction;
use crate::ruleset::rule::{Match, Rule};

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
                // If a name ends so, a part of it is left out, and the paths behind it are rules of that policy.
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
pub(crate) const LISTED: usize = COMMENT_MAX / 16;

/// A rule as a comment names it: the policy and the path. If a name leaves no room for the path, the end of the name is
/// left out.
pub(crate) fn with_path(policy: &str, path: &str) -> String {
    /// The most bytes of a name and a path. The rest of a comment is for the number of rules that do not fit.
    const ROOM: usize = COMMENT_MAX - ", +1000000 more".len();
    let policy = comment(policy);
    let free = ROOM.saturating_sub(path.len() + 1);
    if policy.len() <= free {
        return format!("{policy} {path}");
    }
    format!("{}... {path}", &policy[..free.saturating_sub("...".len())])
}

/// The comment of a rule that denies the rest: the policies that isolate a group.
pub(crate) fn isolated_by<'n>(
    direction: Direction,
    policies: impl IntoIterator<Item = (&'n str, &'n str)>,
) -> Arc<str> {
    let names: Vec<String> = policies.into_iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
    let count = names.len();
    list(&format!("{}{BY}", direction.as_str()), names, count)
}

/// A list of as many items as a comment takes, and how many more there are. `count` is the number
/// of all items; `items` may hold only the first ones.
pub(crate) fn list(prefix: &str, items: impl IntoIterator<Item = String>, count: usize) -> Arc<str> {
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
    use super::*;
    use crate::ruleset::rule::Target;

    fn names(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|n| format!("{}{n:05}", "x".repeat(length - 5))).collect()
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
