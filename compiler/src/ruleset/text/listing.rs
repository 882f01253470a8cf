//! What `iptables -S` and `iptables-save` print, as far as it is ours.

use std::collections::BTreeMap;

use super::read::printed_in;
use super::words::options;
use crate::object::Family;
use crate::ruleset::node::{ChainName, FORWARD_CHAIN, Rule, Target};

/// The chains that a listing declares, in their order. The two tools declare them
/// differently.
pub fn declared(listed: &str) -> impl Iterator<Item = &str> {
    let declared = listed.lines().filter_map(|line| line.strip_prefix(':').or_else(|| line.strip_prefix("-N ")));
    declared.filter_map(|rest| rest.split(' ').next())
}

/// What becomes of packets that no rule of a built-in chain of the filter table decides about, its
/// policy, in a listing: `ACCEPT` or `DROP`. The two tools declare it differently.
#[must_use]
pub fn policy_of<'a>(listed: &'a str, chain: &str) -> Option<&'a str> {
    let declared = filter_table(listed).filter_map(|line| line.strip_prefix(':').or_else(|| line.strip_prefix("-P ")));
    let mut policies = declared.filter_map(|rest| {
        let mut words = rest.split(' ');
        (words.next() == Some(chain)).then(|| words.next()).flatten()
    });
    policies.next()
}

/// A line of a listing without the `[PACKETS:BYTES] ` that `iptables-save -c` prints before a
/// rule. Other lines stay as they are.
fn without_counters(line: &str) -> &str {
    counters(line).map_or(line, |(_, rule)| rule)
}

/// What `iptables-save -c` prints before a rule, `PACKETS:BYTES`, and the rule.
fn counters(line: &str) -> Option<(&str, &str)> {
    let (counters, rule) = line.strip_prefix('[')?.split_once("] ")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (packets, bytes) = counters.split_once(':')?;
    (is_number(packets) && is_number(bytes)).then_some((counters, rule))
}

/// The lines of the filter table; all lines where no table is named.
pub(super) fn filter_table(listed: &str) -> impl Iterator<Item = &str> {
    let mut is_filter = true;
    listed.lines().filter(move |line| {
        if let Some(table) = line.strip_prefix('*') {
            is_filter = table.trim() == "filter";
        }
        is_filter
    })
}

/// The rules of the filter table, as [`rules`] has them.
pub(super) fn filter_rules(listed: &str) -> impl Iterator<Item = (&str, &str)> {
    filter_table(listed).filter_map(rule_of)
}

/// The rules of a listing, with or without counters: each with the name of its chain, and what
/// stands behind that.
pub fn rules(listed: &str) -> impl Iterator<Item = (&str, &str)> {
    listed.lines().filter_map(rule_of)
}

/// The rule of a line, with or without counters: the name of its chain, and what stands behind
/// that.
fn rule_of(line: &str) -> Option<(&str, &str)> {
    let rest = without_counters(line).strip_prefix("-A ")?;
    // Nothing is behind the name of a rule that only counts.
    Some(rest.split_once(' ').unwrap_or((rest, "")))
}

/// A line of a chain of ours as iptables prints it, with or without counters; nothing if
/// it is of another chain. What npc does not write so is a foreign rule.
pub(super) fn printed(family: Family, line: &str) -> Option<(ChainName, Rule)> {
    let (name, text) = rule_of(line)?;
    let chain = ChainName::ours(name)?;
    let rule = printed_in(family, &chain, text);
    Some((chain, rule))
}

/// What a rule of any program leads to, by its text: a chain, or a target of the kernel. A comment
/// or a prefix of a log may look like anything.
#[must_use]
pub fn target(rule: &str) -> Option<String> {
    let mut targets = options(rule).filter(|(option, _)| matches!(&*option.text, "-j" | "-g"));
    targets.next().and_then(|(_, name)| Some(name?.text.into_owned()))
}

/// How many rules of a listing are npc's, the jump to its chains among them, and how many are
/// other programs'.
#[must_use]
pub fn count_rules(listed: &str) -> (usize, usize) {
    rules(listed).fold((0, 0), |(ours, others), (chain, rule)| {
        let is_ours = ChainName::ours(chain).is_some() || target(rule).as_deref() == Some(FORWARD_CHAIN);
        if is_ours { (ours + 1, others) } else { (ours, others + 1) }
    })
}

/// What a line that an operator copied is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// A rule: the name of its chain, and what stands behind that.
    Rule(&'a str, &'a str),
    /// A name: of a chain, where a line declares one, else the first word.
    Name(&'a str),
}

/// Reads a line that an operator copied: a rule as `iptables -S`, `iptables-save -c` and
/// `iptables -I` have it, also behind the name of the program, the declaration of a chain, of a set or of a
/// member, the heading of a list, or a name.
#[must_use]
pub fn line(text: &str) -> Line<'_> {
    let text = without_program(without_counters(text.trim()).trim_start());
    // `-D CHAIN 1` names no rule.
    let deleted = text.strip_prefix("-D ").filter(|rule| rule.contains(" -"));
    if let Some(rule) = text.strip_prefix("-A ").or(deleted).map(str::trim_start) {
        let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        return Line::Rule(chain, rest);
    }
    if let Some(rule) = text.strip_prefix("-I ").map(str::trim_start) {
        let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
        // The place may follow, as in `-I CHAIN 1 …`.
        let (number, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        return Line::Rule(chain, if is_number { behind } else { rest });
    }
    // `:CHAIN - [0:0]` and `-N CHAIN` declare a chain, `Chain CHAIN (1 references)` and `Name: SET` are headings.
    let before =
        [":", "-N ", "-P ", "-F ", "-L ", "-S ", "-D ", "Chain ", "Name: ", "add ", "create ", "list ", "save "];
    // An address of IPv6 may begin with `::`.
    let behind = before.iter().find_map(|before| text.strip_prefix(before)).filter(|_| !text.starts_with("::"));
    let name = behind.unwrap_or(text);
    Line::Name(name.split_whitespace().next().unwrap_or_default())
}

/// The text without the program at its beginning that prints or takes such lines, and its table.
fn without_program(text: &str) -> &str {
    let text = text.strip_prefix("sudo ").unwrap_or(text).trim_start();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is_program = first.starts_with("iptables") || first.starts_with("ip6tables") || first == "ipset";
    if !is_program || rest.is_empty() {
        return text;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix("-w ").unwrap_or(rest).trim_start();
    rest.strip_prefix("-t filter ").unwrap_or(rest).trim_start()
}

/// Our chains and their rules.
#[must_use]
pub fn chains(family: Family, listed: &str) -> BTreeMap<ChainName, Vec<Rule>> {
    let mut chains: BTreeMap<ChainName, Vec<Rule>> =
        declared(listed).filter_map(ChainName::ours).map(|name| (name, Vec::new())).collect();
    for line in listed.lines() {
        if let Some((name, rule)) = printed(family, line) {
            chains.entry(name).or_default().push(rule);
        }
    }
    chains
}

/// How many packets the rules of each of these chains have dropped, if the chain is there. The
/// listing is that of `iptables -S CHAIN -v` or `iptables-save -c`.
#[must_use]
pub fn dropped(family: Family, listed: &str, of: &[ChainName]) -> BTreeMap<ChainName, u64> {
    let of = |name: &str| of.iter().find(|chain| chain.as_str() == name);
    let mut packets: BTreeMap<ChainName, u64> = declared(listed).filter_map(of).map(|name| (name.clone(), 0)).collect();
    for line in listed.lines() {
        let name = line.split_once("-A ").and_then(|(_, rest)| rest.split(' ').next());
        if let Some(name) = name.and_then(of)
            && let Some((line, count)) = without_counts(line)
            && let Some((_, Rule { target: Target::Drop, .. })) = printed(family, &line)
        {
            *packets.entry(name.clone()).or_default() += count;
        }
    }
    packets
}

/// The line of `[PACKETS:BYTES] -A CHAIN …`, as a save has it, or of
/// `-A CHAIN … -c PACKETS BYTES …`, as a list does, and the packets.
fn without_counts(line: &str) -> Option<(String, u64)> {
    if let Some((counters, rule)) = counters(line) {
        return Some((rule.to_owned(), counters.split_once(':')?.0.parse().ok()?));
    }
    let (before, rest) = line.rsplit_once(" -c ")?;
    let (packets, rest) = rest.split_once(' ')?;
    let (_, after) = rest.split_once(' ')?;
    Some((format!("{before} {after}"), packets.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Direction;
    use crate::ruleset::node::Foreign;

    #[test]
    fn packets_are_counted_as_either_tool_prints_them() {
        let list = "-N NPC-DENY-INGRESS\n-A NPC-DENY-INGRESS -c 12 720 -j DROP\n";
        let save = ":FORWARD ACCEPT [9:9]\n:NPC-DENY-INGRESS - [0:0]\n:NPC-DENY-EGRESS - [0:0]\n\
                    [1:2] -A FORWARD -j DROP\n[12:720] -A NPC-DENY-INGRESS -j DROP\n[3:4] -A NPC-I-X -j DROP\n\
                    [5:6] -A NPC-SPOOF -s 0.0.0.0/32 -j RETURN\n[7:8] -A NPC-SPOOF -m comment --comment \"a -c 1 2 \" -j DROP\n";
        let read = |listed| -> Vec<(String, u64)> {
            let chains = [ChainName::deny(Direction::Ingress), ChainName::deny(Direction::Egress), ChainName::spoof()];
            dropped(Family::V4, listed, &chains)
                .into_iter()
                .map(|(name, packets)| (name.to_string(), packets))
                .collect()
        };
        let ingress = || ("NPC-DENY-INGRESS".to_owned(), 12);
        assert_eq!(read(list), [ingress()]);
        assert_eq!(read(save), [("NPC-DENY-EGRESS".to_owned(), 0), ingress(), ("NPC-SPOOF".to_owned(), 7)]);
        let list = "-N NPC-SPOOF\n-A NPC-SPOOF -m comment --comment \"not -c the source\" -c 12 720 -j DROP\n";
        assert_eq!(read(list), [("NPC-SPOOF".to_owned(), 12)]);
    }

    #[test]
    fn a_built_in_chains_policy_is_read_as_either_tool_prints_it() {
        for (listed, policy) in [
            (":INPUT DROP [0:0]\n:FORWARD ACCEPT [9:9]\n", Some("ACCEPT")),
            ("*filter\n:FORWARD DROP [0:0]\n", Some("DROP")),
            ("-P INPUT ACCEPT\n-P FORWARD DROP\n", Some("DROP")),
            (":FORWARDED DROP [0:0]\n", None),
            ("-A FORWARD -j DROP\n", None),
            (":FORWARD\n", None),
        ] {
            assert_eq!(policy_of(listed, "FORWARD"), policy, "{listed}");
        }
    }

    #[test]
    fn only_counters_are_taken_from_a_line() {
        for (line, rule) in [
            ("[12:720] -A NPC-A -j DROP", "-A NPC-A -j DROP"),
            ("-A NPC-A -j DROP", "-A NPC-A -j DROP"),
            (":NPC-A - [0:0]", ":NPC-A - [0:0]"),
            ("[12] -A NPC-A", "[12] -A NPC-A"),
            ("[:] -A NPC-A", "[:] -A NPC-A"),
            ("[1:x] -A NPC-A", "[1:x] -A NPC-A"),
        ] {
            assert_eq!(without_counters(line), rule);
        }
    }

    #[test]
    fn only_chains_of_ours_are_read_and_nothing_of_them_is_dropped() {
        let save = "*filter\n:FORWARD ACCEPT [0:0]\n:NPC-A - [0:0]\n:NPC-B - [0:0]\n:KUBE-X - [0:0]\n\
                    -A FORWARD -j NPC-A\n-A NPC-A -j NPC-B\n-A NPC-A -m mark --mark 0x1 -j ACCEPT\n\
                    -A NPC-C -j KUBE-X\n-A KUBE-X -j RETURN\nCOMMIT\n";
        let chains = chains(Family::V4, save);
        let jump = Rule { matches: Vec::new(), target: Target::Jump(ChainName::new("B")) };
        let foreign = |line: &str| Rule::foreign(Foreign::Line(line.into()));
        let expected = [
            (ChainName::new("A"), vec![jump, foreign("-m mark --mark 0x1 -j ACCEPT")]),
            (ChainName::new("B"), vec![]),
            (ChainName::new("C"), vec![foreign("-j KUBE-X")]),
        ];
        assert_eq!(chains, expected.into());
        let with_counts = save.replace("\n-A ", "\n[12:720] -A ");
        assert_eq!(super::chains(Family::V4, &with_counts), chains);
    }

    #[test]
    fn rules_are_counted_by_what_they_are_in_and_lead_to() {
        let save = "*filter\n:NPC-FORWARD - [0:0]\n[1:2] -A FORWARD -j NPC-FORWARD\n-A FORWARD -j NPC-FORWARD2\n\
                    -A NPC-FORWARD -j RETURN\n-A FORWARD -m comment --comment \"-j NPC-FORWARD\" -j DROP\n-A X\nCOMMIT\n";
        assert_eq!(count_rules(save), (2, 3));
    }

    #[test]
    fn a_rule_leads_where_its_target_says_and_not_its_comment() {
        for (rule, leads) in [
            ("-j DROP", Some("DROP")),
            ("-s 10.0.0.1/32 -g KUBE-X", Some("KUBE-X")),
            ("-m comment --comment \"-j ACCEPT\" -j DROP", Some("DROP")),
            (r#"-m comment --comment "5\" -j AZURE-NPM" -j ACCEPT"#, Some("ACCEPT")),
            (r#"-m comment --comment "5\" wide" -j AZURE-NPM"#, Some("AZURE-NPM")),
            ("-m comment --comment -j -j DROP", Some("DROP")),
            (r#"-m string --string "-j X" --algo bm -j DROP"#, Some("DROP")),
            ("-m mark --mark 0x1", None),
            ("-j", None),
        ] {
            assert_eq!(target(rule).as_deref(), leads, "{rule}");
        }
    }
}
