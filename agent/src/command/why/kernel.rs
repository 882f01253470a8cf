//! What a kernel holds, as iptables-save and ipset save printed it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use npc_agent::dataplane::iptables::Hook;
use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::node::{ChainName, InterfaceName, Member, SetKind, SetName};
use npc_compiler::ruleset::text;

use crate::command::{Exit, Stop};

/// Files with what the programs printed.
pub(super) struct Dumps<'a> {
    /// Of iptables-save and ip6tables-save.
    pub(super) iptables: &'a [PathBuf],
    /// Of ipset save.
    pub(super) ipset: Option<&'a Path>,
}

/// What a kernel holds of npc.
pub(super) struct Held {
    pub(super) state: KernelState,
    /// Where the jump to npc's chains stands, in each family whose FORWARD was read.
    pub(super) hooks: Vec<(Family, Hook)>,
}

impl Dumps<'_> {
    /// What the kernel held of npc.
    pub(super) fn read(&self) -> anyhow::Result<Held> {
        let (mut state, mut hooks) = (KernelState::default(), Vec::new());
        for path in self.iptables {
            let text = read(path)?;
            let family = dump_family(&text);
            let chains = text::chains(family, &text);
            if !chains.is_empty() || self.iptables.len() == 1 {
                hooks.extend(hook(&text).map(|hook| (family, hook)));
            }
            state.family_mut(family).chains.extend(chains);
        }
        if state == KernelState::default() {
            let names: Vec<String> = self.iptables.iter().map(|path| path.display().to_string()).collect();
            let message = format!(
                "{} has no chain of npc; it must be what iptables-save prints (iptables-nft-save or \
                 iptables-legacy-save, by the agent's backend)",
                names.join(", ")
            );
            return Err(Stop::new(Exit::Input, message).into());
        }
        if let Some(path) = self.ipset {
            sets(&read(path)?, &mut state);
        }
        Ok(Held { state, hooks })
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let read = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stop = |error: &std::io::Error| Stop::new(Exit::Input, format!("cannot read {}: {error}", path.display()));
    read.map_err(|error| stop(&error)).context("a dump of the kernel")
}

/// The rules and declarations of the filter table; all lines where no table is named.
fn filter_table(text: &str) -> impl Iterator<Item = &str> {
    let mut is_filter = true;
    text.lines().filter(move |line| {
        if let Some(table) = line.strip_prefix('*') {
            is_filter = table.trim() == "filter";
        }
        is_filter
    })
}

/// Behind the name of its chain, a rule as `iptables-save`, also with `-c`, prints it.
fn rule_of(line: &str, is_chain: impl Fn(&str) -> bool) -> Option<&str> {
    let (chain, rule) = text::without_counters(line).strip_prefix("-A ")?.split_once(' ')?;
    is_chain(chain).then_some(rule)
}

/// Where the jump to npc's chains stands in FORWARD; nothing where the dump does not declare
/// that chain.
fn hook(dump: &str) -> Option<Hook> {
    let is_declared = filter_table(dump).any(|line| line.starts_with(":FORWARD ") || line.starts_with("-P FORWARD "));
    if !is_declared {
        return None;
    }
    let rules = filter_table(dump).filter_map(|line| rule_of(line, |chain| chain == "FORWARD"));
    let ours: Vec<bool> = rules.map(text::is_hook).collect();
    Some(match ours.iter().filter(|ours| **ours).count() {
        0 => Hook::Absent,
        1 if ours.first() == Some(&true) => Hook::First,
        count => Hook::Displaced(count),
    })
}

/// The family of a dump, which does not say it: that of the first rule of npc that shows one.
fn dump_family(dump: &str) -> Family {
    let mut rules = dump.lines().filter_map(|line| rule_of(line, |chain| ChainName::ours(chain).is_some()));
    rules.find_map(family_of).unwrap_or(Family::V4)
}

/// The family of a rule of npc, where its text shows one: by its sets, addresses and protocol.
/// Names of policies, which stand in comments, decide nothing.
pub(super) fn family_of(rule: &str) -> Option<Family> {
    let mut before = String::new();
    for word in words(rule) {
        let found = match before.as_str() {
            "--match-set" => SetName::ours(&word).map(|(_, family)| family),
            "-s" | "-d" => word.parse::<IpNetwork>().ok().map(|prefix| Family::of(&prefix.ip())),
            "-p" if word == "ipv6-icmp" || word == "icmpv6" => Some(Family::V6),
            "-p" if word == "icmp" => Some(Family::V4),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        // What a text says that stands without quotes is no option.
        before = if before == "--comment" { String::new() } else { word };
    }
    None
}

/// The words of a rule; one in quotes is one word, and has its quotes.
fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for sign in rule.chars() {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' | '\t' if !is_quoted => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                continue;
            }
            _ => {}
        }
        word.push(sign);
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Adds the sets of npc.
fn sets(saved: &str, held: &mut KernelState) {
    for line in saved.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(command), Some(name), Some(third)) = (words.next(), words.next(), words.next()) else { continue };
        let Some((name, family)) = SetName::ours(name) else { continue };
        let sets = &mut held.family_mut(family).sets;
        match command {
            "create" => {
                if let Some(kind) = SetKind::ALL.into_iter().find(|kind| kind.as_str() == third) {
                    sets.insert(name, (kind, BTreeSet::new()));
                }
            }
            "add" => {
                if let Some((_, members)) = sets.get_mut(&name) {
                    members.extend(member(third));
                }
            }
            _ => {}
        }
    }
}

/// A member as ipset prints it.
fn member(text: &str) -> Option<Member> {
    let Some((first, second)) = text.split_once(',') else { return Some(text.parse::<IpNetwork>().ok()?.into()) };
    match second.split_once(':') {
        Some((protocol, port)) => {
            let is_it = |known: &Protocol| known.lower() == protocol || known.number().to_string() == protocol;
            let protocol = Protocol::ALL.into_iter().find(is_it)?;
            Some(Member::AddressPort(first.parse().ok()?, protocol, port.parse().ok()?))
        }
        None => Some(Member::of_interface(first.parse().ok()?, InterfaceName::new(second)?)),
    }
}

/// Whether a member is, or holds, an address.
pub(super) fn holds(member: &Member, address: IpAddr) -> bool {
    match member {
        Member::Address(one) | Member::AddressPort(one, ..) => *one == address,
        Member::Prefix(prefix) => prefix.contains(address),
        Member::PrefixInterface(both) => both.0.contains(address),
    }
}

/// How many chains are in one state only, or have other rules.
pub(super) fn rule_distance(one: &KernelState, other: &KernelState) -> usize {
    let of_family = |family| {
        let (one, other) = (&one.family(family).chains, &other.family(family).chains);
        let differ = one.iter().filter(|(name, rules)| other.get(*name) != Some(rules)).count();
        differ + other.keys().filter(|name| !one.contains_key(*name)).count()
    };
    Family::ALL.into_iter().map(of_family).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_family_is_shown_by_what_the_kernel_evaluates() {
        for (rule, family) in [
            ("-m set --match-set npc6-egress src -j NPC-EGRESS", Some(Family::V6)),
            ("-m set ! --match-set npc4-own src,src -j NPC-SPOOF", Some(Family::V4)),
            ("-s fe80::/10 -j RETURN", Some(Family::V6)),
            ("-d 224.0.0.0/4 -j DROP", Some(Family::V4)),
            ("-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN", Some(Family::V6)),
            (r#"-m comment --comment "a/npc6-x spec.ingress[0], -s fe80::/10, --match-set npc6-x" -j RETURN"#, None),
            ("-m comment --comment --match-set npc6-x -j RETURN", None),
            (r#"-m comment --comment "a \" --match-set npc6-x" -j RETURN"#, None),
            (r#"-m comment --comment "npc6-x" -m set --match-set npc4-p-x src -j RETURN"#, Some(Family::V4)),
            ("-p tcp -m tcp --dport 80 -j RETURN", None),
        ] {
            assert_eq!(family_of(rule), family, "{rule}");
        }
    }

    #[test]
    fn the_jump_is_looked_for_in_the_filter_table_of_a_dump() {
        let dump = |rules: &str| {
            format!("*mangle\n:FORWARD ACCEPT [0:0]\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n")
        };
        let (jump, other) = ("-A FORWARD -j NPC-FORWARD\n", "[1:2] -A FORWARD -j KUBE-FORWARD\n");
        for (rules, expected) in [
            (vec![], Hook::Absent),
            (vec![other], Hook::Absent),
            (vec![jump, other], Hook::First),
            (vec![other, jump], Hook::Displaced(1)),
            (vec![jump, other, jump], Hook::Displaced(2)),
        ] {
            assert_eq!(hook(&dump(&rules.concat())), Some(expected), "{rules:?}");
        }
        assert_eq!(hook("*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j NPC-FORWARD\nCOMMIT\n*filter\nCOMMIT\n"), None);
    }

    #[test]
    fn members_are_read_as_ipset_prints_them() {
        for (text, family) in [
            ("10.0.0.1", Family::V4),
            ("10.0.0.0/8", Family::V4),
            ("10.0.0.1,6:80", Family::V4),
            ("fd00::1,132:80", Family::V6),
            ("10.0.0.0/8,azv1", Family::V4),
        ] {
            let read = member(text).expect(text);
            assert_eq!(read.to_string(), text);
            let inside: IpAddr =
                if family == Family::V4 { [10, 0, 0, 1].into() } else { "fd00::1".parse().expect("one") };
            assert!(holds(&read, inside), "{text}");
        }
        assert_eq!(member("10.0.0.1,tcp:80"), member("10.0.0.1,6:80"));
        for other in ["x", "10.0.0.1,esp:1", "10.0.0.1,tcp:x", ""] {
            assert_eq!(member(other), None, "{other}");
        }
    }
}
