//! Whole frames, sent and received by hand.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use npc_tests::lab::Netns;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Distinguishes our frames from all others; a number follows.
pub(crate) const MAGIC: &[u8; 7] = b"npcbrdg";
/// The frame after which no other comes.
pub(crate) const LAST: u8 = 0xff;

/// One end of a link that takes and gives whole frames.
pub(crate) struct Wire {
    socket: Socket,
    /// Of its interface. What goes out by that, as an answer that quotes a frame of
    /// ours, did not arrive.
    mac: [u8; 6],
}

impl Wire {
    pub(crate) fn open(netns: &Netns, interface: &str, mac: [u8; 6]) -> Self {
        let open = || {
            // ETH_P_ALL, in the order of the network.
            let all = i32::from(3_u16.to_be());
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).unwrap();
            let index = nix::net::if_::if_nametoindex(interface).unwrap();
            // sockaddr_ll: the family, the protocol, the index.
            let mut storage = SockAddrStorage::zeroed();
            let address = [17_u16.to_ne_bytes(), 3_u16.to_be_bytes()].concat();
            let address = [address, index.to_ne_bytes().to_vec(), vec![0; 12]].concat();
            let length = u32::try_from(address.len()).unwrap();
            copy(&address, &mut storage);
            socket.bind(&of_storage(storage, length)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        Self { socket: netns.within(open).unwrap(), mac }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).unwrap_or_else(|error| panic!("{frame:x?}: {error}"));
    }

    /// The numbers of the frames that come, until the last one.
    fn received(&self) -> Vec<u8> {
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let length = (&self.socket).read(&mut buffer).expect("the last frame is let in");
            let frame = &buffer[..length];
            if frame[6..12] == self.mac {
                continue;
            }
            let Some(at) = frame.windows(MAGIC.len()).position(|window| window == MAGIC) else { continue };
            match frame[at + MAGIC.len()] {
                LAST => return received,
                number if received.contains(&number) => {}
                number => received.push(number),
            }
        }
    }
}

#[allow(unsafe_code, reason = "socket2 has no address of links; these bytes are a whole sockaddr_ll")]
fn copy(bytes: &[u8], storage: &mut SockAddrStorage) {
    assert!(bytes.len() <= size_of::<SockAddrStorage>());
    // SAFETY: it is plain old data, and long enough.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), std::ptr::from_mut(storage).cast(), bytes.len()) };
}

#[allow(unsafe_code, reason = "as above")]
fn of_storage(storage: SockAddrStorage, length: u32) -> SockAddr {
    // SAFETY: the family is set, and so many bytes are.
    unsafe { SockAddr::new(storage, length) }
}

/// Sends these over one wire; the names of those that arrive over the other.
pub(crate) fn arrived(
    sender: &Wire,
    receiver: &Wire,
    last: &[u8],
    frames: &[(&'static str, Vec<u8>)],
) -> Vec<&'static str> {
    for (_, frame) in frames {
        sender.send(frame);
    }
    sender.send(last);
    let marks = receiver.received();
    let number = |frame: &[u8]| {
        let at = frame.windows(MAGIC.len()).position(|window| window == MAGIC).unwrap();
        frame[at + MAGIC.len()]
    };
    frames.iter().filter(|(_, frame)| marks.contains(&number(frame))).map(|(name, _)| *name).collect()
}

pub(crate) fn names(frames: &[(&'static str, Vec<u8>)]) -> Vec<&'static str> {
    frames.iter().map(|(name, _)| *name).collect()
}
