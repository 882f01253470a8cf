//! What of ICMP passes though no policy admits it: neighbour discovery, and errors
//! about flows that the kernel knows. Both as narrowly as a rule can say, because
//! by type and state alone either is a tunnel past all policies.

use crate::object::Family;
use crate::ruleset::node::{Match, Rule, Target};
use crate::ruleset::options::{MissingMatches, RulesetOptions, SelfMatch};

/// ICMPv6 types of neighbour discovery that any host sends, and the lengths of
/// such a packet (RFC 4861, section 4): a router solicitation of 8 bytes,
/// neighbour solicitation and advertisement of 24, each behind an IPv6 header and
/// before options. Those of link-layer addresses and nonces are well below the
/// most that passes.
const OF_HOSTS: [(u8, u16); 3] = [(133, 48), (135, 64), (136, 64)];
const DISCOVERY_MAX: u16 = 128;

/// The same of routers: advertisement of 16 bytes, redirect of 40.
const OF_ROUTERS: [(u8, u16); 2] = [(134, 56), (137, 80)];

/// How long an ICMP error may be, with its IP header. At most 576 bytes (RFC
/// 1812, section 4.3.2.3) and IPv6's least MTU (RFC 4443, section 2.4): these are
/// what routers send. At least two IP headers and that of ICMP; the kernel takes
/// less for no error about a known flow. A lower bound has to be there, because
/// the kernel compares the length of an IPv6 packet above 65,535 bytes as a small number.
const ERROR_LENGTHS: [(u16, u16); 2] = [(48, 576), (88, 1280)];

/// The rules that let neighbour discovery through, which conntrack does not
/// track. Hosts take none that a router has forwarded (RFC 4861, section 6.1),
/// so the rest is a tunnel. What routers say never comes from a pod rightly; of
/// the ports of a bridge that leads elsewhere too no rule here can see which
/// are pods'.
pub(super) fn neighbour_discovery(options: &RulesetOptions) -> Vec<Rule> {
    let MissingMatches { hop_limit, length, device_group } = options.lacks;
    let rule = |kind, lengths: (u16, u16), is_routers: bool| {
        let mut matches = vec![Match::Icmpv6Type(kind)];
        matches.extend((!hop_limit).then_some(Match::HopLimit255));
        matches.extend((!length).then_some(Match::Length(lengths.0, lengths.1)));
        matches.extend((is_routers && !device_group).then_some(Match::NotFromPods));
        Rule { matches, target: Target::Return }
    };
    let [_, (_, longest)] = ERROR_LENGTHS;
    let of_hosts = OF_HOSTS.iter().map(|(kind, least)| rule(*kind, (*least, DISCOVERY_MAX), false));
    of_hosts.chain(OF_ROUTERS.iter().map(|(kind, least)| rule(*kind, (*least, longest), true))).collect()
}

/// The rules for ICMP errors about known flows. The kernel asks of them no more
/// than that the packet they quote belongs to a flow whose sender they go to;
/// what else they hold is as their sender likes. So none is longer than a
/// router's, and a pod sends none but about packets that came to it.
pub(super) fn errors(family: Family, options: &RulesetOptions) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !options.lacks.length {
        let (first, last) = ERROR_LENGTHS[family as usize];
        let comment = Match::Comment("longer than an ICMP error".into());
        rules.push(Rule { matches: vec![Match::NotLength(first, last), comment], target: Target::Drop });
    }
    if !options.lacks.device_group {
        if options.self_match == SelfMatch::Bpf {
            rules.push(Rule { matches: vec![Match::ErrorFromQuotedDestination], target: Target::Return });
        }
        let comment = Match::Comment("about a packet that did not go to this pod".into());
        rules.push(Rule { matches: vec![Match::FromPods, comment], target: Target::Drop });
    }
    rules.push(Rule { matches: Vec::new(), target: Target::Return });
    rules
}
