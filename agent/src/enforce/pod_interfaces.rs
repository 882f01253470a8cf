//! Which interfaces are in the device group of pods' interfaces, which of them are
//! pinned to the sources of the pods behind them, and what has to be done so that
//! they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::node::InterfaceName;

use crate::dataplane::links::NO_GROUP;
use crate::dataplane::network::{Interface, Network, NotPodInterface};

/// How many interfaces may share a prefix. A set takes one with 64 of them, and
/// while one takes another's place it holds both.
const SHARED: usize = 32;

/// What the rules of a node ask of the interfaces of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterfaceQuestion {
    /// Nothing: this kernel does not support the question.
    Nothing,
    /// Whether a packet came from one, for ICMP errors.
    Group,
    /// That, and whether its source is one of those behind it.
    Sources,
}

/// Which pod interfaces join and leave the device group, and what may come from each.
///
/// Only interfaces in the group are pinned to anything, and if rules ask for sources, all of
/// them are. So an interface leaves the group before its addresses go out of the set, and
/// joins it when they are in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PodInterfaces {
    /// What may come from which interface.
    pub(super) own: Vec<(IpNetwork, InterfaceName)>,
    /// The links that are to leave the group.
    pub(super) leave: Vec<u32>,
    /// The links that are to join it.
    pub(super) join: Vec<u32>,
    /// Interfaces of pods that are not in the group, and so not pinned to anything,
    /// and why.
    pub(super) unpinned: BTreeMap<InterfaceName, String>,
}

/// Where a route leads.
#[derive(Debug)]
enum Way<'a> {
    /// To an interface of pods that is pinned to its sources.
    Held,
    /// To one of pods that is not, and why.
    Unpinned(InterfaceName, &'a str),
    /// To another one.
    Elsewhere(InterfaceName, NotPodInterface),
}

impl PodInterfaces {
    /// Every interface of pods is in the group, if rules ask for that, and pinned to
    /// what the node routes to it, if they ask for that too.
    pub(super) fn new(asked: InterfaceQuestion, network: &Network, local: impl IntoIterator<Item = IpAddr>) -> Self {
        if asked == InterfaceQuestion::Nothing {
            return Self { leave: network.in_pod_group.iter().copied().collect(), ..Self::default() };
        }
        let is_pinned = asked == InterfaceQuestion::Sources;
        let of_pods: Vec<(InterfaceName, &Interface)> = network.pod_interfaces(local).collect();
        let mut shared = BTreeMap::<IpNetwork, usize>::new();
        for route in of_pods.iter().flat_map(|(_, interface)| &interface.routes) {
            *shared.entry(*route).or_default() += 1;
        }
        let mut interfaces = Self::default();
        let mut grouped = BTreeSet::new();
        for (name, interface) in of_pods {
            let too_shared = interface.routes.iter().find(|route| is_pinned && shared[route] > SHARED);
            let why_not = match (interface.group, too_shared) {
                (NO_GROUP | POD_GROUP, None) => None,
                (NO_GROUP | POD_GROUP, Some(route)) => Some(format!(
                    "the interface shares its route {route} with more than {SHARED} others, too many for a set"
                )),
                (group, _) => Some(format!("the interface is in the device group {group} of another program")),
            };
            if let Some(why_not) = why_not {
                interfaces.unpinned.insert(name, why_not);
                continue;
            }
            grouped.insert(interface.index);
            if is_pinned {
                interfaces.own.extend(interface.routes.iter().map(|route| (*route, name)));
            }
            if interface.group == NO_GROUP {
                interfaces.join.push(interface.index);
            }
        }
        interfaces.leave = network.in_pod_group.difference(&grouped).copied().collect();
        interfaces
    }

    /// The interfaces that were to join could not.
    pub(super) fn not_joined(&mut self, network: &Network, why: &str) {
        let not_joined = network.interfaces.iter().filter(|(_, interface)| self.join.contains(&interface.index));
        self.unpinned.extend(not_joined.map(|(name, _)| (*name, why.to_owned())));
        self.join.clear();
    }

    /// The addresses of this node's pods that lie behind no interface that is pinned
    /// to anything, and why not: what comes from there may claim any source.
    pub(super) fn spoofable(
        &self,
        network: &Network,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> Vec<(IpAddr, String)> {
        let mut ways = BTreeMap::<IpNetwork, Way<'_>>::new();
        ways.extend(self.own.iter().map(|(route, _)| (*route, Way::Held)));
        for (name, elsewhere) in &network.elsewhere {
            ways.extend(elsewhere.routes.iter().map(|route| (*route, Way::Elsewhere(*name, elsewhere.why))));
        }
        for (name, why) in &self.unpinned {
            let routes = network.interfaces.get(name).map(|interface| &interface.routes);
            ways.extend(routes.into_iter().flatten().map(|route| (*route, Way::Unpinned(*name, why))));
        }
        // The longest prefix counts: one lookup for each length that there is.
        let lengths: BTreeSet<u8> = ways.keys().map(IpNetwork::prefix).collect();
        let way = |address: IpAddr| {
            let prefixes = lengths.iter().rev().filter_map(|length| {
                let prefix = IpNetwork::new(address, *length).ok()?;
                IpNetwork::new(prefix.network(), *length).ok()
            });
            prefixes.into_iter().find_map(|prefix| ways.get(&prefix))
        };
        let why = |address| match way(address) {
            Some(Way::Held) => None,
            Some(Way::Elsewhere(name, why)) => Some(format!("it is behind {name}, {why}")),
            Some(Way::Unpinned(name, why)) => Some(format!("it is behind {name}: {why}")),
            None => Some("the node routes its address to no interface".to_owned()),
        };
        local.into_iter().filter_map(|address| Some((address, why(address)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::network::OtherInterface;

    fn name(text: &str) -> InterfaceName {
        InterfaceName::new(text).expect("a name")
    }

    fn network(interfaces: &[(&str, u32, u32, &[&str])]) -> Network {
        let interface = |(text, index, group, routes): &(&str, u32, u32, &[&str])| {
            let routes = routes.iter().map(|route| route.parse().expect("a route")).collect();
            let is_bridge = text.starts_with("br");
            (name(text), Interface { index: *index, group: *group, is_bridge, routes })
        };
        let in_pod_group =
            interfaces.iter().filter(|(_, _, group, _)| *group == POD_GROUP).map(|(_, index, ..)| *index);
        Network {
            interfaces: interfaces.iter().map(interface).collect(),
            in_pod_group: in_pod_group.collect(),
            ..Network::default()
        }
    }

    fn own(interfaces: &PodInterfaces) -> Vec<String> {
        interfaces.own.iter().map(|(prefix, interface)| format!("{prefix} {interface}")).collect()
    }

    #[test]
    fn an_interface_is_pinned_to_what_is_routed_to_it_and_joins_once() {
        let network = network(&[("a", 1, 0, &["10.0.0.1/32", "fd00::1/128"]), ("b", 2, POD_GROUP, &["10.0.0.2/32"])]);
        let interfaces = PodInterfaces::new(InterfaceQuestion::Sources, &network, []);
        assert_eq!(own(&interfaces), ["10.0.0.1/32 a", "fd00::1/128 a", "10.0.0.2/32 b"]);
        assert_eq!((interfaces.join, interfaces.leave), (vec![1], vec![]));
        let none = PodInterfaces::new(InterfaceQuestion::Nothing, &network, []);
        assert_eq!((own(&none), none.join, none.leave), (vec![], vec![], vec![2]));
    }

    #[test]
    fn without_a_question_about_sources_an_interface_is_in_the_group_and_pinned_to_nothing() {
        let crowd: Vec<(String, u32)> = (0..40).map(|n| (format!("v{n}"), n)).collect();
        let mut links: Vec<_> = crowd.iter().map(|(name, n)| (name.as_str(), *n, 0, &["10.0.0.1/32"][..])).collect();
        links.push(("x", 77, 5, &["10.0.0.2/32"]));
        let mut network = network(&links);
        network.in_pod_group.insert(99);
        let interfaces = PodInterfaces::new(InterfaceQuestion::Group, &network, []);
        assert_eq!((interfaces.own.len(), interfaces.join.len(), interfaces.leave), (0, 40, vec![99]));
        assert_eq!(interfaces.unpinned.keys().copied().collect::<Vec<_>>(), [name("x")]);
    }

    #[test]
    fn a_bridge_is_of_pods_while_one_is_behind_it() {
        let network = network(&[("br", 1, POD_GROUP, &["10.0.0.0/24"])]);
        let here = PodInterfaces::new(InterfaceQuestion::Sources, &network, ["10.0.0.7".parse().expect("an address")]);
        assert_eq!((own(&here), here.leave), (vec!["10.0.0.0/24 br".to_owned()], vec![]));
        let elsewhere =
            PodInterfaces::new(InterfaceQuestion::Sources, &network, ["10.0.1.7".parse().expect("an address")]);
        assert_eq!((own(&elsewhere), elsewhere.leave), (vec![], vec![1]));
    }

    #[test]
    fn what_is_in_the_group_and_no_interface_of_pods_leaves_it() {
        let mut network = network(&[]);
        network.in_pod_group.insert(9);
        assert_eq!(PodInterfaces::new(InterfaceQuestion::Sources, &network, []).leave, [9]);
    }

    #[test]
    fn the_longest_prefix_decides_where_a_pod_is() {
        let mut network = network(&[("a", 1, 0, &["10.0.0.1/32"]), ("x", 2, 5, &["10.0.0.2/32"])]);
        let routes = ["10.0.0.0/24".parse().expect("a route")].into();
        network.elsewhere.insert(name("eth0"), OtherInterface { why: NotPodInterface::Default, routes });
        let interfaces = PodInterfaces::new(InterfaceQuestion::Sources, &network, []);
        let local = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.4", "fd00::1"];
        let local = local.map(|address| address.parse().expect("an address"));
        let words: Vec<String> = interfaces
            .spoofable(&network, local)
            .into_iter()
            .map(|(address, why)| format!("{address}: {why}"))
            .collect();
        assert_eq!(
            words,
            [
                "10.0.0.2: it is behind x: the interface is in the device group 5 of another program",
                "10.0.0.3: it is behind eth0, over which the node's default route leads",
                "10.0.1.4: the node routes its address to no interface",
                "fd00::1: the node routes its address to no interface",
            ]
        );
    }

    #[test]
    fn interfaces_that_cannot_be_pinned_are_listed_and_left_alone() {
        let crowd: Vec<(String, u32)> = (0..40).map(|n| (format!("v{n}"), n)).collect();
        let mut links: Vec<_> = crowd.iter().map(|(name, n)| (name.as_str(), *n, 0, &["10.0.0.1/32"][..])).collect();
        links.push(("x", 77, 5, &["10.0.0.2/32"]));
        let interfaces = PodInterfaces::new(InterfaceQuestion::Sources, &network(&links), []);
        assert_eq!((interfaces.own.len(), interfaces.join.len(), interfaces.unpinned.len()), (0, 0, 41));
        assert!(interfaces.unpinned[&name("x")].contains("group 5"));
        assert!(interfaces.unpinned[&name("v3")].contains("10.0.0.1/32"));
    }
}
