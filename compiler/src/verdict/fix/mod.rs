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
//! that the author wrote on a workload and forgot in its template.
//!
//! A proposal names its peer and its ports; for a question about everything that two ends may exchange, its
//! peer alone. None admits every peer.

mod added;
mod affected;
mod change;
mod dead_port;
mod difference;
mod finding;
mod label;
mod misapplied;
mod object_name;
mod peer;
mod proposal;
mod propose;
mod rollout;
mod rule;
mod target_port;
#[cfg(test)]
mod tests;
mod written;

use std::collections::{BTreeSet, VecDeque};

use crate::algebra::cidr::Cidr;
use crate::cluster::Cluster;
use crate::cluster::group::Groups;
use crate::object::{Labels, Objects, Protocol};
use crate::policy::Direction;
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::{Code, Flow, FlowExplanation, Pair, Way};

pub use added::Added;
use change::merged;
pub use change::{Change, Edit, Lacking, ObjectName};
use difference::{Difference, difference};
pub use difference::{Opened, OpenedEnd};
use proposal::{Cause, Proposal};
use propose::{PortsBy, proposals};
pub use rollout::Rollout;
pub use target_port::UndeclaredTarget;
use target_port::{service_port, undeclared_target, wrong_target_port};
pub use written::Written;

/// Changes that together turn a denied flow to ALLOWED.
#[derive(Debug, Clone)]
pub struct Fix {
    /// The changes, to be applied in this order; one for each direction that denies, but for a new policy for
    /// both.
    pub changes: Vec<Change>,
    /// Changes that mend what the denial names, and are not proposed because they close something.
    pub closing: Vec<Closing>,
    /// Changes that mend what the denial names, and are not proposed because they open much more.
    pub wider: Vec<Wider>,
    /// What they open besides, between two pods, or a pod and addresses.
    pub opens: Vec<Opened>,
    /// What they close: only a label in its right place does, where policies select by it.
    pub closes: Vec<Opened>,
    /// The Services, by namespace and name, that get pods as backends by a label of the changes.
    pub backend_of: Vec<(String, String)>,
    /// A targetPort that no pod behind the Service declares: it may be wrong, and then nothing answers.
    pub undeclared_target: Option<UndeclaredTarget>,
}

/// A change that would admit a flow, and what it would close.
#[derive(Debug, Clone)]
pub struct Closing {
    /// The change.
    pub change: Change,
    /// What it would close.
    pub closes: Vec<Opened>,
}

/// A change that would admit a flow, and what else it would open.
#[derive(Debug, Clone)]
pub struct Wider {
    /// The change.
    pub change: Change,
    /// What else it would open.
    pub opens: Vec<Opened>,
}

/// The answer for one flow, or for two that say the same of both families. The fixes of one answer are
/// applied in the order in which they stand: each was found and checked after those before it.
#[derive(Debug, Clone)]
pub struct FlowFix {
    /// The places of the flows among [`FlowExplanation::flows`].
    pub flows: Vec<usize>,
    /// The fix, or why there is none.
    pub fix: Result<Fix, NoFix>,
}

/// Why there is no fix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum NoFix {
    /// The flow stands for too many pairs of ends.
    TooManyPairs,
    /// So many ports were asked about that a rule for them is no small change.
    TooManyPorts,
    /// Only a rule without ports admits ICMP, and it admits everything else too.
    Icmp,
    /// The input does not say the other end's address.
    NoAddress,
    /// The pods of this end have no label in common that a selector could ask for: their
    /// namespace, and the name of one.
    NoLabel(String, String),
    /// The same, and they have labels that their controller adds, which change with every Job or rollout.
    PassingLabels(String, String),
    /// One rule cannot name all ends that are meant.
    ManyEnds,
    /// Every address was asked about; a rule for them admits everyone.
    EveryAddress,
    /// The other end is a hostNetwork pod, and may be on any of this many, which are too many to
    /// name.
    ManyNodes(usize),
    /// A node puts its own address in place of the client's, so that a rule with this address
    /// would admit every client: the namespace and name of the Service.
    NodeAddress(Option<(String, String)>),
    /// The rule, or the policy, that denies has a part that was not understood. It has to be mended
    /// first; the API server refuses a patch of an object with such a part.
    Finding {
        /// The policy: its namespace and name.
        policy: (String, String),
        /// As in [`Finding::path`].
        ///
        /// [`Finding::path`]: crate::policy::finding::Finding::path
        path: String,
    },
    /// The policy that denies has rules that would admit the flow, and there is no room for them: its
    /// namespace and name.
    PolicyTooLarge(String, String),
    /// The port that was asked for is that of a Service; the pods listen on another one.
    ServicePort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// Its port.
        port: u16,
        /// The port of its pods.
        of_pods: u16,
    },
    /// A headless Service was asked by a port that its pods do not listen on, and it translates none.
    HeadlessPort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// The port that was asked for.
        port: u16,
        /// The port of its pods, which its targetPort names.
        of_pods: u16,
    },
    /// Fixes of other flows of the same answer were looked for, and not this one.
    NotTried,
    /// The targetPort of the Service seems to be wrong.
    TargetPort {
        /// The Service: its namespace and name.
        service: (String, String),
        /// The protocol of its port.
        protocol: Protocol,
        /// Its port.
        port: u16,
        /// The targetPort, which none of its pods declares.
        target: u16,
        /// The ports that its pods declare and policies admit, sorted.
        declared: Vec<DeclaredPort>,
    },
    /// The rule asks for a port by a name, and the pods declare the port that was asked for without one.
    PortWithoutName {
        /// The workload, or the pod.
        object: ObjectName,
        /// The name.
        name: String,
        /// The protocol of the port.
        protocol: Protocol,
        /// Its number.
        port: u16,
    },
    /// The label that the rule asks for stands on the workload and not in its template, which
    /// cannot change: that of a Job.
    LabelOnWorkload {
        /// The workload.
        object: ObjectName,
        /// The labels that its pods lack.
        labels: Labels,
    },
    /// The Service leads nowhere, whatever policies say.
    Service(Code),
    /// The input lacks a fact, without which no change can be judged.
    FactMissing,
    /// Every change of one object that admits the flow closes another or opens very many
    /// (over 10,000 pairs of ends).
    NothingFits,
}

/// A port that pods declare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPort {
    /// Its number.
    pub port: u16,
    /// Its container, where several containers of the pods declare ports: a sidecar's port is not what
    /// a Service means.
    pub container: Option<String>,
}

/// A change that mends a mistake is taken although it opens so many pairs of ends more: a policy of
/// a namespace that is meant to admit DNS opens it for each of its pods. One that opens something to or from most
/// addresses is compared with the other changes.
const OPENED_BY_MISTAKE: usize = 50;

/// So often other changes are tried where those of both directions do not admit the flow together.
const ATTEMPTS: usize = 3;

/// The objects, and what they mean.
#[derive(Clone, Copy)]
struct View<'a> {
    objects: &'a Objects,
    cluster: &'a Cluster,
    groups: &'a Groups,
    written: &'a dyn Written,
    bounded: Bounded<'a>,
}

/// A cluster as agents enforce it: without the rules of policies over their bound on set members.
pub type Bounded<'a> = &'a dyn Fn(Cluster) -> Cluster;

/// The same after a change.
struct Changed {
    objects: Objects,
    cluster: Cluster,
    groups: Groups,
}

impl Changed {
    fn new(before: View<'_>, change: &Change) -> Option<Self> {
        let mut objects = before.objects.clone();
        change.apply(&mut objects)?;
        let cluster = Cluster::new(&objects).with_unread(before.cluster.unread().to_vec());
        let cluster = (before.bounded)(cluster);
        let groups = Groups::of_cluster(&cluster);
        Some(Self { objects, cluster, groups })
    }

    /// The same after several changes, each of what the one before it made.
    fn all(before: View<'_>, changes: &[Change]) -> Option<Self> {
        let (first, rest) = changes.split_first()?;
        rest.iter().try_fold(Self::new(before, first)?, |made, change| Self::new(made.view(before), change))
    }

    /// Whether it allows what a pair was asked about.
    fn passes(&self, pair: &Pair) -> bool {
        pair.passes(&self.cluster, &self.groups).verdict(&pair.question.traffic) == Verdict::Allowed
    }

    /// This in place of what was before.
    const fn view<'a>(&'a self, before: View<'a>) -> View<'a> {
        View { objects: &self.objects, cluster: &self.cluster, groups: &self.groups, ..before }
    }
}

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
    let as_written = View { objects, cluster, groups, written, bounded };
    // What the fixes make of the objects, and the pairs that these admit, which no later one may close.
    let (mut made, mut mended) = (None::<Changed>, Vec::<Pair>::new());
    let (mut found, mut tried) = (Vec::<FlowFix>::new(), 0);
    let mut rest: VecDeque<(Flow, Vec<usize>)> = merged.into();
    while let Some((flow, mut flows)) = rest.pop_front() {
        let view = made.as_ref().map_or(as_written, |made| made.view(as_written));
        if tried >= most {
            // There may be thousands, which all get this one answer.
            flows.extend(rest.drain(..).flat_map(|(_, flows)| flows));
            found.push(FlowFix { flows, fix: Err(NoFix::NotTried) });
            break;
        }
        let others: Vec<&Flow> = rest.iter().map(|(other, _)| other).collect();
        let of_flow = fix(view, &flow, &others, &mended);
        // Why there is none is quickly said.
        tried += usize::from(matches!(of_flow, Ok(_) | Err(NoFix::NothingFits)));
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
    found
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

/// The fix of one denied flow, with what may be wrong about its Service.
fn fix(before: View<'_>, flow: &Flow, others: &[&Flow], mended: &[Pair]) -> Result<Fix, NoFix> {
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
    let pairs = flow.asked.pairs().ok_or(NoFix::TooManyPairs)?;
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
        Some(Ok(fix)) if fix.opens.is_empty() && fix.closes.is_empty() => Ok(fix),
        _ => search(pairs, PortsBy::Number),
    }
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
    Err(NoFix::NothingFits)
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
        if admits(view, pairs, direction) {
            continue;
        }
        if let (Direction::Ingress, Some(Way::OtherNode(_))) = (direction, &flow.way) {
            let service = flow.via.as_ref().map(|via| (via.namespace.clone(), via.name.clone()));
            return Err(NoFix::NodeAddress(service));
        }
        let mut proposals = proposals(view, flow, pairs, direction, ports_by)?;
        proposals.retain(|proposal| !failed.contains(&proposal.change));
        let best = best(view, proposals, pairs, &blocks, direction).ok_or(NoFix::NothingFits)?;
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
    match found.filter(|found| found.closes.is_empty() || misplaced.is_some()) {
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

/// Whether a direction admits all pairs.
fn admits(view: View<'_>, pairs: &[Pair], direction: Direction) -> bool {
    pairs.iter().all(|pair| pair.verdict(view.cluster, view.groups, direction) == Verdict::Allowed)
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
) -> Option<Best> {
    proposals.sort_by_key(|proposal| (proposal.cause, proposal.size));
    let (mut found, mut closing, mut wider) = (None::<Best>, None, None);
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
        if !admits(after.view(before), pairs, direction) {
            continue;
        }
        let Some(difference) = difference(before, after.view(before), pairs, blocks) else { continue };
        if !difference.closes.is_empty() && cause != Cause::Misplaced {
            if cause == Cause::Mistake && found.is_none() {
                closing.get_or_insert(Closing { change, closes: difference.closes });
            }
            continue;
        }
        if opened.is_none_or(|(_, opened)| difference.breadth() < opened) {
            let best = Best { change, cause, after, difference, closing: None, wider: None };
            let replaced =
                found.replace(best).filter(|before| (before.cause, cause) == (Cause::Mistake, Cause::Policy));
            wider = replaced.map(|of| Wider { change: of.change, opens: of.difference.opens }).or(wider);
        }
    }
    // Where another change mends the mistake, this one says nothing.
    found.map(|found| Best { closing: closing.filter(|_| found.cause == Cause::Policy), wider, ..found })
}
