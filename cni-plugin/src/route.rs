//! The interface by which the node reaches an address, asked of the kernel.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Parseable,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use crate::netlink::Socket;

/// `RTM_GETROUTE` of linux/rtnetlink.h.
const GET_ROUTE: u16 = 26;

/// A message about a route. The crate's own type for all messages would put what it
/// knows of links, rules and queues into the binary, a third of its size.
#[derive(Debug)]
struct Route(RouteMessage);

impl NetlinkSerializable for Route {
    fn message_type(&self) -> u16 {
        GET_ROUTE
    }

    fn buffer_len(&self) -> usize {
        self.0.buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        self.0.emit(buffer);
    }
}

impl NetlinkDeserializable for Route {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        RouteMessage::parse(payload).map(Self)
    }
}

/// The index of the interface behind which this address is, if no gateway is in between:
/// behind a gateway is more than one pod.
///
/// # Errors
/// If the kernel has no route to it, or cannot be asked.
pub(crate) fn interface_to(node: &Socket, address: IpAddr) -> io::Result<Option<u32>> {
    let answer = node.ask(Route(question(address)))?;
    Ok(answer.and_then(|Route(route)| interface_of(&route)))
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    let is_gateway =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    if route.attributes.iter().any(is_gateway) {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn question(address: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    let (family, prefix, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = prefix;
    route.attributes.push(RouteAttribute::Destination(destination));
    route
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteVia;

    use super::*;

    #[test]
    fn behind_a_gateway_is_no_interface_of_the_pod() {
        let mut route = RouteMessage::default();
        assert_eq!(interface_of(&route), None);
        route.attributes.push(RouteAttribute::Oif(7));
        assert_eq!(interface_of(&route), Some(7));
        for gateway in [
            RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into())),
            RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap_or(std::net::Ipv6Addr::LOCALHOST))),
        ] {
            let mut route = route.clone();
            route.attributes.insert(0, gateway);
            assert_eq!(interface_of(&route), None);
        }
    }
}
