//! What a code of a denial says in a few words.

use npc_compiler::verdict::explain::{Candidate, Code, Part};

/// What the parts by which a rule misses say in a few words, the first of them by the code of the
/// denial. It is said more exactly where the namespace is all that fails.
pub(super) fn headline_of(nearest: Option<&Candidate>, code: Code) -> String {
    let codes: Vec<Code> = nearest.iter().flat_map(|nearest| &nearest.conjuncts).map(|of| of.code).collect();
    if codes == [Code::PeerOtherNamespace] {
        return "the rule's labels match, its namespace does not".to_owned();
    }
    let means_pods = |of: &Candidate| of.conjuncts.first().is_some_and(|first| first.part == Part::Pod);
    if codes == [Code::IpBlockOutside] && nearest.is_some_and(means_pods) {
        return "the nearest rule means pods, and no pod has this address".to_owned();
    }
    let mut said = vec![headline(code)];
    for also in codes.into_iter().map(headline) {
        if !said.contains(&also) {
            said.push(also);
        }
    }
    said.join("; and ")
}

/// What a code says in a few words.
pub(super) fn headline(code: Code) -> &'static str {
    match code {
        Code::DefaultDenyOnly => "the policies that isolate it allow nothing in this direction",
        Code::RuleMissing => "no rule is about this",
        Code::PeerLabelMissing => "the other end lacks a label that the nearest rule asks for",
        Code::PeerLabelValue => "the other end has a label with another value than the nearest rule asks for",
        Code::PeerOtherNamespace => "the nearest rule means pods of its own namespace",
        Code::PeerNamespaceLabel => "the other end's namespace is not one that the nearest rule selects",
        Code::PeerAndNotOr => "one item with both selectors means AND: the pod's labels match, its namespace's do not",
        Code::PeerOrNotAnd => "separate items mean OR",
        Code::IpBlockIsServiceAddress => {
            "the nearest rule's ipBlock holds the Service's address; policies see the address of the pod behind it"
        }
        Code::DirectionOther => "the rules about the other end are for the other direction",
        Code::PolicyOtherNamespace => "a policy with a podSelector that fits is in another namespace",
        Code::SubjectNearMiss => "a policy that would allow it selects other pods, and misses by one label",
        Code::PolicyTypesMissing => "a policy has rules for this direction, and its policyTypes does not name it",
        Code::PolicyTooLarge => "there is no room for the rules of a policy that would allow it",
        Code::RuleNotUnderstood => "a part of a policy that was not understood keeps it out",
        Code::PeerHostNetwork => {
            "no selector selects a pod in its node's network; only an ipBlock with its node's address does"
        }
        Code::IpBlockOutside => "no ipBlock of the nearest rule holds the address",
        Code::IpBlockExcept => "an except of the nearest rule's ipBlock holds the address",
        Code::IpBlockFamily => "the nearest rule's ipBlock is of the other address family",
        Code::PortNumber => "the nearest rule allows another port",
        Code::PortProtocol => "the nearest rule allows another protocol",
        Code::PortIsServicePort => "the rule names the Service's port",
        Code::PortNamedUnresolved => "the destination has no port of the name that the nearest rule allows",
        Code::PortNamedOtherProtocol => "the destination's port of this name is of another protocol",
        Code::PortRange => "the port is not in the range that the nearest rule allows",
        Code::ServiceNoBackends => "the service leads to no backend",
        Code::ServicePortUnknown => "the service has no such port",
        Code::ServiceSourceRanges => "loadBalancerSourceRanges of the service do not hold the client",
    }
}
