//! What a kernel holds, as iptables-save and ipset save printed it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use npc_compiler::object::{Family, Protocol};
use npc_compiler::plan::KernelState;
use npc_compiler::ruleset::node::{InterfaceName, Member, SET_PREFIX_V6, SetKind, SetName};
use npc_compiler::ruleset::text;

use crate::command::{Exit, Stop};

/// Files with what the programs printed.
pub(super) struct Dumps<'a> {
    /// Of iptables-save and ip6tables-save.
    pub(super) iptables: &'a [PathBuf],
    /// Of ipset save.
    pub(super) ipset: Option<&'a Path>,
}

impl Dumps<'_> {
    /// What the kernel held of npc.
    pub(super) fn read(&self) -> anyhow::Result<KernelState> {
        let mut held = KernelState::default();
        for path in self.iptables {
            let text = read(path)?;
            held.family_mut(family(&text)).chains.extend(text::chains(family(&text), &text));
        }
        if held == KernelState::default() {
            let names: Vec<String> = self.iptables.iter().map(|path| path.display().to_string()).collect();
            let message = format!(
                "{} has no chain of npc; it must be what iptables-save prints (iptables-nft-save or \
                 iptables-legacy-save, by the agent's backend)",
                names.join(", ")
            );
            return Err(Stop::new(Exit::Input, message).into());
        }
        if let Some(path) = self.ipset {
            sets(&read(path)?, &mut held);
        }
        Ok(held)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let read = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stop = |error: &std::io::Error| Stop::new(Exit::Input, format!("cannot read {}: {error}", path.display()));
    read.map_err(|error| stop(&error)).context("a dump of the kernel")
}

/// The family of a dump, which does not say it: by what only IPv6 has.
fn family(text: &str) -> Family {
    let is_v6 = text.contains(SET_PREFIX_V6) || text.contains("ipv6-icmp") || text.contains("fe80::/10");
    if is_v6 { Family::V6 } else { Family::V4 }
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
