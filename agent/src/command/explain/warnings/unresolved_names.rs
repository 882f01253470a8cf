//! What is said of clients that cannot resolve the name of a Service.

use npc_compiler::cluster::{Cluster, PolicyId};
use npc_compiler::policy::Direction;
use npc_compiler::verdict::explain::{DnsServer, EndName};

use crate::command::explain::words::shown;
use crate::command::words::{policy_name, shorten};

/// At most this many sources and policies are named.
const NAMED: usize = 3;

/// Which clients policies keep from DNS, which policies, and what to ask.
pub(in crate::command::explain) fn text(
    cluster: &Cluster,
    (from, service): (&[EndName], &EndName),
    (direction, policies): (Direction, &[PolicyId]),
    server: Option<&DnsServer>,
) -> String {
    let sources: Vec<String> = from.iter().map(shown).collect();
    let names: Vec<String> = policies.iter().map(|id| format!("networkpolicy {}", policy_name(cluster, *id))).collect();
    let (sources_text, policies, service) =
        (shorten(&sources, NAMED, ", "), shorten(&names, NAMED, ", "), shown(service));
    let whom = if sources.len() == 1 { "it" } else { "them" };
    let by = if names.len() == 1 { "isolates" } else { "isolate" };
    let Some(DnsServer { name, port }) = server else {
        return format!(
            "{sources_text} cannot resolve the name of {service}: {policies} {by} {whom} for egress, and no rule admits DNS (port \
             53); the input has no DNS server to ask about"
        );
    };
    let (server, source) = (shown(name), sources.first().map(String::as_str).unwrap_or_default());
    let why = match direction {
        Direction::Egress => format!("{policies} {by} {whom} for egress and no rule admits DNS to {server}"),
        Direction::Ingress => {
            format!("{policies} {by} the pods of {server} for ingress and no rule admits DNS from {whom}")
        }
    };
    format!("{sources_text} cannot resolve the name of {service}: {why}; ask npc explain {source} {server}:{port}/udp")
}
