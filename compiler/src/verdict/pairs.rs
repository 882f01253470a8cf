//! Pair sets: which ends may exchange what, as products of sets.
//!
//! For each group and family, all possible other ends fall into *regions* by
//! what the group exchanges with them. A region is an allowed pair set
//! (subjects × region × traffic) and a denied one (subjects × region × all
//! other traffic). Products are never multiplied out here.
//!
//! A region holds pods and addresses outside. The two are kept apart: a pod's
//! address lies in some prefix outside as well, but what a pod gets is said of
//! the pod. So a region of addresses means those that belong to no endpoint.
//!
//! Where several pods list one address, nodes can differ about which pod has it. What is said of a
//! group's peers holds for the subjects of one such view.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::algebra::cidr::{self, AddressSet};
use crate::algebra::ranges::RangeSet;
use crate::algebra::traffic::Traffic;
use crate::cluster::group::{Admitted, Atom, Group, GroupId, Groups, OtherEnd, atoms};
use crate::cluster::new_address::NewAddress;
use crate::cluster::{Cluster, PodId, PolicyId};
use crate::object::Family;
use crate::policy::Direction;
use crate::verdict::division::outside;
use crate::verdict::flow::End;

/// Other ends that a group treats alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region {
    /// Endpoints of the cluster, sorted. Those without an address are among
    /// them, as far as is known without it.
    pub pods: Vec<PodId>,
    /// Addresses; those of endpoints are not meant.
    pub outside: AddressSet,
}

/// The regions of a group in one family, by what it exchanges with them:
/// disjoint, and together everyone.
pub type Regions = BTreeMap<Traffic, Region>;

/// What a pair set says of its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairSetVerdict {
    /// They pass, as far as this direction goes.
    Allowed,
    /// They are dropped.
    Denied,
}

/// Sources × destinations × traffic with a verdict, in one direction: for
/// ingress the peers are the sources, for egress the destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSet {
    /// Whether the subjects are the destinations or the sources.
    pub direction: Direction,
    /// The family.
    pub family: Family,
    /// The endpoints of the group, sorted.
    pub subjects: Vec<PodId>,
    /// The other ends.
    pub peers: Region,
    /// The traffic, by protocol and destination port.
    pub traffic: Traffic,
    /// What happens to the traffic.
    pub verdict: PairSetVerdict,
    /// For allowed pairs the rules that admit some of them, for denied ones
    /// the policies that isolate. Nothing where no policy isolates.
    pub because: Vec<Because>,
}

/// A policy, and which of its rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Because {
    /// The policy.
    pub policy: PolicyId,
    /// The rule's path (`spec.ingress[0]`); none where the policy as a whole
    /// isolates.
    pub rule: Option<String>,
}

/// The regions of a group in a family, as seen from a node.
#[must_use]
pub fn regions(cluster: &Cluster, group: &Group, node: Option<&str>, family: Family) -> Regions {
    let everyone = group.admitted.get(&Atom::Everyone);
    let base = everyone.map(|admitted| admitted.traffic.clone()).unwrap_or_default();
    let mut regions: Regions = outside(group.admitted.iter(), family)
        .into_iter()
        .map(|(traffic, outside)| (traffic, Region { pods: Vec::new(), outside }))
        .collect();

    let mut of_pods: BTreeMap<PodId, Traffic> = cluster.endpoints().map(|(id, _)| (id, base.clone())).collect();
    for (atom, admitted) in &group.admitted {
        for pod in held(cluster, atom, node, family) {
            if let Some(traffic) = of_pods.get_mut(&pod) {
                *traffic = traffic.union(&admitted.traffic_to(other_end(cluster, pod, node, family).ports));
            }
        }
    }
    for (pod, traffic) in of_pods {
        regions.entry(traffic).or_default().pods.push(pod);
    }
    regions
}

/// The regions of groups that decide together: what each of them exchanges.
fn together(all: impl Iterator<Item = Regions>) -> Regions {
    let both = |one: Regions, other: Regions| {
        let mut both = Regions::new();
        for (a, region) in &one {
            for (b, more) in &other {
                let pods: Vec<PodId> =
                    region.pods.iter().filter(|pod| more.pods.binary_search(pod).is_ok()).copied().collect();
                let outside = region.outside.intersection(&more.outside);
                if pods.is_empty() && outside.is_empty() {
                    continue;
                }
                let entry = both.entry(a.intersection(b)).or_default();
                entry.pods.extend(pods);
                entry.outside = entry.outside.union(&outside);
            }
        }
        for region in both.values_mut() {
            region.pods.sort_unstable();
        }
        both
    };
    all.reduce(both).unwrap_or_default()
}

/// An endpoint as rules of a node match it.
fn other_end<'c>(cluster: &'c Cluster, pod: PodId, node: Option<&str>, family: Family) -> OtherEnd<'c> {
    End::Pod(pod).seen(cluster, node, Some(family))
}

/// Whether several endpoints list the address of one.
fn is_contested(cluster: &Cluster, pod: PodId, family: Family) -> bool {
    cluster.address(pod, family).is_some_and(|address| cluster.contest(address).is_some())
}

/// The endpoints that an atom means, in the view of a node.
fn held(cluster: &Cluster, atom: &Atom, node: Option<&str>, family: Family) -> Vec<PodId> {
    match atom {
        Atom::Everyone => cluster.endpoints().map(|(id, _)| id).collect(),
        Atom::Pods(peer) => {
            let classes = cluster.selected(peer).into_iter();
            let selected = classes.flat_map(|class| &cluster.class(class).endpoints).copied();
            // What a contested address means is no matter of one pod's labels.
            let selected = selected.filter(|id| !is_contested(cluster, *id, family));
            let claimants = cluster.contests().flat_map(|(_, contest)| contest.claimants.iter().copied());
            let claimants = claimants.filter(|id| is_contested(cluster, *id, family));
            selected.chain(claimants.filter(|id| atom.holds(cluster, other_end(cluster, *id, node, family)))).collect()
        }
        Atom::Block(block) if block.family == family => {
            let holds_new = cluster.holds_each_new_address(block, NewAddress::OfPod);
            let inside = |id: &PodId| match cluster.address(*id, family) {
                Some(address) => block.holds(address),
                None => holds_new && cluster.is_bare(*id),
            };
            cluster.endpoints().map(|(id, _)| id).filter(inside).collect()
        }
        Atom::Block(_) => Vec::new(),
    }
}

/// All pair sets of a cluster: by direction, group, family, traffic, and
/// allowed before denied.
#[must_use]
pub fn pair_sets(cluster: &Cluster, groups: &Groups) -> Vec<PairSet> {
    let mut all = Vec::new();
    let node_views = cluster.node_views();
    for direction in Direction::ALL {
        // By the groups that decide together, and where.
        let mut subjects = BTreeMap::<(Vec<GroupId>, Option<&str>), [Vec<PodId>; 2]>::new();
        for (id, pod) in cluster.endpoints() {
            for family in Family::ALL {
                let groups = End::Pod(id).groups(cluster, groups, direction, Some(family)).to_vec();
                // An endpoint that no policy isolates exchanges everything, in the view of any node.
                let node = pod.node.as_deref().filter(|node| !groups.is_empty() && node_views.contains(node));
                subjects.entry((groups, node)).or_default()[family as usize].push(id);
            }
        }
        for ((together, node), subjects) in subjects {
            let together: Vec<&Group> = together.into_iter().map(|group| groups.get(group)).collect();
            for (family, subjects) in Family::ALL.into_iter().zip(subjects).filter(|(_, pods)| !pods.is_empty()) {
                if together.is_empty() {
                    all.push(unisolated(cluster, direction, family, subjects));
                } else {
                    of_groups(cluster, &together, node, family, &subjects, &mut all);
                }
            }
        }
    }
    all
}

/// What endpoints that no policy isolates exchange: everything with everyone.
fn unisolated(cluster: &Cluster, direction: Direction, family: Family, subjects: Vec<PodId>) -> PairSet {
    let pods = cluster.endpoints().map(|(id, _)| id).collect();
    let outside = RangeSet::range(0, cidr::last_number(family));
    let (traffic, verdict) = (Traffic::all(), PairSetVerdict::Allowed);
    PairSet { direction, family, subjects, peers: Region { pods, outside }, traffic, verdict, because: Vec::new() }
}

fn of_groups(
    cluster: &Cluster,
    groups: &[&Group],
    node: Option<&str>,
    family: Family,
    subjects: &[PodId],
    all: &mut Vec<PairSet>,
) {
    let Some(direction) = groups.first().map(|group| group.key.direction) else { return };
    let policies: BTreeSet<PolicyId> = groups.iter().flat_map(|group| &group.key.policies).copied().collect();
    let isolating = || policies.iter().map(|policy| Because { policy: *policy, rule: None }).collect();
    let rules: Vec<RuleOfGroup<'_>> = groups.iter().flat_map(|group| rules(cluster, group, node, family)).collect();
    for (traffic, peers) in together(groups.iter().map(|group| regions(cluster, group, node, family))) {
        let denied = Traffic::all().difference(&traffic);
        let mut add = |traffic: Traffic, verdict, because| {
            if !traffic.is_none() {
                let (subjects, peers) = (subjects.to_vec(), peers.clone());
                all.push(PairSet { direction, family, subjects, peers, traffic, verdict, because });
            }
        };
        let admitting = rules.iter().filter(|rule| rule.admits(cluster, &peers, &traffic));
        let admitting: BTreeSet<Because> = admitting.map(|rule| rule.because.clone()).collect();
        add(traffic, PairSetVerdict::Allowed, admitting.into_iter().collect());
        add(denied, PairSetVerdict::Denied, isolating());
    }
}

/// One rule of a group's policies, as far as it matters in a family.
struct RuleOfGroup<'a> {
    node: Option<&'a str>,
    family: Family,
    because: Because,
    admitted: Admitted,
    everyone: bool,
    pods: Vec<PodId>,
    outside: AddressSet,
}

fn rules<'a>(cluster: &Cluster, group: &Group, node: Option<&'a str>, family: Family) -> Vec<RuleOfGroup<'a>> {
    let mut rules = Vec::new();
    for policy in &group.key.policies {
        for rule in cluster.policy(*policy).rules(group.key.direction) {
            let atoms = atoms(&rule.peers);
            let mut pods: Vec<PodId> = atoms.iter().flat_map(|atom| held(cluster, atom, node, family)).collect();
            pods.sort_unstable();
            pods.dedup();
            let blocks = atoms.iter().filter_map(|atom| match atom {
                Atom::Block(block) if block.family == family => Some(&block.addresses),
                _ => None,
            });
            rules.push(RuleOfGroup {
                node,
                family,
                because: Because { policy: *policy, rule: Some(rule.path.clone()) },
                admitted: Admitted::of_ports(&rule.ports, group.key.direction, &group.key.resolution),
                everyone: atoms.contains(&Atom::Everyone),
                pods,
                outside: RangeSet::from_ranges(blocks.flat_map(AddressSet::ranges).copied()),
            });
        }
    }
    rules
}

impl RuleOfGroup<'_> {
    /// Whether this rule admits some of the traffic that a region is admitted.
    fn admits(&self, cluster: &Cluster, region: &Region, traffic: &Traffic) -> bool {
        let meets = |admitted: &Traffic| !admitted.intersection(traffic).is_none();
        let outside =
            (self.everyone && !region.outside.is_empty()) || !self.outside.intersection(&region.outside).is_empty();
        let is_peer = |pod: &PodId| self.pods.binary_search(pod).is_ok();
        (outside && meets(&self.admitted.traffic))
            || region.pods.iter().any(|pod| {
                let ports = || other_end(cluster, *pod, self.node, self.family).ports;
                is_peer(pod) && meets(&self.admitted.traffic_to(ports()))
            })
    }
}

/// The addresses of a family whose traffic with an endpoint no policy judges:
/// its own, and those of the node that it runs on, also of which only a hostNetwork
/// pod says that it listens there. They come before every pair set.
#[must_use]
pub fn exempt(cluster: &Cluster, subject: PodId, family: Family) -> AddressSet {
    let nodes = cluster.pod(subject).node.iter().filter_map(|node| cluster.nodes().get(node)).flatten().copied();
    // Where a pod and a node claim one address, it is the pod's.
    let is_a_pods = |address: &IpAddr| !cluster.holders(*address, None).is_empty();
    let listened = cluster.listened_at().filter(|address| cluster.is_own_node(subject, *address));
    let nodes = nodes.chain(listened).filter(|address| Family::of(address) == family && !is_a_pods(address));
    let numbers = nodes.chain(cluster.address(subject, family)).map(cidr::number);
    RangeSet::from_ranges(numbers.map(|number| (number, number)))
}

impl Region {
    /// Whether it holds no end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.outside.is_empty()
    }

    /// Exactly its addresses, those of its pods included.
    #[must_use]
    pub fn addresses(&self, cluster: &Cluster, family: Family) -> AddressSet {
        let numbers = |ids: &mut dyn Iterator<Item = PodId>| -> AddressSet {
            let addresses = ids.filter_map(|id| cluster.address(id, family)).map(cidr::number);
            RangeSet::from_ranges(addresses.map(|number| (number, number)))
        };
        let all = numbers(&mut cluster.endpoints().map(|(id, _)| id));
        self.outside.difference(&all).union(&numbers(&mut self.pods.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sample::{cluster, objects};
    use crate::verdict::flow::{End, directed, exemption};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn regions_are_disjoint_and_complete_and_say_what_verdicts_say(objects in objects()) {
            let cluster = Cluster::new(&objects);
            let groups = Groups::of_cluster(&cluster);
            for (_, group) in groups.iter() {
                for family in Family::ALL {
                    let regions = regions(&cluster, group, None, family);
                    let mut seen = AddressSet::default();
                    for region in regions.values() {
                        let addresses = region.addresses(&cluster, family);
                        prop_assert!(seen.intersection(&addresses).is_empty(), "{addresses:?} twice");
                        seen = seen.union(&addresses);
                        prop_assert!(!region.is_empty());
                    }
                    prop_assert!(cidr::is_everything(family, &seen), "only {seen:?}");
                    let mut pods: Vec<PodId> = regions.values().flat_map(|region| region.pods.clone()).collect();
                    pods.sort_unstable();
                    prop_assert_eq!(pods, cluster.endpoints().map(|(id, _)| id).collect::<Vec<_>>());
                }
            }
            // By the pair sets: every flow between two ends is in exactly one
            // set per direction, with the verdict of `directed`.
            let sets = pair_sets(&cluster, &groups);
            let outside = ["10.0.0.0", "10.0.0.3", "10.0.0.129", "192.0.2.1", "8.8.8.8", "2001:db8::", "2001:db9::"];
            let outside = outside.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            let ends: Vec<End> = cluster.endpoints().map(|(id, _)| End::Pod(id))
                .chain(outside.map(|address| End::of_address(&cluster, address))).collect();
            for (subject, _) in cluster.endpoints() {
                for other in &ends {
                    for (direction, family) in Direction::ALL.into_iter().flat_map(|d| Family::ALL.map(|f| (d, f))) {
                        let (from, to) = match direction {
                            Direction::Ingress => (*other, End::Pod(subject)),
                            Direction::Egress => (End::Pod(subject), *other),
                        };
                        let expected = directed(&cluster, &groups, direction, from, to, Some(family));
                        let (mut allowed, mut denied) = (Traffic::none(), Traffic::none());
                        for set in &sets {
                            let about = set.direction == direction && set.family == family && set.subjects.contains(&subject);
                            let holds = match other {
                                End::Pod(pod) => set.peers.pods.contains(pod),
                                // Of those that list one address, any that holds it at home.
                                End::Address(address) if cluster.contest(*address).is_some() => {
                                    let mut pods = cluster.contest(*address).into_iter().flat_map(|of| &of.claimants);
                                    let holds = |pod: &&PodId| cluster.address(**pod, Family::of(address)) == Some(*address);
                                    Family::of(address) == family
                                        && pods.find(holds).is_some_and(|pod| set.peers.pods.contains(pod))
                                }
                                End::Address(address) | End::Unread(address) => Family::of(address) == family
                                    && set.peers.outside.contains(cidr::number(*address)),
                            };
                            if about && holds {
                                let deciding = End::Pod(subject).groups(&cluster, &groups, direction, Some(family));
                                prop_assert_eq!(set.because.is_empty(), deciding.is_empty(), "{:?}", set);
                                let of = if set.verdict == PairSetVerdict::Allowed { &mut allowed } else { &mut denied };
                                prop_assert!(of.intersection(&set.traffic).is_none());
                                *of = of.union(&set.traffic);
                            }
                        }
                        if matches!(other, End::Address(address) if Family::of(address) != family) {
                            continue;
                        }
                        let address = other.address(&cluster, family);
                        // Of two pods that list one address, packets show one.
                        let is_shared = address.is_some() && address == cluster.address(subject, family);
                        if is_shared && *other != End::Pod(subject) {
                            continue;
                        }
                        let address = address.map(cidr::number);
                        let is_exempt = address.is_some_and(|number| exempt(&cluster, subject, family).contains(number));
                        // What has no address of the family exchanges nothing in it.
                        if address.is_some() && End::Pod(subject).address(&cluster, family).is_some() {
                            prop_assert_eq!(is_exempt, exemption(&cluster, from, to).is_some());
                        }
                        prop_assert_eq!(&allowed, &expected);
                        prop_assert_eq!(denied, Traffic::all().difference(&expected));
                    }
                }
            }
        }
    }

    #[test]
    fn a_pod_is_not_outside_though_its_address_lies_in_a_block() {
        let policy = r#"ns/p {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"], "ingress": [
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"port": 80}]},
            {"from": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 443}]}]}"#;
        let cluster = cluster(&["ns/a app=a 10.0.0.1", "ns/b app=b 10.0.0.2", "ns/c app=c 10.1.0.3"], &[policy]);
        let groups = Groups::of_cluster(&cluster);
        let (_, group) = groups.iter().next().unwrap_or_else(|| panic!("a group"));
        let text: Vec<String> = regions(&cluster, group, None, Family::V4)
            .iter()
            .map(|(traffic, region)| {
                let pods: Vec<&str> = region.pods.iter().map(|pod| cluster.pod(*pod).name.as_str()).collect();
                let outside: Vec<String> =
                    cidr::prefixes(Family::V4, &region.outside).iter().take(2).map(ToString::to_string).collect();
                format!("{traffic}: {} {}", pods.join(","), outside.join(","))
            })
            .collect();
        assert_eq!(text, ["nothing: c 0.0.0.0/5,8.0.0.0/7", "80: a 10.0.0.0/24", "80,443: b "]);
    }
}
