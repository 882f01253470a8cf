//! Words that the parts of an explanation share: verdicts, ends, workloads and ports.

use npc_compiler::object::Workload;
use npc_compiler::verdict::explain::{EndName, Port, Verdict};

use crate::command::endpoint::short_kind;
use crate::command::words::blocks;

/// A verdict in the answer's word for it.
pub(super) const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "ALLOWED",
        Verdict::Denied => "DENIED",
        Verdict::Partial => "PARTIAL",
        Verdict::Unknown => "UNKNOWN",
    }
}

/// An end as it is shown: `shop/deploy/api`.
pub(super) fn shown(name: &EndName) -> String {
    match (&name.namespace, name.kind.as_str()) {
        (Some(namespace), kind) => format!("{namespace}/{}/{}", short_kind(kind), name.name),
        (None, "Node") => format!("node/{}", name.name),
        (None, _) if name.is_part() => blocks(&name.prefixes).join(","),
        (None, _) => name.name.clone(),
    }
}

/// A workload as it is shown: `shop/deploy/api`.
pub(super) fn workload(namespace: &str, of: &Workload) -> String {
    format!("{namespace}/{}/{}", short_kind(&of.kind), of.name)
}

/// An IPv6 address or prefix before a port stands in brackets.
pub(super) fn bracketed(name: &str, has_port: bool) -> String {
    if has_port && name.matches(':').count() > 1 { format!("[{name}]") } else { name.to_owned() }
}

/// A port as it is written.
pub(super) fn port_text(port: &Port) -> String {
    match port {
        Port::Name(name) => name.clone(),
        Port::Icmp => "icmp".to_owned(),
        Port::Numbers(protocol, first, last) => {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            protocol.map_or(range.clone(), |protocol| format!("{range}/{}", protocol.lower()))
        }
    }
}
