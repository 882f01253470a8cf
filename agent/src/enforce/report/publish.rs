//! The status and the metrics that follow from a pass.

use std::time::Duration;

use jiff::Timestamp;
use npc_compiler::engine::Contested;
use npc_compiler::policy::finding::Finding;

use super::Reporter;
use super::node::name;
use crate::enforce::pass::Pass;
use crate::metrics::PolicyCounts;
use crate::status::{self, LastChange, Rejected};

impl Reporter {
    pub(super) fn publish(&mut self, pass: &Pass, generation: u64) {
        let counts =
            PolicyCounts { all: pass.policies, rejected: self.findings.rejected, oversized: self.findings.oversized };
        self.metrics.synced(counts, pass.endpoints, &pass.sizes);
        self.metrics.took(pass.compiled, pass.applied);
        self.metrics.loading(pass.loading.iter().map(|loading| loading.since.as_second()));
        let is_new = self.findings.take_new();
        let part = |finding: &Finding| Rejected {
            namespace: finding.namespace.clone(),
            name: finding.name.clone(),
            path: finding.path.clone(),
            code: finding.code.as_str().to_owned(),
            problem: finding.problem.clone(),
            effect: finding.effect.to_string(),
            location: self.location(finding),
        };
        let new = is_new.then(|| {
            let (harmful, others): (Vec<&Finding>, Vec<&Finding>) =
                self.findings.all().partition(|finding| finding.effect.is_harmful());
            [harmful, others].map(|findings| findings.into_iter().map(&part).collect::<Vec<_>>())
        });
        let kernel = pass.sizes.iter().map(|(family, size)| status::FamilySize {
            family: family.to_string(),
            rules: size.rules,
            sets: size.sets,
            entries: size.entries,
        });
        let now = Timestamp::now();
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.status.update(|status| {
            status.generation = generation;
            // Until a sweep says so.
            status.flows_judged = false;
            status.synced = Some(now);
            status.policies = pass.policies;
            status.endpoints = pass.endpoints;
            status.kernel = kernel.collect();
            if let Some([rejected, deprecated]) = new {
                (status.rejected, status.deprecated) = (rejected, deprecated);
            }
            status.loading.clone_from(&pass.loading);
            status.spoofable = self.spoofable.keys().cloned().collect();
            status.contested = pass.contests.iter().map(contested).collect();
            status.options = Some((&pass.options).into());
            status.retained = pass.retained.iter().cloned().map(Into::into).collect();
            if !pass.writes.is_nothing() {
                status.last_change = Some(LastChange {
                    at: now,
                    writes: pass.writes.to_string(),
                    compile_micros: micros(pass.compiled),
                    apply_micros: micros(pass.applied),
                });
            }
        });
    }
}

fn contested(contest: &Contested) -> status::ContestedAddress {
    status::ContestedAddress {
        address: contest.address,
        pods: contest.claimants.iter().map(name).collect(),
        held_by: contest.holders.iter().map(name).collect(),
    }
}
