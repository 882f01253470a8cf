//! The program as text: what `iptables-restore` and `ipset restore` read, in
//! the very form in which `iptables-save` prints it back, so that a kernel can
//! be compared with a program line by line.

use std::fmt::{self, Write as _};

use ipnetwork::IpNetwork;

use crate::object::{Family, Protocol};
use crate::ruleset::program::{ChainName, FamilyProgram, Match, Rule, SetField, SetKind, SetName, Target};

/// The greatest number of members that a set of ours may have. A limit costs
/// nothing until it is used, and the default of 65,536 is soon too small.
pub const MAXELEM: u32 = 1 << 24;

/// The longest text that `-m comment` takes, in bytes (`XT_MAX_COMMENT_LEN`
/// less the final zero).
pub const COMMENT_MAX: usize = 255;

/// The group of NFLOG messages on which our rules tell of denied packets; a
/// number that nobody else is known to use.
pub const NFLOG_GROUP: u16 = 28272;

/// The device group of the interfaces of pods, by which rules know them: the
/// letters "npc", a number that nobody else is known to use.
///
/// A set could not hold them: one prefix, and so that of all addresses, goes
/// into a `hash:net,iface` with 64 interfaces at most. And a group goes with its
/// interface, where the next one of the same name would be taken for it.
pub const POD_GROUP: u32 = 0x6e_7063;

/// How many denied packets each rule tells of: in a second in the long run, and
/// at once. A client that is denied tries again every other second, so one line
/// of each of some dozen flows gets through, and a flood costs next to nothing.
const LIMIT: &str = "--limit 10/sec --limit-burst 50";

/// A classic BPF program that matches an IPv4 packet whose source (offset 12)
/// equals its destination (16).
const SELF_V4: &str = "6,32 0 0 16,7 0 0 0,32 0 0 12,29 0 1 0,6 0 0 1,6 0 0 0";

/// The same for IPv6: the four words of the source (offset 8) against those of
/// the destination (24).
const SELF_V6: &str = "18,32 0 0 24,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 28,7 0 0 0,32 0 0 12,29 0 9 0,\
                       32 0 0 32,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 36,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 1,6 0 0 0";

/// A classic BPF program that matches an IPv4 packet with an ICMP error, if the
/// packet that it quotes went to where the error comes from. The header may have
/// options, so its length goes into X first; then the type (a redirect, 5, is no
/// error), and the destination of the quoted packet (16 bytes into it, behind 8
/// of ICMP) against the source (offset 12).
const ERROR_V4: &str = "9,177 0 0 0,80 0 0 0,21 5 0 5,64 0 0 24,7 0 0 0,32 0 0 12,29 0 1 0,6 0 0 1,6 0 0 0";

/// The same for IPv6: ICMPv6 right behind the header (58 at offset 6), a type
/// below 128 (offset 40), and the four words of the quoted packet's destination
/// (24 bytes into it, which begins at 48) against those of the source (offset
/// 8).
const ERROR_V6: &str = "22,48 0 0 6,21 0 19 58,48 0 0 40,53 17 0 128,\
                        32 0 0 72,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 76,7 0 0 0,32 0 0 12,29 0 9 0,\
                        32 0 0 80,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 84,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 1,6 0 0 0";

/// The classic BPF program behind [`Match::ErrorFromQuotedDestination`], in the
/// text form of `-m bpf --bytecode`.
#[must_use]
pub fn error_bytecode(family: Family) -> &'static str {
    match family {
        Family::V4 => ERROR_V4,
        Family::V6 => ERROR_V6,
    }
}

/// The classic BPF program behind [`Match::SourceIsDestination`], in the text
/// form of `-m bpf --bytecode`.
#[must_use]
pub fn self_bytecode(family: Family) -> &'static str {
    match family {
        Family::V4 => SELF_V4,
        Family::V6 => SELF_V6,
    }
}

/// A rule as `iptables-save` prints it: `-A CHAIN … -j TARGET`.
#[must_use]
pub fn rule_line(family: Family, chain: &ChainName, rule: &Rule) -> String {
    let mut line = format!("-A {chain}");
    // iptables prints addresses and the protocol before all matches.
    for m in &rule.matches {
        match m {
            Match::Source(prefix) => push(&mut line, format_args!(" -s {}", Canonical(prefix))),
            Match::Destination(prefix) => push(&mut line, format_args!(" -d {}", Canonical(prefix))),
            Match::Protocol(protocol) => push(&mut line, format_args!(" -p {}", protocol.lower())),
            Match::ProtocolNumber(number) => push(&mut line, format_args!(" -p {number}")),
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
            Match::Icmpv6Type(kind) => push(&mut line, format_args!(" -m icmp6 --icmpv6-type {kind}")),
            Match::DestinationPorts(ranges) => ports(&mut line, protocol, ranges),
            Match::ToBroadcast => line.push_str(" -m addrtype --dst-type BROADCAST"),
            Match::SourceIsDestination => {
                push(&mut line, format_args!(" -m bpf --bytecode \"{}\"", self_bytecode(family)));
            }
            Match::ErrorFromQuotedDestination => {
                push(&mut line, format_args!(" -m bpf --bytecode \"{}\"", error_bytecode(family)));
            }
            Match::HopLimit255 => line.push_str(" -m hl --hl-eq 255"),
            Match::Length(first, last) => push(&mut line, format_args!(" -m length --length {first}:{last}")),
            Match::NotLength(first, last) => push(&mut line, format_args!(" -m length ! --length {first}:{last}")),
            Match::Set(name, field) => push(&mut line, format_args!(" -m set --match-set {name} {}", fields(*field))),
            Match::NotInSet(name, field) => {
                push(&mut line, format_args!(" -m set ! --match-set {name} {}", fields(*field)));
            }
            Match::FromPods => push(&mut line, format_args!(" -m devgroup --src-group {POD_GROUP:#x}")),
            Match::NotFromPods => push(&mut line, format_args!(" -m devgroup ! --src-group {POD_GROUP:#x}")),
            Match::Limited => push(&mut line, format_args!(" -m limit {LIMIT}")),
            Match::Comment(text) => push(&mut line, format_args!(" -m comment --comment {}", quoted(text))),
        }
    }
    match &rule.target {
        Target::Return => line.push_str(" -j RETURN"),
        Target::Drop => line.push_str(" -j DROP"),
        // The reader knows the direction and the group by the chain.
        Target::Log => push(&mut line, format_args!(" -j NFLOG --nflog-prefix {chain} --nflog-group {NFLOG_GROUP}")),
        Target::Jump(chain) => push(&mut line, format_args!(" -j {chain}")),
        Target::Goto(chain) => push(&mut line, format_args!(" -g {chain}")),
    }
    line
}

/// The rules of a chain as `iptables-save` prints them.
#[must_use]
pub fn rule_lines(family: Family, chain: &ChainName, rules: &[Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule_line(family, chain, rule)).collect()
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
pub(crate) fn quoted(text: &str) -> String {
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
    let safe = |c: char| if c.is_ascii_alphanumeric() || " -_./,:;()".contains(c) { c } else { '_' };
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

impl FamilyProgram {
    /// The chains as input of `iptables-restore --noflush` (of
    /// `ip6tables-restore` for IPv6).
    #[must_use]
    pub fn restore_text(&self) -> String {
        let mut text = String::from("*filter\n");
        for chain in self.chains.keys() {
            push(&mut text, format_args!(":{chain} - [0:0]\n"));
        }
        for (chain, rules) in &self.chains {
            for rule in rules {
                push(&mut text, format_args!("{}\n", rule_line(self.family, chain, rule)));
            }
        }
        text.push_str("COMMIT\n");
        text
    }

    /// The sets as input of `ipset restore`.
    #[must_use]
    pub fn ipset_text(&self) -> String {
        let mut text = String::new();
        for (name, set) in &self.sets {
            push(&mut text, format_args!("{}\n", create_line(name, self.family, set.kind)));
            for member in &set.members {
                push(&mut text, format_args!("add {name} {member}\n"));
            }
        }
        text
    }
}
