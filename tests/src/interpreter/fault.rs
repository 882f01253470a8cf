//! What the kernel or the tools would refuse in a ruleset.

use std::collections::BTreeMap;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{
    ChainName, FORWARD_CHAIN, FamilyRuleset, Match, Member, NodeRuleset, Rule, Set, SetField, SetKind, Target,
};

/// The most chains that a packet may be inside of at once, FORWARD included:
/// nft refuses a hook that leads deeper, goto counting as much as jump.
const DEEPEST: usize = 16;

/// The most slots of one multiport match; a range takes two.
const MULTIPORT_SLOTS: usize = 15;

/// The longest comment.
const LONGEST_COMMENT: usize = 255;

/// Everything that keeps a ruleset from being loaded, in words; nothing for a
/// good one.
#[must_use]
pub fn faults(ruleset: &NodeRuleset) -> Vec<String> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let part = ruleset.family(family);
        if part.family != family {
            all.push(format!("the {family} part says that it is {}", part.family));
        }
        let mut found = Vec::new();
        sets(part, &mut found);
        chains(part, &mut found);
        all.extend(found.into_iter().map(|fault| format!("{family}: {fault}")));
    }
    all
}

fn sets(ruleset: &FamilyRuleset, found: &mut Vec<String>) {
    for (name, set) in &ruleset.sets {
        for member in &set.members {
            if let Some(fault) = member_fault(ruleset.family, set, member) {
                found.push(format!("set {name}: {member}: {fault}"));
            }
        }
    }
}

fn member_fault(family: Family, set: &Set, member: &Member) -> Option<&'static str> {
    let (address, fits) = match member {
        Member::Address(address) => (*address, matches!(set.kind, SetKind::HashIp | SetKind::HashNet)),
        Member::Prefix(prefix) => (prefix.ip(), set.kind == SetKind::HashNet),
        Member::AddressPort(address, _, _) => (*address, set.kind == SetKind::HashIpPort),
        Member::PrefixInterface(both) => (both.0.ip(), set.kind == SetKind::HashNetIface),
    };
    if !fits {
        return Some("not a member of this type of set");
    }
    if Family::of(&address) != family {
        return Some("of the other family");
    }
    match member {
        Member::Prefix(prefix) if prefix.prefix() == 0 => Some("the kernel refuses length 0"),
        Member::Prefix(prefix) if prefix.network() != prefix.ip() => Some("host bits are set"),
        Member::PrefixInterface(both) if both.0.network() != both.0.ip() => Some("host bits are set"),
        Member::Prefix(prefix) if Member::from(*prefix) != *member => Some("comes back from the kernel as an address"),
        Member::Address(address) if set.kind == SetKind::HashIp && address.is_unspecified() => {
            Some("the kernel refuses the null address")
        }
        _ => None,
    }
}

fn chains(ruleset: &FamilyRuleset, found: &mut Vec<String>) {
    for (name, rules) in &ruleset.chains {
        for (index, rule) in rules.iter().enumerate() {
            let mut faults = Vec::new();
            rule_faults(ruleset, rule, &mut faults);
            found.extend(faults.into_iter().map(|fault| format!("{name} rule {index}: {fault}")));
        }
    }
    let Some((forward, _)) = ruleset.chains.iter().find(|(name, _)| name.as_str() == FORWARD_CHAIN) else {
        found.push(format!("no chain {FORWARD_CHAIN}"));
        return;
    };
    let mut depths = BTreeMap::new();
    // FORWARD itself is one level.
    match depth(ruleset, forward, &mut depths) {
        None => found.push("chains lead in a circle".to_owned()),
        Some(below) if below + 1 > DEEPEST => found.push(format!("chains nest {} deep", below + 1)),
        Some(_) => {}
    }
}

fn rule_faults(ruleset: &FamilyRuleset, rule: &Rule, found: &mut Vec<String>) {
    if let Target::Foreign(what) = &rule.target {
        found.push(format!("{what:?} is not ours"));
    }
    if let Target::Jump(to) | Target::Goto(to) = &rule.target
        && !ruleset.chains.contains_key(to)
    {
        found.push(format!("no chain {to}"));
    }
    for (index, one) in rule.matches.iter().enumerate() {
        let fault = match one {
            Match::Source(prefix) | Match::Destination(prefix) if Family::of(&prefix.ip()) != ruleset.family => {
                Some("of the other family")
            }
            Match::Icmpv6Type(_) if ruleset.family == Family::V4 => Some("ICMPv6 in an IPv4 packet"),
            Match::HopLimit255 if ruleset.family == Family::V4 => Some("a hop limit in an IPv4 packet"),
            Match::Length(first, last) | Match::NotLength(first, last) if first > last => Some("an empty range"),
            Match::Icmpv6Type(_)
            | Match::Protocol(_)
            | Match::ProtocolNumber(_)
            | Match::NotSyn
            | Match::RelatedError
                if protocols(rule) > 1 =>
            {
                Some("two protocols")
            }
            Match::DestinationPorts(_) if !rule.matches[..index].iter().any(|m| matches!(m, Match::Protocol(_))) => {
                Some("ports before a protocol")
            }
            Match::DestinationPorts(ranges) => ports_fault(ranges),
            Match::Comment(text) if text.len() > LONGEST_COMMENT => Some("the comment is too long"),
            Match::Set(name, field) | Match::NotInSet(name, field) => match ruleset.sets.get(name) {
                None => Some("no such set"),
                Some(set) => {
                    let fits = match field {
                        SetField::Source | SetField::Destination => {
                            matches!(set.kind, SetKind::HashIp | SetKind::HashNet)
                        }
                        SetField::DestinationPort => set.kind == SetKind::HashIpPort,
                        SetField::SourceInterface => set.kind == SetKind::HashNetIface,
                    };
                    (!fits).then_some("the set has other fields")
                }
            },
            _ => None,
        };
        found.extend(fault.map(|fault| format!("{one:?}: {fault}")));
    }
}

fn protocols(rule: &Rule) -> usize {
    let is_protocol = |one: &&Match| {
        matches!(
            one,
            Match::Protocol(_) | Match::ProtocolNumber(_) | Match::NotSyn | Match::Icmpv6Type(_) | Match::RelatedError
        )
    };
    rule.matches.iter().filter(is_protocol).count()
}

fn ports_fault(ranges: &[(u16, u16)]) -> Option<&'static str> {
    let slots: usize = ranges.iter().map(|(first, last)| if first == last { 1 } else { 2 }).sum();
    if ranges.is_empty() {
        Some("no port")
    } else if ranges.iter().any(|(first, last)| first > last) {
        Some("an empty range")
    } else if ranges.len() > 1 && slots > MULTIPORT_SLOTS {
        Some("too many ports for one match")
    } else if !ranges.is_sorted_by(|one, next| one.1 < next.0) {
        Some("not sorted and disjoint")
    } else {
        None
    }
}

/// How many chains nest from this one on, itself included; `None` in a circle. `depths` holds
/// `None` for the chains whose depth is being computed.
fn depth<'a>(
    ruleset: &'a FamilyRuleset,
    chain: &'a ChainName,
    depths: &mut BTreeMap<&'a ChainName, Option<usize>>,
) -> Option<usize> {
    if let Some(known) = depths.get(chain) {
        return *known;
    }
    depths.insert(chain, None);
    let mut deepest = 0;
    for rule in ruleset.chains.get(chain).into_iter().flatten() {
        if let Target::Jump(to) | Target::Goto(to) = &rule.target {
            deepest = deepest.max(depth(ruleset, to, depths)?);
        }
    }
    depths.insert(chain, Some(deepest + 1));
    Some(deepest + 1)
}
