//! The little cluster that frames are sent in: which pods there are, what
//! policies admit between them, and the addresses that a shape can name.
//!
//! ```text
//! node-1   a, v    isolated both ways, nothing is admitted
//!          w       isolated both ways, but for p: UDP 5000 and TCP 5001, either way
//!          i, e    isolated for ingress only, for egress only
//!          o, p    not isolated
//! node-2   y       as a and v
//!          x       not isolated
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use npc_agent::source::manifests;
use npc_compiler::object::{Family, Objects};

use super::shape::{Mac, Packet, TCP, UDP, Upper};
use crate::lab::{Backend, Doing, Enforcer, Error, Kind, Lab, Mode, Result};

/// Addresses of the rest of the world.
pub(crate) const OUTSIDE: [&str; 4] = ["203.0.113.9", "203.0.113.77", "2001:db8:ffff::9", "2001:db8:ffff::77"];
/// What policies admit between w and p.
pub(crate) const ADMITTED: [(u8, u16); 2] = [(UDP, 5_000), (TCP, 5_001)];

const POLICIES: &str = r"
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nothing, namespace: n}, spec: {
  podSelector: {matchExpressions: [{key: app, operator: In, values: [a, v, y]}]}, policyTypes: [Ingress, Egress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nothing-in, namespace: n}, spec: {
  podSelector: {matchLabels: {app: i}}, policyTypes: [Ingress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: nothing-out, namespace: n}, spec: {
  podSelector: {matchLabels: {app: e}}, policyTypes: [Egress]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: one-peer, namespace: n}, spec: {
  podSelector: {matchLabels: {app: w}}, policyTypes: [Ingress, Egress],
  ingress: [{from: [{podSelector: {matchLabels: {app: p}}}],
    ports: [{protocol: UDP, port: 5000}, {protocol: TCP, port: 5001}]}],
  egress: [{to: [{podSelector: {matchLabels: {app: p}}}],
    ports: [{protocol: UDP, port: 5000}, {protocol: TCP, port: 5001}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: victim, namespace: n}, spec: {
  clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00:96::10'], selector: {app: v},
  ports: [{name: u, protocol: UDP, port: 80, targetPort: 7000}, {name: t, protocol: TCP, port: 80, targetPort: 7001}]}}
";

/// Which pods are where.
const PODS: [(&str, u8); 9] =
    [("a", 1), ("v", 1), ("w", 1), ("i", 1), ("e", 1), ("o", 1), ("p", 1), ("x", 2), ("y", 2)];

/// The pairs between which policies deny every packet, as sender and receiver.
const DENIED: [(&str, &str); 34] = [
    ("a", "v"),
    ("a", "v"),
    ("a", "v"),
    ("v", "a"),
    ("a", "o"),
    ("a", "o"),
    ("a", "p"),
    ("a", "w"),
    ("a", "i"),
    ("a", "e"),
    ("a", "x"),
    ("a", "y"),
    ("a", "outside"),
    ("e", "o"),
    ("e", "v"),
    ("e", "x"),
    ("e", "outside"),
    ("w", "o"),
    ("w", "outside"),
    ("o", "v"),
    ("o", "v"),
    ("o", "v"),
    ("o", "w"),
    ("o", "i"),
    ("o", "y"),
    ("p", "v"),
    ("x", "v"),
    ("x", "v"),
    ("x", "w"),
    ("x", "y"),
    ("y", "x"),
    ("outside", "v"),
    ("outside", "w"),
    ("outside", "i"),
];

/// A pod, a node, the outside: what shapes ask of a place.
#[derive(Debug, Clone)]
pub struct Station {
    /// Its name: `a`, `node-1`, `outside`.
    pub name: String,
    /// The Ethernet address of its `eth0`.
    pub mac: Mac,
    /// Where its frames go that leave its own link.
    pub gateway: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its link-local address, if it is a pod.
    pub link_local: Option<Ipv6Addr>,
    /// The station of a pod's node.
    pub node: Option<usize>,
}

impl Station {
    /// Its first address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(address) == family)
    }
}

/// Everything that shapes are made from and judged by.
#[derive(Debug, Clone)]
pub struct World {
    /// How pods are attached.
    pub mode: Mode,
    /// Whether agents hold pods to their addresses.
    pub anti_spoof: bool,
    /// The stations, in the order of the lab's places.
    pub stations: Vec<Station>,
    /// The pairs between which all packets are denied, by station: sender and receiver.
    pub denied: Vec<(usize, usize)>,
    /// Addresses of the Service whose backend is v.
    pub service: Vec<IpAddr>,
}

/// The cluster's objects.
///
/// # Errors
/// Never, unless the text above is broken.
fn objects() -> Result<Objects> {
    let mut text = POLICIES.to_owned();
    for (name, node) in PODS {
        let _ = write!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: n, labels: {{app: {name}}}}}, \
             spec: {{nodeName: node-{node}, containers: []}}}}\n"
        );
    }
    let parsed = manifests::parse_text("fuzz", &text, &manifests::ReadOptions::default());
    parsed.map(|parsed| parsed.objects).map_err(|error| Error::Cluster(error.to_string()))
}

/// Builds the lab.
///
/// # Errors
/// Those of the lab.
pub fn lab(mode: Mode, backend: Backend, enforcer: Enforcer, arguments: &[&str]) -> Result<Lab> {
    let builder = Lab::builder(objects()?).mode(mode).backend(backend).enforcer(enforcer);
    let builder = builder.outside(OUTSIDE.iter().filter_map(|address| address.parse().ok()));
    arguments.iter().fold(builder, |builder, argument| builder.agent_argument(*argument)).start()
}

impl World {
    /// Reads the Ethernet addresses of a lab's places.
    ///
    /// # Errors
    /// When a namespace cannot be read.
    pub fn of(lab: &Lab, anti_spoof: bool) -> Result<Self> {
        let places = lab.places();
        let mut macs = Vec::new();
        for place in places {
            macs.push(place.netns.within(ethernet)??);
        }
        let mac = |place: usize, interface: &str| {
            let found = macs[place].iter().find(|(name, _)| name == interface).map(|(_, mac)| *mac);
            found.ok_or_else(|| Error::Unknown(format!("{interface} in {}", places[place].name)))
        };
        let mut stations = Vec::new();
        for (number, place) in places.iter().enumerate() {
            let gateway = match (place.kind, lab.mode()) {
                (Kind::Pod { node, .. }, Mode::Routed) => mac(node, &format!("azv{number}"))?,
                (Kind::Pod { node, .. }, Mode::Bridge) => mac(node, "cbr0")?,
                // The nodes come first.
                (Kind::Node | Kind::Outside, _) => mac(0, "eth0")?,
            };
            let name = place.name.rsplit('/').next().unwrap_or_default().to_owned();
            let (addresses, link_local, node) = (place.addresses.clone(), place.link_local(), place.node());
            stations.push(Station { name, mac: mac(number, "eth0")?, gateway, addresses, link_local, node });
        }
        let find = |name: &str| {
            let found = stations.iter().position(|station| station.name == name);
            found.ok_or_else(|| Error::Unknown(format!("station {name}")))
        };
        let denied = DENIED.iter().map(|(from, to)| Ok((find(from)?, find(to)?))).collect::<Result<_>>()?;
        let service = lab.cluster().objects.services.iter().flat_map(|service| service.addresses.clone()).collect();
        Ok(Self { mode: lab.mode(), anti_spoof, stations, denied, service })
    }

    /// The station of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<usize> {
        let found = self.stations.iter().position(|station| station.name == name);
        found.ok_or_else(|| Error::Unknown(format!("station {name}")))
    }

    /// The station that has this address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<usize> {
        let is_own = |station: &Station| {
            station.addresses.contains(&address) || station.link_local.map(IpAddr::V6) == Some(address)
        };
        self.stations.iter().position(is_own)
    }

    /// Whether two places are on one bridge.
    #[must_use]
    pub fn are_neighbours(&self, one: usize, other: usize) -> bool {
        let node = |place: usize| self.stations[place].node;
        self.mode == Mode::Bridge && node(one).is_some() && node(one) == node(other)
    }

    /// Whether a place is a pod that is isolated for egress.
    #[must_use]
    pub fn denies_egress(&self, place: usize) -> bool {
        ["a", "v", "w", "e", "y"].contains(&self.stations[place].name.as_str())
    }

    /// Whether a place is a pod that is isolated for ingress.
    #[must_use]
    pub fn denies_ingress(&self, place: usize) -> bool {
        ["a", "v", "w", "i", "y"].contains(&self.stations[place].name.as_str())
    }

    /// Whether policies admit a packet of a sender's to this place, if all that
    /// it claims is so. The egress of the pod that it claims to be is judged on that
    /// pod's node, and so by no other.
    #[must_use]
    pub fn admits(&self, sender: usize, packet: &Packet, to: usize) -> bool {
        let from = self.owner(packet.source);
        let name = |place: usize| self.stations[place].name.as_str();
        let is_peers = |one: usize, other: usize| {
            let port = match packet.upper {
                Upper::Udp(_, port) => (UDP, port),
                Upper::Tcp(_, port, _) => (TCP, port),
                _ => return false,
            };
            name(one) == "w" && name(other) == "p" && ADMITTED.contains(&port)
        };
        let judges =
            |from: usize| [self.stations[sender].node, self.stations[to].node].contains(&self.stations[from].node);
        let out = from.is_none_or(|from| !self.denies_egress(from) || !judges(from) || is_peers(from, to));
        out && (!self.denies_ingress(to) || from.is_some_and(|from| is_peers(to, from)))
    }

    /// An IPv4 address that a bridged pod of this node takes for a broadcast:
    /// the last one of the node's pods' network.
    #[must_use]
    pub fn subnet_broadcast(&self, pod: usize) -> Ipv4Addr {
        match self.stations[pod].address(Family::V4) {
            Some(IpAddr::V4(address)) => Ipv4Addr::from(u32::from(address) | 0xff),
            _ => Ipv4Addr::BROADCAST,
        }
    }
}

/// Records which address is at which port of a bridge: forged ARP and neighbour discovery
/// would lead flows astray, and it is denial that is on trial.
///
/// # Errors
/// When `ip` cannot write it.
pub(crate) fn pin_neighbours(lab: &Lab, world: &World) -> Result<()> {
    if lab.mode() == Mode::Routed {
        return Ok(());
    }
    for (number, place) in lab.places().iter().enumerate() {
        let pods = world.stations.iter().enumerate().filter(|(other, station)| {
            *other != number && station.node.is_some_and(|node| node == number || place.node() == Some(node))
        });
        let mut lines = Vec::new();
        let mut pin = |addresses: &[IpAddr], mac: Mac, device: &str| {
            let line = |address| format!("neigh replace {address} lladdr {mac:?} dev {device} nud permanent");
            lines.extend(addresses.iter().map(line));
        };
        let device = if place.kind == Kind::Node { "cbr0" } else { "eth0" };
        pods.for_each(|(_, pod)| pin(&pod.addresses, pod.mac, device));
        if let Some(node) = place.node() {
            pin(&world.stations[node].addresses, world.stations[number].gateway, device);
        }
        place.netns.exec(["ip", "-batch", "-"], &lines.join("\n"))?;
    }
    Ok(())
}

/// The interfaces of the namespace that the thread is in.
fn ethernet() -> Result<Vec<(String, Mac)>> {
    let listed = nix::ifaddrs::getifaddrs().doing(|| "list interfaces".to_owned())?;
    let links = listed.filter_map(|entry| {
        let mac = entry.address?.as_link_addr()?.addr()?;
        Some((entry.interface_name, Mac(mac)))
    });
    Ok(links.collect())
}
