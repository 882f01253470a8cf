//! The chain that every forwarded packet meets first, and those that it leads to before any group's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::icmp::{errors, neighbour_discovery};
use super::{drop_all, field};
use crate::algebra::unforwarded::{self, LINK_LOCAL, UNSPECIFIED_V4, UNSPECIFIED_V6, Unforwarded};
use crate::object::Family;
use crate::policy::Direction;
use crate::ruleset::node::{ChainName, Match, Rule, SetField, SetName, Target};
use crate::ruleset::options::{RulesetOptions, SelfMatch};

/// The chain that every forwarded packet meets first, and those for ICMP errors,
/// strays and forged sources.
pub(crate) fn forward(
    family: Family,
    options: &RulesetOptions,
    is_isolating: bool,
    isolated: &BTreeSet<IpAddr>,
) -> BTreeMap<ChainName, Vec<Rule>> {
    let mut chains = BTreeMap::new();
    let rule = |matches: Vec<Match>, target| Rule { matches, target };
    let mut rules = Vec::new();
    if options.anti_spoof {
        // Before what belongs to a known flow: a pod that forges its source can end it, or
        // send in it.
        let forged = vec![Match::FromPods, Match::NotInSet(SetName::own(family), SetField::SourceInterface)];
        rules.push(rule(forged, Target::Jump(ChainName::spoof())));
        chains.insert(ChainName::spoof(), spoofed(family));
    }
    // As the chains that deny, it is there before anything leads to it.
    chains.insert(ChainName::related(), errors(family, options));
    if is_isolating {
        rules.push(rule(vec![Match::Established], Target::Return));
        // By goto: what returns there is back in FORWARD, as what returns here.
        rules.push(rule(vec![Match::RelatedError], Target::Goto(ChainName::related())));
    } else {
        rules.push(rule(vec![Match::EstablishedOrRelated], Target::Return));
    }
    if family == Family::V6 {
        // There before anything is isolated, as the look-ups below are: in the
        // plan that isolates the first endpoint, sets come before rules.
        rules.extend(neighbour_discovery(options));
    }
    if is_isolating {
        rules.extend(past_all_sets(family).into_iter().map(|m| rule(vec![m], Target::Drop)));
    }
    // A pod's packet to itself is forwarded only where this node's own rules turned
    // a Service's address into the pod's. Any other one is forged.
    match options.self_match {
        SelfMatch::Bpf => rules.push(rule(vec![Match::Translated, Match::SourceIsDestination], Target::Return)),
        SelfMatch::PerEndpoint => rules.extend(isolated.iter().map(|address| {
            let host = IpNetwork::from(*address);
            rule(vec![Match::Source(host), Match::Destination(host), Match::Translated], Target::Return)
        })),
    }
    let stray = || rule(vec![Match::NotSyn, Match::NewOrInvalid], Target::Jump(ChainName::stray()));
    if !options.keep_established {
        rules.push(stray());
        chains.extend(strays(family));
    }
    for direction in [Direction::Egress, Direction::Ingress] {
        let isolated = Match::Set(SetName::isolated(family, direction), field(direction));
        rules.push(rule(vec![isolated], Target::Jump(ChainName::entry(direction))));
    }
    if !options.keep_established {
        // Once more, because a write may come between two look-ups: an endpoint that left
        // a direction's isolated set after the first one was not judged in it.
        rules.push(stray());
    }
    chains.insert(ChainName::forward(), rules);
    chains
}

/// The rules for packets that come from a pod's interface and not from the pod's
/// address. Every interface may send from link-local addresses, which no router
/// forwards. A host that has no address yet sends from the unspecified address
/// (DHCP, duplicate address detection).
fn spoofed(family: Family) -> Vec<Rule> {
    let unroutable: &[IpNetwork] = match family {
        Family::V4 => &[UNSPECIFIED_V4],
        Family::V6 => &[LINK_LOCAL, UNSPECIFIED_V6],
    };
    let unroutable = unroutable.iter();
    let returned = unroutable.map(|prefix| Rule { matches: vec![Match::Source(*prefix)], target: Target::Return });
    let comment = Match::Comment("not the source of the pod behind this interface".into());
    returned.chain([Rule { matches: vec![comment], target: Target::Drop }]).collect()
}

/// What reaches a bridged pod by an address that no set holds: from or to a
/// link-local one, which no router forwards (RFC 4291, section 2.5.6), to all
/// hosts of a network, or to a multicast group. Such a packet does not show
/// which pods it reaches, so where some are isolated none gets it. Nor does it show
/// which pod sends it, if it comes from no address; a node routes that, too, back to the
/// bridge that it came from.
fn past_all_sets(family: Family) -> Vec<Match> {
    let sources = unforwarded::sources(family).iter().map(|(_, network)| Match::Source(*network));
    let destinations = unforwarded::destinations(family).iter().map(|(what, network)| match what {
        // The kernel knows those of its networks too.
        Unforwarded::Broadcast => Match::ToBroadcast,
        _ => Match::Destination(*network),
    });
    sources.chain(destinations).collect()
}

/// The chains for TCP segments that open no connection and belong to none. One
/// rule leads here, so that a first packet passes all of theirs by.
///
/// Such a segment does not show whether it goes to a server or comes from one. So each end that is
/// isolated has it judged in both ways: as one that the end sends or gets, which the groups' rules
/// do, and as an answer in a connection that its policies for the other direction would have to
/// admit. Where an end is isolated in that other direction only, nothing judges what it sends or
/// gets, so nothing passes; where in both, only what a rule admits by naming the port does, which
/// the groups ask about by their part of this.
fn strays(family: Family) -> BTreeMap<ChainName, Vec<Rule>> {
    let comment = || Match::Comment("of no known connection".into());
    let isolated = |direction, field| Match::Set(SetName::isolated(family, direction), field);
    let deny = |matches: Vec<Match>| Rule { matches, target: Target::Goto(ChainName::deny_stray()) };
    let only = |direction: Direction| {
        let (own, other) = (field(direction.opposite()), direction.opposite());
        deny(vec![isolated(direction, own), Match::NotInSet(SetName::isolated(family, other), own), comment()])
    };
    let both = |direction: Direction| {
        let rules = vec![deny(vec![isolated(direction.opposite(), field(direction)), comment()])];
        (ChainName::stray_of(direction), rules)
    };
    let mut chains = BTreeMap::from(Direction::ALL.map(both));
    chains.insert(ChainName::stray(), Direction::ALL.map(only).into());
    chains.insert(ChainName::deny_stray(), drop_all());
    chains
}
