//! The ends that a target stands for, and what they are called.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::algebra::cidr::{self, AddressSet, Cidr};
use crate::algebra::ranges::RangeSet;
use crate::algebra::traffic::Traffic;
use crate::cluster::backend::{Backend, BackendEnd};
use crate::cluster::group::Groups;
use crate::cluster::{Cluster, PodId};
use crate::object::{ContainerPort, Family, Pod};
use crate::verdict::explain::answer::WarningFact;
use crate::verdict::explain::question::name::{EndName, Port, QuestionEnd};
use crate::verdict::explain::question::party::Party;
use crate::verdict::flow::End;
use crate::verdict::zone::{Zones, free_address};

/// One end: a pod, or an address.
#[derive(Debug, Clone)]
pub(in crate::verdict::explain) struct Unit {
    pub(in crate::verdict::explain) party: Party,
    /// For an address that was given, only the address's family is meant.
    pub(in crate::verdict::explain) only: Option<Family>,
    pub(in crate::verdict::explain) name: EndName,
    /// What it is a part of; the addresses are added later.
    pub(in crate::verdict::explain) whole: EndName,
    /// It stands for any number of replicas.
    pub(in crate::verdict::explain) is_template: bool,
    /// The source that the destination gets in its place: a node that replaces the address.
    pub(in crate::verdict::explain) seen_as: Option<Party>,
}

impl Unit {
    /// These ends by their addresses of a family, where one is asked about.
    pub(in crate::verdict::explain) fn of_family(units: &[Self], family: Option<Family>) -> Vec<Self> {
        let may_be = |unit: &&Self| unit.only.zip(family).is_none_or(|(of, asked)| of == asked);
        let units = units.iter().filter(may_be);
        units.map(|unit| Self { only: unit.only.or(family), ..unit.clone() }).collect()
    }
}

/// Addresses of one family as numbers.
fn numbers_of(addresses: &[IpAddr]) -> AddressSet {
    let numbers = addresses.iter().map(|address| cidr::number(*address));
    RangeSet::from_ranges(numbers.map(|number| (number, number)))
}

/// Finds the ends that targets stand for.
#[derive(Clone, Copy)]
pub(in crate::verdict::explain) struct Finder<'a> {
    pub(in crate::verdict::explain) cluster: &'a Cluster,
    pub(in crate::verdict::explain) groups: &'a Groups,
}

impl<'a> Finder<'a> {
    /// The ends that a target stands for.
    pub(in crate::verdict::explain) fn units(self, target: &QuestionEnd<'_>) -> Vec<Unit> {
        match target {
            QuestionEnd::Pod(pod) => vec![self.pod(*pod)],
            QuestionEnd::Pods(pods) | QuestionEnd::Namespace { pods, .. } => self.listed_pods(pods),
            QuestionEnd::Service(service) | QuestionEnd::ServiceAddress(service, _) => {
                match self.cluster.behind(service) {
                    // A pod that is not ready gets nothing from the Service and sends all the same.
                    Some(behind) if behind.is_empty() => self.pods(&self.cluster.selected_pods(service)),
                    behind => self.behind(behind.unwrap_or_default()),
                }
            }
            QuestionEnd::Node { name, addresses } => {
                let name = || EndName { kind: "Node".to_owned(), name: name.clone(), ..EndName::default() };
                addresses.iter().map(|address| self.bare_address(*address, name())).collect()
            }
            QuestionEnd::Address(address) => vec![self.asked_address(*address)],
            QuestionEnd::Blocks(blocks) => {
                let mut units = self.blocks(blocks);
                name_what_is_free(blocks, &mut units);
                units
            }
            QuestionEnd::Outside => {
                let all: Vec<Cidr> = Family::ALL.map(Cidr::everything).into();
                let mut units = self.blocks(&all);
                units.retain(|unit| unit.name.is_part());
                units
            }
            QuestionEnd::Any => {
                let all: Vec<Cidr> = Family::ALL.map(Cidr::everything).into();
                let mut units = self.blocks(&all);
                // Of hostNetwork pods, an address stands for those whose node is known.
                let bare = self.cluster.pods().filter(|(id, pod)| {
                    let party = if pod.host_network { Party::Host(*id) } else { Party::End(End::Pod(*id)) };
                    !pod.finished && !party.has_address(self.cluster)
                });
                units.extend(self.pods(&bare.map(|(id, _)| id).collect::<Vec<_>>()));
                units
            }
        }
    }

    /// An address: the pod that holds it, if one does.
    fn address(self, address: IpAddr) -> Unit {
        match End::of_address(self.cluster, address) {
            End::Pod(pod) => {
                let mut unit = self.pod(pod);
                unit.only = Some(Family::of(&address));
                unit.name.addresses = vec![address];
                unit
            }
            End::Address(_) | End::Unread(_) => self.bare_address(address, EndName::of_address(address)),
        }
    }

    /// An address that is asked about by itself.
    fn asked_address(self, address: IpAddr) -> Unit {
        match End::of_asked_address(self.cluster, address) {
            unread @ End::Unread(_) => Unit { party: Party::End(unread), ..self.address(address) },
            End::Pod(_) | End::Address(_) => self.address(address),
        }
    }

    /// The zones of prefixes, and the addresses in them that pods and nodes have.
    fn blocks(self, blocks: &[Cidr]) -> Vec<Unit> {
        let all = self.taken();
        let zones = Zones::as_written(self.cluster, self.groups);
        let mut units = Vec::new();
        for block in blocks {
            let family = block.family;
            let taken = all.iter().filter(|address| block.holds(**address)).copied();
            let taken: BTreeSet<IpAddr> = taken.chain(self.cluster.special_in(block)).collect();
            let taken: Vec<IpAddr> = taken.into_iter().collect();
            let numbers = numbers_of(&taken);
            for zone in zones.within(block) {
                let Some(address) = free_address(family, zone, &numbers) else { continue };
                // The text means the addresses that neither a pod nor a node has.
                let part = self.part_by(address, &RangeSet::range(zone.0, zone.1));
                let addresses = part.name.addresses.clone();
                let whole = EndName { addresses, ..EndName::of_prefixes(vec![*block]) };
                units.push(Unit { whole, ..part });
            }
            units.extend(taken.into_iter().map(|address| self.address(address)));
        }
        units
    }

    /// The addresses that pods and nodes have.
    fn taken(self) -> BTreeSet<IpAddr> {
        let cluster = self.cluster;
        let pods = cluster.endpoints().map(|(id, _)| id);
        let pods = pods.flat_map(|id| Family::ALL.map(|family| cluster.address(id, family))).flatten();
        pods.chain(cluster.nodes().values().flatten().copied()).collect()
    }

    /// The same ends, parts of prefixes by other addresses than those by which they are destinations: what a
    /// prefix sends to itself goes from one of its addresses to another, where it has several.
    pub(in crate::verdict::explain) fn by_other_addresses(
        self,
        mut units: Vec<Unit>,
        destinations: &[Unit],
    ) -> Vec<Unit> {
        let taken = Family::ALL.map(|family| self.taken_of(family));
        let is_both = |unit: &&mut Unit| destinations.iter().any(|other| other.party == unit.party);
        for unit in units.iter_mut().filter(|unit| unit.name.is_part()).filter(is_both) {
            let (Some(family), [first]) = (unit.only, unit.name.addresses.as_slice()) else { continue };
            let Some(after) = cidr::number(*first).checked_add(1) else { continue };
            let free = |of: &Cidr| free_address(family, (of.first.max(after), of.last), &taken[family as usize]);
            let other = unit.name.prefixes.iter().filter(|prefix| prefix.last >= after).find_map(free);
            if let Some(other) = other {
                let (name, whole) = (unit.name.clone(), unit.whole.clone());
                *unit = Unit { whole, ..self.bare_address(other, name) };
            }
        }
        units
    }

    /// Two outside addresses of each family; each stands for all of them. No policy sets them apart, because none
    /// applies between them.
    pub(in crate::verdict::explain) fn two_outside(self) -> impl Iterator<Item = [Unit; 2]> {
        let taken = Vec::from_iter(self.taken());
        Family::ALL.into_iter().filter_map(move |family| {
            let all = Cidr::everything(family);
            let of_family: Vec<IpAddr> = taken.iter().filter(|of| Family::of(of) == family).copied().collect();
            let free = |first| free_address(family, (first, all.last), &numbers_of(&of_family));
            let one = free(all.first)?;
            let other = free(cidr::number(one) + 1)?;
            Some([one, other].map(|address| self.bare_address(address, EndName::of_prefixes(vec![all]))))
        })
    }

    /// The addresses of a family that pods and nodes have.
    pub(in crate::verdict::explain) fn taken_of(self, family: Family) -> AddressSet {
        let taken: Vec<IpAddr> = self.taken().into_iter().filter(|of| Family::of(of) == family).collect();
        numbers_of(&taken)
    }

    /// The part of a prefix that is in some addresses of its family, if any of them is free: none of
    /// those that are taken.
    pub(in crate::verdict::explain) fn part(self, unit: &Unit, part: &AddressSet, taken: &AddressSet) -> Option<Unit> {
        let family = unit.only?;
        let address = part.ranges().iter().find_map(|range| free_address(family, *range, taken))?;
        Some(self.part_by(address, part))
    }

    /// A part of a prefix, by one of its addresses, which neither a pod nor a node has.
    fn part_by(self, address: IpAddr, part: &AddressSet) -> Unit {
        let prefixes = cidr::prefixes(Family::of(&address), part);
        self.bare_address(address, EndName::of_prefixes(prefixes.iter().map(Cidr::of_network).collect()))
    }

    /// An end that is asked about by an address, with a name but for its addresses.
    fn bare_address(self, address: IpAddr, name: EndName) -> Unit {
        let name = EndName { addresses: vec![address], ..name };
        Unit {
            party: Party::End(End::of_address(self.cluster, address)),
            only: Some(Family::of(&address)),
            whole: name.clone(),
            name,
            is_template: false,
            seen_as: None,
        }
    }

    /// A pod that is meant by itself.
    fn pod(self, id: PodId) -> Unit {
        let pod = self.cluster.pod(id);
        let party = if pod.host_network { Party::Host(id) } else { Party::End(End::Pod(id)) };
        let name = EndName {
            kind: "Pod".to_owned(),
            namespace: Some(pod.namespace.clone()),
            name: pod.name.clone(),
            addresses: Family::ALL.into_iter().filter_map(|family| party.address(self.cluster, family)).collect(),
            host_network: pod.host_network,
            prefixes: Vec::new(),
        };
        Unit { party, only: None, whole: name.clone(), name, is_template: false, seen_as: None }
    }

    /// Pods that are meant as parts of their workloads.
    pub(in crate::verdict::explain) fn pods(self, pods: &[PodId]) -> Vec<Unit> {
        let unit = |id: &PodId| {
            let mut unit = self.pod(*id);
            let pod = self.cluster.pod(*id);
            if let Some(workload) = &pod.workload {
                unit.whole.kind.clone_from(&workload.kind);
                unit.whole.name.clone_from(&workload.name);
            }
            if pod.is_template() {
                unit.name = unit.whole.clone();
                unit.is_template = !pod.is_single;
            }
            unit
        };
        pods.iter().map(unit).collect()
    }

    /// Pods that are meant together: as parts of their workloads, or of their ReplicaSets where a Deployment
    /// has others.
    fn listed_pods(self, pods: &[PodId]) -> Vec<Unit> {
        let mut units = self.pods(pods);
        let has_replica_sets = |id: &PodId| self.cluster.pod(*id).replica_set().is_some();
        if !pods.iter().any(has_replica_sets) {
            return units;
        }
        let listed: BTreeSet<PodId> = pods.iter().copied().collect();
        let workload = |pod: &'a Pod| (&pod.namespace, &pod.workload);
        let meant: BTreeSet<_> = pods.iter().map(|id| workload(self.cluster.pod(*id))).collect();
        let others = self.cluster.named().filter(|(id, _)| !listed.contains(id));
        let others: BTreeSet<_> =
            others.map(|(_, pod)| workload(pod)).filter(|workload| meant.contains(workload)).collect();
        for (unit, id) in units.iter_mut().zip(pods) {
            let pod = self.cluster.pod(*id);
            if others.contains(&(&pod.namespace, &pod.workload))
                && let Some(name) = pod.replica_set()
            {
                "ReplicaSet".clone_into(&mut unit.whole.kind);
                unit.whole.name = name;
            }
        }
        units
    }

    /// The backends of a Service's port.
    pub(in crate::verdict::explain) fn backends(self, backends: &[Backend]) -> Vec<Unit> {
        let mut units = self.behind(backends.iter().map(|backend| backend.end));
        for (unit, backend) in units.iter_mut().zip(backends) {
            unit.only = unit.only.or(backend.family);
        }
        units
    }

    /// The places where a Service leads; pods as parts of their workloads.
    pub(in crate::verdict::explain) fn behind(self, ends: impl IntoIterator<Item = BackendEnd>) -> Vec<Unit> {
        let unit = |end| match end {
            BackendEnd::Pod(pod) => self.pods(&[pod]).remove(0),
            BackendEnd::Address(address) => self.address(address),
        };
        ends.into_iter().map(unit).collect()
    }

    /// The traffic that a port means at a destination; none where the destination has no
    /// port of the name.
    pub(in crate::verdict::explain) fn traffic(self, to: &Unit, port: Option<&Port>) -> Option<Traffic> {
        match port {
            None => Some(Traffic::all()),
            Some(Port::Name(name)) => {
                let ports = self.ports(to).iter().filter(|port| port.name == *name);
                ports.map(|port| Traffic::ports(port.protocol, port.port, port.port)).reduce(|a, b| a.union(&b))
            }
            Some(port) => port.traffic(),
        }
    }

    /// The name of the one port that is asked about.
    pub(in crate::verdict::explain) fn port_name(
        self,
        to: &Unit,
        traffic: &Traffic,
        port: Option<&Port>,
    ) -> Option<String> {
        let (protocol, first, last) = traffic.single()?;
        if let Some(Port::Name(name)) = port {
            return Some(name.clone());
        }
        let is_meant = |port: &&ContainerPort| port.protocol == protocol && port.port == first && first == last;
        self.ports(to).iter().find(is_meant).map(|port| port.name.clone())
    }

    /// The container ports of a pod; none of an address.
    pub(in crate::verdict::explain) fn ports(self, unit: &Unit) -> &'a [ContainerPort] {
        unit.party.pod().map_or(&[], |pod| &self.cluster.pod(pod).ports)
    }

    /// The addresses of these ends that several endpoints list, sorted.
    pub(in crate::verdict::explain) fn contested(self, units: &[Unit]) -> Vec<WarningFact> {
        let listed = |unit: &Unit| match unit.party {
            Party::End(End::Pod(pod)) | Party::Host(pod) => self.cluster.pod(pod).addresses().collect(),
            Party::End(End::Address(address) | End::Unread(address)) => vec![address],
            Party::OtherNode(address) => Vec::from_iter(address),
        };
        let addresses: BTreeSet<IpAddr> = units.iter().flat_map(listed).collect();
        let contested = |address: &IpAddr| self.cluster.contest(*address).is_some();
        addresses.into_iter().filter(contested).map(WarningFact::Contested).collect()
    }
}

/// A prefix is called what is left of it where parts of it are only addresses that pods and nodes have: these are
/// ends of their own, and may get another answer.
fn name_what_is_free(blocks: &[Cidr], units: &mut [Unit]) {
    for block in blocks {
        let is_part = |unit: &Unit| unit.name.is_part() && unit.whole.is_all_of(block);
        let parts = units.iter().filter(|unit| is_part(unit)).flat_map(|unit| &unit.name.prefixes);
        let free = AddressSet::from_ranges(parts.map(|part| (part.first, part.last)));
        if free.is_empty() || free == block.addresses() {
            continue;
        }
        let prefixes: Vec<Cidr> = cidr::prefixes(block.family, &free).iter().map(Cidr::of_network).collect();
        for unit in units.iter_mut().filter(|unit| is_part(unit)) {
            let addresses = std::mem::take(&mut unit.whole.addresses);
            unit.whole = EndName { addresses, ..EndName::of_prefixes(prefixes.clone()) };
        }
    }
}
