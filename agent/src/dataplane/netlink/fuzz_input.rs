//! Any bytes as netlink messages: for fuzzing.

use rtnetlink::packet_core::NetlinkBuffer;

/// What may be the attributes of a message: those of the messages in a datagram, with and
/// without netfilter's header, and the datagram itself.
pub(in super::super) fn attributes(data: &[u8]) -> Vec<&[u8]> {
    const NETFILTER_HEADER: usize = 4;
    let (mut found, mut rest) = (vec![data], data);
    while let Ok(message) = NetlinkBuffer::new_checked(rest) {
        found.push(message.payload());
        found.extend(message.payload().get(NETFILTER_HEADER..));
        let end = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(end..).unwrap_or_default();
    }
    found
}

/// A message of this kind, with a header and attributes.
pub(in super::super) fn message(kind: u16, header: &[u8], attributes: &[u8]) -> Vec<u8> {
    const NETLINK_HEADER: usize = 16;
    let length = NETLINK_HEADER + header.len() + attributes.len();
    let mut message = u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.resize(NETLINK_HEADER, 0);
    message.extend_from_slice(header);
    message.extend_from_slice(attributes);
    message
}
