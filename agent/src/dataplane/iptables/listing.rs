//! What `iptables -S` and `iptables-save` print, as far as it is ours.

use std::collections::BTreeMap;

use npc_compiler::ruleset::program::{CHAIN_PREFIX, ChainName};
use npc_compiler::ruleset::spelling::canonical;

use super::Error;
use super::hook::{self, Hook};
use super::reading::{Jump, Overview};

/// What of a filter table is ours.
#[derive(Debug)]
pub struct Listing {
    /// Where the jump to our chains stands, or why that cannot be told.
    pub hook: Result<Hook, Error>,
    /// Our chains and their rules, as `iptables-save` prints them.
    pub chains: BTreeMap<ChainName, Vec<String>>,
}

impl Listing {
    /// Reads `iptables-save`.
    pub(super) fn of_save(save: &str) -> Self {
        Self { hook: Ok(hook(save)), chains: our_chains(save) }
    }
}

/// Reads the rules of FORWARD in `iptables -S` or `iptables-save`.
pub(super) fn hook(listed: &str) -> Hook {
    let ours = hook::rule();
    Hook::of(listed.lines().filter_map(|line| line.strip_prefix("-A FORWARD ")).map(|rule| canonical(rule) == ours))
}

/// The chains that `iptables -S` or `iptables-save` declares, in their order.
pub(super) fn declared(listed: &str) -> impl Iterator<Item = &str> {
    let declared = listed.lines().filter_map(|line| line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")));
    declared.filter_map(|rest| rest.split(' ').next())
}

/// Reads `iptables -S` or `iptables-save`: our chains and their rules, line by line.
pub(super) fn our_chains(save: &str) -> BTreeMap<ChainName, Vec<String>> {
    let mut chains: BTreeMap<ChainName, Vec<String>> = BTreeMap::new();
    for line in save.lines() {
        // `iptables -S` and `iptables-save` declare chains differently.
        if let Some(declared) = line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")) {
            chains.extend(declared.split(' ').next().and_then(ChainName::ours).map(|name| (name, Vec::new())));
        } else if let Some(rule) = line.strip_prefix("-A ")
            && rule.starts_with(CHAIN_PREFIX)
            && let Some(name) = rule.split(' ').next().and_then(ChainName::ours)
        {
            chains.entry(name).or_default().push(canonical(line));
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

/// Reads `iptables-save` as far as it tells which programs use a table.
pub(super) fn overview(save: &str) -> Overview {
    let forward = save.lines().filter_map(|line| line.strip_prefix("-A FORWARD "));
    Overview {
        chains: declared(save).map(str::to_owned).collect(),
        forward: forward.filter_map(|rule| Some((Jump::Rule(rule.to_owned()), target(rule)?))).collect(),
        drops_by_default: save.lines().any(|line| line.starts_with(":FORWARD DROP")),
    }
}

/// The chain or target of a rule. What stands in quotes, a comment or a prefix
/// of a log, may look like anything.
fn target(rule: &str) -> Option<String> {
    let bare: String = rule.split('"').step_by(2).collect();
    let mut words = bare.split(' ').skip_while(|word| !matches!(*word, "-j" | "-g")).skip(1);
    words.next().map(str::to_owned)
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
    fn only_chains_of_ours_are_read() {
        let save = "*filter\n:FORWARD ACCEPT [0:0]\n:NPC-A - [0:0]\n:NPC-B - [0:0]\n:KUBE-X - [0:0]\n\
                    -A FORWARD -j NPC-A\n-A NPC-A -j NPC-B\n-A KUBE-X -j RETURN\nCOMMIT\n";
        let chains = our_chains(save);
        let text: Vec<(&str, &[String])> = chains.iter().map(|(name, rules)| (name.as_str(), &rules[..])).collect();
        assert_eq!(text, [("NPC-A", &["-A NPC-A -j NPC-B".to_owned()][..]), ("NPC-B", &[])]);
    }
}
