//! What a code of a denial says in a few words.

use std::borrow::Cow;

use npc_compiler::algebra::selector::Operator;
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Candidate, Conjunct, Flow, Part, ReasonCode};

use crate::command::explain::words::shown;

/// A longer name of an end is left out.
const LONGEST: usize = 80;

/// A longer headline is cut between the parts that fail.
const LINE: usize = 110;

/// The end that the rules of a direction are asked about, as a headline calls it.
pub(in crate::command::explain) struct NamedEnd {
    direction: Direction,
    /// `source` or `destination`
    role: &'static str,
    /// With its name: `the source shop/deploy/web`.
    named: String,
}

impl NamedEnd {
    pub(in crate::command::explain) fn of(flow: &Flow, direction: Direction) -> Self {
        let (role, other) = match direction {
            Direction::Ingress => ("source", shown(&flow.from)),
            Direction::Egress => ("destination", shown(&flow.to)),
        };
        // The name of an end that stands for many would be long.
        let named = if other.len() > LONGEST { format!("the {role}") } else { format!("the {role} {other}") };
        Self { direction, role, named }
    }
}

/// What the parts by which a rule misses say in a few words, and what is left of that where it is too much for
/// one line. It is said more exactly where the namespace is all that fails, and where addresses cannot be
/// those of pods.
pub(in crate::command::explain) fn headline_of(nearest: &Candidate, other: &NamedEnd) -> (String, Option<String>) {
    if let [of] = nearest.conjuncts.as_slice()
        && of.code == ReasonCode::PeerOtherNamespace
    {
        return ("the rule's labels match, its namespace does not".to_owned(), None);
    }
    let mut said: Vec<Cow<'static, str>> = Vec::new();
    for part in nearest.conjuncts.iter().map(|of| of_part(of, other)) {
        if !said.contains(&part) {
            said.push(part);
        }
    }
    let all = said.join("; and ");
    match said.split_first() {
        Some((first, rest)) if all.len() > LINE && !rest.is_empty() => (first.to_string(), Some(rest.join("; and "))),
        _ => (all, None),
    }
}

fn of_part(of: &Conjunct, other: &NamedEnd) -> Cow<'static, str> {
    let failed = of.marks.first().and_then(|mark| mark.requirement.as_ref());
    if let (ReasonCode::PeerLabelValue, Some(failed)) = (of.code, failed) {
        let named = &other.named;
        match failed.requirement.operator {
            Operator::DoesNotExist => return format!("{named} has a label that the nearest rule excludes").into(),
            Operator::NotIn(_) => return format!("{named} has a label value that the nearest rule excludes").into(),
            Operator::In(_) | Operator::Exists => {}
        }
    }
    match (of.code, other.direction) {
        (ReasonCode::IpBlockOutside, _) if of.part == Part::Pod => {
            "the nearest rule means pods, and no pod has this address".into()
        }
        (ReasonCode::IpBlockIsServiceAddress, Direction::Ingress) => {
            "the nearest rule's ipBlock holds the address of a Service, which is never a source; policies see the \
             address of the client itself"
                .into()
        }
        (ReasonCode::IpBlockIsServiceAddress, Direction::Egress) if of.holds_asked_node => {
            "the client's own node translates its address and the nodePort before policies judge; they see the \
             address and the port of the pod behind them"
                .into()
        }
        (code, _) => headline(code, other),
    }
}

/// What a code says in a few words.
pub(in crate::command::explain) fn headline(code: ReasonCode, other: &NamedEnd) -> Cow<'static, str> {
    let NamedEnd { role, named, .. } = other;
    Cow::Borrowed(match code {
        ReasonCode::PeerLabelMissing => return format!("{named} lacks a label that the nearest rule asks for").into(),
        ReasonCode::PeerLabelValue => {
            return format!("{named} has a label with another value than the nearest rule asks for").into();
        }
        ReasonCode::PeerNamespaceLabel => {
            return format!("the {role}'s namespace is not one that the nearest rule selects").into();
        }
        ReasonCode::DirectionOther => return format!("the rules about {named} are for the other direction").into(),
        ReasonCode::DefaultDenyOnly => "the policies that isolate it allow nothing in this direction",
        ReasonCode::RuleMissing => "no rule is about this",
        ReasonCode::PeerOtherNamespace => "the nearest rule means pods of its own namespace",
        ReasonCode::PeerAndNotOr => {
            "one item with both selectors means AND: the pod's labels match, its namespace's do not"
        }
        ReasonCode::PeerOrNotAnd => "separate items mean OR",
        ReasonCode::IpBlockIsServiceAddress => {
            "the nearest rule's ipBlock holds the Service's address; policies see the address of the pod behind it"
        }
        ReasonCode::PolicyOtherNamespace => "a policy with a podSelector that fits is in another namespace",
        ReasonCode::SubjectNearMiss => "a policy that would allow it selects other pods, and misses by one label",
        ReasonCode::PolicyTypesMissing => "a policy has rules for this direction, and its policyTypes does not name it",
        ReasonCode::PoliciesAddUp => "policies add up: none takes away what another admits",
        ReasonCode::ExceptUndone => "an except cuts its own ipBlock only",
        ReasonCode::RuleOrNotAnd => "separate rules mean OR",
        ReasonCode::RuleAdmitsEveryone => "a rule without peers and ports admits everyone on every port",
        ReasonCode::SubjectHostNetwork => "no policy applies to a hostNetwork pod",
        ReasonCode::PolicyTooLarge => "there is no room for the rules of a policy that would allow it",
        ReasonCode::RuleNotUnderstood => "a part of a policy was not understood, so it admits nothing",
        ReasonCode::PeerHostNetwork => {
            "no selector selects a hostNetwork pod; only an ipBlock with its node's address does"
        }
        ReasonCode::IpBlockOutside => "no ipBlock of the nearest rule holds the address",
        ReasonCode::IpBlockExcept => "an except of the nearest rule's ipBlock holds the address",
        ReasonCode::IpBlockFamily => "the nearest rule's ipBlock is of the other address family",
        ReasonCode::PortNumber => "the nearest rule allows another port",
        ReasonCode::PortProtocol => "the nearest rule allows another protocol",
        ReasonCode::PortIsServicePort => "the rule names the Service's port",
        ReasonCode::PortNamedUnresolved => "the destination has no port of the name that the nearest rule allows",
        ReasonCode::PortNamedOtherProtocol => "the destination's port of this name is of another protocol",
        ReasonCode::PortRange => "the port is not in the range that the nearest rule allows",
        ReasonCode::ServiceNoBackends => "the service leads to no backend",
        ReasonCode::ServicePortUnknown => "the service has no such port",
        ReasonCode::ServiceSourceRanges => "loadBalancerSourceRanges of the service do not hold the client",
    })
}
