//! How full the kernel's connection tracking is. If its table is full, the kernel drops the
//! first packet of every new connection, also of one that policies allow. What one pod opens
//! can fill it, and then it looks as if policies denied the others.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{ErrorBuffer, NetlinkBuffer};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::dataplane::netlink::attribute::Attributes;

/// The kernel's number for connection tracking among the parts of netfilter; its requests, and
/// the attributes of their answers (linux/netfilter/nfnetlink_conntrack.h).
const SUBSYSTEM: u8 = 1;
const GET_STATS_CPU: u8 = 4;
const GET_STATS: u8 = 5;
const STATS_ENTRIES: u16 = 1;
const STATS_MAX_ENTRIES: u16 = 2;
const CPU_DROP: u16 = 10;
const CPU_EARLY_DROP: u16 = 11;

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Netlink's header, and netfilter's behind it.
const HEADERS: u32 = 16 + 4;
const NETFILTER_HEADER: usize = 4;

/// The kernel answers before it returns from taking the request.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than the kernel puts into one part of a dump, in bytes.
const BUFFER: usize = 32 << 10;

/// The table of this network namespace, and what was lost since the namespace was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConntrackTable {
    /// Entries in the table.
    pub entries: u32,
    /// How many there can be; none if the kernel does not say it (before 4.18).
    pub limit: Option<u32>,
    /// Packets that the kernel dropped because it could not track them.
    pub dropped: u64,
    /// Entries that gave way to new ones, because the table was full.
    pub early_dropped: u64,
}

impl ConntrackTable {
    /// Reads it, in the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel does not answer, as without `nf_conntrack_netlink`.
    pub fn read() -> io::Result<Self> {
        let mut table = Self::default();
        ask(GET_STATS, 0, |answer| table.take_global(answer))?;
        ask(GET_STATS_CPU, DUMP, |answer| table.take_cpu(answer))?;
        Ok(table)
    }

    fn take_global(&mut self, answer: Attributes<'_>) -> io::Result<()> {
        self.entries = answer.u32(STATS_ENTRIES).map_err(malformed)?.unwrap_or_default();
        self.limit = answer.u32(STATS_MAX_ENTRIES).map_err(malformed)?.filter(|limit| *limit > 0);
        Ok(())
    }

    fn take_cpu(&mut self, answer: Attributes<'_>) -> io::Result<()> {
        self.dropped += u64::from(answer.u32(CPU_DROP).map_err(malformed)?.unwrap_or_default());
        self.early_dropped += u64::from(answer.u32(CPU_EARLY_DROP).map_err(malformed)?.unwrap_or_default());
        Ok(())
    }
}

/// Asks one thing, and hands out each answer.
fn ask(request: u8, flags: u16, mut each: impl FnMut(Attributes<'_>) -> io::Result<()>) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut message = Vec::with_capacity(HEADERS as usize);
    message.extend(HEADERS.to_ne_bytes());
    message.extend(u16::from_be_bytes([SUBSYSTEM, request]).to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    // The number of the request, and a port of the kernel's choice; then the header of
    // netfilter: all families.
    message.resize(HEADERS as usize, 0);
    retry_on_intr(|| send(&socket, &message, SendFlags::empty()))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (_, length) = retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::TRUNC))?;
        let answer = buffer.get(..length).ok_or_else(|| malformed("it is longer than all answers"))?;
        if take(answer, flags == DUMP, &mut each)? {
            return Ok(());
        }
    }
}

/// Takes what came at once. Answers whether that was the end.
fn take(mut rest: &[u8], is_dump: bool, each: &mut impl FnMut(Attributes<'_>) -> io::Result<()>) -> io::Result<bool> {
    if rest.is_empty() {
        return Err(malformed("it is empty"));
    }
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        match message.message_type() {
            ERROR => {
                let code = ErrorBuffer::new_checked(message.payload()).map_err(malformed)?.code();
                return match code {
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_neg())),
                    None => Ok(true),
                };
            }
            DONE => return Ok(true),
            kind if kind.to_be_bytes()[0] == SUBSYSTEM => {
                let attributes = message.payload().get(NETFILTER_HEADER..);
                each(Attributes(attributes.ok_or_else(|| malformed("it has no netfilter header"))?))?;
                if !is_dump {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

fn malformed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads what may be an answer of the kernel: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let mut table = ConntrackTable::default();
    let _ = take(data, true, &mut |answer| table.take_cpu(answer));
    let _ = take(data, false, &mut |answer| table.take_global(answer));
    let _ = (table.take_global(Attributes(data)), table.take_cpu(Attributes(data)));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]
mod tests {
    use std::net::UdpSocket;
    use std::{fs, thread};

    use super::*;

    #[test]
    fn the_kernel_says_how_full_its_table_is() {
        let test = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for arguments in [
                &["ip", "link", "set", "lo", "up"][..],
                // Connections are tracked from the first rule on that asks for it.
                &["iptables-nft", "-A", "OUTPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"],
            ] {
                assert!(std::process::Command::new(arguments[0]).args(&arguments[1..]).status().unwrap().success());
            }
            let before = ConntrackTable::read().unwrap();
            let limit = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
            assert_eq!(before.limit, limit.trim().parse().ok());
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for port in [7001, 7002, 7003] {
                // Nothing listens there.
                let _ = sender.send_to(b"npc", ("127.0.0.1", port));
            }
            let now = ConntrackTable::read().unwrap();
            assert_eq!(now, ConntrackTable { entries: before.entries + 3, ..before });
        };
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_the_processors_count_is_summed_and_an_error_is_one() {
        use crate::dataplane::netlink::attribute::WriteAttributes as _;
        let message = |kind: u16, body: &[u8]| {
            let mut message = Vec::new();
            message.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.resize(16, 0);
            message.extend_from_slice(body);
            message
        };
        let processor = |dropped: u32| {
            let mut body = vec![0; NETFILTER_HEADER];
            body.put_u32(9, 100);
            body.put_u32(CPU_DROP, dropped);
            body.put_u32(CPU_EARLY_DROP, 1);
            message(u16::from_be_bytes([SUBSYSTEM, GET_STATS_CPU]), &body)
        };
        let mut table = ConntrackTable::default();
        let part = [processor(u32::MAX), processor(2)].concat();
        assert!(!take(&part, true, &mut |answer| table.take_cpu(answer)).unwrap());
        assert!(take(&message(DONE, &[0; 4]), true, &mut |answer| table.take_cpu(answer)).unwrap());
        assert_eq!((table.dropped, table.early_dropped), (u64::from(u32::MAX) + 2, 2));
        let refused = message(ERROR, &[&(-95_i32).to_ne_bytes()[..], &[0; 16]].concat());
        let error = take(&refused, true, &mut |answer| table.take_cpu(answer)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(95));
        for cut in 1..part.len() / 2 {
            let _ = take(&part[..cut], true, &mut |answer| table.take_cpu(answer));
        }
    }
}
