//! What rules admit whose other ends are not in the input: people often have one namespace
//! in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use indexmap::IndexSet;
use npc_compiler::cluster::group::Groups;
use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::absent_peer::Absent;
use npc_compiler::verdict::flow::End;
use npc_compiler::verdict::matrix::Matrix;
use serde::Serialize;

use super::filter::OutsideShown;
use crate::command::absent_peers;
use crate::command::words::shorten;

/// As text for people, as a list in Markdown, and as comments of a dot file.
pub(super) const TEXT: Before = Before("", "  ");
pub(super) const MARKDOWN: Before = Before("", "- ");
pub(super) const DOT: Before = Before("// ", "//   ");

/// At most this many endpoints are named in a line, and at most this many lines written.
const LISTED: usize = 4;
const LINES: usize = 20;

/// What the rules of an endpoint admit whose other end is not in the input.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Elsewhere {
    /// The id of the endpoint.
    pub(super) endpoint: String,
    #[serde(skip)]
    place: usize,
    pub(super) direction: Direction,
    #[serde(flatten)]
    pub(super) rule: absent_peers::AbsentEnd,
}

/// What there is of the endpoints that are shown, by endpoint.
pub(super) fn all(matrix: &Matrix<'_>, cluster: &Cluster, groups: &Groups, outside: OutsideShown) -> Vec<Elsewhere> {
    let mut all = BTreeSet::new();
    // Many endpoints have the same policies.
    let mut by_policy = BTreeMap::<(PolicyId, Direction), Vec<absent_peers::AbsentEnd>>::new();
    let of_policy = |policy, direction| {
        let mut rules = absent_peers::elsewhere(cluster, policy, direction);
        rules.retain(|rule| !matrix.shown(&rule.traffic).is_none());
        rules
    };
    for (place, endpoint) in matrix.endpoints().iter().enumerate() {
        let (from, to) = matrix.is_shown(place);
        // Ends that are not in the input are shown where those outside are.
        let directions = [(Direction::Egress, from && outside.to), (Direction::Ingress, to && outside.from)];
        for direction in directions.into_iter().filter(|(_, is_shown)| *is_shown).map(|(direction, _)| direction) {
            let pods = matrix.ends(place).filter_map(|end| if let End::Pod(pod) = end { Some(pod) } else { None });
            let policies: BTreeSet<PolicyId> = pods
                .filter_map(|pod| groups.of(pod, direction))
                .flat_map(|group| groups.get(group).key.policies.iter().copied())
                .collect();
            for policy in policies {
                let rules = by_policy.entry((policy, direction)).or_insert_with(|| of_policy(policy, direction));
                let here = |rule: &absent_peers::AbsentEnd| Elsewhere {
                    endpoint: endpoint.id.to_string(),
                    place,
                    direction,
                    rule: rule.clone(),
                };
                all.extend(rules.iter().map(here));
            }
        }
    }
    all.into_iter().collect()
}

/// What stands before the heading and before each line of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(pub(super) &'static str, pub(super) &'static str);

/// The same in words, each with the endpoints that it holds for.
pub(super) fn text(all: &[Elsewhere], names: &[String], before: Before, out: &mut impl Write) -> io::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let mut lines = BTreeMap::<String, IndexSet<&str>>::new();
    for Elsewhere { place, direction, rule, .. } in all {
        let way = direction.peers_field();
        let why =
            if rule.found == Absent::None { String::new() } else { format!(" {}", absent_peers::words(rule.found)) };
        lines.entry(format!("{} {way} {}{why}", rule.ports, rule.peer)).or_default().insert(&names[*place]);
    }
    let Before(heading, item) = before;
    writeln!(out, "\n{heading}allowed with ends that are not in the input:")?;
    for (line, endpoints) in lines.iter().take(LINES) {
        let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        writeln!(out, "{item}{}  {line}", shorten(&endpoints, LISTED, ", "))?;
    }
    match lines.len() {
        0..=LINES => Ok(()),
        more => writeln!(out, "{item}and {} more; -o json has them all", more - LINES),
    }
}
