//! The messages of a datagram that the kernel sent over netlink.

use rtnetlink::packet_core::{DecodeError, NetlinkDeserializable, NetlinkMessage};

/// Each message, up to the first that cannot be read, which is the last item then.
pub(super) fn messages<I: NetlinkDeserializable>(
    mut rest: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<I>, DecodeError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<I>::deserialize(rest);
        rest = match &message {
            // Lengths are padded to four bytes, in the last message too.
            Ok(message) => {
                let end = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest.get(end..).unwrap_or_default()
            }
            Err(_) => &[],
        };
        Some(message)
    })
}
