//! The cluster as network namespaces.
//!
//! ```text
//!              outside (any address)
//!                 │ eth0
//!   ┌──────── fabric: a bridge ────────┐
//!   │ eth0                             │ eth0
//!  node-1                            node-2          routes to each other's pods
//!   │ azv0    │ azv1                   │ azv2        routed: a host route per pod
//!   │ eth0    │ eth0                   │ eth0        bridge: azv* are ports of cbr0
//!  pod a     pod b                    pod c
//! ```
//!
//! Every address stands alone (/32 and /128) and every route to it is written
//! down, so a cluster may have any addresses its manifests give it. Neighbours
//! are written down too, except between bridged pods and their gateway, where
//! neighbour discovery is part of what an enforcer must let through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Mutex;

use npc_compiler::object::Family;

use super::complete::{Cluster, pod_name};
use super::error::{Error, Result};
use super::netns::{Netns, run};

/// How pods are attached to their nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// As Azure CNI in transparent mode: a veth and a host route per pod, the
    /// gateway a link-local address; all pod traffic crosses FORWARD.
    Routed,
    /// As kubenet: pods of a node share the bridge `cbr0`, whose packets
    /// iptables sees by br_netfilter; a port may send back where it received.
    Bridge,
}

impl Mode {
    /// As the command line spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Bridge => "bridge",
        }
    }
}

/// What a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A pod.
    Pod {
        /// Its index among the cluster's pods.
        index: usize,
        /// The place of its node.
        node: usize,
    },
    /// A node.
    Node,
    /// The rest of the world.
    Outside,
}

/// Something with a network of its own: a pod, a node, the outside.
#[derive(Debug)]
pub struct Place {
    /// `NAMESPACE/NAME` of a pod, `node/NAME`, `outside`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its addresses; it sends from the first of a family.
    pub addresses: Vec<IpAddr>,
    /// Its namespace.
    pub netns: Netns,
    /// Its index among the places.
    number: usize,
}

impl Place {
    /// The address that it uses in a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(address) == family)
    }

    /// The link-local address of a pod, by which bridged pods of a node reach
    /// each other (RFC 4291, appendix A).
    #[must_use]
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        let number = u16::try_from(self.number).ok().filter(|_| matches!(self.kind, Kind::Pod { .. }))?;
        Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00 | Link::Pod as u16, number))
    }

    /// The place of the node whose firewall it is behind: a pod's node.
    #[must_use]
    pub fn node(&self) -> Option<usize> {
        match self.kind {
            Kind::Pod { node, .. } => Some(node),
            Kind::Node | Kind::Outside => None,
        }
    }
}

/// The gateway of routed pods, and of nodes towards the outside.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: &str = "fe80::1";

/// Builds the namespaces, with names that begin with `prefix` and xtables locks in a folder, and
/// joins them. The places come in the order: nodes, pods, the outside.
pub(super) fn build(
    (prefix, folder): (&str, &Path),
    cluster: &Cluster,
    outside: &[IpAddr],
    mode: Mode,
) -> Result<Vec<Place>> {
    let plan = Plan::new(cluster, outside, mode);
    let names = plan.places.iter().map(|(name, ..)| format!("{prefix}-{}", name.replace(['/', ':'], ".")));
    let mut namespaces = Netns::create(names.chain([format!("{prefix}-fabric")]), folder)?;
    let fabric = namespaces.pop().ok_or_else(|| Error::Unknown("fabric".to_owned()))?;
    let places: Vec<Place> = (plan.places.into_iter().zip(namespaces).enumerate())
        .map(|(number, ((name, kind, addresses), netns))| Place { name, kind, addresses, netns, number })
        .collect();
    let wiring = Wiring { places: &places, cluster, mode };
    // Interfaces take their settings from the namespace when they come into it.
    places.iter().try_for_each(|place| wiring.settings(place))?;
    wiring.fabric(&fabric)?;
    // A node's batch makes the veths of its pods, whose batches come next.
    for round in [|kind| !matches!(kind, Kind::Pod { .. }), |kind| matches!(kind, Kind::Pod { .. })] {
        let indexes = (0..places.len()).filter(|index| round(places[*index].kind));
        side_by_side(indexes.collect(), |index| wiring.place(index))?;
    }
    Ok(places)
}

struct Plan {
    places: Vec<(String, Kind, Vec<IpAddr>)>,
}

impl Plan {
    fn new(cluster: &Cluster, outside: &[IpAddr], mode: Mode) -> Self {
        let nodes = &cluster.objects.nodes;
        let mut places = Vec::new();
        for node in nodes {
            let mut addresses = node.addresses.clone();
            if mode == Mode::Bridge {
                let (v4, v6) = cluster.gateways[&node.name];
                addresses.extend([IpAddr::V4(v4), IpAddr::V6(v6)]);
            }
            places.push((format!("node/{}", node.name), Kind::Node, addresses));
        }
        for (index, pod) in cluster.objects.pods.iter().enumerate().filter(|(_, pod)| pod.is_endpoint()) {
            let node = nodes.iter().position(|node| Some(&node.name) == pod.node.as_ref()).unwrap_or_default();
            places.push((pod_name(pod), Kind::Pod { index, node }, pod.addresses().collect()));
        }
        places.push(("outside".to_owned(), Kind::Outside, outside.to_vec()));
        Self { places }
    }
}

struct Wiring<'a> {
    places: &'a [Place],
    cluster: &'a Cluster,
    mode: Mode,
}

impl Wiring<'_> {
    /// The bridge that joins nodes and outside.
    fn fabric(&self, fabric: &Netns) -> Result<()> {
        fabric.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        bridge_filter(fabric, false)?;
        let mut lines = vec!["link add br0 up type bridge forward_delay 0 mcast_snooping 0".to_owned()];
        for (index, place) in self.places.iter().enumerate().filter(|(_, place)| place.node().is_none()) {
            let (netns, mac) = (place.netns.name(), mac(Link::Fabric, index));
            lines.push(format!("link add port{index} type veth peer name eth0 address {mac} netns {netns}"));
            lines.push(format!("link set port{index} master br0 up"));
        }
        fabric.ip(&lines)
    }

    fn settings(&self, place: &Place) -> Result<()> {
        place.netns.sysctl(EVERYWHERE)?;
        if place.kind == Kind::Node {
            place.netns.sysctl(NODE)?;
            bridge_filter(&place.netns, self.mode == Mode::Bridge)?;
        }
        Ok(())
    }

    fn place(&self, index: usize) -> Result<()> {
        let place = &self.places[index];
        let netns = &place.netns;
        let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        match place.kind {
            Kind::Node => self.node(index, &mut lines),
            Kind::Pod { .. } => self.pod(index, &mut lines),
            Kind::Outside => self.outside(index, &mut lines),
        }
        netns.ip(&lines)?;
        let bridged = match place.kind {
            _ if self.mode == Mode::Routed => None,
            Kind::Node => Some("cbr0"),
            Kind::Pod { .. } => Some("eth0"),
            Kind::Outside => None,
        };
        // What waits for a neighbour to answer must not overflow: that would
        // look like a verdict.
        for family in bridged.map(|_| ["ipv4", "ipv6"]).into_iter().flatten() {
            let key = format!("net/{family}/neigh/{}/unres_qlen_bytes", bridged.unwrap_or_default());
            netns.sysctl(&[(&key, "16777216")])?;
        }
        Ok(())
    }

    fn node(&self, index: usize, lines: &mut Vec<String>) {
        // The nodes come first among the places.
        let node = &self.cluster.objects.nodes[index];
        lines.extend(node.addresses.iter().map(|address| own(*address, "eth0")));
        let outside = self.places.iter().position(|place| place.kind == Kind::Outside).unwrap_or_default();
        for gateway in [GATEWAY_V4.to_string(), GATEWAY_V6.to_owned()] {
            lines.push(format!("neigh replace {gateway} lladdr {} dev eth0 nud permanent", mac(Link::Fabric, outside)));
        }
        lines.push(format!("route add default via {GATEWAY_V4} dev eth0 onlink"));
        lines.push(format!("route add ::/0 via {GATEWAY_V6} dev eth0"));
        self.routes_to_nodes(index, lines);
        if self.mode == Mode::Bridge {
            let (v4, v6) = self.cluster.gateways[&node.name];
            lines.push("link add cbr0 type bridge forward_delay 0 mcast_snooping 0".to_owned());
            lines.push(format!("link set cbr0 address {} up", mac(Link::Bridge, index)));
            lines.extend([own(v4.into(), "cbr0"), own(v6.into(), "cbr0")]);
        }
        for (number, pod) in self.pods_of(index) {
            let (netns, inner, outer) = (pod.netns.name(), mac(Link::Pod, number), mac(Link::Host, number));
            let veth = format!("azv{number}");
            lines.push(format!(
                "link add {veth} address {outer} type veth peer name eth0 address {inner} netns {netns}"
            ));
            match self.mode {
                Mode::Routed => {
                    lines.push(format!("link set {veth} up"));
                    lines.push(format!("addr add {GATEWAY_V6}/64 dev {veth} nodad"));
                    for address in &pod.addresses {
                        lines.push(route(*address, &format!("dev {veth}")));
                        lines.push(format!("neigh replace {address} lladdr {inner} dev {veth} nud permanent"));
                    }
                }
                Mode::Bridge => {
                    lines.push(format!("link set {veth} master cbr0 up"));
                    lines.push(format!("link set {veth} type bridge_slave hairpin on"));
                    lines.extend(pod.addresses.iter().map(|address| route(*address, "dev cbr0")));
                }
            }
        }
    }

    fn pod(&self, index: usize, lines: &mut Vec<String>) {
        let place = &self.places[index];
        let Kind::Pod { node, .. } = place.kind else { return };
        lines.extend(place.addresses.iter().map(|address| own(*address, "eth0")));
        let (v4, v6) = match self.mode {
            Mode::Routed => {
                for gateway in [GATEWAY_V4.to_string(), GATEWAY_V6.to_owned()] {
                    let host = mac(Link::Host, index);
                    lines.push(format!("neigh replace {gateway} lladdr {host} dev eth0 nud permanent"));
                }
                (GATEWAY_V4, GATEWAY_V6.to_owned())
            }
            Mode::Bridge => {
                let neighbours = self.pods_of(node).filter(|(number, _)| *number != index);
                lines.extend(neighbours.flat_map(|(_, pod)| &pod.addresses).map(|a| route(*a, "dev eth0")));
                let (v4, v6) = self.cluster.gateways[&self.cluster.objects.nodes[node].name];
                (v4, v6.to_string())
            }
        };
        lines.push(format!("route add {v4} dev eth0 scope link"));
        lines.push(format!("route add default via {v4} dev eth0"));
        if self.mode == Mode::Bridge {
            lines.push(format!("route add {v6} dev eth0"));
        }
        lines.push(format!("route add ::/0 via {v6} dev eth0"));
    }

    fn outside(&self, index: usize, lines: &mut Vec<String>) {
        let place = &self.places[index];
        lines.push(own(GATEWAY_V4.into(), "eth0"));
        lines.push(format!("addr add {GATEWAY_V6}/64 dev eth0 nodad"));
        lines.extend(place.addresses.iter().map(|address| own(*address, "lo")));
        self.routes_to_nodes(index, lines);
    }

    /// Routes from here to the other nodes and to their pods.
    fn routes_to_nodes(&self, here: usize, lines: &mut Vec<String>) {
        let nodes = self.places.iter().enumerate().filter(|(n, place)| place.kind == Kind::Node && *n != here);
        for (number, node) in nodes {
            for address in &node.addresses {
                let mac = mac(Link::Fabric, number);
                lines.push(route(*address, "dev eth0"));
                lines.push(format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent"));
            }
            for address in self.pods_of(number).flat_map(|(_, pod)| &pod.addresses) {
                if let Some(via) = node.address(Family::of(address)) {
                    lines.push(route(*address, &format!("via {via} dev eth0 onlink")));
                }
            }
        }
    }

    fn pods_of(&self, node: usize) -> impl Iterator<Item = (usize, &Place)> {
        self.places.iter().enumerate().filter(move |(_, place)| place.node() == Some(node))
    }
}

/// Settings of every namespace: no duplicate address detection to wait for, no
/// limit on errors, and every port free to send from but those reserved later.
const EVERYWHERE: &[(&str, &str)] = &[
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv4/ip_local_port_range", "1024 65535"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

/// Settings of a node: it forwards, and forged packets reach its FORWARD chain
/// (`accept_local`: also those that claim its own address), because it is the
/// enforcer that is on trial and not the routing code. Its agent sends from ports that policies rarely
/// name: while it has a connection from a port, no receiver can listen on that port.
const NODE: &[(&str, &str)] = &[
    ("net/ipv4/ip_local_port_range", "40000 59999"),
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/accept_local", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// Whether iptables sees the packets of bridges. Where the kernel has no
/// br_netfilter, it does not.
fn bridge_filter(netns: &Netns, on: bool) -> Result<()> {
    let keys = ["iptables", "ip6tables"].map(|table| format!("net/bridge/bridge-nf-call-{table}"));
    if !Path::new("/proc/sys").join(&keys[0]).exists() {
        if !on {
            return Ok(());
        }
        // What it says does not help; what is missing afterwards does.
        let _ = run("modprobe", ["br_netfilter"], "");
        if !Path::new("/proc/sys").join(&keys[0]).exists() {
            let remedy = "modprobe br_netfilter, or probe routed pods only (--mode routed)";
            return Err(Error::Missing { what: "br_netfilter in this kernel".to_owned(), remedy: remedy.to_owned() });
        }
    }
    netns.sysctl(&keys.each_ref().map(|key| (key.as_str(), if on { "1" } else { "0" })))
}

/// Ends of links that have an Ethernet address of ours.
#[derive(Clone, Copy)]
enum Link {
    Fabric = 1,
    Pod = 2,
    Host = 3,
    Bridge = 4,
}

fn mac(link: Link, number: usize) -> String {
    format!("02:00:00:{:02x}:{:02x}:{:02x}", link as u8, number >> 8 & 0xff, number & 0xff)
}

fn own(address: IpAddr, device: &str) -> String {
    match address {
        IpAddr::V4(address) => format!("addr add {address}/32 dev {device}"),
        IpAddr::V6(address) => format!("addr add {address}/128 dev {device} nodad"),
    }
}

fn route(to: IpAddr, how: &str) -> String {
    match to {
        IpAddr::V4(to) => format!("route add {to}/32 {how}"),
        IpAddr::V6(to) => format!("route add {to}/128 {how}"),
    }
}

/// Does something for every index on a few threads; answers the first error.
pub(super) fn side_by_side(indexes: Vec<usize>, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(indexes.len());
    let queue = Mutex::new(indexes.into_iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| std::iter::from_fn(&next).try_for_each(&work))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
