//! What is said of flows to a DNS server.

use npc_compiler::object::{DNS_PORT, Protocol};
use npc_compiler::verdict::explain::Flow;

use crate::command::explain::words::shown;

/// Whether a flow asks for names; behind a Service the server may listen on another port.
fn is_dns(flow: &Flow) -> bool {
    let by_service = flow.via.as_ref().and_then(|via| via.port) == Some(DNS_PORT);
    match flow.traffic.single() {
        Some((Protocol::Udp | Protocol::Tcp, first, last)) => first == last && (first == DNS_PORT || by_service),
        _ => false,
    }
}

/// What it breaks that the flow is denied, if it asks for names.
pub(in crate::command::explain) fn broken(flow: &Flow) -> Option<String> {
    let from = shown(&flow.from);
    is_dns(flow).then(|| match flow.traffic.single() {
        Some((Protocol::Tcp, ..)) => format!("without DNS by TCP, {from} gets no answer that is too long for UDP"),
        _ => format!("without DNS, {from} can resolve no name"),
    })
}
