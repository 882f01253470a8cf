//! This node's own network: its addresses, and how its pods hang on it, read
//! over rtnetlink and followed by its notifications.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt, TryStreamExt};
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use npc_compiler::object::Family;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::task::JoinHandle;

/// The device that kube-proxy makes where IPVS delivers Services.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// Why the network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] std::io::Error),
    /// A request failed.
    #[error("cannot read the {what} of this network namespace")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// What netlink said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The socket ended.
    #[error("the netlink socket was closed")]
    Closed,
}

/// What of a node's network matters to policies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// The node's addresses with the length of their prefixes: all but
    /// loopback's and IPv6 link-local ones, which every interface has and which
    /// name no node.
    pub addresses: BTreeSet<IpNetwork>,
    /// IPVS delivers Services here, past FORWARD.
    pub ipvs: bool,
    /// What lies behind bridges: the bridge's name and its routes.
    pub bridged: BTreeMap<String, BTreeSet<IpNetwork>>,
}

impl Network {
    /// The bridge that an address lies behind.
    #[must_use]
    pub fn bridge_of(&self, address: IpAddr) -> Option<&str> {
        let behind = |(_, routes): &(&String, &BTreeSet<IpNetwork>)| routes.iter().any(|route| route.contains(address));
        self.bridged.iter().find(behind).map(|(bridge, _)| bridge.as_str())
    }
}

/// Whether frames between two ports of one bridge meet iptables in this
/// network namespace: br_netfilter is there and turned on.
#[must_use]
pub fn bridges_are_filtered(family: Family) -> bool {
    let switch = match family {
        Family::V4 => "/proc/sys/net/bridge/bridge-nf-call-iptables",
        Family::V6 => "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
    };
    fs::read_to_string(switch).is_ok_and(|value| value.trim() == "1")
}

/// Follows the network of the namespace that it was started in.
#[derive(Debug)]
pub struct Follower {
    handle: Handle,
    notifications: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    connection: JoinHandle<()>,
    tables: Tables,
    last: Network,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Follower {
    /// Subscribes, then reads everything: what changes in between comes twice
    /// rather than never.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn start() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, notifications) = rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        let connection = tokio::spawn(connection);
        let tables = Tables::read(&handle).await?;
        let last = tables.network();
        Ok(Self { handle, notifications, connection, tables, last })
    }

    /// The network as last seen.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.last
    }

    /// Waits until it differs from what was last seen.
    ///
    /// # Errors
    /// If the socket ends, or after lost notifications the kernel does not
    /// answer.
    pub async fn changed(&mut self) -> Result<&Network, Error> {
        loop {
            let mut lost = false;
            let mut next = Some(self.notifications.next().await);
            // Whatever has come by now is one change.
            while let Some(notification) = next {
                let (message, _) = notification.ok_or(Error::Closed)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => self.tables.take(&message),
                    NetlinkPayload::Overrun(_) => lost = true,
                    _ => {}
                }
                next = self.notifications.next().now_or_never();
            }
            if lost {
                self.tables = Tables::read(&self.handle).await?;
            }
            let network = self.tables.network();
            if network != self.last {
                self.last = network;
                return Ok(&self.last);
            }
        }
    }
}

/// The kernel's links, addresses and routes, as far as they matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpNetwork)>,
    /// By the link they leave through.
    routes: BTreeSet<(u32, IpNetwork)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Link {
    name: String,
    bridge: bool,
}

impl Tables {
    async fn read(handle: &Handle) -> Result<Self, Error> {
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
        let every_family = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for family in every_family {
            let mut routes = handle.route().get(family).execute();
            while let Some(message) = routes.try_next().await.map_err(failed("routes"))? {
                tables.routes.extend(route(&message));
            }
        }
        Ok(tables)
    }

    fn take(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link),
            RouteNetlinkMessage::NewAddress(message) => self.addresses.extend(address(message)),
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(gone) = address(message) {
                    self.addresses.remove(&gone);
                }
            }
            RouteNetlinkMessage::NewRoute(message) => self.routes.extend(route(message)),
            RouteNetlinkMessage::DelRoute(message) => {
                if let Some(gone) = route(message) {
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
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let bridge = message.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => false,
        });
        self.links.insert(index, Link { name: name.unwrap_or_default(), bridge });
        if !message.header.flags.contains(LinkFlags::Up) {
            // A link that goes down takes its IPv4 routes along without a word
            // for each.
            self.routes.retain(|(link, route)| *link != index || route.is_ipv6());
        }
    }

    fn del_link(&mut self, message: &LinkMessage) {
        if message.header.interface_family == AddressFamily::Bridge {
            return;
        }
        let index = message.header.index;
        self.links.remove(&index);
        self.addresses.retain(|(link, _)| *link != index);
        self.routes.retain(|(link, _)| *link != index);
    }

    fn network(&self) -> Network {
        let counts = |prefix: &IpNetwork| match prefix.ip() {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        };
        let mut network = Network {
            addresses: self.addresses.iter().map(|(_, prefix)| *prefix).filter(counts).collect(),
            ipvs: self.links.values().any(|link| link.name == IPVS_DEVICE),
            bridged: BTreeMap::new(),
        };
        for (index, route) in self.routes.iter().filter(|(_, route)| counts(route)) {
            if let Some(link) = self.links.get(index).filter(|link| link.bridge) {
                network.bridged.entry(link.name.clone()).or_default().insert(*route);
            }
        }
        network
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

/// A route to something other than the node itself, with a link of its own.
fn route(message: &RouteMessage) -> Option<(u32, IpNetwork)> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut to, mut through) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => to = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => through = Some(*index),
            // Behind a gateway lie other nodes, not ports of the bridge.
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    Some((through?, IpNetwork::new(to?, message.header.destination_prefix_length).ok()?))
}
