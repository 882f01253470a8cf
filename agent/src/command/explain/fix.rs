//! The smallest change that admits a denied flow: as help below the denial, and as JSON.

mod anchor;
mod apply;
mod change;
mod help;
mod json;
mod path;
mod service;
mod why_not;
mod words;
mod written;
mod yaml;

use std::io::{self, Write};

use npc_compiler::cluster::group::Groups;
use npc_compiler::verdict::explain::{EndName, Flow, FlowExplanation};
use npc_compiler::verdict::fix::{Fix, FlowFix, NoFix, fixes};

use super::traffic::traffic;
use super::words::shown;
use crate::command::input::Input;

pub(super) use help::help;
pub(super) use json::{FixJson, UnfixedJson};
use written::InInput;

/// At most this many flows get a fix: each takes as long as several explanations.
const FIXED: usize = 4;

/// In an input with more pods, one flow gets a fix.
const MANY_PODS: usize = 5000;

/// The indent of what a help line is about.
const INDENT: &str = "           ";

/// The fixes of an explanation.
pub(super) struct Fixes<'a> {
    input: &'a Input,
    explanation: &'a FlowExplanation,
    found: Vec<FlowFix>,
}

impl<'a> Fixes<'a> {
    /// Looks for them.
    pub(super) fn of(input: &'a Input, groups: &Groups, explanation: &'a FlowExplanation) -> Self {
        let most = if input.loaded.objects.pods.len() > MANY_PODS { 1 } else { FIXED };
        let written = InInput(input);
        let bounded = |cluster, namespace: Option<&str>| input.bounded(cluster, namespace);
        let found = fixes(&input.loaded.objects, &input.cluster, groups, explanation, &written, &bounded, most);
        Self { input, explanation, found }
    }

    /// Whether what is said of the fixes of two flows is the same, but that one is shown first.
    pub(super) fn are_alike(&self, one: usize, other: usize) -> bool {
        let place = |flow: usize| self.found.iter().position(|fix| fix.flows.contains(&flow));
        match (place(one), place(other)) {
            (None, None) => true,
            (Some(one), Some(other)) => {
                let reason = |place: usize| self.found[place].fix.as_ref().err();
                one == other || (reason(one).is_some() && reason(one) == reason(other))
            }
            _ => false,
        }
    }

    /// The fix of the flow at this place of the explanation, if one was looked for.
    pub(super) fn of_flow(&self, place: usize) -> Option<Found<'_>> {
        let index = self.found.iter().position(|fix| fix.flows.contains(&place))?;
        let (before, found) = (&self.found[..index], &self.found[index]);
        Some(Found {
            fix: &found.fix,
            is_first: found.flows.first() == Some(&place),
            explanation: self.explanation,
            flows: &found.flows,
            is_after_others: before.iter().any(|of| of.fix.is_ok()),
            is_in_part: self.found.iter().any(|of| !matches!(of.fix, Ok(_) | Err(NoFix::NotTried(_)))),
        })
    }

    /// The commands that apply the changes, below the answer.
    pub(super) fn write_commands(&self, out: &mut impl Write) -> io::Result<()> {
        apply::write(self.found.iter().filter_map(|of| of.fix.as_ref().ok()), out)
    }
}

/// The fix of a flow.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    fix: &'a Result<Fix, NoFix>,
    /// Whether it is shown at this flow. A fix of several flows is shown at the first.
    is_first: bool,
    /// Whether it was found in what fixes of other flows make of the objects.
    is_after_others: bool,
    /// Whether other flows of the answer are denied for which there is no fix.
    is_in_part: bool,
    explanation: &'a FlowExplanation,
    /// The places of the flows that it is of.
    flows: &'a [usize],
}

impl Found<'_> {
    /// The flows that it is of beside the first, by what they have that the first has not; those that are shown
    /// with another family are one.
    fn more_flows(&self) -> Vec<String> {
        let Some((first, rest)) = self.flows.split_first() else { return Vec::new() };
        let first = &self.explanation.flows[*first];
        let mut kept: Vec<&Flow> = vec![first];
        for flow in rest.iter().map(|place| &self.explanation.flows[*place]) {
            if !kept.iter().any(|of| of.is_same_in_another_family(flow)) {
                kept.push(flow);
            }
        }
        let words = |flow: &&Flow| {
            let end = |way: &str, own: &EndName, of: &EndName| (own != of).then(|| format!("{way} {}", shown(own)));
            let of_ends = [end("from", &flow.from, &first.from), end("to", &flow.to, &first.to)];
            let of_traffic = (flow.traffic != first.traffic).then(|| traffic(&flow.traffic));
            let words: Vec<String> = of_ends.into_iter().flatten().chain(of_traffic).collect();
            let family = || flow.family.filter(|_| flow.family != first.family).map(|family| family.to_string());
            if words.is_empty() { family().unwrap_or_default() } else { words.join(" ") }
        };
        kept.iter().skip(1).map(words).collect()
    }
}
