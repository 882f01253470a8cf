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
            let rest = Traffic::all().difference(traffic).to_string();
            let text = traffic.to_string();
            if rest.len() < text.len() { format!("all but {rest}") } else { text }
        }
    }
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
        let ranges = traffic.of(protocol).ranges().iter().map(|(first, last)| [(*first).max(1), *last]);
        let ranges: Vec<[u16; 2]> = ranges.filter(|[first, last]| first <= last).collect();
        if !ranges.is_empty() {
            all.push((Some(protocol.as_str()), Some(ranges)));
        }
    }
    if traffic.other {
        all.push((Some("ICMP"), None));
    }
    all
}
