//! The messages of a datagram that the kernel sent over netlink.

use rtnetlink::packet_core::{DecodeError, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage};

/// Below this are the messages of netlink itself, as errors and the end of a list.
const NLMSG_MIN_TYPE: u16 = 16;

/// Each message of one part of netfilter, and of netlink itself, up to the first that cannot be
/// read, which is the last item then. rtnetlink's messages have the part's number 0.
///
/// Messages of other parts are passed over, because the crate that reads netfilter's messages
/// panics over some malformed ones of nf_tables.
pub(in super::super) fn messages<I: NetlinkDeserializable>(
    rest: &[u8],
    part: u8,
) -> impl Iterator<Item = Result<NetlinkMessage<I>, DecodeError>> {
    messages_where(rest, part, |_| true)
}

/// The same, without the messages of the part whose payload is not wanted. To read all of a
/// message takes far longer than to read its addresses.
pub(in super::super) fn messages_where<I: NetlinkDeserializable>(
    mut rest: &[u8],
    part: u8,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = Result<NetlinkMessage<I>, DecodeError>> {
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let all = std::mem::take(&mut rest);
            let message = match NetlinkBuffer::new_checked(all) {
                Ok(message) => message,
                Err(error) => return Some(Err(error)),
            };
            // Lengths are padded to four bytes, in the last message too.
            let end = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4);
            let [of, _] = message.message_type().to_be_bytes();
            let is_netlinks_own = message.message_type() < NLMSG_MIN_TYPE;
            let is_read = is_netlinks_own || of == part && is_wanted(message.payload());
            let message = is_read.then(|| NetlinkMessage::<I>::deserialize(all));
            if !matches!(message, Some(Err(_))) {
                rest = all.get(end..).unwrap_or_default();
            }
            if message.is_some() {
                return message;
            }
        }
        None
    })
}
