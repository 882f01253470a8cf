//! What is not understood of the policies, in bounded memory.

use std::collections::BTreeMap;

use crate::policy::finding::{Code, Finding};

/// How many findings of one namespace are kept each for itself. Beyond that of each policy only
/// the first is kept, and how many there are: a policy of a few kilobytes can have a hundred, and
/// a namespace ten thousand policies.
const OF_NAMESPACE: usize = 1_000;

/// How many bytes the findings of one namespace may take before only the first of each policy is kept, and
/// of that the beginning. A finding quotes up to two kilobytes of its policy, and an agent keeps each more than once.
const BYTES_OF_NAMESPACE: usize = 2 << 20;

/// How many bytes are kept then of what is wrong, and of where.
const SHORT: usize = 100;

/// What findings take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Total {
    count: usize,
    bytes: usize,
}

impl Total {
    fn of(findings: &[Finding]) -> Self {
        let bytes = |finding: &Finding| {
            let Finding { namespace, name, path, problem, .. } = finding;
            size_of::<Finding>() + namespace.len() + name.len() + path.len() + problem.len()
        };
        Self { count: findings.len(), bytes: findings.iter().map(bytes).sum() }
    }
}

/// The findings of all policies.
#[derive(Debug, Default)]
pub(super) struct Findings {
    by_policy: BTreeMap<(String, String), Box<[Finding]>>,
    /// What those of each namespace take.
    totals: BTreeMap<String, Total>,
    /// How often they changed.
    version: u64,
}

impl Findings {
    /// This was not understood of a policy, and nothing else.
    pub(super) fn put(&mut self, namespace: &str, name: &str, mut findings: Vec<Finding>) {
        self.remove(namespace, name);
        if findings.is_empty() {
            return;
        }
        let total = self.totals.entry(namespace.to_owned()).or_default();
        let (more, own) = (findings.len() - 1, Total::of(&findings));
        let is_long = total.bytes + own.bytes > BYTES_OF_NAMESPACE;
        if is_long {
            cut(&mut findings[0].problem);
            cut(&mut findings[0].path);
        }
        if total.count + own.count > OF_NAMESPACE && more > 1 || is_long && more > 0 {
            findings.truncate(1);
            let problem = match more {
                1 => "1 more part of this policy was not understood".to_owned(),
                more => format!("at least {more} more parts of this policy were not understood"),
            };
            let path = "spec".to_owned();
            findings.push(Finding { path, code: Code::TooManyFindings, problem, ..findings[0].clone() });
        }
        let own = Total::of(&findings);
        *total = Total { count: total.count + own.count, bytes: total.bytes + own.bytes };
        self.version += 1;
        self.by_policy.insert((namespace.to_owned(), name.to_owned()), findings.into());
    }

    /// A policy is gone.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        let Some(findings) = self.by_policy.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        self.version += 1;
        if let Some(total) = self.totals.get_mut(namespace) {
            let own = Total::of(&findings);
            *total = Total { count: total.count - own.count, bytes: total.bytes - own.bytes };
            if *total == Total::default() {
                self.totals.remove(namespace);
            }
        }
    }

    /// All of them, by policy.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.by_policy.values().flatten()
    }

    /// Another number than before if they changed.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }
}

/// Keeps the beginning of a long text.
fn cut(text: &mut String) {
    if text.len() > SHORT {
        let end = (0..=SHORT).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::finding::Effect;

    fn findings(name: &str, count: usize) -> Vec<Finding> {
        let one = |number| Finding {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            path: format!("spec.ingress[{number}]"),
            code: Code::CidrInvalid,
            problem: "not a CIDR".to_owned(),
            effect: Effect::MatchesNothing,
            address: None,
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_namespace_with_very_many_keeps_of_each_policy_one_and_their_number() {
        let mut all = Findings::default();
        for number in 0..100 {
            let name = format!("p{number:02}");
            all.put("shop", &name, findings(&name, 100));
        }
        let of =
            |all: &Findings, name: &str| all.iter().filter(|finding| finding.name == name).cloned().collect::<Vec<_>>();
        // Ten policies fill it, and the others keep two each.
        assert_eq!(all.iter().count(), 10 * 100 + 90 * 2);
        assert_eq!((of(&all, "p09").len(), of(&all, "p10").len()), (100, 2));
        let [first, more] = &of(&all, "p10")[..] else { panic!("two") };
        assert_eq!((first.path.as_str(), more.code), ("spec.ingress[0]", Code::TooManyFindings));
        assert!(more.problem.contains("99 more parts"), "{more}");
        // Another namespace has all of its own, and one that has room again too.
        all.put("web", "p", findings("p", 100));
        assert_eq!(of(&all, "p").len(), 100);
        for number in 0..100 {
            let version = all.version();
            all.remove("shop", &format!("p{number:02}"));
            assert_ne!(all.version(), version);
        }
        all.put("shop", "p10", findings("p10", 100));
        assert_eq!(of(&all, "p10").len(), 100);
        all.put("shop", "p10", Vec::new());
        assert_eq!((of(&all, "p10").len(), all.totals.get("shop")), (0, None));
    }

    #[test]
    fn long_findings_of_very_many_policies_are_cut() {
        let mut all = Findings::default();
        let long = |name: &str| -> Vec<Finding> {
            let quoting = |finding| Finding { problem: "\u{e4}".repeat(1_000), ..finding };
            findings(name, 2).into_iter().map(quoting).collect()
        };
        let bytes =
            |all: &Findings| all.iter().map(|finding| finding.problem.len() + finding.path.len()).sum::<usize>();
        for number in 0..10_000 {
            let name = format!("p{number:04}");
            all.put("shop", &name, long(&name));
        }
        assert!(bytes(&all) < 2 * BYTES_OF_NAMESPACE, "{} bytes", bytes(&all));
        assert_eq!(all.by_policy.len(), 10_000, "each policy has some");
        let last = &all.by_policy[&("shop".to_owned(), "p9999".to_owned())];
        assert!(last[0].problem.ends_with('…') && last[1].problem == "1 more part of this policy was not understood");
        // Another namespace has all of its own.
        all.put("web", "p", long("p"));
        assert!(all.iter().any(|finding| finding.problem.len() == 2_000));
    }
}
