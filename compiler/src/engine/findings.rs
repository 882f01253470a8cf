//! What is not understood of the policies, in bounded memory.

use std::collections::BTreeMap;

use crate::algebra::short_text::shorten;
use crate::policy::finding::{Finding, FindingCode};

/// How many findings of one namespace are kept each for itself. Beyond that of each policy only
/// the first is kept, and how many there are: a policy of a few kilobytes can have a hundred, and
/// a namespace ten thousand policies.
const OF_NAMESPACE: usize = 1_000;

/// How many bytes are kept of what is wrong, and of where, before an ellipsis. A finding may quote two
/// kilobytes of its policy, and an agent keeps each more than once. Always the same, because an Event has its
/// name from these texts, and all nodes report one.
const LONGEST: usize = 250;

/// The findings of all policies.
#[derive(Debug, Default)]
pub(super) struct Findings {
    by_policy: BTreeMap<(String, String), Box<[Finding]>>,
    /// How many each namespace has.
    counts: BTreeMap<String, usize>,
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
        let count = self.counts.entry(namespace.to_owned()).or_default();
        let more = findings.len() - 1;
        if *count + findings.len() > OF_NAMESPACE && more > 1 {
            // What is kept stands for all.
            let worst = findings.iter().position(|finding| finding.effect.is_harmful()).unwrap_or_default();
            findings.swap(0, worst);
            findings.truncate(1);
            let problem = format!("at least {more} more parts of this policy were not understood");
            let path = "spec".to_owned();
            findings.push(Finding { path, code: FindingCode::TooManyFindings, problem, ..findings[0].clone() });
        }
        for finding in &mut findings {
            shorten(&mut finding.problem, LONGEST);
            shorten(&mut finding.path, LONGEST);
        }
        *count += findings.len();
        self.version += 1;
        self.by_policy.insert((namespace.to_owned(), name.to_owned()), findings.into());
    }

    /// A policy is gone.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) {
        let Some(findings) = self.by_policy.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        self.version += 1;
        if let Some(count) = self.counts.get_mut(namespace) {
            *count -= findings.len();
            if *count == 0 {
                self.counts.remove(namespace);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::finding::Effect;

    fn findings(name: &str, count: usize) -> Vec<Finding> {
        let one = |number| Finding {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            path: format!("spec.ingress[{number}]"),
            code: FindingCode::CidrInvalid,
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
        assert_eq!((first.path.as_str(), more.code), ("spec.ingress[0]", FindingCode::TooManyFindings));
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
        assert_eq!((of(&all, "p10").len(), all.counts.get("shop")), (0, None));
    }

    /// Whether a policy is one that was not understood depends on it.
    #[test]
    fn of_very_many_a_harmful_one_is_kept() {
        let mut all = Findings::default();
        all.put("shop", "full", findings("full", OF_NAMESPACE));
        let mut mixed = findings("mixed", 3);
        mixed[0].effect = Effect::Ignored;
        mixed[1].effect = Effect::Ignored;
        all.put("shop", "mixed", mixed);
        let kept = &all.by_policy[&("shop".to_owned(), "mixed".to_owned())];
        assert!(kept.len() == 2 && kept.iter().all(|finding| finding.effect == Effect::MatchesNothing), "{kept:?}");
    }

    #[test]
    fn long_texts_are_cut_beside_anything_else() {
        let long = |name: &str| -> Vec<Finding> {
            let quoting = |finding| Finding { problem: "\u{e4}".repeat(1_000), ..finding };
            findings(name, 2).into_iter().map(quoting).collect()
        };
        let mut all = Findings::default();
        all.put("shop", "first", long("first"));
        for number in 0..2_000 {
            all.put("shop", &format!("p{number:04}"), long("p"));
        }
        all.put("shop", "last", long("last"));
        let text = |name: &str| all.by_policy[&("shop".to_owned(), name.to_owned())][0].problem.clone();
        assert_eq!(text("first"), text("last"));
        assert!(text("first").ends_with('…') && text("first").len() <= LONGEST + '…'.len_utf8());
    }
}
