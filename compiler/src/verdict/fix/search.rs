//! Looks for the changes that admit one denied flow.

use super::answer::{Closing, Fix, NoFix, Wider, closes_no_listener};
use super::change::{Change, merged};
use super::changed::{Changed, View};
use super::difference::{Difference, MOST, difference};
use super::proposal::{Cause, Proposal};
use super::propose::{PortsBy, proposals};
use super::target_port::{service_port, undeclared_target, wrong_target_port};
use super::{label, peer};
use crate::algebra::cidr::Cidr;
use crate::policy::Direction;
use crate::verdict::explain::{Flow, KEPT, Pair, Way};

/// A change that mends a mistake is taken although it opens so many pairs of ends more: a policy of
/// a namespace that is meant to admit DNS opens it for each of its pods. One that opens something to or from most
/// addresses is compared with the other changes.
const OPENED_BY_MISTAKE: usize = 50;

/// How often other changes are tried if those of both directions do not admit the flow together.
const ATTEMPTS: usize = 3;

/// The fix of one denied flow, with what may be wrong about its Service.
pub(super) fn fix(before: View<'_>, flow: &Flow, others: &[&Flow], mended: &[Pair]) -> Result<Fix, NoFix> {
    let fix = fix_of_policies(before, flow, others, mended)?;
    let pairs = flow.asked.pairs().unwrap_or_default();
    Ok(Fix { undeclared_target: undeclared_target(before, flow, pairs), ..fix })
}

/// The fix of one denied flow; if there is one that names the port, of others too that go to a port of
/// this name, and if there is one that opens nothing else, of others too between the same ends.
fn fix_of_policies(before: View<'_>, flow: &Flow, others: &[&Flow], mended: &[Pair]) -> Result<Fix, NoFix> {
    if let Some(code) = flow.broken {
        return Err(NoFix::Service(code));
    }
    if let Some(found) = flow.not_forwarded() {
        let end = if found.is_source { &flow.from } else { &flow.to };
        return Err(NoFix::NotForwarded(Box::new(end.clone()), found));
    }
    let pairs = flow.asked.pairs().ok_or(NoFix::TooManyPairs(KEPT))?;
    if pairs.is_empty() {
        return Err(NoFix::FactMissing);
    }
    let wrong_port = |flow: &Flow, pairs: &[Pair]| {
        wrong_target_port(before, flow, pairs).or_else(|| service_port(before, flow, pairs))
    };
    if let Some(fault) = wrong_port(flow, pairs) {
        return Err(fault);
    }
    let with = |is_meant: &dyn Fn(&Flow) -> bool| -> Option<Vec<Pair>> {
        let of_others = others.iter().filter(|other| is_meant(other));
        let of_others: Vec<&Pair> = of_others.flat_map(|other| other.asked.pairs().unwrap_or_default()).collect();
        (!of_others.is_empty()).then(|| pairs.iter().chain(of_others).cloned().collect())
    };
    let search = |pairs: &[Pair], ports_by| search(before, flow, pairs, ports_by, mended);
    if let Some(Ok(fix)) = with(&|other| differs_by_number(flow, other)).map(|all| search(&all, PortsBy::Name)) {
        return Ok(fix);
    }
    let is_other_port = |other: &Flow| {
        differs_by_port(flow, other)
            && other.asked.pairs().is_some_and(|pairs| !pairs.is_empty() && wrong_port(other, pairs).is_none())
    };
    match with(&is_other_port).map(|all| search(&all, PortsBy::Number)) {
        Some(Ok(fix)) if fix.opens.is_empty() && fix.is_safe() => Ok(fix),
        _ => search(pairs, PortsBy::Number),
    }
}

/// Whether two flows differ by their ports only: those of a Service.
fn differs_by_port(one: &Flow, other: &Flow) -> bool {
    let via = |flow: &Flow| flow.via.as_ref().map(|via| (via.namespace.clone(), via.name.clone()));
    one.traffic != other.traffic
        && other.broken.is_none()
        && one.family == other.family
        && one.way == other.way
        && via(one) == via(other)
        && one.from.is_same_end(&other.from)
        && one.to.is_same_end(&other.to)
}

/// Whether two flows go to ports of one name that are different numbers: pods behind one Service may
/// listen on different ones. A rule that names the port admits both.
fn differs_by_number(one: &Flow, other: &Flow) -> bool {
    let protocol = |flow: &Flow| flow.traffic.single().map(|(protocol, ..)| protocol);
    one.port_name.is_some()
        && one.port_name == other.port_name
        && protocol(one) == protocol(other)
        && one.traffic != other.traffic
        && one.from.is_same_end(&other.from)
        && (one.to.is_same_end(&other.to) || (one.via.is_some() && one.via == other.via))
}

/// Looks for changes that admit the flow, each time without those that failed before.
fn search(before: View<'_>, flow: &Flow, pairs: &[Pair], ports_by: PortsBy, mended: &[Pair]) -> Result<Fix, NoFix> {
    let mut failed = Vec::new();
    for _ in 0..ATTEMPTS {
        match attempt(before, flow, pairs, ports_by, mended, &failed)? {
            Attempt::Found(fix) => return Ok(fix),
            Attempt::Failed(change) => failed.push(change),
        }
    }
    Err(NoFix::AttemptsUsed(ATTEMPTS))
}

/// What came of a change of each direction that denies.
enum Attempt {
    Found(Fix),
    /// They do not admit the flow together, or close something: the change that is not to be tried
    /// again.
    Failed(Change),
}

/// Looks for a change of each direction that denies, but for changes that failed before.
fn attempt(
    before: View<'_>,
    flow: &Flow,
    pairs: &[Pair],
    ports_by: PortsBy,
    mended: &[Pair],
    failed: &[Change],
) -> Result<Attempt, NoFix> {
    let blocks = peer::blocks(flow);
    let mut changes: Vec<(Cause, Change)> = Vec::new();
    let (mut closing, mut wider) = (Vec::new(), Vec::new());
    let mut state: Option<(Changed, Difference)> = None;
    for direction in [Direction::Egress, Direction::Ingress] {
        let view = state.as_ref().map_or(before, |(state, _)| state.view(before));
        if view.admits(pairs, direction) {
            continue;
        }
        if let (Direction::Ingress, Some(Way::OtherNode(_))) = (direction, &flow.way) {
            let service = flow.via.as_ref().map(|via| (via.namespace.clone(), via.name.clone()));
            return Err(NoFix::NodeAddress(service));
        }
        let mut proposals = proposals(view, flow, pairs, direction, ports_by)?;
        proposals.retain(|proposal| !failed.contains(&proposal.change));
        let best = best(view, proposals, pairs, &blocks, direction)?;
        changes.push((best.cause, best.change));
        closing.extend(best.closing);
        wider.extend(best.wider);
        state = Some((best.after, best.difference));
    }
    let (after, of_last) = state.ok_or(NoFix::FactMissing)?;
    let found = if !pairs.iter().chain(mended).all(|pair| after.passes(pair)) {
        None
    } else if changes.len() == 1 {
        Some(of_last)
    } else {
        difference(before, after.view(before), pairs, &blocks)
    };
    // A label changes what policies apply, in the other direction too.
    let misplaced = changes.iter().position(|(cause, _)| *cause == Cause::Misplaced);
    let is_safe = |found: &Difference| closes_no_listener(&found.closes, changes.iter().map(|(_, change)| change));
    match found.filter(|found| is_safe(found) || misplaced.is_some()) {
        Some(Difference { opens, closes, .. }) => {
            // They would admit the flow in their own direction only.
            if changes.len() > 1 {
                closing.clear();
                wider.clear();
            }
            let changes = merged(changes.into_iter().map(|(_, change)| change).collect());
            let backend_of = label::new_backends(before, &changes);
            Ok(Attempt::Found(Fix { changes, closing, wider, opens, closes, backend_of, undeclared_target: None }))
        }
        None => {
            let place = misplaced.unwrap_or(changes.len() - 1);
            Ok(Attempt::Failed(changes.swap_remove(place).1))
        }
    }
}

/// A change that admits all pairs in a direction.
struct Best {
    change: Change,
    cause: Cause,
    after: Changed,
    /// What the change opens and closes.
    difference: Difference,
    /// The first change that mends a mistake and closes something.
    closing: Option<Closing>,
    /// The first change that mends a mistake and opens much more.
    wider: Option<Wider>,
}

/// Picks a change that admits all pairs and closes nothing: one that mends a mistake and opens little, else the
/// one that opens least, else the smallest. A misplaced label takes precedence, and may close flows.
fn best(
    before: View<'_>,
    mut proposals: Vec<Proposal>,
    pairs: &[Pair],
    blocks: &[Cidr],
    direction: Direction,
) -> Result<Best, NoFix> {
    proposals.sort_by_key(|proposal| (proposal.cause, proposal.size));
    let (mut found, mut closing, mut wider) = (None::<Best>, None, None);
    let mut nothing = NoFix::NothingFits;
    for Proposal { change, cause, .. } in proposals {
        let opened = found.as_ref().map(|found| (found.cause, found.difference.breadth()));
        let enough = match opened {
            Some((Cause::Misplaced, _)) => true,
            Some((Cause::Mistake, (false, opened, _))) if cause == Cause::Policy => opened <= OPENED_BY_MISTAKE,
            Some((_, (_, opened, _))) => opened == 0,
            None => false,
        };
        if enough {
            break;
        }
        let Some(after) = Changed::new(before, &change) else { continue };
        if !after.view(before).admits(pairs, direction) {
            continue;
        }
        let Some(difference) = difference(before, after.view(before), pairs, blocks) else {
            nothing = NoFix::OpensTooMuch(MOST);
            continue;
        };
        if !closes_no_listener(&difference.closes, std::iter::once(&change)) && cause != Cause::Misplaced {
            if cause == Cause::Mistake && found.is_none() {
                closing.get_or_insert(Closing { change, closes: difference.closes });
            }
            continue;
        }
        if opened.is_none_or(|(_, opened)| difference.breadth() < opened) {
            let best = Best { change, cause, after, difference, closing: None, wider: None };
            // A label that the author may have forgotten is said, whatever else is smaller.
            let is_said = |before: &Best| {
                before.cause == Cause::Mistake && (cause == Cause::Policy || before.change.is_of_labels())
            };
            let replaced = found.replace(best).filter(is_said);
            wider = replaced.map(|of| Wider { change: of.change, opens: of.difference.opens }).or(wider);
        }
    }
    // Where another change mends the mistake, this one says nothing, but for a label that the author may have forgotten.
    let is_said = |closing: &Closing, found: &Best| {
        found.cause == Cause::Policy || (closing.change.is_of_labels() && !found.change.is_of_labels())
    };
    found.map(|found| Best { closing: closing.filter(|of| is_said(of, &found)), wider, ..found }).ok_or(nothing)
}
