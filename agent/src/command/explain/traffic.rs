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
            if rest.len() < text.len() {
                return format!("all but {rest}");
            }
            // One number of two protocols: both are named.
            let listed = |protocol: Protocol| traffic.of(protocol).ranges();
            let is_of_both = !listed(Protocol::Tcp).is_empty()
                && [Protocol::Udp, Protocol::Sctp].iter().any(|other| listed(*other) == listed(Protocol::Tcp));
            if !is_of_both {
                return text;
            }
            let named = |part: &str| match part {
                part if part.contains('/') || part == "icmp" => part.to_owned(),
                part => format!("{part}/tcp"),
            };
            text.split(',').map(named).collect::<Vec<_>>().join(",")
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
