//! This node's own network: its addresses, and how its pods hang on it, read
//! over rtnetlink and followed by its notifications. `links` puts interfaces of pods into their
//! device group, and `neighbours` deletes what the kernel waits for at a new pod's address.

pub mod links;
pub(super) mod neighbours;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::IpAddr;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt};
use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;
use npc_compiler::object::Family;
use npc_compiler::ruleset::node::InterfaceName;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

use tables::Tables;
pub(super) use tables::fuzz;

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

/// The parts of a node's network that policies depend on.
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
    /// The bridges themselves, by their names.
    pub bridges: BTreeMap<String, Bridge>,
    /// The ports of bridges that lead to pods, or machines, and to nothing else: by
    /// the bridge's name, their indexes. They are taps, and veths whose other end
    /// is in another network namespace.
    pub bridge_ports: BTreeMap<String, BTreeSet<u32>>,
    /// The interfaces that can be those of pods, if the caller asked for them
    /// ([`NetworkFollower::of_interfaces`]).
    pub interfaces: BTreeMap<InterfaceName, Interface>,
    /// The other interfaces to which something is routed, if the caller asked.
    pub elsewhere: BTreeMap<InterfaceName, OtherInterface>,
    /// The indexes of the links, of every kind, that are in the device group of pods' interfaces
    /// ([`POD_GROUP`]).
    ///
    /// [`POD_GROUP`]: npc_compiler::ruleset::constants::POD_GROUP
    pub in_pod_group: BTreeSet<u32>,
}

/// A bridge, as far as it decides which frames iptables gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bridge {
    /// How many ports it has, counted to two: with two, frames go from one to
    /// another. A third one changes nothing here, and so is no news.
    pub ports: u8,
    /// Its own `nf_call_iptables`: if set, frames meet iptables even if the sysctl of the network
    /// namespace is off.
    pub calls_iptables: bool,
    /// Its own `nf_call_ip6tables`.
    pub calls_ip6tables: bool,
}

impl Bridge {
    /// Whether frames from one of its ports to another meet iptables in the network
    /// namespace of the calling thread: br_netfilter is there, and turned on for
    /// all bridges or for this one.
    ///
    /// The kernel sends no notification when a sysctl changes, and inotify does not see
    /// `/proc/sys`. So this is to be asked again and again, which costs a read of
    /// one small file. What a bridge says for itself comes by rtnetlink.
    #[must_use]
    pub fn is_filtered(&self, family: Family) -> bool {
        let (switch, own) = match family {
            Family::V4 => ("/proc/sys/net/bridge/bridge-nf-call-iptables", self.calls_iptables),
            Family::V6 => ("/proc/sys/net/bridge/bridge-nf-call-ip6tables", self.calls_ip6tables),
        };
        // Without the file there is no br_netfilter, and a bridge's own switch turns
        // nothing on.
        fs::read_to_string(switch).is_ok_and(|value| own || value.trim() != "0")
    }
}

/// An interface behind which there can be nothing but what is routed to it: one
/// end of a veth to which a route of a single address leads, or a bridge of
/// which all ports are veths or taps. The other end of a veth, of one that is a
/// port too, is in another network namespace: a pair within one may bring packets of
/// any sender, as the tunnels of VPN software do. The node's default route leads
/// elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its device group.
    pub group: u32,
    /// Whether it is a bridge, behind which may be pods, or others.
    pub is_bridge: bool,
    /// What the node sends there, and so what may come from there. Pods cannot
    /// change it.
    pub routes: BTreeSet<IpNetwork>,
}

/// An interface that is not taken for one of pods, though addresses lie behind
/// it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherInterface {
    /// Why it is not.
    pub why: NotPodInterface,
    /// What the node sends there without a gateway, less the default route.
    pub routes: BTreeSet<IpNetwork>,
}

/// Why an interface cannot be held to the sources of the pods behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPodInterface {
    /// It is no veth and no bridge, as with ipvlan, macvlan and taps.
    Kind,
    /// It is a veth with both ends here.
    PairHere,
    /// It is a veth to which prefixes are routed and no single address.
    NoHostRoute,
    /// A port of the bridge may lead anywhere.
    OpenBridge,
    /// It is a port of a bridge, a bond or a VRF itself.
    Ruled,
    /// The node's default route leads there.
    Default,
}

impl fmt::Display for NotPodInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kind => "which is neither a veth nor a bridge",
            Self::PairHere => "a veth with both ends in this network namespace",
            Self::NoHostRoute => "a veth to which the node routes no single address",
            Self::OpenBridge => "a bridge with ports other than taps and veths into other network namespaces",
            Self::Ruled => "which is a port of another interface",
            Self::Default => "over which the node's default route leads",
        })
    }
}

impl Network {
    /// The bridge that an address lies behind.
    #[must_use]
    pub fn bridge_of(&self, address: IpAddr) -> Option<&str> {
        let behind = |(_, routes): &(&String, &BTreeSet<IpNetwork>)| routes.iter().any(|route| route.contains(address));
        self.bridged.iter().find(behind).map(|(bridge, _)| bridge.as_str())
    }

    /// The interfaces of pods, if these addresses are those of this node's pods.
    ///
    /// A veth's other end was put into another network namespace, and given an
    /// address by the node's routes, before a container could run there: so
    /// nothing is waited for until the API reports the pod. A bridge may be of
    /// others (docker0); one is of pods when one of them is behind it.
    pub fn pod_interfaces(
        &self,
        local: impl IntoIterator<Item = IpAddr>,
    ) -> impl Iterator<Item = (InterfaceName, &Interface)> {
        let local: Vec<IpAddr> = local.into_iter().collect();
        let is_of_pods = move |interface: &Interface| {
            !interface.is_bridge
                || local.iter().any(|address| interface.routes.iter().any(|route| route.contains(*address)))
        };
        self.interfaces.iter().filter(move |(_, interface)| is_of_pods(interface)).map(|(name, of)| (*name, of))
    }
}

/// Follows the network of the namespace that it was started in.
#[derive(Debug)]
pub struct NetworkFollower {
    /// Without one the connection would end.
    _handle: Handle,
    notifications: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    connection: JoinHandle<()>,
    tables: Tables,
    /// Whether the caller wants to know of interfaces.
    with_interfaces: bool,
    last: Network,
}

impl Drop for NetworkFollower {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl NetworkFollower {
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
        let last = tables.network(false);
        Ok(Self { _handle: handle, notifications, connection, tables, with_interfaces: false, last })
    }

    /// Follows the interfaces that can be those of pods, too.
    #[must_use]
    pub fn of_interfaces(mut self, wanted: bool) -> Self {
        self.with_interfaces = wanted;
        self.last = self.tables.network(wanted);
        self
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
            // All notifications that have come so far are one change.
            while let Some(notification) = next {
                let (message, _) = notification.ok_or(Error::Closed)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => self.tables.take(&inner, message.header.flags),
                    NetlinkPayload::Overrun(_) => lost = true,
                    _ => {}
                }
                next = self.notifications.next().now_or_never();
            }
            if lost {
                // By another socket: what was reported before the loss and not read
                // yet must not be taken for news.
                let fresh = Self::start().await?;
                let before = std::mem::replace(self, fresh);
                (self.last, self.with_interfaces) = (before.last.clone(), before.with_interfaces);
            }
            let network = self.tables.network(self.with_interfaces);
            if network != self.last {
                self.last = network;
                return Ok(&self.last);
            }
        }
    }
}
