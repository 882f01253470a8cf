//! The status and the metrics that follow from a pass.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use npc_compiler::engine::Contested;
use npc_compiler::policy::finding::Finding;

use super::Report;
use super::node::name;
use crate::enforce::enforcer::Pass;
use crate::status::{self, LastChange, Rejected};

impl Report {
    pub(super) fn publish(&self, pass: &Pass, generation: u64) {
        let rejected = || self.findings.iter().filter(|finding| finding.effect.is_harmful());
        let policies: BTreeSet<_> = rejected().map(|finding| (&finding.namespace, &finding.name)).collect();
        self.metrics.synced(pass.policies, policies.len(), pass.endpoints, &pass.held);
        self.metrics.took(pass.compiled, pass.applied);
        self.metrics.loading(pass.loading.iter().map(|loading| loading.since.as_second()));
        let part = |finding: &Finding| Rejected {
            namespace: finding.namespace.clone(),
            name: finding.name.clone(),
            path: finding.path.clone(),
            code: finding.code.as_str().to_owned(),
            problem: finding.problem.clone(),
            effect: finding.effect.to_string(),
            location: self.location(finding),
        };
        let kernel = pass.held.iter().map(|(family, held)| status::FamilySize {
            family: family.to_string(),
            rules: held.rules,
            sets: held.sets,
            entries: held.entries,
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
            status.rejected = rejected().map(part).collect();
            status.deprecated = self.findings.iter().filter(|finding| !finding.effect.is_harmful()).map(part).collect();
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
