//! What is said of flows to a DNS server.

use npc_compiler::object::{NAMESPACE_NAME_LABEL, Protocol};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{Candidate, Decision, Flow, Party};
use npc_compiler::verdict::flow::End;

use super::Context;
use super::warning::shown;
use crate::command::words::policy_name;

/// Whether a flow asks for names.
pub(super) fn is_dns(flow: &Flow) -> bool {
    matches!(flow.traffic.single(), Some((Protocol::Udp | Protocol::Tcp, 53, 53)))
}

/// What it breaks that the flow is denied, if it asks for names.
pub(super) fn broken(flow: &Flow) -> Option<String> {
    is_dns(flow).then(|| format!("without DNS, {} can resolve no name", shown(&flow.from)))
}

/// The rule that lets an end ask its DNS server, where no rule of its policies is about port
/// 53.
pub(super) fn help(context: &Context<'_>, flow: &Flow, decision: &Decision) -> Option<String> {
    let is_about_port = decision.candidates.iter().any(Candidate::matches_port);
    if !is_dns(flow) || decision.direction != Direction::Egress || is_about_port {
        return None;
    }
    let (_, Party::End(End::Pod(server))) = flow.parties? else { return None };
    let cluster = &context.input.cluster;
    let server = cluster.pod(server);
    let labels = server.labels.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join(", ");
    let policy = decision.candidates.first().map(|of| of.policy).or_else(|| decision.isolated_by.first().copied())?;
    Some(format!(
        "   = help: add this to spec.egress of networkpolicy {}:\n           \
         - to:\n             - namespaceSelector: {{matchLabels: {{{NAMESPACE_NAME_LABEL}: {}}}}}\n               \
         podSelector: {{matchLabels: {{{labels}}}}}\n             \
         ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]\n",
        policy_name(cluster, policy),
        server.namespace,
    ))
}
