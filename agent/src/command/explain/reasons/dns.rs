//! What is said of flows to a DNS server.

use npc_compiler::object::Protocol;
use npc_compiler::verdict::explain::Flow;

use crate::command::explain::words::shown;

/// What it breaks that the flow is denied, if it asks for names and no other server is open to the source.
pub(in crate::command::explain) fn broken(flow: &Flow) -> Option<String> {
    let from = shown(&flow.from);
    let leaves_no_dns = flow.decisions.iter().flatten().any(|decision| decision.leaves_no_dns);
    leaves_no_dns.then(|| match flow.traffic.single() {
        Some((Protocol::Tcp, ..)) => format!("without DNS by TCP, {from} gets no answer that is too long for UDP"),
        _ => format!("without DNS, {from} can resolve no name"),
    })
}
