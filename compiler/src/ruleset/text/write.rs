//! From a ruleset to its text.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};

use ipnetwork::IpNetwork;

use super::{COMMENT_MAX, UNPRINTABLE, error_bytecode, self_bytecode};
use crate::object::{Family, Protocol};
use crate::ruleset::constants::{MAXELEM, NFLOG_GROUP, POD_GROUP};
use crate::ruleset::node::{
    ChainName, FamilyRuleset, Foreign, Match, Member, Rule, SetField, SetKind, SetName, Target,
};

/// How many denied packets each rule reports: in a second in the long run, and
/// at once. A client that is denied tries again every other second, so one line
/// of each of some dozen flows gets through, and a flood costs next to nothing.
const LIMIT: &str = "--limit 10/sec --limit-burst 50";

/// A rule as `iptables-save` prints it: `-A CHAIN … -j TARGET`. One that iptables cannot
/// print is in words, which no restore takes.
#[must_use]
pub fn rule_line(family: Family, chain: &ChainName, rule: &Rule) -> String {
    if rule.target == Target::Foreign(Foreign::Unprintable) {
        return UNPRINTABLE.to_owned();
    }
    let mut line = String::with_capacity(128);
    line.extend(["-A ", chain.as_str()]);
    push_rule(&mut line, family, chain, rule);
    line
}

/// The part of [`rule_line`] that follows the chain's name.
#[must_use]
pub fn rule_text(family: Family, chain: &ChainName, rule: &Rule) -> String {
    let mut text = String::with_capacity(128);
    push_rule(&mut text, family, chain, rule);
    text.trim_start().to_owned()
}

/// Adds a rule as it is in a chain, from behind the chain's name: a rule that logs says
/// which chain it is in.
fn push_rule(line: &mut String, family: Family, as_in: &ChainName, rule: &Rule) {
    // iptables prints addresses and the protocol before all matches.
    for m in &rule.matches {
        match m {
            Match::Source(prefix) => push(line, format_args!(" -s {}", Canonical(prefix))),
            Match::Destination(prefix) => push(line, format_args!(" -d {}", Canonical(prefix))),
            Match::Protocol(protocol) => push(line, format_args!(" -p {}", protocol.lower())),
            Match::ProtocolNumber(number) => push(line, format_args!(" -p {number}")),
            Match::NotSyn => line.push_str(" -p tcp"),
            Match::RelatedError => line.push_str(match family {
                Family::V4 => " -p icmp",
                Family::V6 => " -p ipv6-icmp",
            }),
            Match::Icmpv6Type(_) => line.push_str(" -p ipv6-icmp"),
            _ => {}
        }
    }
    let mut protocol = None;
    for m in &rule.matches {
        match m {
            Match::Source(_) | Match::Destination(_) | Match::ProtocolNumber(_) => {}
            Match::Protocol(p) => protocol = Some(*p),
            Match::EstablishedOrRelated => line.push_str(" -m conntrack --ctstate RELATED,ESTABLISHED"),
            Match::Established => line.push_str(" -m conntrack --ctstate ESTABLISHED"),
            Match::RelatedError => line.push_str(" -m conntrack --ctstate RELATED"),
            Match::Translated => line.push_str(" -m conntrack --ctstate DNAT"),
            Match::NewOrInvalid => line.push_str(" -m conntrack --ctstate INVALID,NEW"),
            Match::NotSyn => line.push_str(" -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
            Match::Icmpv6Type(kind) => push(line, format_args!(" -m icmp6 --icmpv6-type {kind}")),
            Match::DestinationPorts(ranges) => ports(line, protocol, ranges),
            Match::ToBroadcast => line.push_str(" -m addrtype --dst-type BROADCAST"),
            Match::SourceIsDestination => {
                push(line, format_args!(" -m bpf --bytecode \"{}\"", self_bytecode(family)));
            }
            Match::ErrorFromQuotedDestination => {
                push(line, format_args!(" -m bpf --bytecode \"{}\"", error_bytecode(family)));
            }
            Match::HopLimit255 => line.push_str(" -m hl --hl-eq 255"),
            Match::Length(first, last) => push(line, format_args!(" -m length --length {first}:{last}")),
            Match::NotLength(first, last) => push(line, format_args!(" -m length ! --length {first}:{last}")),
            Match::Set(name, field) => push(line, format_args!(" -m set --match-set {name} {}", fields(*field))),
            Match::NotInSet(name, field) => {
                push(line, format_args!(" -m set ! --match-set {name} {}", fields(*field)));
            }
            Match::FromPods => push(line, format_args!(" -m devgroup --src-group {POD_GROUP:#x}")),
            Match::NotFromPods => push(line, format_args!(" -m devgroup ! --src-group {POD_GROUP:#x}")),
            Match::Limited => push(line, format_args!(" -m limit {LIMIT}")),
            Match::Comment(text) => push(line, format_args!(" -m comment --comment {}", quoted(text))),
        }
    }
    match &rule.target {
        Target::Return => line.push_str(" -j RETURN"),
        Target::Drop => line.push_str(" -j DROP"),
        // The reader knows the direction and the group by the chain.
        Target::Log => push(line, format_args!(" -j NFLOG --nflog-prefix {as_in} --nflog-group {NFLOG_GROUP}")),
        Target::Jump(chain) => push(line, format_args!(" -j {chain}")),
        Target::Goto(chain) => push(line, format_args!(" -g {chain}")),
        Target::Foreign(Foreign::Line(text)) if text.is_empty() => {}
        Target::Foreign(Foreign::Line(text)) => line.extend([" ", text]),
        Target::Foreign(Foreign::Unprintable) => line.extend([" ", UNPRINTABLE]),
    }
}

/// Ports by the protocol's own match where it takes them, else by multiport.
/// SCTP always by multiport, because kernels without `xt_sctp` have that.
fn ports(line: &mut String, protocol: Option<Protocol>, ranges: &[(u16, u16)]) {
    match (protocol, ranges) {
        (Some(protocol @ (Protocol::Tcp | Protocol::Udp)), [range]) => {
            push(line, format_args!(" -m {} --dport {}", protocol.lower(), PortRange(*range)));
        }
        _ => {
            line.push_str(" -m multiport --dports ");
            for (i, range) in ranges.iter().enumerate() {
                push(line, format_args!("{}{}", if i == 0 { "" } else { "," }, PortRange(*range)));
            }
        }
    }
}

/// The fields that a set is asked about, as iptables spells them.
const fn fields(field: SetField) -> &'static str {
    match field {
        SetField::Source => "src",
        SetField::Destination => "dst",
        SetField::DestinationPort => "dst,dst",
        SetField::SourceInterface => "src,src",
    }
}

fn push(line: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = line.write_fmt(text);
}

struct PortRange((u16, u16));

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}:{last}") }
    }
}

/// A prefix as iptables prints it.
struct Canonical<'a>(&'a IpNetwork);

impl fmt::Display for Canonical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.network(), self.0.prefix())
    }
}

/// A string argument as iptables prints it: bare where nothing needs quotes.
pub(super) fn quoted(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') && !text.is_empty() {
        text.to_owned()
    } else {
        format!("\"{text}\"")
    }
}

/// A comment that is safe in a restore line: what could end the string or the
/// line is replaced, and too long a text is cut.
#[must_use]
pub fn comment(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || " -_./,:;()[]+".contains(c) { c } else { '_' };
    let mut safe: String = text.chars().map(safe).collect();
    if safe.len() > COMMENT_MAX {
        safe.truncate(COMMENT_MAX - 3);
        safe.push_str("...");
    }
    safe
}

/// The line that creates a set.
#[must_use]
pub fn create_line(name: &SetName, family: Family, kind: SetKind) -> String {
    let family = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    format!("create {name} {} family {family} maxelem {MAXELEM}", kind.as_str())
}

/// The line that adds a member to a set.
#[must_use]
pub fn add_line(name: &SetName, member: &Member) -> String {
    format!("add {name} {member}")
}

/// The line that removes a member from a set.
#[must_use]
pub fn delete_line(name: &SetName, member: &Member) -> String {
    format!("del {name} {member}")
}

/// The line that destroys a set.
#[must_use]
pub fn destroy_line(name: &SetName) -> String {
    format!("destroy {name}")
}

/// Input of `iptables-restore --noflush` that prints these chains and changes nothing. The
/// counters of the rules are printed too, if asked.
#[must_use]
pub fn list_text<'a>(chains: impl IntoIterator<Item = &'a ChainName>, with_counters: bool) -> String {
    let option = if with_counters { " -v" } else { "" };
    let mut text = String::from("*filter\n");
    for chain in chains {
        push(&mut text, format_args!("-S {chain}{option}\n"));
    }
    text.push_str("COMMIT\n");
    text
}

/// Rules of chains as input of `iptables-restore --noflush`.
///
/// With that flag a chain's declaration creates or empties it, and no other chain is
/// touched.
#[derive(Debug)]
pub struct Restore {
    family: Family,
    text: String,
}

impl Restore {
    /// A restore that declares these chains.
    #[must_use]
    pub fn of<'a>(family: Family, chains: impl IntoIterator<Item = &'a ChainName>) -> Self {
        let mut text = String::from("*filter\n");
        for chain in chains {
            text.extend([":", chain.as_str(), " - [0:0]\n"]);
        }
        Self { family, text }
    }

    /// Adds these rules at the end of a chain.
    pub fn rules<R: Borrow<Rule>>(&mut self, chain: &ChainName, rules: impl IntoIterator<Item = R>) {
        for rule in rules {
            self.rule_as_in(chain, chain, rule.borrow());
        }
    }

    /// Adds a rule at the end of a chain with the text that it has in another.
    pub fn rule_as_in(&mut self, chain: &ChainName, as_in: &ChainName, rule: &Rule) {
        self.text.extend(["-A ", chain.as_str()]);
        push_rule(&mut self.text, self.family, as_in, rule);
        self.text.push('\n');
    }

    /// Deletes a chain, which has to be empty: declared here, or so in the kernel.
    pub fn delete(&mut self, chain: &ChainName) {
        self.text.extend(["-X ", chain.as_str(), "\n"]);
    }

    /// The text.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.text.push_str("COMMIT\n");
        self.text
    }
}

impl FamilyRuleset {
    /// The chains as input of `iptables-restore --noflush` (of
    /// `ip6tables-restore` for IPv6).
    #[must_use]
    pub fn restore_text(&self) -> String {
        let mut restore = Restore::of(self.family, self.chains.keys());
        for (chain, rules) in &self.chains {
            restore.rules(chain, rules);
        }
        restore.finish()
    }

    /// The sets as input of `ipset restore`.
    #[must_use]
    pub fn ipset_text(&self) -> String {
        let mut text = String::new();
        for (name, set) in &self.sets {
            push(&mut text, format_args!("{}\n", create_line(name, self.family, set.kind)));
            for member in &set.members {
                text.extend([&add_line(name, member), "\n"]);
            }
        }
        text
    }
}
