//! The text of a rule that goes into the name of its chain.
//!
//! A group chain is named by a hash of its rules, so that a chain that is being replaced and the one
//! that replaces it have two names. **This encoding is frozen**: another spelling of one rule renames
//! the group chains that have it on every node, and with them the counters and the chains that
//! operators look for. It is what `iptables-save` printed of these rules when the names were chosen,
//! in a chain without a name, and it stays that, however npc spells rules for iptables.
//!
//! A kind of match that group chains begin to have gets an encoding here, once.

use std::fmt::Write as _;

use crate::ruleset::rule::{Foreign, Match, Rule, SetField, Target};

/// What stands where no kind of match has an encoding: a sign that no name and no comment has.
const UNENCODED: char = '?';

/// The encoding of a rule of a group chain.
pub(crate) fn name_encoding(rule: &Rule) -> String {
    let mut text = String::with_capacity(128);
    text.push_str("-A NPC-");
    let mut protocol = "";
    for one in &rule.matches {
        match one {
            Match::Protocol(of) => {
                protocol = of.lower();
                let _ = write!(text, " -p {protocol}");
            }
            Match::ProtocolNumber(number) => {
                let _ = write!(text, " -p {number}");
            }
            Match::NotSyn => text.push_str(" -p tcp"),
            _ => {}
        }
    }
    for one in &rule.matches {
        // Writing to a String cannot fail.
        let _ = match one {
            Match::Protocol(_) | Match::ProtocolNumber(_) => Ok(()),
            Match::DestinationPorts(ranges) => {
                push_ports(&mut text, protocol, ranges);
                Ok(())
            }
            Match::NotSyn => write!(text, " -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"),
            Match::NewOrInvalid => write!(text, " -m conntrack --ctstate INVALID,NEW"),
            Match::Set(name, field) => write!(text, " -m set --match-set {name} {}", field_text(*field)),
            Match::Limited => write!(text, " -m limit --limit 10/sec --limit-burst 50"),
            Match::Comment(comment) if is_bare(comment) => write!(text, " -m comment --comment {comment}"),
            Match::Comment(comment) => write!(text, " -m comment --comment \"{comment}\""),
            // What no group chain has.
            Match::EstablishedOrRelated
            | Match::Established
            | Match::RelatedError
            | Match::Translated
            | Match::Source(_)
            | Match::Destination(_)
            | Match::Icmpv6Type(_)
            | Match::ToBroadcast
            | Match::SourceIsDestination
            | Match::ErrorFromQuotedDestination
            | Match::HopLimit255
            | Match::Length(..)
            | Match::NotLength(..)
            | Match::NotInSet(..)
            | Match::FromPods
            | Match::NotFromPods => write!(text, " {UNENCODED}{one:?}"),
        };
    }
    let _ = match &rule.target {
        Target::Return => write!(text, " -j RETURN"),
        Target::Drop => write!(text, " -j DROP"),
        Target::Log => write!(text, " -j NFLOG --nflog-prefix NPC- --nflog-group 28272"),
        Target::Jump(chain) => write!(text, " -j {chain}"),
        Target::Goto(chain) => write!(text, " -g {chain}"),
        Target::Foreign(Foreign::Line(_) | Foreign::Unprintable) => write!(text, " {UNENCODED}{:?}", rule.target),
    };
    text
}

/// Ports: by TCP's or UDP's own match if there is one range.
fn push_ports(text: &mut String, protocol: &str, ranges: &[(u16, u16)]) {
    let _ = match (protocol, ranges) {
        ("tcp" | "udp", [_]) => write!(text, " -m {protocol} --dport "),
        _ => write!(text, " -m multiport --dports "),
    };
    for (place, (first, last)) in ranges.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}:{last}") };
    }
}

/// Whether a comment stood without quotes.
fn is_bare(comment: &str) -> bool {
    !comment.is_empty() && comment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

const fn field_text(field: SetField) -> &'static str {
    match field {
        SetField::Source => "src",
        SetField::Destination => "dst",
        SetField::DestinationPort => "dst,dst",
        SetField::SourceInterface => "src,src",
    }
}

/// Whether each part of a rule has an encoding that is frozen.
#[cfg(test)]
pub(crate) fn is_encoded(rule: &Rule) -> bool {
    !name_encoding(rule).contains(UNENCODED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Protocol;
    use crate::policy::Direction;
    use crate::ruleset::names::hash::FieldHasher;
    use crate::ruleset::node::{ChainName, SetName};

    /// Each form that a rule of a group chain has. A line here never changes.
    #[test]
    fn the_encoding_is_what_it_was() {
        let set = SetName::ours("npc6-p-abc").expect("it is ours");
        let comment = |text: &str| Match::Comment(text.into());
        let deny = || Target::Goto(ChainName::deny(Direction::Ingress));
        for (matches, target, expected) in [
            (vec![], Target::Return, "-A NPC- -j RETURN"),
            (
                vec![
                    Match::Protocol(Protocol::Tcp),
                    Match::DestinationPorts(vec![(80, 80)]),
                    Match::Set(set.clone(), SetField::Source),
                    comment("shop/db spec.ingress[0]"),
                ],
                Target::Return,
                "-A NPC- -p tcp -m tcp --dport 80 -m set --match-set npc6-p-abc src -m comment --comment \
                 \"shop/db spec.ingress[0]\" -j RETURN",
            ),
            (
                vec![
                    Match::Protocol(Protocol::Udp),
                    Match::DestinationPorts(vec![(1, 52), (54, 65535)]),
                    Match::Set(set.clone(), SetField::Destination),
                ],
                Target::Return,
                "-A NPC- -p udp -m multiport --dports 1:52,54:65535 -m set --match-set npc6-p-abc dst -j RETURN",
            ),
            (
                vec![Match::Protocol(Protocol::Udp), Match::DestinationPorts(vec![(8000, 8100)])],
                Target::Return,
                "-A NPC- -p udp -m udp --dport 8000:8100 -j RETURN",
            ),
            (
                vec![Match::Protocol(Protocol::Sctp), Match::DestinationPorts(vec![(9, 9)])],
                Target::Return,
                "-A NPC- -p sctp -m multiport --dports 9 -j RETURN",
            ),
            (
                vec![Match::Set(set, SetField::DestinationPort), comment("a-b")],
                Target::Return,
                "-A NPC- -m set --match-set npc6-p-abc dst,dst -m comment --comment a-b -j RETURN",
            ),
            (
                vec![Match::NotSyn, Match::NewOrInvalid],
                Target::Jump(ChainName::stray_of(Direction::Egress)),
                "-A NPC- -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate INVALID,NEW -j \
                 NPC-STRAY-EGRESS",
            ),
            (
                vec![Match::ProtocolNumber(4), Match::Limited],
                Target::Log,
                "-A NPC- -p 4 -m limit --limit 10/sec --limit-burst 50 -j NFLOG --nflog-prefix NPC- --nflog-group \
                 28272",
            ),
            (
                vec![Match::ProtocolNumber(47), comment("a tunnel past policies")],
                deny(),
                "-A NPC- -p 47 -m comment --comment \"a tunnel past policies\" -g NPC-DENY-INGRESS",
            ),
        ] {
            let rule = Rule { matches, target };
            assert_eq!(name_encoding(&rule), expected);
            assert!(is_encoded(&rule), "{expected}");
        }
        let unencoded = Rule { matches: vec![Match::FromPods], target: Target::Return };
        assert!(!is_encoded(&unencoded));
    }

    /// The name of a chain with one rule, as agents that run have it.
    #[test]
    fn a_chains_name_is_what_it_was() {
        let rule = Rule { matches: vec![Match::Protocol(Protocol::Tcp)], target: Target::Return };
        let mut fields = FieldHasher::of("chain");
        fields.add(name_encoding(&rule));
        let name = ChainName::group(Direction::Ingress, &fields.finish());
        assert_eq!(name.as_str(), "NPC-I-5s5wm75avezobhsy");
    }
}
