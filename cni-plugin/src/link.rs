//! The node's end of a container's interface, asked of the kernel.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::Socket;
use crate::protocol::HostInterface;

/// `RTM_GETLINK` and `RTM_GETNSID` of linux/rtnetlink.h.
const GET_LINK: u16 = 18;
const GET_NETNS_ID: u16 = 90;

/// The network namespace of this thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// How many bytes stand before the attributes (`struct ifinfomsg`), and where the index is.
const HEADER: usize = 16;
const INDEX: std::ops::Range<usize> = 4..8;

/// Attributes of a link: `IFLA_*` of `linux/if_link.h`.
const NAME: u16 = 3;
const LINK: u16 = 5;
const LINK_INFO: u16 = 18;
const LINK_NETNS_ID: u16 = 37;
const INFO_KIND: u16 = 1;

/// How many bytes stand before the attributes of a network namespace's number (`struct rtgenmsg`,
/// padded), and these attributes: `NETNSA_*` of `linux/net_namespace.h`.
const NETNS_HEADER: usize = 4;
const NETNS_ID: u16 = 1;
const NETNS_FILE: u16 = 3;

/// Kinds of links that are made as a pair: `IFLA_LINK` of each is the index of the other.
/// That of a macvlan, an ipvlan or a vlan is the interface below it, which many share.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// Which node's end an interface has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NodeEnd {
    /// This interface of the node, which goes with the container's.
    Is(HostInterface),
    /// None: the container's interface is not one of a pair (macvlan, ipvlan, a device).
    None,
    /// One that is not in this network namespace.
    Elsewhere,
}

/// The node's end of the interface of this name in this network namespace. `node` is a socket of
/// the node's.
///
/// # Errors
/// If the network namespace cannot be entered, or the kernel cannot be asked.
pub(crate) fn node_end(node: &Socket, netns: &str, interface: &str) -> io::Result<NodeEnd> {
    let netns = open(netns)?;
    let inner = Link::find(&socket_of(&netns)?, &by_name(interface))?;
    if !inner.is_paired {
        return Ok(NodeEnd::None);
    }
    // Older kernels leave it out where both ends have the same index.
    let Some(other) = inner.other else { return Ok(NodeEnd::Elsewhere) };
    // The index is of the network namespace in which the other end is. If that is another one than
    // the node's, an interface of the node may have the same index.
    let outer = match Link::find(node, &by_index(other)) {
        Ok(outer) => outer,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            return Ok(NodeEnd::Elsewhere);
        }
        Err(error) => return Err(error),
    };
    // Indexes are small numbers that each network namespace counts anew. So both may be equal by
    // chance, where each of the two is one end of another pair.
    let is_pair = outer.is_paired && outer.other == Some(inner.index);
    // After the link was asked for, because then the kernel gave the number.
    if is_pair && outer.other_netns.is_some() && outer.other_netns == number_of(node, &netns)? {
        Ok(NodeEnd::Is(HostInterface { name: outer.name, index: outer.index }))
    } else {
        Ok(NodeEnd::Elsewhere)
    }
}

fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?)
}

/// The number by which the node's network namespace knows another one; none if it has no number.
fn number_of(node: &Socket, netns: &OwnedFd) -> io::Result<Option<i32>> {
    let mut payload = vec![0; NETNS_HEADER];
    payload.extend(8_u16.to_ne_bytes());
    payload.extend(NETNS_FILE.to_ne_bytes());
    payload.extend(netns.as_raw_fd().to_ne_bytes());
    let answer = node.ask(Message { kind: GET_NETNS_ID, payload })?;
    let payload = answer.map(|message| message.payload).unwrap_or_default();
    let mut attributes = NlasIterator::new(payload.get(NETNS_HEADER..).unwrap_or_default()).filter_map(Result::ok);
    let id = attributes.find(|attribute| attribute.kind() == NETNS_ID).and_then(|id| signed(id.value()));
    Ok(id.filter(|id| *id >= 0))
}

/// A socket of this network namespace. This thread enters it and leaves it: a thread for that alone
/// would have to wait for a processor, behind all plugins of a burst.
fn socket_of(netns: &OwnedFd) -> io::Result<Socket> {
    let own = open(OWN)?;
    let enter = |netns: &OwnedFd| move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
    enter(netns)?;
    let socket = Socket::open();
    // Nothing depends on it, because what is asked of the node goes over its own socket. But a plugin
    // that waits for the agent is to keep no network namespace alive.
    let _ = enter(&own);
    socket
}

/// The interface of this index.
///
/// # Errors
/// If there is none, or the kernel cannot be asked.
pub(crate) fn of_index(node: &Socket, index: u32) -> io::Result<HostInterface> {
    Link::find(node, &by_index(index)).map(|link| HostInterface { name: link.name, index: link.index })
}

/// The interface of this name.
///
/// # Errors
/// If there is none, or the kernel cannot be asked.
pub(crate) fn of_name(node: &Socket, name: &str) -> io::Result<HostInterface> {
    Link::find(node, &by_name(name)).map(|link| HostInterface { name: link.name, index: link.index })
}

/// What matters of a link.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    /// The index of the other end, or of the link below.
    other: Option<u32>,
    /// The number of the network namespace in which that is, if it is another one.
    other_netns: Option<i32>,
    is_paired: bool,
}

impl Link {
    fn find(socket: &Socket, question: &[u8]) -> io::Result<Self> {
        let answer = socket.ask(Message { kind: GET_LINK, payload: question.to_vec() })?;
        let link = answer.and_then(|message| Self::parse(&message.payload));
        link.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not a link"))
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let index = number(payload.get(INDEX)?)?;
        let (mut name, mut other, mut other_netns, mut is_paired) = (String::new(), None, None, false);
        for attribute in NlasIterator::new(payload.get(HEADER..)?) {
            let attribute = attribute.ok()?;
            match attribute.kind() {
                NAME => name = text(attribute.value()),
                LINK => other = number(attribute.value()),
                LINK_NETNS_ID => other_netns = signed(attribute.value()),
                LINK_INFO => {
                    let mut nested = NlasIterator::new(attribute.value()).filter_map(Result::ok);
                    is_paired = nested.any(|inner: NlaBuffer<&[u8]>| {
                        inner.kind() == INFO_KIND && PAIRS.contains(&&*text(inner.value()))
                    });
                }
                _ => {}
            }
        }
        Some(Self { index, name, other, other_netns, is_paired })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn signed(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.try_into().ok()?))
}

/// A text, which ends with a zero byte.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn by_index(index: u32) -> Vec<u8> {
    let mut question = vec![0; HEADER];
    question.splice(INDEX, index.to_ne_bytes());
    question
}

/// A name has 15 bytes at most.
fn by_name(name: &str) -> Vec<u8> {
    let mut question = vec![0; HEADER];
    let length = u16::try_from(4 + name.len() + 1).unwrap_or_default();
    question.extend(length.to_ne_bytes());
    question.extend(NAME.to_ne_bytes());
    question.extend(name.as_bytes());
    question.push(0);
    question.resize(question.len().next_multiple_of(4), 0);
    question
}

/// A message about a link or a network namespace, not parsed. The crate's own type would put what
/// it knows of every kind of link into the binary.
#[derive(Debug)]
struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { kind: header.message_type, payload: payload.to_vec() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_link_is_none() {
        for payload in [&[][..], &[0; 15], &[0xff; 40], &[0, 0, 0, 0, 7]] {
            assert_eq!(Link::parse(payload), None);
        }
        let bare = Link { index: 7, name: String::new(), other: None, other_netns: None, is_paired: false };
        assert_eq!(Link::parse(&by_index(7)), Some(bare));
        let named = Link { index: 0, name: "eth0".to_owned(), other: None, other_netns: None, is_paired: false };
        assert_eq!(Link::parse(&by_name("eth0")), Some(named));
    }

    #[test]
    fn a_loopback_has_no_end_on_the_node() {
        let node = Socket::open().unwrap();
        assert_eq!(of_name(&node, "lo").unwrap().index, 1);
        assert_eq!(of_index(&node, 1).unwrap().name, "lo");
        assert!(of_name(&node, "no-such-link").is_err());
        // Entering a network namespace takes root.
        if let Ok(end) = node_end(&node, "/proc/self/ns/net", "lo") {
            assert_eq!(end, NodeEnd::None);
        }
        assert!(node_end(&node, "/proc/self/ns/mnt", "lo").is_err());
        assert!(node_end(&node, "/nowhere", "lo").is_err());
    }

    #[test]
    fn a_thread_comes_back_from_the_containers_network_namespace() {
        let name = format!("npc-cni-test-{}", std::process::id());
        let ip = |command: &str| std::process::Command::new("ip").args(["netns", command, &name]).status();
        // That takes root and iproute2.
        if !ip("add").is_ok_and(|status| status.success()) {
            return;
        }
        let own = || std::fs::read_link(OWN).unwrap();
        let (before, node) = (own(), Socket::open().unwrap());
        let end = node_end(&node, &format!("/run/netns/{name}"), "lo");
        assert!(ip("del").unwrap().success());
        assert_eq!((end.unwrap(), own()), (NodeEnd::None, before));
    }

    /// Network namespaces that go with the test.
    struct Namespaces(Vec<String>);

    impl Drop for Namespaces {
        fn drop(&mut self) {
            for name in &self.0 {
                let _ = ip(&format!("netns del {name}"));
            }
        }
    }

    fn ip(arguments: &str) -> bool {
        std::process::Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
    }

    /// The indexes of two pairs of links are equal by chance: each network namespace counts its own.
    #[test]
    fn an_interface_of_the_node_with_the_right_indexes_is_not_the_other_end_of_another_pair() {
        let names = ["node", "pod", "else", "other"].map(|name| format!("npc-cni-ids-{}-{name}", std::process::id()));
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let namespaces = Namespaces(names.to_vec());
        for name in &names {
            assert!(ip(&format!("netns add {name}")));
        }
        let [node, pod, elsewhere, other] = &names;
        for link in [
            format!("-n {pod} link add eth0 index 100 type veth peer name x index 200 netns {elsewhere}"),
            format!("-n {node} link add host index 200 type veth peer name y index 100 netns {other}"),
            format!("-n {pod} link add eth1 index 101 type veth peer name own index 201 netns {node}"),
        ] {
            assert!(ip(&link), "{link}");
        }
        let paths = [node, pod].map(|name| format!("/run/netns/{name}"));
        let ends = std::thread::spawn(move || {
            let [node, pod] = paths;
            let node = socket_of(&open(&node).unwrap()).unwrap();
            ["eth0", "eth1"].map(|interface| node_end(&node, &pod, interface).unwrap())
        });
        let ends = ends.join().unwrap();
        drop(namespaces);
        assert_eq!(ends, [NodeEnd::Elsewhere, NodeEnd::Is(HostInterface { name: "own".to_owned(), index: 201 })]);
    }
}
