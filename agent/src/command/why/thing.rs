//! What is asked about: read from what the operator wrote.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use npc_agent::dataplane::other_programs::{NamedThing, ProgramNames, names_of};
use npc_compiler::ruleset::node::{ChainName, SetName};
use npc_compiler::ruleset::text::{Line, is_hook, line, target};

use crate::command::{Exit, Stop};

/// A thing of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
    /// A chain of npc.
    Chain(ChainName),
    /// A set of npc.
    Set(SetName),
    /// A rule: its chain, which is of npc, and the text behind the chain's name.
    Rule(ChainName, String),
    /// The jump to npc's chains, in FORWARD.
    Hook,
    /// An address.
    Address(IpAddr),
    /// A thing of another program.
    Other(OtherProgram),
}

/// A thing of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherProgram {
    /// `chain`, `set` or `rule`.
    pub(super) kind: &'static str,
    /// Its name; of a rule, the name of its chain.
    pub(super) name: String,
    /// The program, if its names are known.
    pub(super) owner: Option<&'static str>,
}

/// The kernel's own chains, in which a table begins at a hook.
const BUILT_IN: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

impl Thing {
    /// Reads it.
    pub(super) fn read(text: &str) -> Result<Self, Stop> {
        let text = text.trim();
        let name = match line(text) {
            Line::Rule(chain, rule) => return Ok(Self::rule(chain, rule)),
            Line::Name(name) => name,
        };
        if let Some(address) = address(name) {
            return Ok(Self::Address(address));
        }
        if let Some(chain) = ChainName::ours(name) {
            return Ok(Self::Chain(chain));
        }
        if let Some(set) = SetName::ours(name) {
            return Ok(Self::Set(set));
        }
        if let Some(ProgramNames { kind, program, .. }) = names_of(name) {
            let kind = match kind {
                NamedThing::Chain => "chain",
                NamedThing::Set => "set",
            };
            return Ok(Self::Other(OtherProgram { kind, name: name.to_owned(), owner: Some(*program) }));
        }
        if BUILT_IN.contains(&name) {
            return Ok(Self::Other(OtherProgram { kind: "chain", name: name.to_owned(), owner: Some("the kernel") }));
        }
        let message = format!(
            "{text:?} is no rule (-A CHAIN ...), no address, and no name that a chain or set of npc has (NPC-..., npc4-..., \
             npc6-...); the names of chains and sets are those that iptables-save and ipset list -name print{}",
            hint(text)
        );
        Err(Stop::new(Exit::Input, message))
    }

    fn rule(name: &str, rule: &str) -> Self {
        match ChainName::ours(name) {
            Some(chain) => Self::Rule(chain, rule.to_owned()),
            None if is_hook(name, rule) => Self::Hook,
            None => {
                let owner = owner(name).or_else(|| owner(&target(rule)?));
                Self::Other(OtherProgram { kind: "rule", name: name.to_owned(), owner })
            }
        }
    }
}

/// An address, also as a prefix of one address, with a port, or IPv4 in IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let (of, length) = text.split_once('/').map_or((text, None), |(of, length)| (of, Some(length)));
    let with_port = || text.parse::<SocketAddr>().ok().map(|of| of.ip());
    let address: IpAddr = of.parse().ok().or_else(with_port)?;
    let whole = if address.is_ipv4() { "32" } else { "128" };
    length.is_none_or(|length| length == whole).then(|| address.to_canonical())
}

/// What to ask in place of what is no thing of a kernel.
fn hint(text: &str) -> String {
    // A rule as iptables -L prints it, without its chain.
    if let Some(set) = text.split_once("match-set ").and_then(|(_, rest)| rest.split_whitespace().next()) {
        return format!("; of iptables -L, ask for the chain above this line, or for its set: npc why {set}");
    }
    if text.parse::<IpNetwork>().is_ok() {
        return "; of a prefix, ask for one of its addresses".to_owned();
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
    if !text.is_empty() && text.chars().all(is_name) {
        return format!("; of a pod or workload, ask npc explain {text}");
    }
    String::new()
}

/// The program whose chains or sets have such names.
fn owner(name: &str) -> Option<&'static str> {
    names_of(name).map(|names| names.program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_what_tools_print_of_it() {
        let chain = |name: &str| ChainName::ours(name).expect("a chain");
        let rule = Thing::Rule(chain("NPC-I-x"), "-p tcp -j RETURN".to_owned());
        let hook = "-A FORWARD -j NPC-FORWARD";
        for (text, expected) in [
            ("-A NPC-I-x -p tcp -j RETURN", &rule),
            ("[12:720] -A NPC-I-x -p tcp -j RETURN\n", &rule),
            (":NPC-I-x - [0:0]", &Thing::Chain(chain("NPC-I-x"))),
            ("-N NPC-I-x", &Thing::Chain(chain("NPC-I-x"))),
            ("npc4-p-x", &Thing::Set(SetName::ours("npc4-p-x").expect("a set"))),
            ("-I NPC-I-x 1 -p tcp -j RETURN", &rule),
            ("-I NPC-I-x -p tcp -j RETURN", &rule),
            (hook, &Thing::Hook),
            ("-I FORWARD 1 -j NPC-FORWARD", &Thing::Hook),
            ("Chain NPC-I-x (1 references)", &Thing::Chain(chain("NPC-I-x"))),
            ("-P NPC-I-x ACCEPT", &Thing::Chain(chain("NPC-I-x"))),
            ("iptables -w -t filter -A NPC-I-x -p tcp -j RETURN", &rule),
            ("iptables-nft -D NPC-I-x -p tcp -j RETURN", &rule),
            ("-D NPC-I-x 1", &Thing::Chain(chain("NPC-I-x"))),
            ("Name: npc4-p-x", &Thing::Set(SetName::ours("npc4-p-x").expect("a set"))),
            ("add npc4-p-x 10.0.0.1", &Thing::Set(SetName::ours("npc4-p-x").expect("a set"))),
            ("create npc4-p-x hash:ip family inet", &Thing::Set(SetName::ours("npc4-p-x").expect("a set"))),
            ("ipset list npc4-p-x", &Thing::Set(SetName::ours("npc4-p-x").expect("a set"))),
            ("fd00::1/128", &Thing::Address("fd00::1".parse().expect("an address"))),
            ("[fd00::1]:53", &Thing::Address("fd00::1".parse().expect("an address"))),
            ("10.0.0.1:53", &Thing::Address("10.0.0.1".parse().expect("an address"))),
            ("::1", &Thing::Address("::1".parse().expect("an address"))),
            ("-A NPC-I-x2", &Thing::Rule(chain("NPC-I-x2"), String::new())),
            ("::ffff:10.0.0.1", &Thing::Address("10.0.0.1".parse().expect("an address"))),
            (" fd00::1 ", &Thing::Address("fd00::1".parse().expect("an address"))),
        ] {
            assert_eq!(&Thing::read(text).expect(text), expected, "{text}");
        }
        for (text, kind, name, owner) in [
            ("KUBE-FORWARD", "chain", "KUBE-FORWARD", Some("kube-proxy or kubelet")),
            ("azure-npm-123", "set", "azure-npm-123", Some("Azure NPM")),
            ("kube-router-local-pods", "set", "kube-router-local-pods", Some("kube-router")),
            ("KUBE-SRC-AB", "set", "KUBE-SRC-AB", Some("kube-router")),
            ("cali-fw-cali1", "chain", "cali-fw-cali1", Some("Calico")),
            ("FORWARD", "chain", "FORWARD", Some("the kernel")),
            ("-A FORWARD -j KUBE-FORWARD", "rule", "FORWARD", Some("kube-proxy or kubelet")),
            ("-A FORWARD -p tcp -j ACCEPT", "rule", "FORWARD", None),
        ] {
            let other = OtherProgram { kind, name: name.to_owned(), owner };
            assert_eq!(Thing::read(text).expect(text), Thing::Other(other), "{text}");
        }
        for text in ["", "web", "shop/web", "10.0.0.0/8", "NPC", "-D", "-A", "add", "iptables", "Chain (1 references)"]
        {
            assert_eq!(Thing::read(text).map_err(|stop| stop.exit), Err(Exit::Input), "{text}");
        }
        for (text, says) in [
            ("shop/web", "ask npc explain shop/web"),
            ("10.0.0.0/8", "one of its addresses"),
            ("1 60 RETURN tcp -- * * 0.0.0.0/0 0.0.0.0/0 match-set npc4-p-x src", "npc why npc4-p-x"),
        ] {
            let message = hint(text);
            assert!(message.contains(says), "{message}");
        }
    }
}
