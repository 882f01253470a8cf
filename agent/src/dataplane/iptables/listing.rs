//! What `iptables -S` and `iptables-save` print, as far as it is ours.

use std::collections::BTreeMap;

use npc_compiler::program::{CHAIN_PREFIX, ChainName, FORWARD_CHAIN};

/// Where the jump to our chains stands in FORWARD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It is the first rule, and there once.
    First,
    /// It is there so many times and not, or not only, as the first rule.
    Displaced(usize),
    /// It is not there.
    Absent,
}

/// What of a filter table is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Where the jump to our chains stands.
    pub hook: Hook,
    /// Our chains and their rules, as `iptables-save` prints them.
    pub chains: BTreeMap<ChainName, Vec<String>>,
}

impl Listing {
    /// Reads `iptables-save`.
    pub(super) fn of_save(save: &str) -> Self {
        Self { hook: hook(save), chains: our_chains(save) }
    }
}

pub(super) fn hook_rule() -> String {
    format!("-j {FORWARD_CHAIN}")
}

/// Reads the rules of FORWARD in `iptables -S` or `iptables-save`.
pub(super) fn hook(listed: &str) -> Hook {
    let ours = format!("-A FORWARD {}", hook_rule());
    let rules: Vec<&str> = listed.lines().filter(|line| line.starts_with("-A FORWARD ")).collect();
    let copies = rules.iter().filter(|line| **line == ours).count();
    match (copies, rules.first()) {
        (0, _) => Hook::Absent,
        (1, Some(first)) if *first == ours => Hook::First,
        _ => Hook::Displaced(copies),
    }
}

/// Reads `iptables -S` or `iptables-save`: our chains and their rules, line by line.
fn our_chains(save: &str) -> BTreeMap<ChainName, Vec<String>> {
    let mut chains: BTreeMap<ChainName, Vec<String>> = BTreeMap::new();
    for line in save.lines() {
        // `iptables -S` and `iptables-save` declare chains differently.
        if let Some(declared) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
            chains.extend(declared.split(' ').next().and_then(ChainName::ours).map(|name| (name, Vec::new())));
        } else if let Some(rule) = line.strip_prefix("-A ")
            && rule.starts_with(CHAIN_PREFIX)
            && let Some(name) = rule.split(' ').next().and_then(ChainName::ours)
        {
            chains.entry(name).or_default().push(by_number(line));
        }
    }
    chains
}

/// Reads `iptables -S CHAIN -v` or `iptables-save -c`: for each chain of ours,
/// how many packets its rules have dropped.
pub(super) fn dropped(listed: &str) -> BTreeMap<ChainName, u64> {
    let mut packets = BTreeMap::new();
    for line in listed.lines() {
        if let Some(declared) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
            packets.extend(declared.split(' ').next().and_then(ChainName::ours).map(|name| (name, 0)));
        } else if line.ends_with(" -j DROP")
            && let Some((name, count)) = counted(line)
        {
            *packets.entry(name).or_default() += count;
        }
    }
    packets
}

/// The chain and the packets of `[PACKETS:BYTES] -A CHAIN …`, as a save has it,
/// or of `-A CHAIN … -c PACKETS BYTES …`, as a list does.
fn counted(line: &str) -> Option<(ChainName, u64)> {
    let saved = line.strip_prefix('[').and_then(|rest| rest.split_once(':'));
    let (_, rule) = line.split_once("-A ")?;
    let name = ChainName::ours(rule.split(' ').next()?)?;
    let packets = match saved {
        Some((packets, _)) => packets,
        None => rule.split_once(" -c ")?.1.split(' ').next()?,
    };
    Some((name, packets.parse().ok()?))
}

/// Protocols without ports that our rules name by number, by the names that
/// `iptables-save` finds for them in one /etc/protocols or another.
const PROTOCOL_NAMES: [(&str, u8); 4] = [("ipencap", 4), ("ipv4", 4), ("ipv6", 41), ("gre", 47)];

/// A rule with the number of its protocol, as we write it.
fn by_number(line: &str) -> String {
    for (name, number) in PROTOCOL_NAMES {
        if line.contains(&format!(" -p {name} ")) {
            return line.replacen(&format!(" -p {name} "), &format!(" -p {number} "), 1);
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_as_either_tool_prints_them() {
        let list = "-N NPC-DENY-INGRESS\n-A NPC-DENY-INGRESS -c 12 720 -j DROP\n";
        let save = ":FORWARD ACCEPT [9:9]\n:NPC-DENY-INGRESS - [0:0]\n:NPC-DENY-EGRESS - [0:0]\n\
                    [1:2] -A FORWARD -j DROP\n[12:720] -A NPC-DENY-INGRESS -j DROP\n[3:4] -A NPC-I-X -j RETURN\n";
        let read = |listed| -> Vec<(String, u64)> {
            dropped(listed).into_iter().map(|(name, packets)| (name.to_string(), packets)).collect()
        };
        let ingress = || ("NPC-DENY-INGRESS".to_owned(), 12);
        assert_eq!(read(list), [ingress()]);
        assert_eq!(read(save), [("NPC-DENY-EGRESS".to_owned(), 0), ingress()]);
    }

    #[test]
    fn the_hook_is_first_only_alone_and_on_top() {
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j NPC-FORWARD\n-A FORWARD -j X\n"), Hook::First);
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -j X\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(1));
        assert_eq!(hook("-A FORWARD -j NPC-FORWARD\n-A FORWARD -j NPC-FORWARD\n"), Hook::Displaced(2));
        assert_eq!(hook("-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.1/32 -j NPC-FORWARD\n"), Hook::Absent);
    }

    #[test]
    fn protocols_are_read_by_number_whatever_this_system_calls_them() {
        for (read, number) in [("ipencap", 4), ("ipv4", 4), ("4", 4), ("ipv6", 41), ("gre", 47), ("47", 47)] {
            assert_eq!(by_number(&format!("-A NPC-E-X -p {read} -j DROP")), format!("-A NPC-E-X -p {number} -j DROP"));
        }
        let other = "-A NPC-E-X -p tcp -m comment --comment \"a -p grease \" -j DROP";
        assert_eq!(by_number(other), other);
    }

    #[test]
    fn only_chains_of_ours_are_read() {
        let save = "*filter\n:FORWARD ACCEPT [0:0]\n:NPC-A - [0:0]\n:NPC-B - [0:0]\n:KUBE-X - [0:0]\n\
                    -A FORWARD -j NPC-A\n-A NPC-A -j NPC-B\n-A KUBE-X -j RETURN\nCOMMIT\n";
        let chains = our_chains(save);
        let text: Vec<(&str, &[String])> = chains.iter().map(|(name, rules)| (name.as_str(), &rules[..])).collect();
        assert_eq!(text, [("NPC-A", &["-A NPC-A -j NPC-B".to_owned()][..]), ("NPC-B", &[])]);
    }
}
