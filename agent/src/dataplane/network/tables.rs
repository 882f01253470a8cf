//! The kernel's links, addresses and routes, as far as they matter, and what
//! they say of the node's network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use npc_compiler::ruleset::constants::POD_GROUP;
use npc_compiler::ruleset::node::InterfaceName;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkPayload};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Bridge, Error, Interface, Network, NotPodInterface, OtherInterface};
use crate::dataplane::netlink::datagram::messages;

/// The device that kube-proxy makes where IPVS delivers Services.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// What the kernel listed and reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNetwork)>,
    routes: BTreeSet<Route>,
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: String,
    kind: LinkKind,
    group: u32,
    /// The bridge that it is a port of, or another link that rules it.
    controller: Option<u32>,
    /// It is one end of a pair, or stands on another link, and that is in another
    /// network namespace.
    leads_away: bool,
    /// A bridge's own switches, for iptables and ip6tables.
    calls: [bool; 2],
}

impl Link {
    /// Whether nothing can come from this port of a bridge but what a pod, or a
    /// machine, behind it sends.
    fn is_port_of_pod(&self) -> bool {
        self.kind == LinkKind::Tap || self.kind == LinkKind::Veth && self.leads_away
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkKind {
    Bridge,
    Veth,
    Tap,
    Other,
}

/// A route to something other than the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    /// The link that it leaves by.
    link: u32,
    to: IpNetwork,
    /// Over a gateway. Behind it lie other nodes, not ports of a bridge.
    onward: bool,
    table: u32,
    priority: u32,
}

impl Tables {
    pub(super) async fn read(handle: &Handle) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Read { what, source };
        let mut tables = Self::default();
        let mut links = handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("links"))? {
            tables.new_link(&link);
        }
        let mut addresses = handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("addresses"))? {
            tables.addresses.extend(address(&message));
        }
        let every_family =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in every_family {
            let mut routes = handle.route().get(family).execute();
            while let Some(message) = routes.try_next().await.map_err(failed("routes"))? {
                tables.routes.extend(routes_of(&message));
            }
        }
        Ok(tables)
    }

    pub(super) fn take(&mut self, message: &RouteNetlinkMessage, flags: u16) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link),
            RouteNetlinkMessage::NewAddress(message) => self.addresses.extend(address(message)),
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(gone) = address(message) {
                    self.addresses.remove(&gone);
                }
            }
            RouteNetlinkMessage::NewRoute(message) => {
                let new = routes_of(message);
                // Of the one that it takes the place of there is no other word.
                if let Some(one) = new.first().filter(|_| flags & NLM_F_REPLACE != 0) {
                    let same = |old: &Route| (old.to, old.table, old.priority) == (one.to, one.table, one.priority);
                    self.routes.retain(|old| !same(old));
                }
                self.routes.extend(new);
            }
            RouteNetlinkMessage::DelRoute(message) => {
                for gone in routes_of(message) {
                    self.routes.remove(&gone);
                }
            }
            _ => {}
        }
    }

    fn new_link(&mut self, message: &LinkMessage) {
        // The bridge's own news of its ports: the same index, and its DELLINK
        // says that the port left the bridge, not that the link is gone.
        if message.header.interface_family == AddressFamily::Bridge {
            return;
        }
        let index = message.header.index;
        let mut link = Link {
            name: String::new(),
            kind: LinkKind::Other,
            group: 0,
            controller: None,
            leads_away: false,
            calls: [false; 2],
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::Controller(of) => link.controller = Some(*of).filter(|of| *of != 0),
                // Any number counts, also the -1 that the kernel reports if none was given.
                LinkAttribute::LinkNetNsId(_) => link.leads_away = true,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Bridge) => link.kind = LinkKind::Bridge,
                            LinkInfo::Kind(InfoKind::Veth) => link.kind = LinkKind::Veth,
                            LinkInfo::Kind(InfoKind::Tun) => link.kind = LinkKind::Tap,
                            LinkInfo::Data(InfoData::Bridge(facts)) => {
                                for fact in facts {
                                    match fact {
                                        InfoBridge::NfCallIpTables(on) => link.calls[0] = *on,
                                        InfoBridge::NfCallIp6Tables(on) => link.calls[1] = *on,
                                        _ => {}
                                    }
                                }
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        self.links.insert(index, link);
        if !message.header.flags.contains(LinkFlags::Up) {
            // A link that goes down takes its IPv4 routes along without a word
            // for each.
            self.routes.retain(|route| route.link != index || route.to.is_ipv6());
        }
    }

    fn del_link(&mut self, message: &LinkMessage) {
        if message.header.interface_family == AddressFamily::Bridge {
            return;
        }
        let index = message.header.index;
        self.links.remove(&index);
        self.addresses.retain(|(link, _)| *link != index);
        self.routes.retain(|route| route.link != index);
    }

    pub(super) fn network(&self, with_interfaces: bool) -> Network {
        let mut network = Network {
            addresses: self.addresses.iter().map(|(_, prefix)| *prefix).filter(counts).collect(),
            ipvs: self.links.values().any(|link| link.name == IPVS_DEVICE),
            bridged: BTreeMap::new(),
            bridges: self.bridges(),
            bridge_ports: self.bridge_ports(),
            interfaces: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            in_pod_group: self
                .links
                .iter()
                .filter(|(_, link)| link.group == POD_GROUP)
                .map(|(index, _)| *index)
                .collect(),
        };
        if with_interfaces {
            self.interfaces(&mut network);
        }
        // The node's default route leads to other nodes, with or without a
        // gateway.
        let behind = |route: &&Route| !route.onward && route.to.prefix() > 0 && counts(&route.to);
        for route in self.routes.iter().filter(behind) {
            if let Some(link) = self.links.get(&route.link).filter(|link| link.kind == LinkKind::Bridge) {
                network.bridged.entry(link.name.clone()).or_default().insert(route.to);
            }
        }
        network
    }

    fn bridges(&self) -> BTreeMap<String, Bridge> {
        let mut bridges = BTreeMap::new();
        for (index, link) in self.links.iter().filter(|(_, link)| link.kind == LinkKind::Bridge) {
            let ports =
                self.links.values().filter(|port| port.controller == Some(*index)).take(2).fold(0, |n, _| n + 1);
            let [v4, v6] = link.calls;
            bridges.insert(link.name.clone(), Bridge { ports, calls_iptables: v4, calls_ip6tables: v6 });
        }
        bridges
    }

    fn bridge_ports(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let mut ports = BTreeMap::<String, BTreeSet<u32>>::new();
        for (index, link) in self.links.iter().filter(|(_, link)| link.is_port_of_pod()) {
            let bridge = link.controller.and_then(|of| self.links.get(&of)).filter(|of| of.kind == LinkKind::Bridge);
            if let Some(bridge) = bridge {
                ports.entry(bridge.name.clone()).or_default().insert(*index);
            }
        }
        ports
    }

    /// The interfaces that can be those of pods, and the others; see [`Interface`].
    fn interfaces(&self, network: &mut Network) {
        // A port that leads out of the node, or is a VLAN or a bond that does, or
        // is joined to another link of the node, may bring packets of any sender.
        let open: BTreeSet<u32> =
            self.links.values().filter(|link| !link.is_port_of_pod()).filter_map(|link| link.controller).collect();
        let is_host = |route: &IpNetwork| route.prefix() == if route.is_ipv4() { 32 } else { 128 };
        // An IPv6 address of the node's own comes with a route to itself, by the
        // interface that has it.
        let own: BTreeSet<IpAddr> = self.addresses.iter().map(|(_, address)| address.ip()).collect();
        let leads_elsewhere =
            |route: &Route| counts(&route.to) && !(is_host(&route.to) && own.contains(&route.to.ip()));
        let mut of_link = BTreeMap::<u32, Vec<&Route>>::new();
        for route in self.routes.iter().filter(|route| leads_elsewhere(route)) {
            of_link.entry(route.link).or_default().push(route);
        }
        for (index, routes) in of_link {
            let Some((link, name)) =
                self.links.get(&index).and_then(|link| Some((link, InterfaceName::new(&link.name)?)))
            else {
                continue;
            };
            let why_not = match link.kind {
                _ if link.controller.is_some() => Some(NotPodInterface::Ruled),
                _ if routes.iter().any(|route| route.to.prefix() == 0) => Some(NotPodInterface::Default),
                LinkKind::Veth if !link.leads_away => Some(NotPodInterface::PairHere),
                LinkKind::Veth if !routes.iter().any(|route| !route.onward && is_host(&route.to)) => {
                    Some(NotPodInterface::NoHostRoute)
                }
                LinkKind::Bridge if open.contains(&index) => Some(NotPodInterface::OpenBridge),
                LinkKind::Veth | LinkKind::Bridge => None,
                LinkKind::Tap | LinkKind::Other => Some(NotPodInterface::Kind),
            };
            let Some(why) = why_not else {
                let routes = routes.into_iter().map(|route| route.to).collect();
                let is_bridge = link.kind == LinkKind::Bridge;
                network.interfaces.insert(name, Interface { index, group: link.group, is_bridge, routes });
                continue;
            };
            // Over a gateway, and by default, come other nodes.
            let behind = routes.into_iter().filter(|route| !route.onward && route.to.prefix() > 0);
            let routes: BTreeSet<IpNetwork> = behind.map(|route| route.to).collect();
            if !routes.is_empty() {
                network.elsewhere.insert(name, OtherInterface { why, routes });
            }
        }
    }
}

/// Whether an address or prefix distinguishes one link from another: loopback's and IPv6
/// link-local ones, which every link has, do not, and neither do groups.
fn counts(prefix: &IpNetwork) -> bool {
    match prefix.ip() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast(),
    }
}

fn address(message: &AddressMessage) -> Option<(u32, IpNetwork)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a link with a peer, `Address` is the peer's.
            AddressAttribute::Local(ip) => {
                found = Some(*ip);
                break;
            }
            AddressAttribute::Address(ip) => found = Some(*ip),
            _ => {}
        }
    }
    Some((message.header.index, IpNetwork::new(found?, message.header.prefix_len).ok()?))
}

/// The routes of a message: one for each link that they may leave by.
fn routes_of(message: &RouteMessage) -> Vec<Route> {
    if message.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut to = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    let (mut links, mut onward) = (Vec::new(), false);
    let (mut table, mut priority) = (u32::from(message.header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = IpAddr::V4(*ip),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = IpAddr::V6(*ip),
            RouteAttribute::Oif(index) => links.push((*index, false)),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => onward = true,
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| {
                let is_gateway =
                    |one: &RouteAttribute| matches!(one, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
                (hop.interface_index, hop.attributes.iter().any(is_gateway))
            })),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => priority = *number,
            _ => {}
        }
    }
    let Ok(to) = IpNetwork::new(to, message.header.destination_prefix_length) else { return Vec::new() };
    links.into_iter().map(|(link, own)| Route { link, to, onward: onward || own, table, priority }).collect()
}

/// Takes what may be a datagram of links, addresses and routes: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let mut tables = Tables::default();
    for message in messages::<RouteNetlinkMessage>(data, 0).map_while(Result::ok) {
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            tables.take(&inner, message.header.flags);
        }
    }
    let _ = (tables.network(true), tables.network(false));
}
