//! Any bytes, for each reader of what comes from outside: for fuzzing.
//!
//! Each function is a target. It panics if the reader panics, or if what was read
//! contradicts itself. `make test` gives each target its corpus and a few thousand changes of
//! it; `make fuzz` lets libFuzzer look for more.

use npc_compiler::algebra::cidr::{Cidr, prefixes};
use npc_compiler::algebra::ranges::RangeSet;
use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{ChainName, Target};
use npc_compiler::ruleset::text;
use npc_compiler::verdict::explain::Port;

pub use crate::dataplane::fuzz::{conntrack, ipset, nflog, nftables, rtnetlink};
use crate::endpoint::{self, What};
use crate::install_cni::conflist::{self, ConfList};
use crate::source::manifests::{self, ReadOptions};

#[cfg(test)]
mod tests;

/// A target: its name, which is the name of its corpus, and the function.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [FuzzTarget; 11] = [
    ("blocks", blocks),
    ("cni", cni),
    ("conntrack", conntrack),
    ("endpoints", endpoints),
    ("ipset", ipset),
    ("iptables", iptables),
    ("manifests", manifests),
    ("nflog", nflog),
    ("nftables", nftables),
    ("ports", ports),
    ("rtnetlink", rtnetlink),
];

/// A file with objects.
///
/// # Panics
/// If lenient reading fails, or reads other objects than strict reading, or if what has been
/// read is not as it is when it is read again.
pub fn manifests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lenient = ReadOptions { allow_errors: true, ..ReadOptions::default() };
    let read = |options| manifests::parse_text("fuzz.yaml", &text, options);
    let found = read(&lenient).expect("what cannot be read is left out");
    if let Ok(strict) = read(&ReadOptions::default()) {
        assert_eq!(strict.objects, found.objects);
    }
    for problem in &found.problems {
        let _ = problem.to_string();
    }
}

/// What `iptables-save` or `iptables -S` prints.
///
/// # Panics
/// If a rule that is taken for one of ours is not read as it is written.
pub fn iptables(data: &[u8]) {
    let listed = String::from_utf8_lossy(data);
    for family in Family::ALL {
        for (chain, rules) in text::chains(family, &listed) {
            for rule in rules.into_iter().filter(|rule| !matches!(rule.target, Target::Foreign(_))) {
                let line = text::rule_line(family, &chain, &rule);
                assert_eq!(text::rule(&line).ok(), Some((chain.clone(), rule)), "{line}");
            }
        }
        let chains: Vec<ChainName> = text::declared(&listed).filter_map(ChainName::ours).collect();
        let _ = text::dropped(family, &listed, &chains);
    }
    crate::dataplane::fuzz::listing(&listed);
}

/// Blocks of addresses, one in a line.
///
/// # Panics
/// If a block is not read as it is written, has other addresses than its network, or is
/// refused although it is in the canonical form.
pub fn blocks(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        let block = Cidr::parse(line);
        if line.contains('/')
            && let Ok(network) = line.parse::<ipnetwork::IpNetwork>()
            && network.ip() == network.network()
            && network.to_string() == line
        {
            assert!(block.is_ok(), "{line}");
        }
        let Ok(block) = block else { continue };
        let network = block.network();
        assert_eq!(prefixes(block.family, &block.addresses()), [network], "{line}");
        assert_eq!(Cidr::parse(&network.to_string()).map(|block| block.network()), Ok(network), "{line}");
    }
}

/// Endpoints as an operator writes them, one in a line.
///
/// # Panics
/// If a port is none, a name is empty or holds what separates names, or an address or prefix is
/// not read as it is written.
pub fn endpoints(data: &[u8]) {
    for line in String::from_utf8_lossy(data).lines() {
        let Ok((what, port)) = endpoint::read(line) else { continue };
        match &port {
            Some(Port::Numbers(_, first, last)) => assert!(0 < *first && first <= last, "{line}"),
            Some(Port::Name(name)) => assert!((1..=15).contains(&name.len()), "{line}"),
            Some(Port::Icmp) | None => {}
        }
        let again = match &what {
            What::Any | What::Outside => continue,
            What::Address(address) => format!("[{address}]"),
            What::Block(block) => format!("[{}]", block.network()),
            What::Host(name) => format!("tcp://{name}"),
            What::Object(namespace, _, name) => {
                let mut parts = namespace.iter().chain([name]);
                assert!(parts.all(|part| !part.is_empty() && !part.contains([':', '/'])), "{line}");
                continue;
            }
        };
        assert_eq!(endpoint::read(&again), Ok((what, None)), "{line}");
    }
}

/// Two sets of ranges of ports: each range four bytes.
///
/// # Panics
/// If union, intersection or difference has another port than the two sets say.
pub fn ports(data: &[u8]) {
    let ranges = |bytes: &[u8]| -> Vec<(u16, u16)> {
        let bounds = bytes.as_chunks().0.iter().take(16);
        bounds
            .map(|[a, b, c, d]| {
                let (one, other) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                (one.min(other), one.max(other))
            })
            .collect()
    };
    let has = |ranges: &[(u16, u16)], port| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let (left, right) = data.split_at(data.len() / 2);
    let (left, right) = (ranges(left), ranges(right));
    let [one, other] = [&left, &right].map(|ranges| RangeSet::from_ranges(ranges.iter().copied()));
    let sets = [one.union(&other), one.intersection(&other), one.difference(&other)];
    for set in &sets {
        let apart = |pair: &[(u16, u16)]| u32::from(pair[0].1) + 1 < u32::from(pair[1].0);
        assert!(set.ranges().windows(2).all(apart), "ranges that touch are one: {set:?}");
    }
    let edges = left.iter().chain(&right).flat_map(|(first, last)| [*first, *last]);
    for port in edges.flat_map(|port| [port.saturating_sub(1), port, port.saturating_add(1)]) {
        let (in_left, in_right) = (has(&left, port), has(&right, port));
        let found = sets.each_ref().map(|set| set.contains(port));
        assert_eq!(found, [in_left || in_right, in_left && in_right, in_left && !in_right], "{port}");
    }
}

/// A message of the CNI plugin or to it, or the configuration of a runtime.
///
/// # Panics
/// As [`npc_cni::fuzz::fuzz_wire`]; or if the conflist that we write for a configuration is not
/// read as it is written.
pub fn cni(data: &[u8]) {
    npc_cni::fuzz::fuzz_wire(data);
    let _ = conflist::leads_to("05-npc.conflist", data);
    for name in ["10-net.conflist", "10-net.conf"] {
        let Ok(list) = ConfList::parse(name, data) else { continue };
        let _ = (list.check_versions(), list.record());
        let text = list.text_with(list.plugins());
        let again = ConfList::parse("05-npc.conflist", text.as_bytes());
        let again = again.unwrap_or_else(|problem| panic!("a list that we wrote: {problem}\n{text}"));
        assert!(again.has_same_keys(&list), "{text}");
        assert!(
            again
                .plugins()
                .iter()
                .map(|plugin| plugin.text.get())
                .eq(list.plugins().iter().map(|plugin| plugin.text.get())),
            "{text}"
        );
    }
}
