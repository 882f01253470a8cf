//! What is said of flows to a DNS server.

use npc_compiler::object::Protocol;
use npc_compiler::policy::{Direction, PolicyRule, PortMatch, Ports};
use npc_compiler::verdict::explain::{Decision, Flow, Party};
use npc_compiler::verdict::flow::End;

use super::Context;
use super::warning::shown;

/// Whether a flow asks for names.
pub(super) fn is_dns(flow: &Flow) -> bool {
    let Some((Protocol::Udp | Protocol::Tcp, first, last)) = flow.traffic.single() else { return false };
    // A DNS server may listen on another port than its Service has.
    (first, last) == (53, 53) || flow.via.as_ref().is_some_and(|via| via.port == Some(53))
}

/// What it breaks that the flow is denied, if it asks for names.
pub(super) fn broken(flow: &Flow) -> Option<String> {
    let from = shown(&flow.from);
    is_dns(flow).then(|| match flow.traffic.single() {
        Some((Protocol::Tcp, ..)) => format!("without DNS by TCP, {from} gets no answer that is too long for UDP"),
        _ => format!("without DNS, {from} can resolve no name"),
    })
}

/// Whether an end asks its DNS server, and no rule of its policies is about port 53.
pub(super) fn is_unmentioned(context: &Context<'_>, flow: &Flow, decision: &Decision) -> bool {
    let is_about_port = |item: &PortMatch| match item {
        PortMatch::Range(_, first, last) => (*first..=*last).contains(&53),
        // It may be that of the server's port.
        PortMatch::Named(..) => true,
        PortMatch::Nothing => false,
    };
    let is_about = |rule: &PolicyRule| match &rule.ports {
        Ports::Everything => true,
        Ports::AnyOf(items) => items.iter().any(is_about_port),
    };
    let cluster = &context.input.cluster;
    let mut rules = decision.isolated_by.iter().flat_map(|id| cluster.policy(*id).rules(decision.direction));
    let is_pod = matches!(flow.parties, Some((_, Party::End(End::Pod(_)))));
    is_dns(flow) && is_pod && decision.direction == Direction::Egress && !rules.any(is_about)
}
