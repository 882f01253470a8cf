//! What `iptables-save` and `ipset save` print, read by a program that does not know the kernel
//! it is of.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use super::listing::rules;
use super::words::options;
use crate::object::{Family, Protocol};
use crate::ruleset::node::{ChainName, InterfaceName, Member, SetKind, SetName};
use crate::ruleset::state::KernelState;

/// The family of a dump, which does not say it: that of the first rule of npc that shows one.
#[must_use]
pub fn dump_family(dump: &str) -> Family {
    let mut ours = rules(dump).filter(|(chain, _)| ChainName::ours(chain).is_some());
    ours.find_map(|(_, rule)| family_of(rule)).unwrap_or(Family::V4)
}

/// The family of a rule of npc, where its text shows one: by its sets, addresses and protocol.
/// Names of policies, which stand in comments, decide nothing.
#[must_use]
pub fn family_of(rule: &str) -> Option<Family> {
    options(rule).find_map(|(option, value)| {
        let value = value?.text;
        match &*option.text {
            "--match-set" => SetName::ours(&value).map(|set| set.family()),
            "-s" | "-d" => value.parse::<IpNetwork>().ok().map(|prefix| Family::of(&prefix.ip())),
            "-p" if value == "ipv6-icmp" || value == "icmpv6" => Some(Family::V6),
            "-p" if value == "icmp" => Some(Family::V4),
            _ => None,
        }
    })
}

/// Adds the sets of npc in what `ipset save` printed to a ruleset.
pub fn read_sets(saved: &str, actual: &mut KernelState) {
    for line in saved.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(command), Some(name), Some(third)) = (words.next(), words.next(), words.next()) else { continue };
        let Some(name) = SetName::ours(name) else { continue };
        let sets = &mut actual.family_mut(name.family()).sets;
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

#[cfg(test)]
mod tests {
    use super::super::{add_line, create_line};
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
    fn members_are_read_as_ipset_prints_them() {
        for text in ["10.0.0.1", "10.0.0.0/8", "10.0.0.1,6:80", "fd00::1,132:80", "10.0.0.0/8,azv1"] {
            assert_eq!(member(text).expect(text).to_string(), text);
        }
        assert_eq!(member("10.0.0.1,tcp:80"), member("10.0.0.1,6:80"));
        for other in ["x", "10.0.0.1,esp:1", "10.0.0.1,tcp:x", ""] {
            assert_eq!(member(other), None, "{other}");
        }
    }

    #[test]
    fn sets_are_read_as_they_are_written() {
        let set = SetName::new(Family::V6, "p-x");
        let member = Member::Address("fd00::1".parse().expect("an address"));
        let lines = [
            create_line(&set, Family::V6, SetKind::HashIp),
            add_line(&set, &member),
            "create other hash:ip family inet".to_owned(),
            "add npc4-nowhere 10.0.0.1".to_owned(),
        ];
        let mut actual = KernelState::default();
        read_sets(&lines.join("\n"), &mut actual);
        assert_eq!(actual.v6.sets, [(set, (SetKind::HashIp, [member].into()))].into());
        assert!(actual.v4.sets.is_empty());
    }
}
