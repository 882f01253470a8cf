//! Sockets of packets: frames out of a place's interface, and all frames that
//! come in there.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::sys::socket::{LinkAddr, bind, recvfrom, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::{Doing, Error, Place, Result};

/// Room for what arrives between two reads.
const BUFFER: usize = 64 << 20;
/// `PACKET_OTHERHOST` and `PACKET_OUTGOING` (packet(7)).
const OTHER_HOST: u8 = 3;
const OUTGOING: u8 = 4;

/// The interface of one place.
#[derive(Debug)]
pub(crate) struct Port {
    sender: Socket,
    receiver: Socket,
}

/// A frame that came in.
#[derive(Debug)]
pub(crate) struct Frame<'b> {
    pub(crate) bytes: &'b [u8],
    /// Whether its Ethernet destination is another station's.
    pub(crate) is_others: bool,
}

impl Port {
    /// Opens the `eth0` of a place.
    pub(crate) fn open(place: &Place) -> Result<Self> {
        let doing = |what: &str| format!("{what} a packet socket in {}", place.name);
        place.netns.within(|| {
            let listed = nix::ifaddrs::getifaddrs().doing(|| "list interfaces".to_owned())?;
            let mut own = listed.filter(|entry| entry.interface_name == "eth0").filter_map(|entry| entry.address);
            let link = own.find_map(|address| address.as_link_addr().copied());
            let link: LinkAddr = link.ok_or_else(|| Error::Unknown(format!("eth0 in {}", place.name)))?;
            let open = |protocol: u16| {
                let protocol = Protocol::from(i32::from(protocol.to_be()));
                let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol));
                let socket = socket.doing(|| doing("open"))?;
                bind(socket.as_raw_fd(), &link).doing(|| doing("bind"))?;
                Ok::<_, Error>(socket)
            };
            // The first gets nothing, the second all types.
            let (sender, receiver) = (open(0)?, open(3)?);
            setsockopt(&receiver, sockopt::RcvBufForce, &BUFFER).doing(|| doing("enlarge"))?;
            setsockopt(&sender, sockopt::SndBufForce, &BUFFER).doing(|| doing("enlarge"))?;
            Ok(Self { sender, receiver })
        })?
    }

    /// Sends a frame; false if the interface does not take it.
    pub(crate) fn send(&self, frame: &[u8]) -> bool {
        self.sender.send(frame).is_ok()
    }

    /// Takes every frame that has come in.
    pub(crate) fn receive(&self, mut each: impl FnMut(Frame<'_>)) {
        let mut buffer = [0; 4_096];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.receiver.as_raw_fd(), &mut buffer) {
            let kind = from.map_or(0, |from| from.pkttype());
            if kind != OUTGOING {
                each(Frame { bytes: &buffer[..length], is_others: kind == OTHER_HOST });
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
