//! Fixes that a later one of the same answer makes needless: of a pod with addresses of both families an ipBlock may be
//! what one family misses, where the rule that the other family needs admits both.

use std::collections::BTreeSet;

use super::answer::{Fix, FlowFix};
use super::change::Change;
use super::changed::{Changed, View};
use super::difference::{Difference, difference};
use super::peer;
use crate::algebra::cidr::Cidr;
use crate::verdict::explain::{FlowExplanation, Pair};

/// The same fixes without the first one that the others make needless, whose flows the next one mends then.
pub(super) fn without_needless(
    as_written: View<'_>,
    explanation: &FlowExplanation,
    found: Vec<FlowFix>,
) -> Vec<FlowFix> {
    let fixed: Vec<usize> = (0..found.len()).filter(|place| found[*place].fix.is_ok()).collect();
    let mut but_last = fixed.iter().zip(fixed.iter().skip(1));
    let rest = but_last.find_map(|(place, next)| without(as_written, explanation, &found, *place, *next));
    rest.unwrap_or(found)
}

/// The fixes without the one at a place, where the others mend its flows too: the next one, with them.
fn without(
    as_written: View<'_>,
    explanation: &FlowExplanation,
    found: &[FlowFix],
    place: usize,
    next: usize,
) -> Option<Vec<FlowFix>> {
    let mut rest = found.to_vec();
    let flows = rest[place].flows.clone();
    rest[next].flows.extend(flows);
    // It is shown at the first.
    rest[next].flows.sort_unstable();
    rest.remove(place);
    let (mut changes, mut made, mut mended) = (Vec::<Change>::new(), None::<Changed>, Vec::<Pair>::new());
    for of in &mut rest {
        let Ok(fix) = &mut of.fix else { continue };
        let flows = || of.flows.iter().map(|place| &explanation.flows[*place]);
        let mut pairs = Vec::<Pair>::new();
        for flow in flows() {
            pairs.extend(flow.asked.pairs()?.iter().cloned());
        }
        let before = made.as_ref().map_or(as_written, |made| made.view(as_written));
        let after = Changed::all(before, &fix.changes)?;
        mended.extend(pairs.iter().cloned());
        if !mended.iter().all(|pair| after.passes(pair)) {
            return None;
        }
        let blocks: BTreeSet<Cidr> = flows().flat_map(peer::blocks).collect();
        let blocks: Vec<Cidr> = blocks.into_iter().collect();
        let Difference { opens, closes, .. } = difference(before, after.view(before), &pairs, &blocks)?;
        // What the fix that is left out closed would be closed for nothing.
        if closes.len() > fix.closes.len() {
            return None;
        }
        *fix = Fix { opens, closes, ..fix.clone() };
        changes.extend(fix.changes.iter().cloned());
        made = Some(after);
    }
    let is_once = |place: usize| {
        changes[place].new_object().is_none() || !changes[..place].iter().any(|of| of.object == changes[place].object)
    };
    (0..changes.len()).all(is_once).then_some(rest)
}
