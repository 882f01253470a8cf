//! Reads an item of `ports`: a protocol, and a number, a range (`endPort`) or a name.

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::PortMatch;
use super::finding::{Code, Effect};
use super::read::Reader;
use crate::algebra::syntax::wrong_port_name;
use crate::algebra::traffic::Traffic;
use crate::object::Protocol;

impl Reader<'_> {
    /// Reads an item of `ports`; it matches nothing where it is not understood.
    pub(super) fn port(&mut self, path: &str, port: &api::NetworkPolicyPort) -> PortMatch {
        if self.unknown_below(path, Effect::MatchesNothing) {
            return PortMatch::Nothing;
        }
        match read_port(port) {
            Ok(port) => {
                // No pod of an API server has a port of such a name. In files one may.
                if let PortMatch::Named(_, name) = &port
                    && let Some(problem) = wrong_port_name(name)
                {
                    self.report(format!("{path}.port"), Code::PortNameInvalid, problem, Effect::MatchesNothing);
                }
                port
            }
            Err((field, problem)) => {
                self.report(format!("{path}.{field}"), Code::PortInvalid, problem, Effect::MatchesNothing);
                PortMatch::Nothing
            }
        }
    }
}

/// What is wrong with a protocol.
fn wrong_protocol(text: &str) -> String {
    let meant = Protocol::parse(&text.trim().to_ascii_uppercase());
    let meant = meant.map(|protocol| format!("; write {protocol}")).unwrap_or_default();
    format!("\"{text}\" is none of TCP, UDP, SCTP{meant}")
}

/// Reads an item of `ports`, or says which field is wrong and why.
fn read_port(port: &api::NetworkPolicyPort) -> Result<PortMatch, (&'static str, String)> {
    let number = |field, number: i32| {
        (u16::try_from(number).ok().filter(|n| *n > 0)).ok_or((field, format!("{number} is no port (1 to 65535)")))
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = Protocol::parse(protocol).ok_or_else(|| ("protocol", wrong_protocol(protocol)))?;
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Range(protocol, Traffic::PORTS.0, Traffic::PORTS.1)),
        (None, Some(_)) => Err(("endPort", "endPort needs a port".to_owned())),
        (Some(IntOrString::String(name)), None) => Ok(PortMatch::Named(protocol, name.clone())),
        (Some(IntOrString::String(_)), Some(_)) => Err(("endPort", "endPort needs a numeric port".to_owned())),
        (Some(IntOrString::Int(first)), last) => {
            let first = number("port", *first)?;
            let last = last.map_or(Ok(first), |last| number("endPort", last))?;
            if last < first {
                return Err(("endPort", format!("endPort {last} is less than port {first}")));
            }
            Ok(PortMatch::Range(protocol, first, last))
        }
    }
}
