//! What was not understood of policies, in the log and in Events: each thing once while it holds,
//! and so many of one namespace a minute. The owner of a namespace could otherwise fill the log of
//! every node and burden the API server, which every agent asks for each Event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use npc_compiler::policy::finding::{Effect, Finding};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Reporter;
use crate::enforce::pass::Pass;
use crate::source::notice::Notice;

/// How many findings of one namespace are logged, and made Events of, in each [`WINDOW`].
const OF_NAMESPACE: usize = 20;

/// After this, more of a namespace are logged.
const WINDOW: Duration = Duration::from_secs(60);

/// The findings of the last pass.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Each with whether it was reported.
    all: BTreeMap<Finding, bool>,
    /// How many of them were not reported.
    unreported: usize,
    /// Of each namespace with a report: when its window began, and how much was reported since.
    windows: BTreeMap<String, (Instant, usize)>,
    /// The status does not have them yet.
    is_new: bool,
    /// How many policies were not understood in part.
    pub(super) rejected: usize,
    /// The rules of how many policies are left out, because they are over a bound.
    pub(super) oversized: usize,
}

impl Findings {
    /// They stand elsewhere in files now.
    pub(super) fn places_changed(&mut self) {
        self.is_new = true;
    }

    /// Whether the status is to be given all of them anew.
    pub(super) fn take_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Finding> {
        self.all.keys()
    }

    /// Takes those of a pass in. Answers the policies that had some which were reported, and have
    /// none now.
    fn are(&mut self, findings: &[Finding]) -> Vec<(String, String)> {
        let before = std::mem::take(&mut self.all);
        let was_reported = |finding: &Finding| before.get(finding).copied().unwrap_or_default();
        self.all = findings.iter().map(|finding| (finding.clone(), was_reported(finding))).collect();
        self.unreported = self.all.values().filter(|is_reported| !**is_reported).count();
        let policies = |is_wanted: fn(Effect) -> bool| {
            let found = self.all.keys().filter(|finding| is_wanted(finding.effect));
            found.map(|finding| (&finding.namespace, &finding.name)).collect::<BTreeSet<_>>().len()
        };
        self.rejected = policies(|effect| effect.is_harmful() && !effect.is_of_bound());
        self.oversized = policies(Effect::is_of_bound);
        self.is_new = true;
        let policy = |finding: &Finding| (finding.namespace.clone(), finding.name.clone());
        let mut gone: BTreeSet<_> =
            before.iter().filter(|(_, is_reported)| **is_reported).map(|(finding, _)| policy(finding)).collect();
        for finding in self.all.keys() {
            gone.remove(&policy(finding));
        }
        gone.into_iter().collect()
    }

    /// Those to be reported now, and of how many more in which namespaces the log says only that
    /// there are more.
    fn due(&mut self, now: Instant) -> (Vec<Finding>, BTreeMap<String, usize>) {
        self.windows.retain(|_, (begun, _)| now.saturating_duration_since(*begun) < WINDOW);
        let (mut due, mut folded) = (Vec::new(), BTreeMap::<String, usize>::new());
        if self.unreported == 0 {
            return (due, folded);
        }
        let mut is_said = BTreeSet::new();
        for (finding, is_reported) in self.all.iter_mut().filter(|(_, is_reported)| !**is_reported) {
            let window = self.windows.entry(finding.namespace.clone()).or_insert((now, 0));
            if window.1 < OF_NAMESPACE {
                window.1 += 1;
                *is_reported = true;
                self.unreported -= 1;
                due.push(finding.clone());
                // Its window is full from now on, and the log says so once.
                if window.1 == OF_NAMESPACE {
                    is_said.insert(finding.namespace.clone());
                }
            } else {
                *folded.entry(finding.namespace.clone()).or_default() += 1;
            }
        }
        folded.retain(|namespace, _| is_said.contains(namespace));
        (due, folded)
    }
}

impl Reporter {
    /// A pass found these; reports what is new.
    pub(super) fn take_findings(&mut self, pass: &Pass) {
        if let Some(findings) = &pass.findings {
            for (namespace, name) in self.findings.are(findings) {
                info!(policy = format!("{namespace}/{name}"), "policy has no findings now");
            }
            self.report_findings();
        }
    }

    /// Reports findings that were not yet, if it is time.
    pub(in crate::enforce) fn report_findings(&mut self) {
        let (due, folded) = self.findings.due(Instant::now());
        for finding in due {
            match self.location(&finding) {
                Some(location) => warn!(code = finding.code.as_str(), "{location}: {finding}"),
                None => warn!(code = finding.code.as_str(), "{finding}"),
            }
            self.notify(Notice::Finding(finding));
        }
        for (namespace, more) in folded {
            warn!(
                namespace,
                more, "more parts of this namespace's policies were not understood; npc status names them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use npc_compiler::policy::finding::FindingCode;

    use super::*;

    fn finding(namespace: &str, number: usize) -> Finding {
        Finding {
            namespace: namespace.to_owned(),
            name: format!("p{number:03}"),
            path: "spec".to_owned(),
            code: FindingCode::PolicyTooLarge,
            problem: "too large".to_owned(),
            effect: Effect::AllowsNothing,
            address: None,
        }
    }

    #[test]
    fn a_policy_over_a_bound_was_understood() {
        let mut findings = Findings::default();
        let large = Finding { effect: Effect::RulesLeftOut, ..finding("shop", 0) };
        let wrong = Finding { code: FindingCode::CidrInvalid, effect: Effect::MatchesNothing, ..finding("shop", 1) };
        findings.are(&[large.clone(), wrong]);
        assert_eq!((findings.rejected, findings.oversized), (1, 1));
        // One policy can be both.
        findings
            .are(&[large.clone(), Finding { code: FindingCode::CidrInvalid, effect: Effect::MatchesNothing, ..large }]);
        assert_eq!((findings.rejected, findings.oversized), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_with_many_findings_is_reported_in_portions_and_hides_no_other() {
        let mut findings = Findings::default();
        let mut all: Vec<Finding> = (0..50).map(|number| finding("many", number)).collect();
        all.push(finding("other", 0));
        assert!(findings.are(&all).is_empty());
        assert_eq!(findings.rejected, 51);
        let (due, folded) = findings.due(Instant::now());
        assert_eq!((due.len(), folded), (21, [("many".to_owned(), 30)].into()));
        // Nothing more within the minute, though more come.
        all.push(finding("many", 50));
        assert!(findings.are(&all).is_empty());
        assert_eq!(findings.due(Instant::now()), (Vec::new(), BTreeMap::new()));
        // The rest comes later, each once.
        let mut later = Vec::new();
        for _ in 0..3 {
            tokio::time::advance(WINDOW).await;
            later.push(findings.due(Instant::now()).0.len());
        }
        assert_eq!(later, [20, 11, 0]);
        // What went and comes again is new.
        let gone = findings.are(&all[1..]);
        assert_eq!(gone, [("many".to_owned(), "p000".to_owned())], "reported, and has none now");
        assert!(findings.are(&all[1..]).is_empty());
        assert_eq!(findings.are(&[]).len(), 51);
        assert!(findings.are(&all[..1]).is_empty());
        tokio::time::advance(WINDOW).await;
        assert_eq!(findings.due(Instant::now()).0.len(), 1);
    }
}
