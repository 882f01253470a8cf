//! Questions to the kernel over netlink, and its answers.

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// For how long the kernel's answer is waited for; it is there at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// The size of a buffer, in bytes: more than one route or one link takes.
const ANSWER: usize = 16 << 10;

/// A socket on which the kernel answers for one network namespace: that in which it was opened,
/// wherever the thread is later.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens one in the network namespace of this thread.
    ///
    /// # Errors
    /// If there is none to be had.
    pub(crate) fn open() -> io::Result<Self> {
        let domain = AddressFamily::NETLINK;
        // The protocol number of NETLINK_ROUTE is 0, which is that of none.
        let socket = rustix::net::socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Asks the kernel. Answers nothing if the kernel has nothing to say.
    ///
    /// # Errors
    /// If the kernel refuses, or cannot be asked.
    pub(crate) fn ask<M>(&self, question: M) -> io::Result<Option<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        rustix::net::send(&self.0, &request(question), SendFlags::empty())?;
        let mut buffer = vec![0; ANSWER];
        let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
        let answer = buffer.get(..length).unwrap_or_default();
        let answer = NetlinkMessage::<M>::deserialize(answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Ok(None),
        }
    }
}

fn request<M: NetlinkSerializable>(question: M) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
