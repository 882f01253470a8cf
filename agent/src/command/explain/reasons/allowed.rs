//! Which rules admit a flow, and where they stand.

use std::io::{self, Write};

use npc_compiler::cluster::PolicyId;
use npc_compiler::policy::PolicyRule;
use npc_compiler::verdict::explain::{Decision, Flow, Reason, ReasonCode, Verdict};

use super::denied::arrow;
use crate::command::explain::Context;

/// At most this many places are written out.
const LISTED: usize = 8;

/// The rules of both directions that admit a flow, each with its item of the peers.
pub(in crate::command::explain) fn write(context: &Context<'_>, flow: &Flow, out: &mut impl Write) -> io::Result<()> {
    let decisions = flow.decisions.iter().flatten().filter(|decision| decision.reason == Reason::Rule);
    let left_out: usize = decisions.clone().map(|decision| decision.admitting_count - decision.rules.len()).sum();
    let places: Vec<(PolicyId, String)> = decisions.flat_map(places).collect();
    if flow.verdict != Verdict::Allowed || places.is_empty() {
        return Ok(());
    }
    let rules = if places.len() == 1 { "this rule admits it" } else { "these rules admit it" };
    writeln!(out, "\nallowed[rule]: {rules}")?;
    for (id, path) in places.iter().take(LISTED) {
        writeln!(out, "{}", arrow(context, *id, path))?;
    }
    let mut rules = flow.decisions.iter().flatten().flat_map(|decision| {
        let of = move |(id, path): &(PolicyId, String)| {
            let rules = context.input.cluster.policy(*id).rules(decision.direction).iter();
            rules.filter(|rule| rule.path == *path).any(PolicyRule::admits_everything)
        };
        // A note beside a policy that looks as if it denied says the same.
        let is_said = move |(id, path): &(PolicyId, String)| {
            let mut said = decision.misleading.iter().filter(|of| of.code() == ReasonCode::RuleAdmitsEveryone);
            said.any(|of| (of.policy, &of.path) == (*id, path))
        };
        decision.rules.iter().filter(move |rule| of(rule) && !is_said(rule))
    });
    if let Some((_, path)) = rules.next() {
        writeln!(out, "   = note: {path} has no peers and no ports: such a rule admits everyone on every port")?;
    }
    match places.len() + left_out {
        0..=LISTED => Ok(()),
        more => writeln!(out, "   = note: and {} more", more - LISTED),
    }
}

/// The paths of the items of peers that admit the other end; of a rule without peers its own.
fn places(decision: &Decision) -> Vec<(PolicyId, String)> {
    let of_rule = |rule: &(PolicyId, String)| -> Vec<(PolicyId, String)> {
        match decision.items.get(rule).map_or(&[][..], Vec::as_slice) {
            [] => vec![rule.clone()],
            items => items.iter().map(|item| (rule.0, format!("{}.{item}", rule.1))).collect(),
        }
    };
    decision.rules.iter().flat_map(of_rule).collect()
}
