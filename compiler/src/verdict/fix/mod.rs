//! The smallest change of an object that admits a denied flow.
//!
//! ```text
//! denied Flow ─▶ propose: changes by the code of the denial
//!                   └─▶ try each: apply to a copy of the objects, judge the pairs again,
//!                       difference of two matrices ─▶ Fix, or NoFix with the reason
//! ```
//!
//! The change that the cause of the denial names is taken if it opens little more. If the changes
//! of both directions together do not admit the flow, the next proposals are tried.
//!
//! This module does not judge flows itself. A change counts as checked only if
//! [`Pair::verdict`] says ALLOWED for each pair of the flow after the change; `npc explain`
//! answers by the same engine. npc proposes no change that closes anything, except for a label
//! that the author wrote on a workload and forgot in its template, or misspelt there.
//!
//! A proposal names its peer and its ports; for a question about everything that two ends may exchange, its
//! peer alone. None admits every peer.

mod added;
mod affected;
mod answer;
mod change;
mod changed;
mod dead_port;
mod difference;
mod finding;
mod label;
mod misapplied;
mod misspelt;
mod needless;
mod object_name;
mod peer;
mod proposal;
mod propose;
mod rollout;
mod rule;
mod search;
mod target_port;
#[cfg(test)]
mod tests;
mod written;

use std::collections::{BTreeSet, VecDeque};

use crate::algebra::cidr::Cidr;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::Objects;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Flow, FlowExplanation, Pair};

pub use added::Added;
pub use answer::{Closing, DeclaredPort, Fix, FlowFix, NoFix, UndeclaredTarget, Wider};
pub use change::{Change, Edit, Lacking, ObjectName};
pub use changed::Bounded;
use changed::{Changed, View};
use difference::{Difference, difference};
pub use difference::{Opened, OpenedEnd};
use needless::without_needless;
pub use rollout::{Rollout, TemplateReach};
use search::fix;
pub use written::Written;

/// Fixes for the first denied flows of an explanation, for at most this many. The objects
/// are those of the cluster, and the groups those of all its endpoints; `written` says more of the
/// objects, and `bounded` makes of a changed cluster what agents enforce.
///
/// They belong together and have an order. Two flows may need a rule in the same list, or a new policy of
/// the same name, so each fix is found in what the fixes before it made of the objects. What it opens is
/// what it adds to those.
#[must_use]
pub fn fixes(
    objects: &Objects,
    cluster: &Cluster,
    groups: &Groups,
    explanation: &FlowExplanation,
    written: &dyn Written,
    bounded: Bounded<'_>,
    most: usize,
) -> Vec<FlowFix> {
    let mut merged: Vec<(Flow, Vec<usize>)> = Vec::new();
    for (place, flow) in explanation.flows.iter().enumerate().filter(|(_, flow)| flow.verdict == Verdict::Denied) {
        let same = merged.iter().position(|(first, _)| first.is_same_in_another_family(flow));
        if let Some((first, flows)) = same.and_then(|same| merged.get_mut(same)) {
            first.asked.extend(&flow.asked);
            flows.push(place);
        } else {
            merged.push((flow.clone(), vec![place]));
        }
    }
    let as_written = View::new(objects, (cluster, groups), written, bounded);
    // What the fixes make of the objects, and the pairs that these admit, which no later one may close.
    let (mut made, mut mended) = (None::<Changed>, Vec::<Pair>::new());
    let (mut found, mut tried) = (Vec::<FlowFix>::new(), 0);
    let mut rest: VecDeque<(Flow, Vec<usize>)> = merged.into();
    while let Some((flow, mut flows)) = rest.pop_front() {
        let view = made.as_ref().map_or(as_written, |made| made.view(as_written));
        if tried >= most {
            // There may be thousands, which all get this one answer.
            flows.extend(rest.drain(..).flat_map(|(_, flows)| flows));
            found.push(FlowFix { flows, fix: Err(NoFix::NotTried(most)) });
            break;
        }
        let others: Vec<&Flow> = rest.iter().map(|(other, _)| other).collect();
        let of_flow = fix(view, &flow, &others, &mended);
        // Why there is none is quickly said.
        tried += usize::from(of_flow.as_ref().err().is_none_or(NoFix::is_after_search));
        let (fix, after) = match of_flow {
            Ok(fix) if !rest.is_empty() => {
                let after = Changed::all(view, &fix.changes);
                let admitted = flow.asked.pairs().unwrap_or_default().iter().cloned();
                mended.extend(admitted);
                let fix = match &after {
                    Some(after) => with_others(view, after, fix, &flow, &mut flows, &mut rest, &mut mended),
                    None => fix,
                };
                (Ok(fix), after)
            }
            of_flow => (of_flow, None),
        };
        if after.is_some() {
            made = after;
        }
        found.push(FlowFix { flows, fix });
    }
    without_needless(as_written, explanation, found)
}

/// A fix, said of the other flows too that it turns to ALLOWED: to the other backends and ports of a
/// Service, or what a client asks by UDP and by TCP. Their pairs are added to those that are mended.
fn with_others(
    before: View<'_>,
    after: &Changed,
    fix: Fix,
    flow: &Flow,
    flows: &mut Vec<usize>,
    rest: &mut VecDeque<(Flow, Vec<usize>)>,
    all_mended: &mut Vec<Pair>,
) -> Fix {
    let is_mended = |(other, _): &(Flow, Vec<usize>)| {
        let pairs = other.asked.pairs().filter(|pairs| !pairs.is_empty() && other.broken.is_none());
        pairs.is_some_and(|pairs| pairs.iter().all(|pair| after.passes(pair)))
    };
    let (mended, others): (Vec<_>, Vec<_>) = rest.drain(..).partition(is_mended);
    *rest = others.into();
    if mended.is_empty() {
        return fix;
    }
    let of_flows: Vec<&Flow> = [flow].into_iter().chain(mended.iter().map(|(other, _)| other)).collect();
    let pairs: Vec<Pair> = of_flows.iter().flat_map(|of| of.asked.pairs().unwrap_or_default().to_vec()).collect();
    let blocks: BTreeSet<Cidr> = of_flows.iter().flat_map(|of| peer::blocks(of)).collect();
    let blocks: Vec<Cidr> = blocks.into_iter().collect();
    flows.extend(mended.into_iter().flat_map(|(_, places)| places));
    let found = difference(before, after.view(before), &pairs, &blocks);
    all_mended.extend(pairs);
    match found {
        Some(Difference { opens, closes, .. }) => Fix { opens, closes, ..fix },
        None => fix,
    }
}
