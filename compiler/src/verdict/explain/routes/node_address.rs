//! Flows to a node's address: a port of it may lead to a Service or to a pod. And flows to the
//! loopback address, which never leave a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::entry::{Entry, NodePort};
use super::many_leads::Leads;
use super::nodes::NodeEnd;
use crate::algebra::cidr::{self, Cidr};
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::HostPortAt;
use crate::object::{Family, Protocol, Service, ServicePort};
use crate::verdict::bounds::Verdict;
use crate::verdict::explain::answer::{Flow, Unanswerable, WarningFact};
use crate::verdict::explain::question::name::{EndName, Port, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::explain::question::{MissingFact, OnNodes};
use crate::verdict::explain::walk::ends::Unit;
use crate::verdict::explain::walk::{Destination, Route, Walk};
use crate::verdict::flow::End;

/// For pods that may be on any node, at most this many addresses with ports of their own are checked.
const OTHER_NODES: usize = 16;

/// Where a port of some addresses of nodes leads.
#[derive(Debug)]
struct Lead {
    /// The Services and pods, as `NAMESPACE/NAME`.
    names: BTreeSet<String>,
    /// Whether it leads there at each of the addresses.
    is_led: Vec<bool>,
    /// Whether it leads to pods by their `hostPort`.
    to_host_port: bool,
}

impl Lead {
    /// To nothing, at any of so many addresses.
    fn none(ends: usize) -> Self {
        Self { names: BTreeSet::new(), is_led: vec![false; ends], to_host_port: false }
    }
}

impl Walk<'_> {
    /// Flows to an address: through its ports that lead elsewhere, or straight to it if no port does.
    pub(in crate::verdict::explain) fn by_one_address(
        &mut self,
        sources: &[Unit],
        address: IpAddr,
    ) -> Result<(), Unanswerable> {
        let to = QuestionEnd::Address(address);
        if self.by_node(sources, &to, &[address]) { Ok(()) } else { self.directly(sources, &self.ends.units(&to)) }
    }

    /// Adds the flows to ports of a node that lead to Services or pods. Returns whether there are any.
    pub(in crate::verdict::explain) fn by_node(
        &mut self,
        sources: &[Unit],
        to: &QuestionEnd<'_>,
        addresses: &[IpAddr],
    ) -> bool {
        if let ([address], Some(Port::Numbers(protocol, first, last))) = (addresses, self.port)
            && first == last
            && self.by_unknown_node(
                sources,
                &EndName::of_address(*address),
                *address,
                (protocol.unwrap_or(Protocol::Tcp), *first),
            )
        {
            return true;
        }
        let units = self.ends.units(to).into_iter();
        let ends: Vec<NodeEnd> = units.filter_map(|unit| self.node_end(unit)).collect();
        let mut leads = Leads::new(sources);
        let own = self.by_ends(sources, &ends, &mut leads);
        self.close(sources, leads, None);
        self.between_rest(sources, own.as_deref().unwrap_or_default());
        own.is_some()
    }

    /// Flows to nodes themselves, and to hostNetwork pods.
    pub(super) fn between_rest(&mut self, sources: &[Unit], own: &[Destination]) {
        if !own.is_empty() {
            self.between(sources, own, Route::default());
        }
    }

    /// An end that is an address of a node and of no pod in a network of its own.
    pub(super) fn node_end(&self, unit: Unit) -> Option<NodeEnd> {
        let Party::End(End::Address(address)) = unit.party else { return None };
        self.ends.cluster.is_of_node_alone(address).then_some(NodeEnd { address, unit })
    }

    /// Flows to hostNetwork pods, which have their node's addresses, where ports of these addresses
    /// lead elsewhere. Returns the ends that are left to ask about.
    pub(in crate::verdict::explain) fn by_host_pods(&mut self, sources: &[Unit], units: Vec<Unit>) -> Vec<Unit> {
        let mut leads = Leads::new(sources);
        let (mut left, mut all_own) = (Vec::new(), Vec::new());
        for unit in units {
            let may_be = |address: &IpAddr| unit.only.is_none_or(|only| only == Family::of(address));
            let addresses = self.addresses_of_host(&unit).into_iter().filter(may_be);
            let ends: Vec<NodeEnd> = addresses
                .map(|address| NodeEnd { address, unit: Unit { only: Some(Family::of(&address)), ..unit.clone() } })
                .collect();
            match self.by_ends(sources, &ends, &mut leads) {
                Some(own) => {
                    // The pods of a template are on several nodes, and mostly have the same ports on all of them.
                    let mut known: Vec<(Option<Family>, Traffic)> = Vec::new();
                    for end in own {
                        let what = (end.unit.only, end.traffic.clone());
                        if !known.contains(&what) {
                            known.push(what);
                            all_own.push(end);
                        }
                    }
                }
                None => left.push(unit),
            }
        }
        self.close(sources, leads, None);
        self.between_rest(sources, &all_own);
        left
    }

    /// The addresses of nodes at which hostNetwork pods are reached: one of each family of the pod's node. Where an end
    /// stands for pods of any node, those of one node, and those at which more ports lead elsewhere than at others.
    fn addresses_of_host(&self, unit: &Unit) -> Vec<IpAddr> {
        let cluster = self.ends.cluster;
        if !matches!(unit.party, Party::Host(_)) {
            return Vec::new();
        }
        if let Some(node) = unit.party.node(cluster) {
            let of_node = cluster.nodes().get(node);
            let of_family = |family| {
                let listed = unit.party.address(cluster, family).filter(|address| cluster.is_node(*address));
                listed.or_else(|| first_of(of_node.into_iter().flatten(), family))
            };
            return Family::ALL.into_iter().filter_map(of_family).collect();
        }
        let all = || cluster.nodes().values().flatten();
        let mut addresses: Vec<IpAddr> = Family::ALL.into_iter().filter_map(|of| first_of(all(), of)).collect();
        let has_own = |address: &IpAddr| {
            cluster.services_at(*address).next().is_some()
                || cluster.host_ports_at(*address).any(|(_, _, at)| matches!(at, HostPortAt::Here))
        };
        let others: Vec<IpAddr> = all().filter(|address| !addresses.contains(address)).copied().collect();
        addresses.extend(others.into_iter().filter(has_own).take(OTHER_NODES));
        addresses
    }

    /// Flows to some addresses of a node by ports that lead elsewhere, or may: what is left to ask about of
    /// those ports that were asked for, or nothing where no port does.
    pub(super) fn by_ends(
        &mut self,
        sources: &[Unit],
        ends: &[NodeEnd],
        leads: &mut Leads,
    ) -> Option<Vec<Destination>> {
        let asked = ends.first().and_then(|end| self.ends.traffic(&end.unit, self.port))?;
        let mut ports = self.leads_to(ends, &asked);
        if let Some((protocol, number, _)) = asked.single().filter(|(_, first, last)| first == last) {
            ports.entry((protocol, number)).or_insert_with(|| Lead::none(ends.len()));
        }
        let mut led = vec![Vec::new(); ends.len()];
        for ((protocol, number), lead) in ports {
            let names = || lead.names.iter().map(|name| format!("{number}/{} ({name})", protocol.lower()));
            let is_led = if leads.is_spent() {
                let of_led = || ends.iter().zip(&lead.is_led).filter(|(_, is_led)| **is_led).map(|(end, _)| end);
                let mut is_open = |end: &NodeEnd| {
                    let services = self.services_of_port(end, protocol, number);
                    let mut all = services.iter().map(|(service, port)| (*service, Some(*port)));
                    !services.is_empty() && all.all(|to| leads.is_open(self, sources, to, end.address))
                };
                if !lead.to_host_port && of_led().all(&mut is_open) {
                    leads.pass_over(names());
                } else {
                    leads.leave(names());
                    of_led().for_each(|end| leads.leave_at(end, (protocol, number)));
                }
                lead.is_led
            } else {
                let place = self.explanation.flows.len();
                let is_led = self.by_port(sources, ends, protocol, number);
                if is_led.contains(&true) {
                    leads.count(self, place, names());
                }
                is_led
            };
            for (led, _) in led.iter_mut().zip(is_led).filter(|(_, is_led)| *is_led) {
                led.push((protocol, number, number));
            }
        }
        let mut is_led_anywhere = led.iter().any(|led| !led.is_empty());
        let mut rest: Vec<Traffic> = led.into_iter().map(|led| asked.difference(&Traffic::of_ranges(led))).collect();
        is_led_anywhere |= self.by_open_ports(sources, ends, &mut rest);
        let own = ends.iter().zip(rest).filter(|(_, rest)| !rest.is_none());
        is_led_anywhere.then(|| own.map(|(end, rest)| Destination::direct(end.unit.clone(), rest)).collect())
    }

    /// The ports of these addresses that lead to Services and pods, or may, of those that were asked for.
    fn leads_to(&self, ends: &[NodeEnd], asked: &Traffic) -> BTreeMap<(Protocol, u16), Lead> {
        let cluster = self.ends.cluster;
        let is_asked = |of: Protocol, number: u16| asked.of(of).contains(number);
        let mut ports = BTreeMap::<(Protocol, u16), Lead>::new();
        let mut add = |place: usize, of, number, name: String, to_host_port| {
            let lead = ports.entry((of, number)).or_insert_with(|| Lead::none(ends.len()));
            lead.names.insert(name);
            lead.is_led[place] = true;
            lead.to_host_port |= to_host_port;
        };
        for (of, number, service) in cluster.node_ports().filter(|(of, number, _)| is_asked(*of, *number)) {
            let is_first = cluster.behind_node_port(of, number).is_some_and(|(first, _)| std::ptr::eq(first, service));
            for (place, end) in ends.iter().enumerate().filter(|_| is_first) {
                if service.has_family(end.family()) {
                    add(place, of, number, service.full_name(), false);
                }
            }
        }
        for (place, end) in ends.iter().enumerate() {
            for service in cluster.services_at(end.address) {
                for port in service.ports.iter().filter(|port| is_asked(port.protocol, port.port)) {
                    add(place, port.protocol, port.port, service.full_name(), false);
                }
            }
            for (pod, port, at) in cluster.host_ports_at(end.address) {
                let is_here = matches!(at, HostPortAt::Here | HostPortAt::Perhaps);
                if is_here && is_asked(port.protocol, port.host_port) {
                    add(place, port.protocol, port.host_port, self.pod_name(pod), true);
                }
            }
        }
        ports
    }

    /// The Services and their ports to which kube-proxy leads a port of a node's address. It matches external addresses
    /// first, and node ports last.
    pub(super) fn services_of_port(
        &self,
        end: &NodeEnd,
        only: Protocol,
        number: u16,
    ) -> Vec<(&'_ Service, &'_ ServicePort)> {
        let cluster = self.ends.cluster;
        let external: Vec<_> = cluster.services_by_port(end.address, only, number).collect();
        if !external.is_empty() {
            return external;
        }
        // A node has a rule for the port in the families of the Service only.
        let behind = cluster.behind_node_port(only, number);
        behind.filter(|(service, _)| service.has_family(end.family())).into_iter().collect()
    }

    /// Flows to one port of a node's addresses; at which of them it leads to a Service or a pod, or may.
    fn by_port(&mut self, sources: &[Unit], ends: &[NodeEnd], only: Protocol, number: u16) -> Vec<bool> {
        let cluster = self.ends.cluster;
        let mut is_led = vec![false; ends.len()];
        for (end, is_led) in ends.iter().zip(&mut is_led) {
            for (service, port) in cluster.services_by_port(end.address, only, number) {
                *is_led = true;
                let entry = Entry::External(end.address, Some((only, port.port)));
                self.through(sources, service, Some(entry), Some(end.family()));
            }
        }
        if let Some((service, port)) = cluster.behind_node_port(only, number) {
            let place = self.explanation.flows.len();
            let mut entered = BTreeSet::new();
            for (end, is_led) in ends.iter().zip(&mut is_led) {
                if *is_led || !service.has_family(end.family()) {
                    continue;
                }
                *is_led = true;
                if entered.insert(end.family()) {
                    let entry = NodePort { address: end.address, protocol: only, number, service_port: port.port };
                    self.through(sources, service, Some(Entry::NodePort(entry)), Some(end.family()));
                }
            }
            if entered.len() > 1 {
                self.merge_from(place);
            }
        }
        self.by_host_port(sources, ends, &mut is_led, only, number);
        is_led
    }

    /// Flows to addresses of one node about which nothing is known.
    pub(super) fn unknown(&mut self, sources: &[Unit], ends: &[&NodeEnd], traffic: &Traffic, fact: &MissingFact) {
        let Some(first) = ends.first() else { return };
        let (to, family) = match ends {
            [end] if matches!(end.unit.party, Party::End(_)) => (EndName::of_address(end.address), Some(end.family())),
            _ => (first.unit.whole.without_addresses(), None),
        };
        self.not_known(sources, &to, family, traffic, fact);
    }

    /// Flows about which nothing is known.
    pub(super) fn not_known(
        &mut self,
        sources: &[Unit],
        to: &EndName,
        family: Option<Family>,
        traffic: &Traffic,
        fact: &MissingFact,
    ) {
        let cluster = self.ends.cluster;
        let has_family = |unit: &&Unit| {
            let has = |family| !unit.party.has_address(cluster) || unit.party.address(cluster, family).is_some();
            family.is_none_or(|family| has(family) && unit.only.is_none_or(|only| only == family))
        };
        let wholes: BTreeSet<EndName> =
            sources.iter().filter(has_family).map(|unit| unit.whole.without_addresses()).collect();
        self.explanation.flows.extend(wholes.into_iter().map(|from| Flow {
            family,
            missing: vec![fact.clone()],
            ..Flow::undecided(from, to.clone(), traffic.clone(), Verdict::Unknown)
        }));
    }

    /// Flows with a node whose addresses the input does not say. Returns whether one of the ends is such a node.
    pub(in crate::verdict::explain) fn of_unaddressed_node(
        &mut self,
        from: &QuestionEnd<'_>,
        to: &QuestionEnd<'_>,
    ) -> bool {
        let unaddressed = |target: &QuestionEnd<'_>| match target {
            QuestionEnd::Node { name, addresses } if addresses.is_empty() => Some(name.clone()),
            _ => None,
        };
        let nodes: BTreeSet<String> = [from, to].into_iter().filter_map(unaddressed).collect();
        if nodes.is_empty() {
            return false;
        }
        let name_of = |name: String| EndName { kind: "Node".to_owned(), name, ..EndName::default() };
        let traffic = self.port.and_then(Port::traffic).unwrap_or_else(Traffic::all);
        let units = |target: &QuestionEnd<'_>| match unaddressed(target) {
            Some(_) => Vec::new(),
            None => self.ends.units(target),
        };
        let (mut sources, mut destinations) = (units(from), units(to));
        match (unaddressed(from), unaddressed(to)) {
            (Some(node), None) => self.with_own_node(name_of(node), &mut destinations, None),
            (None, Some(node)) if self.leads_nowhere(&traffic) => {
                self.with_own_node(name_of(node), &mut sources, Some(&traffic));
            }
            _ => {}
        }
        let wholes = |target: &QuestionEnd<'_>, units: &[Unit]| -> BTreeSet<EndName> {
            match unaddressed(target) {
                Some(name) => BTreeSet::from([name_of(name)]),
                None => units.iter().map(|unit| unit.whole.without_addresses()).collect(),
            }
        };
        let (sources, destinations) = (wholes(from, &sources), wholes(to, &destinations));
        for from in &sources {
            self.explanation.flows.extend(destinations.iter().map(|to| Flow {
                missing: nodes.iter().cloned().map(MissingFact::NodeAddress).collect(),
                ..Flow::undecided(from.clone(), to.clone(), traffic.clone(), Verdict::Unknown)
            }));
        }
        true
    }

    /// Flows between a node without an address and the pods that run on it, which are always allowed; to the node
    /// with this traffic, else from it. The pods are taken out of the ends.
    fn with_own_node(&mut self, node: EndName, ends: &mut Vec<Unit>, to_node: Option<&Traffic>) {
        let cluster = self.ends.cluster;
        let is_own = |unit: &Unit| unit.party.node(cluster) == Some(node.name.as_str());
        let (own, rest): (Vec<Unit>, Vec<Unit>) = std::mem::take(ends).into_iter().partition(is_own);
        *ends = rest;
        let whole = node.clone();
        let unit =
            Unit { party: Party::OtherNode(None), only: None, name: node, whole, is_template: false, seen_as: None };
        let route = Route { port: self.port, nodes: OnNodes::One, ..Route::default() };
        match to_node {
            Some(traffic) => self.judge(&own, &[Destination::direct(unit, traffic.clone())], route),
            None => {
                let asked =
                    |of: Unit| self.ends.traffic(&of, self.port).map(|traffic| Destination::direct(of, traffic));
                let own: Vec<Destination> = own.into_iter().filter_map(asked).collect();
                self.judge(&[unit], &own, route);
            }
        }
    }

    /// Whether no port of a node leads to a Service or to a pod, of those that are asked about.
    fn leads_nowhere(&self, asked: &Traffic) -> bool {
        let cluster = self.ends.cluster;
        let of_services = cluster.node_ports().map(|(of, number, _)| (of, number, number));
        let of_pods = cluster.endpoints().flat_map(|(_, pod)| &pod.host_ports);
        let of_pods = of_pods.map(|port| (port.protocol, port.host_port, port.host_port));
        let leading = Traffic::of_ranges(of_services.chain(of_pods));
        !cluster.has_unread_services() && asked.intersection(&leading).is_none()
    }

    /// The same for prefixes that have only loopback addresses.
    pub(in crate::verdict::explain) fn by_loopback_prefix(
        &mut self,
        sources: &[Unit],
        blocks: &[Cidr],
    ) -> Result<bool, Unanswerable> {
        let is_itself = |of: &Cidr| {
            [of.first, of.last].into_iter().all(|number| {
                let address = cidr::address(of.family, number);
                address.is_loopback() || address.is_unspecified()
            })
        };
        match blocks {
            [block, ..] if blocks.iter().all(is_itself) => {
                self.by_loopback(sources, cidr::address(block.family, block.first))
            }
            _ => Ok(false),
        }
    }

    /// Adds the flows of pods to the loopback address, which each sends to itself. Returns whether all sources are
    /// pods. The kernel treats the unspecified address (0.0.0.0, ::) as a destination like the sender's own.
    pub(in crate::verdict::explain) fn by_loopback(
        &mut self,
        sources: &[Unit],
        address: IpAddr,
    ) -> Result<bool, Unanswerable> {
        let is_pod = |unit: &Unit| unit.party.pod().is_some();
        let is_itself = address.is_loopback() || address.is_unspecified();
        if !is_itself || !sources.iter().all(is_pod) {
            return Ok(false);
        }
        for source in sources {
            // Not another replica of its template.
            let source = Unit { is_template: false, ..source.clone() };
            self.directly(std::slice::from_ref(&source), std::slice::from_ref(&source))?;
        }
        self.explanation.warn(WarningFact::Loopback(address));
        Ok(true)
    }
}

/// The first of some addresses that is of a family.
fn first_of<'a>(mut addresses: impl Iterator<Item = &'a IpAddr>, family: Family) -> Option<IpAddr> {
    addresses.find(|address| Family::of(address) == family).copied()
}
