//! Finds the parts of a rule's ports that do not match the flow.

use std::collections::BTreeSet;

use crate::algebra::traffic::Traffic;
use crate::cluster::group::Admitted;
use crate::object::{DNS_PORT, Protocol};
use crate::policy::{Direction, PolicyRule, PortMatch, Ports};
use crate::verdict::flow::End;

use super::conjunct::{Conjunct, Part};
use super::rule_matcher::{Half, RuleMatcher, slip_rank};
use super::want_and_got::{Got, Want, WantedPorts};
use crate::verdict::explain::code::ReasonCode;
use crate::verdict::explain::decision::item_path::{ItemField, ItemPath};
use crate::verdict::explain::decision::mark::Mark;
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::would_admit::declared;

impl RuleMatcher<'_> {
    /// What fails of the nearest port; none where the rule has no port that could be any.
    pub(in crate::verdict::explain) fn ports(&self, rule: &PolicyRule) -> Option<Half> {
        let ports = match &rule.ports {
            Ports::Everything => return Some(Half::everything()),
            Ports::AnyOf(ports) => ports,
        };
        let judged = ports.iter().enumerate().filter_map(|(place, port)| {
            let path = ItemPath::of_port(place);
            let conjuncts = match port {
                PortMatch::Nothing => return None,
                PortMatch::Range(protocol, first, last) => self.range(path, *protocol, *first, *last, None),
                PortMatch::Named(protocol, name) => self.named(path, *protocol, name),
            };
            Some((conjuncts, path, self.is_outside(port)))
        });
        let judged: Vec<(Vec<Conjunct>, ItemPath, bool)> = judged.collect();
        // A name that the destination gives to another protocol is nearer than a port that is right as it is for
        // the protocol that it names.
        let is_meant_name = |of: &Conjunct| of.code == ReasonCode::PortNamedOtherProtocol;
        let rank = |(conjuncts, _, is_outside): &(Vec<Conjunct>, ItemPath, bool)| {
            (conjuncts.len(), *is_outside, slip_rank(conjuncts), !conjuncts.iter().any(is_meant_name))
        };
        let fewest = judged.iter().map(rank).min()?;
        let equal = judged.iter().filter(|of| rank(of) == fewest).count();
        let (nearest, path, _) = judged.into_iter().find(|of| rank(of) == fewest)?;
        // Several items may admit together what none admits alone.
        let match_together = || {
            let admitted = Admitted::of_ports(&rule.ports, self.direction, self.resolution);
            self.denied.difference(&admitted.traffic_to(self.destination.unwrap_or_default())).is_none()
        };
        if nearest.is_empty() || match_together() {
            return Some(Half { equal, matching_port: Some(path), ..Half::everything() });
        }
        Some(Half { conjuncts: nearest, equal, ..Half::everything() })
    }

    /// Whether an item admits none of the ports of a range that was asked for. One that admits some is nearer.
    fn is_outside(&self, port: &PortMatch) -> bool {
        let Some((_, first, last)) = self.question.traffic.single().filter(|(_, first, last)| first < last) else {
            return false;
        };
        let is_all = (first, last) == Traffic::PORTS;
        let item = Ports::AnyOf(vec![port.clone()]);
        let admitted = Admitted::of_ports(&item, self.direction, self.resolution);
        let admitted = admitted.traffic_to(self.destination.unwrap_or_default());
        !is_all && admitted.intersection(&self.question.traffic).is_none()
    }

    /// Whether a number is the port of a Service that leads to the port that is asked about.
    fn is_service_port(&self, protocol: Protocol, number: u16) -> bool {
        if self.question.service_port == Some((protocol, number)) {
            return true;
        }
        let find = || {
            let (Party::End(End::Pod(pod)), Some((_, port, last))) = (self.question.to, self.denied.single()) else {
                return BTreeSet::new();
            };
            let services = self.cluster.services_by_another_port(pod);
            let leading = services.filter(|(_, _, of_pod)| port == last && *of_pod == port);
            leading.map(|(_, port, _)| (port.protocol, port.port)).collect()
        };
        self.service_ports.get_or_init(find).contains(&(protocol, number))
    }

    /// Whether a question about all ports may mean some of these: those that the destination declares. One that
    /// declares none may listen on any, but is hardly a DNS server.
    fn may_be_meant(&self, protocol: Protocol, first: u16, last: u16) -> bool {
        let Party::End(End::Pod(pod)) = self.question.to else { return true };
        let declared = declared(self.cluster.pod(pod));
        if declared.is_none() {
            return (first, last) != (DNS_PORT, DNS_PORT);
        }
        !declared.intersection(&Traffic::ports(protocol, first, last)).is_none()
    }

    fn range(&self, path: ItemPath, protocol: Protocol, first: u16, last: u16, name: Option<&str>) -> Vec<Conjunct> {
        let conjunct = |field, part, want, got, code| {
            let conjunct = Conjunct::new(path, part, want, got, code).with_marks(vec![Mark::field(path.field(field))]);
            Conjunct { number: (first == last).then_some(first), ..conjunct }
        };
        let number = |field, protocol, got, code| {
            let want = Want::Ports(WantedPorts { first, last, name: name.map(str::to_owned), protocol });
            conjunct(field, Part::Number, want, got, code)
        };
        let of_protocol = |got| {
            conjunct(ItemField::Protocol, Part::Protocol, Want::Protocol(protocol), got, ReasonCode::PortProtocol)
        };
        let mut conjuncts = Vec::new();
        match self.denied.single() {
            Some((asked, low, high)) => {
                if low < first || last < high {
                    let is_service_port = first == last && asked == protocol && self.is_service_port(protocol, first);
                    let holds = |(of, port): (Protocol, u16)| of == protocol && (first..=last).contains(&port);
                    let holds_service_port = asked == protocol && self.question.service_port.is_some_and(holds);
                    let code = match first == last {
                        _ if is_service_port || holds_service_port => ReasonCode::PortIsServicePort,
                        true => ReasonCode::PortNumber,
                        false => ReasonCode::PortRange,
                    };
                    let field = if low >= first && first < last { ItemField::EndPort } else { ItemField::Port };
                    conjuncts.push(number(field, None, Got::Ports(low, high), code));
                }
                if asked != protocol {
                    conjuncts.push(of_protocol(Got::Protocol(asked)));
                }
            }
            // ICMP alone has no port.
            None if self.denied.difference(&Traffic::icmp()).is_none() => conjuncts.push(of_protocol(Got::Icmp)),
            None if !self.denied.difference(&Traffic::ports(protocol, first, last)).is_none() => {
                let of_one = one_protocol(self.denied);
                match of_one {
                    Some(asked) => {
                        let (field, code) = if first < last {
                            (ItemField::EndPort, ReasonCode::PortRange)
                        } else {
                            (ItemField::Port, ReasonCode::PortNumber)
                        };
                        conjuncts.push(number(field, None, first_ranges(self.denied, asked), code));
                        if asked != protocol {
                            conjuncts.push(of_protocol(Got::Protocol(asked)));
                        }
                    }
                    None => {
                        conjuncts.push(number(
                            ItemField::Port,
                            Some(protocol),
                            Got::OtherTraffic,
                            ReasonCode::PortNumber,
                        ));
                    }
                }
                let is_other_protocol = of_one.is_some_and(|asked| asked != protocol);
                let admits_a_part = !is_other_protocol && self.may_be_meant(protocol, first, last);
                for of in &mut conjuncts {
                    of.admits_a_part = admits_a_part;
                }
            }
            None => {}
        }
        conjuncts
    }

    /// Whether a name is the number that was asked for, or a range that holds it.
    fn is_asked_in_quotes(&self, protocol: Protocol, name: &str) -> bool {
        let (first, last) = name.split_once('-').unwrap_or((name, name));
        let ends = first.trim().parse::<u16>().ok().zip(last.trim().parse::<u16>().ok());
        let asked = self.denied.single().filter(|(of, ..)| *of == protocol);
        asked.zip(ends).is_some_and(|((_, low, high), (first, last))| first <= low && high <= last)
    }

    fn named(&self, path: ItemPath, protocol: Protocol, name: &str) -> Vec<Conjunct> {
        let of_name = |want, got, code| {
            let marks = vec![Mark::field(path.field(ItemField::Port))];
            vec![Conjunct::new(path, Part::Name, want, got, code).with_marks(marks)]
        };
        let unresolved = |got| {
            let mut all = of_name(Want::PortName(name.to_owned()), got, ReasonCode::PortNamedUnresolved);
            for of in &mut all {
                of.is_asked_in_quotes = self.is_asked_in_quotes(protocol, name);
            }
            all
        };
        let numbers: BTreeSet<u16> = match self.direction {
            Direction::Ingress => self.resolution.get(&(protocol, name.to_owned())).cloned().unwrap_or_default(),
            Direction::Egress => {
                let ports = self.destination.unwrap_or_default().iter();
                ports.filter(|port| port.is_named(protocol, name)).map(|port| port.port).collect()
            }
        };
        let resolved = numbers.into_iter().map(|number| self.range(path, protocol, number, number, Some(name)));
        if let Some(nearest) = resolved.min_by_key(Vec::len) {
            return nearest;
        }
        let Some(ports) = self.destination else {
            return unresolved(Got::NoPodWithPorts);
        };
        match ports.iter().find(|port| port.name == name) {
            Some(port) => {
                let got = Got::NamedPort { name: name.to_owned(), protocol: port.protocol, port: port.port };
                of_name(Want::PortNameAs(name.to_owned(), protocol), got, ReasonCode::PortNamedOtherProtocol)
            }
            None if ports.is_empty() => unresolved(Got::NoPortName),
            None => unresolved(Got::PortNames(ports.iter().map(|port| port.name.clone()).collect())),
        }
    }
}

/// The protocol of traffic that is of one protocol alone.
fn one_protocol(traffic: &Traffic) -> Option<Protocol> {
    let mut all = Protocol::ALL.into_iter().filter(|protocol| !traffic.of(*protocol).is_empty());
    let (Some(protocol), None, false) = (all.next(), all.next(), traffic.other) else { return None };
    Some(protocol)
}

/// The first few ranges of a protocol's ports, and how many more there are.
fn first_ranges(traffic: &Traffic, protocol: Protocol) -> Got {
    /// At most this many ranges are listed.
    const LISTED: usize = 4;
    let mut ranges = traffic.port_ranges(protocol);
    Got::PortRanges(ranges.by_ref().take(LISTED).collect(), ranges.count())
}
