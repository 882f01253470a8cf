//! From a line of `iptables-save` to the rule that it was.

use std::borrow::Cow;

use ipnetwork::IpNetwork;

use super::spelling::canonical;
use super::words;
use super::{error_bytecode, rule_line, self_bytecode};
use crate::object::{Family, Protocol};
use crate::ruleset::constants::POD_GROUP;
use crate::ruleset::node::{ChainName, Foreign, Match, Rule, SetField, SetName, Target};

/// A line that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} is not what npc writes in a rule: {line}")]
pub struct Error {
    /// What was not expected.
    found: String,
    /// The whole line.
    line: String,
}

/// What iptables prints of a rule behind its chain's name, read as a rule of this chain.
/// What npc does not write so is a foreign rule.
#[must_use]
pub fn printed_in(family: Family, chain: &ChainName, text: &str) -> Rule {
    let line = canonical(&format!("-A {chain} {text}"));
    // What is read is written again, because reading is lenient: a limit of other numbers,
    // or the program of another family, must not pass for a rule of ours.
    let ours = rule(&line).ok().map(|(_, rule)| rule).filter(|rule| rule_line(family, chain, rule) == line);
    ours.unwrap_or_else(|| Rule::foreign(Foreign::Line(line.splitn(3, ' ').nth(2).unwrap_or_default().into())))
}

/// Reads a line that [`rule_line`] made.
///
/// # Errors
/// If it is a line that npc does not write.
pub fn rule(line: &str) -> Result<(ChainName, Rule), Error> {
    let mut words = Words { line, words: words::words(line) };
    words.expect("-A")?;
    let chain = ChainName::ours(&words.next()?).ok_or_else(|| words.fault("a chain of others"))?;
    let mut matches = Vec::new();
    // What follows shows whether `-p tcp` is a match of its own or the beginning of
    // `-p tcp -m tcp ! --tcp-flags …`, and the same for ICMPv6.
    let mut protocol = None;
    loop {
        let word = words.next()?;
        match &*word {
            "-s" => matches.push(Match::Source(words.prefix()?)),
            "-d" => matches.push(Match::Destination(words.prefix()?)),
            "-p" => protocol = Some(words.next()?),
            "-m" => {
                let module = words.next()?;
                let found = words.module(&module, &mut protocol)?;
                matches.extend(protocol_match(&words, protocol.take().as_deref())?);
                matches.push(found);
            }
            "-j" | "-g" => {
                matches.extend(protocol_match(&words, protocol.take().as_deref())?);
                let target = words.target(&word)?;
                return match words.words.next() {
                    None => Ok((chain, Rule { matches, target })),
                    Some(more) => Err(words.fault(&more.text)),
                };
            }
            other => return Err(words.fault(other)),
        }
    }
}

fn protocol_match(words: &Words<'_>, name: Option<&str>) -> Result<Option<Match>, Error> {
    let Some(name) = name else { return Ok(None) };
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.lower() == name).map(Match::Protocol);
    let found = known.or_else(|| name.parse().ok().map(Match::ProtocolNumber));
    found.map(Some).ok_or_else(|| words.fault(name))
}

struct Words<'a> {
    line: &'a str,
    words: words::Words<'a>,
}

impl<'a> Words<'a> {
    /// The next word, which may stand in quotes. Ours have no quote inside, and no backslash, which
    /// iptables puts before one.
    fn next(&mut self) -> Result<Cow<'a, str>, Error> {
        let word = self.words.next().ok_or_else(|| self.fault("its end"))?;
        if word.is_plain { Ok(word.text) } else { Err(self.fault(&word.text)) }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), Error> {
        let word = self.next()?;
        if word == wanted { Ok(()) } else { Err(self.fault(&word)) }
    }

    fn fault(&self, found: &str) -> Error {
        Error { found: found.to_owned(), line: self.line.to_owned() }
    }

    fn prefix(&mut self) -> Result<IpNetwork, Error> {
        let word = self.next()?;
        word.parse().map_err(|_| self.fault(&word))
    }

    /// What comes after `-m MODULE`. Takes the protocol away where the match
    /// means it.
    fn module(&mut self, module: &str, protocol: &mut Option<Cow<'a, str>>) -> Result<Match, Error> {
        let option = self.next()?;
        match (module, &*option) {
            ("conntrack", "--ctstate") => match &*self.next()? {
                "RELATED,ESTABLISHED" => Ok(Match::EstablishedOrRelated),
                "ESTABLISHED" => Ok(Match::Established),
                "RELATED" if matches!(protocol.as_deref(), Some("icmp" | "ipv6-icmp")) => {
                    *protocol = None;
                    Ok(Match::RelatedError)
                }
                "DNAT" => Ok(Match::Translated),
                "INVALID,NEW" => Ok(Match::NewOrInvalid),
                other => Err(self.fault(other)),
            },
            ("tcp", "!") => {
                self.expect("--tcp-flags")?;
                self.expect("FIN,SYN,RST,ACK")?;
                self.expect("SYN")?;
                *protocol = None;
                Ok(Match::NotSyn)
            }
            ("icmp6", "--icmpv6-type") => {
                let word = self.next()?;
                *protocol = None;
                word.parse().map(Match::Icmpv6Type).map_err(|_| self.fault(&word))
            }
            ("tcp" | "udp", "--dport") | ("multiport", "--dports") => {
                let word = self.next()?;
                let ranges: Option<_> = word.split(',').map(port_range).collect();
                ranges.map(Match::DestinationPorts).ok_or_else(|| self.fault(&word))
            }
            ("addrtype", "--dst-type") => self.expect("BROADCAST").map(|()| Match::ToBroadcast),
            ("bpf", "--bytecode") => {
                let code = self.next()?;
                let is_one_of =
                    |program: fn(Family) -> &'static str| Family::ALL.into_iter().any(|family| program(family) == code);
                match () {
                    () if is_one_of(self_bytecode) => Ok(Match::SourceIsDestination),
                    () if is_one_of(error_bytecode) => Ok(Match::ErrorFromQuotedDestination),
                    () => Err(self.fault(&code)),
                }
            }
            ("hl", "--hl-eq") => self.expect("255").map(|()| Match::HopLimit255),
            ("length", "--length") => self.length().map(|(first, last)| Match::Length(first, last)),
            ("length", "!") => {
                self.expect("--length")?;
                self.length().map(|(first, last)| Match::NotLength(first, last))
            }
            ("set", "--match-set") => self.set().map(|(name, field)| Match::Set(name, field)),
            ("set", "!") => {
                self.expect("--match-set")?;
                self.set().map(|(name, field)| Match::NotInSet(name, field))
            }
            ("devgroup", "--src-group") => self.pod_group().map(|()| Match::FromPods),
            ("devgroup", "!") => {
                self.expect("--src-group")?;
                self.pod_group().map(|()| Match::NotFromPods)
            }
            ("limit", "--limit") => {
                self.next()?;
                self.expect("--limit-burst")?;
                self.next()?;
                Ok(Match::Limited)
            }
            ("comment", "--comment") => self.next().map(|text| Match::Comment((&*text).into())),
            (_, other) => Err(self.fault(other)),
        }
    }

    /// A set of ours and the fields that it is asked about.
    fn set(&mut self) -> Result<(SetName, SetField), Error> {
        let word = self.next()?;
        let name = SetName::ours(&word).ok_or_else(|| self.fault(&word))?;
        let field = match &*self.next()? {
            "src" => SetField::Source,
            "dst" => SetField::Destination,
            "dst,dst" => SetField::DestinationPort,
            "src,src" => SetField::SourceInterface,
            other => return Err(self.fault(other)),
        };
        Ok((name, field))
    }

    /// The device group of pods' interfaces.
    fn pod_group(&mut self) -> Result<(), Error> {
        let word = self.next()?;
        let group = word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        if group == Some(POD_GROUP) { Ok(()) } else { Err(self.fault(&word)) }
    }

    /// A range of lengths.
    fn length(&mut self) -> Result<(u16, u16), Error> {
        let word = self.next()?;
        port_range(&word).ok_or_else(|| self.fault(&word))
    }

    fn target(&mut self, word: &str) -> Result<Target, Error> {
        let name = self.next()?;
        match (word, &*name) {
            ("-j", "RETURN") => Ok(Target::Return),
            ("-j", "DROP") => Ok(Target::Drop),
            ("-j", "NFLOG") => {
                self.expect("--nflog-prefix")?;
                self.next()?;
                self.expect("--nflog-group")?;
                self.next()?;
                Ok(Target::Log)
            }
            (_, name) => {
                let chain = ChainName::ours(name).ok_or_else(|| self.fault(name))?;
                Ok(if word == "-g" { Target::Goto(chain) } else { Target::Jump(chain) })
            }
        }
    }
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::listing::printed;
    use super::*;
    use crate::object::Family;

    fn same(line: &str) -> Rule {
        let (chain, rule) = rule(line).expect("one of ours");
        assert_eq!(rule_line(Family::V4, &chain, &rule), line);
        rule
    }

    #[test]
    fn what_was_written_is_read_again() {
        for line in [
            "-A NPC-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
            "-A NPC-FORWARD -m conntrack --ctstate ESTABLISHED -j RETURN",
            "-A NPC-FORWARD -p icmp -m conntrack --ctstate RELATED -g NPC-RELATED",
            "-A NPC-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j RETURN",
            "-A NPC-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m hl --hl-eq 255 -m length --length 64:128 -j RETURN",
            "-A NPC-FORWARD -p ipv6-icmp -m icmp6 --icmpv6-type 134 -m devgroup ! --src-group 0x6e7063 -j RETURN",
            "-A NPC-FORWARD -s 10.0.0.1/32 -d 10.0.0.1/32 -m conntrack --ctstate DNAT -j RETURN",
            "-A NPC-RELATED -m length ! --length 48:576 -j DROP",
            "-A NPC-FORWARD -s 10.0.0.1/32 -d 10.0.0.1/32 -j RETURN",
            "-A NPC-FORWARD -m addrtype --dst-type BROADCAST -j DROP",
            "-A NPC-FORWARD -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate INVALID,NEW -j NPC-STRAY",
            "-A NPC-FORWARD -m set --match-set npc4-egress src -j NPC-EGRESS",
            "-A NPC-INGRESS -m set --match-set npc4-i-t dst -g NPC-IT-1",
            "-A NPC-FORWARD -m devgroup --src-group 0x6e7063 -m set ! --match-set npc4-own src,src -j NPC-SPOOF",
            "-A NPC-I-abc -p 47 -j DROP",
            "-A NPC-I-abc -p tcp -m tcp --dport 80:90 -m set --match-set npc4-p-abc src -j RETURN",
            "-A NPC-I-abc -p sctp -m multiport --dports 1,5:7 -j RETURN",
            "-A NPC-E-abc -p udp -m set --match-set npc4-n-abc dst,dst -m comment --comment \"a b, c\" -j RETURN",
            "-A NPC-I-abc -m comment --comment plain -j DROP",
            "-A NPC-I-abc -p 4 -m limit --limit 10/sec --limit-burst 50 -j NFLOG --nflog-prefix NPC-I-abc \
             --nflog-group 28272",
        ] {
            same(line);
        }
        let forward = same("-A NPC-FORWARD -p udp -j DROP");
        assert_eq!(forward.matches, [Match::Protocol(Protocol::Udp)]);
        let bpf = format!("-A NPC-FORWARD -m bpf --bytecode \"{}\" -j RETURN", self_bytecode(Family::V4));
        assert_eq!(same(&bpf).matches, [Match::SourceIsDestination]);
        let bpf = format!("-A NPC-RELATED -m bpf --bytecode \"{}\" -j RETURN", error_bytecode(Family::V4));
        assert_eq!(same(&bpf).matches, [Match::ErrorFromQuotedDestination]);
        let (chain, read) =
            rule("-A NPC-FORWARD -p ipv6-icmp -m conntrack --ctstate RELATED -g NPC-RELATED").expect("one of ours");
        assert_eq!(read.matches, [Match::RelatedError]);
        assert!(rule_line(Family::V6, &chain, &read).contains(" -p ipv6-icmp "));
    }

    #[test]
    fn a_line_that_is_not_written_again_as_it_was_read_is_foreign() {
        let bpf = |family| format!("-A NPC-FORWARD -m bpf --bytecode \"{}\" -j RETURN", self_bytecode(family));
        let log = "-A NPC-I-abc -m limit --limit 10/sec --limit-burst 50 -j NFLOG --nflog-prefix NPC-I-abc --nflog-group 28272";
        let lines = [
            (true, bpf(Family::V4)),
            // It compares other bytes of the packet.
            (false, bpf(Family::V6)),
            (true, log.to_owned()),
            (true, log.replace("NPC-I-abc --nflog", "\"NPC-I-abc\"  --nflog")),
            (false, log.replace("10/sec", "11/sec")),
            (false, log.replace("prefix NPC-I-abc", "prefix NPC-I-abd")),
            (false, log.replace("28272", "28273")),
            (true, "-A NPC-I-abc -p tcp -m tcp --dport 80 -j RETURN".to_owned()),
            (false, "-A NPC-I-abc -p tcp -m multiport --dports 80 -j RETURN".to_owned()),
            (true, "-A NPC-E-abc -p gre -j DROP".to_owned()),
            (false, "-A NPC-E-abc -p esp -j DROP".to_owned()),
            (false, "-A NPC-X -s 10.0.0.1/24 -j DROP".to_owned()),
            (false, "-A NPC-X -m comment --comment \"it is \\\"so\\\"\" -j DROP".to_owned()),
            (false, "-A NPC-X -m comment --comment \"no end -j DROP".to_owned()),
            (false, "-A NPC-X -j ACCEPT".to_owned()),
            (false, "-A NPC-X".to_owned()),
        ];
        for (is_ours, line) in lines {
            let (chain, rule) = printed(Family::V4, &line).expect("of a chain of ours");
            assert_eq!(!matches!(rule.target, Target::Foreign(_)), is_ours, "{line}");
            // And nothing of it is lost.
            let again = rule_line(Family::V4, &chain, &rule);
            assert_eq!(canonical(&again), canonical(&line));
        }
        assert_eq!(printed(Family::V4, "-A FORWARD -j NPC-FORWARD"), None);
        assert_eq!(printed(Family::V4, ":NPC-X - [0:0]"), None);
    }

    #[test]
    fn what_others_wrote_is_not_ours() {
        for line in [
            "",
            "-A FORWARD -j NPC-FORWARD",
            "-A NPC-FORWARD -j ACCEPT",
            "-A NPC-FORWARD -p tcp",
            "-A NPC-FORWARD -p nonsense -j DROP",
            "-A NPC-FORWARD -m set --match-set foreign src -j DROP",
            "-A NPC-FORWARD -m mark --mark 1 -j DROP",
            "-A NPC-FORWARD -m devgroup --src-group 0x1 -j NPC-SPOOF",
            "-A NPC-FORWARD -m devgroup --dst-group 0x6e7063 -j NPC-SPOOF",
            "-A NPC-FORWARD -m devgroup ! --src-group 0x1 -j RETURN",
            "-A NPC-FORWARD -m conntrack --ctstate RELATED -j RETURN",
            "-A NPC-FORWARD -p tcp -m conntrack --ctstate RELATED -j RETURN",
            "-A NPC-FORWARD -m bpf --bytecode \"1,6 0 0 1\" -j RETURN",
            "-A NPC-FORWARD -m hl --hl-eq 64 -j RETURN",
            "-A NPC-FORWARD -m length --length 64 more -j RETURN",
            "-A NPC-FORWARD -m set ! npc4-own src,src -j NPC-SPOOF",
            "-A NPC-FORWARD -m comment --comment \"no end -j DROP",
            "-A NPC-FORWARD -j DROP more",
        ] {
            assert!(rule(line).is_err(), "{line}");
        }
    }
}
