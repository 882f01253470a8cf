//! Protocols and ports of a flow, in words and as JSON has them.

use npc_compiler::algebra::traffic::Traffic;
use npc_compiler::object::Protocol;

/// `TCP 5432`, or a list.
pub(super) fn traffic(traffic: &Traffic) -> String {
    if traffic.is_none() {
        return String::new();
    }
    if traffic.is_all() {
        return "all protocols and ports".to_owned();
    }
    match traffic.single() {
        Some((protocol, 0 | 1, u16::MAX)) => format!("{protocol} all ports"),
        Some((protocol, first, last)) if first == last => format!("{protocol} {first}"),
        Some((protocol, first, last)) => format!("{protocol} {first}-{last}"),
        None => {
            let rest = by_protocol_in_words(&Traffic::all().difference(traffic));
            let text = by_protocol_in_words(traffic);
            if rest.len() < text.len() { format!("all but {rest}") } else { text }
        }
    }
}

/// `TCP 53,443, UDP 53, SCTP all ports, ICMP`.
fn by_protocol_in_words(traffic: &Traffic) -> String {
    let range = |(first, last): (u16, u16)| match (first, last) {
        (0 | 1, u16::MAX) => "all ports".to_owned(),
        _ if first == last => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    let ranges = |protocol: Protocol| -> Vec<String> { traffic.port_ranges(protocol).map(range).collect() };
    let with_ports = Protocol::ALL.into_iter().map(|protocol| (protocol, ranges(protocol)));
    let mut all: Vec<String> = with_ports
        .filter(|(_, ranges)| !ranges.is_empty())
        .map(|(protocol, ranges)| format!("{protocol} {}", ranges.join(",")))
        .collect();
    all.extend(traffic.other.then(|| "ICMP".to_owned()));
    all.join(", ")
}

/// A protocol and its ports; ICMP has none.
type ByProtocol = (Option<&'static str>, Option<Vec<[u16; 2]>>);

/// Protocols with their ports; nothing where all or none are meant.
pub(super) fn by_protocol(traffic: &Traffic) -> Vec<ByProtocol> {
    if traffic.is_all() || traffic.is_none() {
        return vec![(None, None)];
    }
    let mut all = Vec::new();
    for protocol in Protocol::ALL {
        let ranges: Vec<[u16; 2]> = traffic.port_ranges(protocol).map(|(first, last)| [first, last]).collect();
        if !ranges.is_empty() {
            all.push((Some(protocol.as_str()), Some(ranges)));
        }
    }
    if traffic.other {
        all.push((Some("ICMP"), None));
    }
    all
}
