//! Reads an item of `ports`: a protocol, and a number, a range (`endPort`) or a name.

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::PortMatch;
use super::finding::{Effect, FindingCode};
use super::read::Reader;
use crate::algebra::syntax::wrong_port_name;
use crate::algebra::traffic::Traffic;
use crate::object::Protocol;

impl Reader<'_> {
    /// Reads an item of `ports`; it matches nothing where it is not understood. All that is wrong with it is
    /// reported, because people mend what they are told.
    pub(super) fn port(&mut self, path: &str, port: &api::NetworkPolicyPort) -> PortMatch {
        let has_unknown = self.unknown_below(path, Effect::MatchesNothing);
        let (read, wrong) = read_port(port);
        for (field, problem) in wrong {
            // The port may stand in the field that is not known.
            if has_unknown && port.port.is_none() && field == "endPort" {
                continue;
            }
            self.report(format!("{path}.{field}"), FindingCode::PortInvalid, problem, Effect::MatchesNothing);
        }
        // No pod of an API server has a port of such a name. In files one may.
        if let Some(IntOrString::String(name)) = &port.port
            && let Some(problem) = wrong_port_name(name)
        {
            self.report(format!("{path}.port"), FindingCode::PortNameInvalid, problem, Effect::MatchesNothing);
        }
        let read = read.filter(|_| !has_unknown);
        if read.is_none()
            && let Some(meant) = meant(port)
        {
            self.half_read.ports.push((path.to_owned(), meant));
        }
        read.unwrap_or(PortMatch::Nothing)
    }
}

/// What is wrong with a protocol.
fn wrong_protocol(text: &str) -> String {
    let meant = Protocol::parse(&text.trim().to_ascii_uppercase());
    let meant = meant.map(|protocol| format!("; write {protocol}")).unwrap_or_default();
    format!("\"{text}\" is none of TCP, UDP, SCTP{meant}")
}

/// The ports that an item with mistakes most likely means; none where nothing tells.
fn meant(port: &api::NetworkPolicyPort) -> Option<PortMatch> {
    let protocol = Protocol::parse(&port.protocol.as_deref().unwrap_or("TCP").trim().to_ascii_uppercase())?;
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
    match (&port.port, port.end_port) {
        (None, None) => None,
        (None, Some(last)) => number(last).map(|last| PortMatch::Range(protocol, last, last)),
        (Some(IntOrString::String(name)), _) => Some(PortMatch::Named(protocol, name.clone())),
        (Some(IntOrString::Int(first)), last) => {
            let (first, last) = (number(*first)?, number(last.unwrap_or(*first))?);
            Some(PortMatch::Range(protocol, first.min(last), first.max(last)))
        }
    }
}

/// Reads an item of `ports`; none where fields are wrong, which it says, and why.
fn read_port(port: &api::NetworkPolicyPort) -> (Option<PortMatch>, Vec<(&'static str, String)>) {
    let mut wrong = Vec::new();
    let text = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = Protocol::parse(text);
    if protocol.is_none() {
        wrong.push(("protocol", wrong_protocol(text)));
    }
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    let mut number = |field, number: i32| {
        let read = u16::try_from(number).ok().filter(|n| *n > 0);
        if read.is_none() {
            wrong.push((field, format!("{number} is no port (1 to 65535)")));
        }
        read
    };
    let read = match (&port.port, port.end_port) {
        (None, None) => Some(PortMatch::Range(protocol, Traffic::PORTS.0, Traffic::PORTS.1)),
        (None, Some(last)) => {
            number("endPort", last);
            wrong.push(("endPort", "endPort needs a port".to_owned()));
            None
        }
        (Some(IntOrString::String(name)), None) => Some(PortMatch::Named(protocol, name.clone())),
        (Some(IntOrString::String(_)), Some(last)) => {
            number("endPort", last);
            wrong.push(("endPort", "endPort needs a numeric port".to_owned()));
            None
        }
        (Some(IntOrString::Int(first)), last) => {
            let ends = (number("port", *first), last.map_or(Some(None), |last| number("endPort", last).map(Some)));
            if let Some(last) = last.filter(|last| last < first) {
                wrong.push(("endPort", format!("endPort {last} is less than port {first}")));
            }
            match ends {
                (Some(first), Some(last)) => Some(PortMatch::Range(protocol, first, last.unwrap_or(first))),
                _ => None,
            }
        }
    };
    (read.filter(|_| wrong.is_empty()), wrong)
}
