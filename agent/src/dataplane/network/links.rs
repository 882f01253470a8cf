//! Device groups: by them a rule knows the interfaces of pods.
//!
//! A link is in one group, 0 unless a program sets another. npc puts those of pods
//! into its own ([`POD_GROUP`]), where they are in none, and takes them out again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use npc_compiler::ruleset::constants::POD_GROUP;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice};

use crate::dataplane::netlink::datagram::messages_where;

/// How many bytes the kernel puts into one part of a dump at most.
const PART: usize = 64 * 1024;

/// The group of links that are in none.
pub const NO_GROUP: u32 = 0;

/// Why links, or what the kernel knows behind them, could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("cannot speak to the kernel over rtnetlink")]
    Socket(#[source] io::Error),
    /// A request was refused.
    #[error("cannot {doing}")]
    Refused {
        /// What was asked for.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What the kernel said makes no sense.
    #[error("cannot read what the kernel said over rtnetlink: {0}")]
    Malformed(String),
}

/// The names of these links, by their indexes; none of a link that is not there any more. A link is left out if the
/// kernel gives no answer about it.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn names(indexes: BTreeSet<u32>) -> Result<BTreeMap<u32, Option<String>>, Error> {
    if indexes.is_empty() {
        return Ok(BTreeMap::new());
    }
    // By a socket of any kind, the kernel answers for its network namespace.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    let socket = socket.map_err(|errno| Error::Socket(errno.into()))?;
    let name = |index: u32| match netdevice::index_to_name(&socket, index) {
        Ok(name) => Some((index, Some(name))),
        Err(Errno::NODEV | Errno::NXIO) => Some((index, None)),
        Err(_) => None,
    };
    Ok(indexes.into_iter().filter_map(name).collect())
}

/// Puts links, by their indexes, into a group. One that is gone needs none.
///
/// # Errors
/// If the kernel refuses one; those before it are in the group.
pub fn set_group(indexes: &[u32], group: u32) -> Result<(), Error> {
    if indexes.is_empty() {
        return Ok(());
    }
    let socket = open()?;
    for index in indexes {
        let mut link = LinkMessage::default();
        link.header.index = *index;
        link.attributes.push(LinkAttribute::Group(group));
        let doing = || format!("put the network interface of number {index} into the device group {group:#x}");
        match exchange(&socket, RouteNetlinkMessage::SetLink(link), NLM_F_ACK, |_| true, |_| ())? {
            Ok(()) | Err(Errno::NODEV) => {}
            Err(errno) => return Err(Error::Refused { doing: doing(), source: errno.into() }),
        }
    }
    Ok(())
}

/// The links of this network namespace that are in the group of pods'
/// interfaces: index and name.
///
/// # Errors
/// If the kernel does not list them.
pub fn in_pod_group() -> Result<Vec<(u32, String)>, Error> {
    let mut found = Vec::new();
    let take = |message| {
        let RouteNetlinkMessage::NewLink(link) = message else { return };
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if link.attributes.contains(&LinkAttribute::Group(POD_GROUP)) {
            found.push((link.header.index, name.unwrap_or_default()));
        }
    };
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let listed = exchange(&open()?, all, NLM_F_DUMP, |_| true, take)?;
    let refused =
        |errno: Errno| Error::Refused { doing: "list the network interfaces".to_owned(), source: errno.into() };
    listed.map_err(refused)?;
    Ok(found)
}

/// A socket to the kernel's network of the calling thread's namespace.
pub(in super::super) fn open() -> Result<Socket, Error> {
    let open = || {
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    };
    open().map_err(Error::Socket)
}

/// Sends a request and hands out what comes for an answer. What is not wanted, by the payload of its
/// message, is not read.
pub(in super::super) fn exchange(
    socket: &Socket,
    request: RouteNetlinkMessage,
    flags: u16,
    is_wanted: impl Fn(&[u8]) -> bool,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> Result<Result<(), Errno>, Error> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map_err(Error::Socket)?;
    let mut buffer = vec![0; PART];
    let malformed = |error: &dyn ToString| Error::Malformed(error.to_string());
    let answer = |code: i32| match code {
        0 => Ok(()),
        code => Err(Errno::from_raw_os_error(code.saturating_abs())),
    };
    loop {
        let length = match socket.recv(&mut &mut buffer[..], 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received.map_err(Error::Socket)?,
        };
        let part = buffer.get(..length).ok_or_else(|| malformed(&"a part is too long"))?;
        for message in messages_where::<RouteNetlinkMessage>(part, 0, &is_wanted) {
            match message.map_err(|error| malformed(&error))?.payload {
                NetlinkPayload::InnerMessage(message) => take(message),
                NetlinkPayload::Done(done) => return Ok(answer(done.code)),
                NetlinkPayload::Error(error) => return Ok(answer(error.raw_code())),
                _ => {}
            }
        }
    }
}
