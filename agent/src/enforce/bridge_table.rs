//! Which ports of this node's bridges are pods', which addresses are whose, and what the
//! table of the bridge family is to hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use npc_compiler::engine::Engine;
use npc_compiler::object::Family;
use npc_compiler::plan::KernelState;
use npc_compiler::policy::Direction;
use npc_compiler::ruleset::node::{Member, SetName};

use super::writer::Writer;
use crate::dataplane::Kernel;
use crate::dataplane::bridge::peer::Peer;
use crate::dataplane::bridge::{BridgeTable, EthernetAddress};
use crate::dataplane::network::Network;

/// Namespace, name and UID of a pod.
type PodName = [String; 3];

/// The pods of this node, with their addresses.
type LocalPods = BTreeMap<PodName, BTreeSet<IpAddr>>;

/// What is known of a port that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    /// One; or several, if the port claims addresses of several and nothing shows which of
    /// them is its own.
    pods: BTreeSet<PodName>,
    ethernet: EthernetAddress,
}

/// How the table stands, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeState {
    /// Ports of pods from which nothing but plain frames comes.
    pub ports: usize,
    /// How many ports are pinned to their pods' own addresses.
    pub pinned: usize,
    /// How many ports get only frames for their pods' own addresses.
    pub guarded: usize,
    /// Why the table is not in the kernel, though it is needed.
    pub lack: Option<String>,
}

/// Keeps the table of the bridge family equal to what the node's bridges and pods
/// ask for.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The ports that were found to be one pod's. The first find counts for as long as port
    /// and pod are there: a pod that gives itself an address later wins nothing.
    bound: BTreeMap<u32, Bound>,
    /// There are ports whose pod is not known, and pods whose port is not known.
    is_incomplete: bool,
    desired: BridgeTable,
    network: Network,
}

impl Frames {
    /// Makes the kernel's table what these pods and bridges ask for. A failure is logged, and
    /// the next call tries again: policies are enforced all the same.
    pub(super) fn update<K: Kernel>(
        &mut self,
        writer: &mut Writer<K>,
        network: &Network,
        engine: &Engine,
        anti_spoof: bool,
    ) {
        self.network.clone_from(network);
        self.find(writer, engine, anti_spoof);
        writer.set_bridge(&self.desired);
    }

    /// Finds and repairs drift of the table. Answers whether another program had changed it.
    pub(super) fn audit<K: Kernel>(&mut self, writer: &mut Writer<K>, engine: &Engine, anti_spoof: bool) -> bool {
        if self.is_incomplete {
            self.find(writer, engine, anti_spoof);
        }
        writer.set_bridge(&self.desired)
    }

    /// How the table stands; `lack` is why the kernel does not hold it ([`Writer::bridge_lack`]).
    pub(super) fn state(&self, lack: Option<&str>) -> BridgeState {
        let BridgeTable { ports, pinned, guarded, .. } = &self.desired;
        match lack {
            Some(lack) => BridgeState { lack: Some(lack.to_owned()), ..BridgeState::default() },
            None => BridgeState { ports: ports.len(), pinned: pinned.len(), guarded: guarded.len(), lack: None },
        }
    }

    /// Those of these addresses of this node's pods that are behind a bridge and whose ports cannot
    /// be pinned one by one, and why. `lack` is as for [`Frames::state`].
    pub(super) fn spoofable(
        &self,
        local: impl IntoIterator<Item = IpAddr>,
        lack: Option<&str>,
    ) -> Vec<(IpAddr, String)> {
        let pinned: BTreeSet<IpAddr> = self.desired.addresses.iter().map(|(_, address)| *address).collect();
        let why = |address: &IpAddr| {
            let bridge = self.network.bridge_of(*address)?;
            let why = match lack {
                Some(lack) => format!("the table bridge npc is not in the kernel ({lack})"),
                None if pinned.contains(address) => return None,
                None => "the kernel does not show which port of that is its own".to_owned(),
            };
            Some(format!("it is behind {bridge}, and {why}: it can send by the addresses of others behind it"))
        };
        local.into_iter().filter_map(|address| Some((address, why(&address)?))).collect()
    }

    fn find<K: Kernel>(&mut self, writer: &mut Writer<K>, engine: &Engine, anti_spoof: bool) {
        if self.network.bridge_ports.is_empty() {
            (self.bound, self.desired, self.is_incomplete) = Default::default();
            return;
        }
        let mut here = LocalPods::new();
        for (address, pod) in engine.local_owners() {
            here.entry(pod).or_default().insert(address);
        }
        let unclear = self.bind(&here, |ports| writer.peers(ports));
        self.desired = self.table(&here, &unclear, &Isolated::of(engine.state()), anti_spoof);
    }

    /// Finds the pod of each port, and answers what is known of the ports that claim
    /// addresses of several pods.
    ///
    /// A pod that has `CAP_NET_ADMIN` can give itself the address of another. But its port
    /// shows its own address too, and the other pod's port shows that one alone. So ports
    /// that claim one pod are bound first, and others to the pods that are left.
    fn bind(&mut self, here: &LocalPods, ask: impl FnOnce(&[u32]) -> Vec<(u32, Peer)>) -> BTreeMap<u32, Bound> {
        let ports: BTreeSet<u32> = self.network.bridge_ports.values().flatten().copied().collect();
        self.bound.retain(|port, bound| ports.contains(port) && bound.pods.iter().all(|pod| here.contains_key(pod)));
        let taken: BTreeSet<&PodName> = self.bound.values().flat_map(|bound| &bound.pods).collect();
        let free: BTreeMap<IpAddr, &PodName> = here
            .iter()
            .filter(|(pod, _)| !taken.contains(pod))
            .flat_map(|(pod, addresses)| addresses.iter().map(move |address| (*address, pod)))
            .collect();
        let unbound: Vec<u32> = ports.into_iter().filter(|port| !self.bound.contains_key(port)).collect();
        self.is_incomplete = !free.is_empty() && !unbound.is_empty();
        if !self.is_incomplete {
            return BTreeMap::new();
        }
        let mut claims: BTreeMap<u32, Bound> = ask(&unbound)
            .into_iter()
            .map(|(port, Peer { ethernet, addresses })| {
                let pods = addresses.iter().filter_map(|address| free.get(address)).map(|pod| (*pod).clone()).collect();
                (port, Bound { pods, ethernet })
            })
            .collect();
        loop {
            let mut rivals = BTreeMap::<PodName, usize>::new();
            for pod in claims.values().filter(|bound| bound.pods.len() == 1).flat_map(|bound| &bound.pods) {
                *rivals.entry(pod.clone()).or_default() += 1;
            }
            // If two ports claim one pod alone, nothing shows whose it is; they are asked
            // again.
            let is_sure = |bound: &Bound| bound.pods.len() == 1 && bound.pods.iter().all(|pod| rivals[pod] == 1);
            let (sure, mut rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
                claims.into_iter().partition(|(_, bound)| is_sure(bound));
            if sure.is_empty() {
                rest.retain(|_, bound| !bound.pods.is_empty());
                return rest;
            }
            for bound in sure.values() {
                for other in rest.values_mut() {
                    other.pods.retain(|pod| !bound.pods.contains(pod));
                }
            }
            self.bound.extend(sure);
            claims = rest;
        }
    }

    /// What the table is to hold.
    fn table(
        &self,
        here: &LocalPods,
        unclear: &BTreeMap<u32, Bound>,
        isolated: &Isolated,
        anti_spoof: bool,
    ) -> BridgeTable {
        let known = || self.bound.iter().chain(unclear);
        let mut table = BridgeTable::default();
        if !isolated.is_anything && !anti_spoof {
            return table;
        }
        if isolated.is_anything {
            let local: BTreeSet<&str> =
                here.values().flatten().filter_map(|address| self.network.bridge_of(*address)).collect();
            // A bridge may be another program's (docker0). It is pods' if one of them is behind it.
            let of_pods = self.network.bridge_ports.iter().filter(|(bridge, ports)| {
                local.contains(bridge.as_str()) || known().any(|(port, _)| ports.contains(port))
            });
            table.ports = of_pods.flat_map(|(_, ports)| ports).copied().collect();
        }
        for (port, Bound { pods, ethernet }) in known() {
            let addresses = || pods.iter().filter_map(|pod| here.get(pod)).flatten().copied();
            if anti_spoof {
                table.pinned.insert(*port);
                table.senders.insert((*port, *ethernet));
            }
            if addresses().any(|address| isolated.ingress.contains(&address)) {
                table.guarded.insert(*port);
            }
            if addresses().any(|address| isolated.egress.contains(&address)) {
                table.confined.insert(*port);
            }
            table.known.insert(*port);
            table.addresses.extend(addresses().map(|address| (*port, address)));
        }
        table
    }
}

/// Which addresses of this node are isolated.
#[derive(Debug, Default)]
struct Isolated {
    is_anything: bool,
    ingress: BTreeSet<IpAddr>,
    egress: BTreeSet<IpAddr>,
}

impl Isolated {
    fn of(state: &KernelState) -> Self {
        let mut isolated = Self::default();
        for family in Family::ALL {
            for direction in [Direction::Ingress, Direction::Egress] {
                let set = state.family(family).sets.get(&SetName::isolated(family, direction));
                for member in set.into_iter().flat_map(|(_, members)| members) {
                    isolated.is_anything = true;
                    let Member::Address(address) = member else { continue };
                    match direction {
                        Direction::Ingress => isolated.ingress.insert(*address),
                        Direction::Egress => isolated.egress.insert(*address),
                    };
                }
            }
        }
        isolated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn pod(name: &str) -> PodName {
        ["n", name, name].map(str::to_owned)
    }

    fn here(pods: &[(&str, &[&str])]) -> LocalPods {
        pods.iter()
            .map(|(name, addresses)| (pod(name), addresses.iter().map(|address| ip(address)).collect()))
            .collect()
    }

    fn bridges(ports: &[(&str, &[u32])]) -> Frames {
        let bridge_ports = ports.iter().map(|(name, ports)| ((*name).to_owned(), ports.iter().copied().collect()));
        let network = Network { bridge_ports: bridge_ports.collect(), ..Network::default() };
        Frames { network, ..Frames::default() }
    }

    fn peers(peers: &[(u32, &[&str])]) -> Vec<(u32, Peer)> {
        let peer = |(port, addresses): &(u32, &[&str])| {
            let ethernet = [2, 0, 0, 0, 0, u8::try_from(*port).expect("it is small")];
            (*port, Peer { ethernet, addresses: addresses.iter().map(|address| ip(address)).collect() })
        };
        peers.iter().map(peer).collect()
    }

    /// Which pods each port is bound to, in letters.
    fn bound(frames: &Frames) -> Vec<String> {
        let each = |(port, bound): (&u32, &Bound)| {
            format!("{port} {}", bound.pods.iter().map(|pod| pod[1].as_str()).collect::<Vec<_>>().join(" "))
        };
        frames.bound.iter().map(each).collect()
    }

    const BOTH: &[(&str, &[&str])] = &[("a", &["10.0.0.1", "fd00::1"]), ("b", &["10.0.0.2", "fd00::2"])];

    #[test]
    fn a_port_is_bound_to_the_pod_whose_address_is_behind_it() {
        let mut bridges = bridges(&[("br", &[1, 2, 3])]);
        let unclear = bridges.bind(&here(BOTH), |ports| {
            assert_eq!(ports, [1, 2, 3]);
            peers(&[(1, &["10.0.0.1"]), (2, &["10.0.0.2", "fd00::2", "192.168.7.7"]), (3, &["172.17.0.2"])])
        });
        assert_eq!((bound(&bridges), unclear.len()), (vec!["1 a".to_owned(), "2 b".to_owned()], 0));
        bridges.bind(&here(BOTH), |_| panic!("all pods are found"));
    }

    #[test]
    fn a_pod_that_gives_itself_anothers_address_wins_nothing() {
        // Also where both are found at once, as after a restart of the agent.
        let mut bridges = bridges(&[("br", &[1, 2])]);
        bridges.bind(&here(BOTH), |_| peers(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["10.0.0.2"])]));
        assert_eq!(bound(&bridges), ["1 a", "2 b"]);
        // And later it is not even asked.
        let three = [BOTH, &[("c", &["10.0.0.3"])]].concat();
        bridges.network.bridge_ports.get_mut("br").expect("it is there").insert(3);
        bridges.bind(&here(&three), |ports| {
            assert_eq!(ports, [3]);
            peers(&[(3, &["10.0.0.3", "10.0.0.1"])])
        });
        assert_eq!(bound(&bridges), ["1 a", "2 b", "3 c"]);
    }

    #[test]
    fn a_port_that_claims_several_pods_is_pinned_to_them_until_it_is_clear() {
        let mut bridges = bridges(&[("br", &[1, 2])]);
        let both = here(BOTH);
        let unclear = bridges.bind(&both, |_| peers(&[(1, &["10.0.0.1", "10.0.0.2"])]));
        assert_eq!((bound(&bridges), unclear[&1].pods.len()), (vec![], 2));
        let table = bridges.table(&both, &unclear, &Isolated::default(), true);
        assert_eq!((table.pinned, table.addresses.len()), ([1].into(), 4));
        bridges.bind(&both, |_| peers(&[(1, &["10.0.0.1", "10.0.0.2"]), (2, &["fd00::2"])]));
        assert_eq!(bound(&bridges), ["1 a", "2 b"]);
    }

    #[test]
    fn what_went_is_bound_no_longer() {
        let mut bridges = bridges(&[("br", &[1, 2])]);
        bridges.bind(&here(BOTH), |_| peers(&[(1, &["10.0.0.1"]), (2, &["10.0.0.2"])]));
        // Its address is another pod's now, by another port.
        let next = here(&[("c", &["10.0.0.1"]), ("b", &["10.0.0.2"])]);
        bridges.network.bridge_ports.get_mut("br").expect("it is there").insert(7);
        bridges.bind(&next, |ports| {
            assert_eq!(ports, [1, 7], "the first one's port is still there");
            peers(&[(7, &["10.0.0.1"])])
        });
        assert_eq!(bound(&bridges), ["2 b", "7 c"]);
        bridges.network.bridge_ports.clear();
        bridges.bind(&next, |_| panic!("there is no port"));
        assert_eq!(bound(&bridges), Vec::<String>::new());
    }

    #[test]
    fn the_table_has_the_ports_of_pods_bridges_where_something_is_isolated() {
        let mut bridges = bridges(&[("br", &[1, 2, 3]), ("docker0", &[8])]);
        let both = here(BOTH);
        bridges.bind(&both, |_| peers(&[(1, &["10.0.0.1"]), (2, &["10.0.0.2"]), (8, &["172.17.0.2"])]));
        let nothing = Isolated::default();
        assert_eq!(bridges.table(&both, &BTreeMap::new(), &nothing, false), BridgeTable::default());
        let isolated = Isolated { is_anything: true, ingress: [ip("fd00::2")].into(), egress: [ip("10.0.0.1")].into() };
        let table = bridges.table(&both, &BTreeMap::new(), &isolated, false);
        // A new port is in before its pod is known.
        assert_eq!((table.ports, table.guarded.clone(), table.pinned), ([1, 2, 3].into(), [2].into(), [].into()));
        assert_eq!((table.confined, table.known), ([1].into(), [1, 2].into()));
        let addresses = [(1, "10.0.0.1"), (1, "fd00::1"), (2, "10.0.0.2"), (2, "fd00::2")];
        assert_eq!(table.addresses, addresses.map(|(port, address)| (port, ip(address))).into());
        let table = bridges.table(&both, &BTreeMap::new(), &nothing, true);
        assert_eq!((table.ports, table.pinned, table.senders.len()), ([].into(), [1, 2].into(), 2));
    }

    #[test]
    fn a_pod_that_is_not_pinned_is_spoofable() {
        let mut bridges = bridges(&[("br", &[1, 2])]);
        bridges.network.bridged = [("br".to_owned(), ["10.0.0.0/24".parse().expect("a prefix")].into())].into();
        let both = here(BOTH);
        let unclear = bridges.bind(&both, |_| peers(&[(1, &["10.0.0.1"])]));
        bridges.desired = bridges.table(&both, &unclear, &Isolated::default(), true);
        let spoofable = |lack| -> Vec<IpAddr> {
            let local = ["10.0.0.1", "10.0.0.2", "192.0.2.1"].map(ip);
            bridges.spoofable(local, lack).into_iter().map(|(address, _)| address).collect()
        };
        assert_eq!(spoofable(None), [ip("10.0.0.2")]);
        assert_eq!(spoofable(Some("it has none")), [ip("10.0.0.1"), ip("10.0.0.2")]);
    }

    #[test]
    fn egress_isolation_alone_counts() {
        let mut state = KernelState::default();
        assert!(!Isolated::of(&state).is_anything);
        let isolated = SetName::isolated(Family::V4, Direction::Egress);
        let members = [Member::Address(ip("10.0.0.1"))].into();
        state.v4.sets.insert(isolated, (npc_compiler::ruleset::node::SetKind::HashIp, members));
        let isolated = Isolated::of(&state);
        assert!(isolated.is_anything && isolated.ingress.is_empty() && isolated.egress.len() == 1);
    }
}
