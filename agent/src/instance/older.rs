//! Agents of before the lock excluded each other by an abstract socket alone. Any process of
//! the network namespace can take that name. So the agent has to decide whether the process
//! that has it is such an agent, by what the kernel says about it and not by what it says.
//!
//! Only a process with `CAP_NET_ADMIN` in this network namespace can be an agent. One that has
//! it and only pretends could write to the packet filter itself.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time;

use super::ABSTRACT_SOCKET;

/// How long the process may take to accept a connection, and to send.
const PATIENCE: Duration = Duration::from_millis(400);

/// Longer than what the status of an agent begins with, in bytes.
const BEGIN: usize = 128;

/// The bit of `CAP_NET_ADMIN` (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

/// The number of netfilter's netlink (linux/netlink.h), and the bit of nf_tables'
/// notifications among its groups (linux/netfilter/nfnetlink.h). The kernel lets only
/// `CAP_NET_ADMIN` into that group, and an agent on nf_tables is always in it.
const NETFILTER: &str = "12";
const NF_TABLES: u32 = 1 << (7 - 1);

/// What the process is that has the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketHolder {
    /// No process has it.
    Free,
    /// An agent of before the lock.
    Agent {
        /// Its process, if this one can see it.
        process: Option<i32>,
        /// It answers. An agent that was killed while it started a program does not: for a
        /// moment that one has its sockets.
        answers: bool,
    },
    /// No agent, now and later: another user.
    OtherUser {
        /// That user.
        uid: u32,
        /// Its process, if this one can see it.
        process: Option<i32>,
    },
    /// Nothing shows that it is an agent. It may be one that starts or ends just now.
    Unproven {
        /// Its process, if this one can see it.
        process: Option<i32>,
        /// It answers as an agent does. Another process can do that too.
        answers: bool,
    },
}

/// Judges the process that has the abstract socket of agents. This takes less than a second.
///
/// # Errors
/// If that cannot be found out, as while the process accepts no connection.
pub async fn judge_holder() -> io::Result<SocketHolder> {
    let stream = match time::timeout(PATIENCE, UnixStream::connect(format!("\0{ABSTRACT_SOCKET}"))).await? {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(SocketHolder::Free),
        Err(error) => return Err(error),
    };
    let peer = stream.peer_cred()?;
    // The number is 0 for a process of another namespace of processes.
    let (uid, process) = (peer.uid(), peer.pid().filter(|process| *process > 0));
    if uid != 0 {
        return Ok(SocketHolder::OtherUser { uid, process });
    }
    let answers = time::timeout(PATIENCE, answers_as_agent(stream)).await.unwrap_or(false);
    let is_agent = match process {
        Some(process) => may_change_network(process),
        None => answers && is_nf_tables_followed(&fs::read_to_string("/proc/thread-self/net/netlink")?),
    };
    Ok(if is_agent { SocketHolder::Agent { process, answers } } else { SocketHolder::Unproven { process, answers } })
}

/// Whether it sends what the status of an agent begins with.
async fn answers_as_agent(mut stream: UnixStream) -> bool {
    let mut read = Vec::new();
    while read.len() < BEGIN {
        if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
            return false;
        }
        if String::from_utf8_lossy(&read).contains(r#""kind":"AgentStatus""#) {
            return true;
        }
    }
    false
}

/// Whether a process that this one can see may change the network of this user namespace. If it is
/// an agent, all of this can be read, because it has no privilege that this process lacks.
fn may_change_network(process: i32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let same = namespace(&process.to_string()).is_some_and(|its| Some(its) == namespace("self"));
    same && fs::read_to_string(format!("/proc/{process}/status")).is_ok_and(|status| has_net_admin(&status))
}

fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & NET_ADMIN != 0)
}

/// Whether a process of this network namespace gets nf_tables' notifications, by what the
/// kernel lists of netlink's sockets: `sk Eth Pid Groups …`.
fn is_nf_tables_followed(sockets: &str) -> bool {
    sockets.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_netfilter = fields.next() == Some(NETFILTER);
        let groups = fields.nth(1).and_then(|groups| u32::from_str_radix(groups, 16).ok());
        is_netfilter && groups.is_some_and(|groups| groups & NF_TABLES != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        assert!(has_net_admin("Name:\tnpc\nCapPrm:\t0\nCapEff:\t0000000000003000\n"));
        for other in ["CapEff:\t0000000000002000\n", "CapPrm:\t0000000000003000\n", ""] {
            assert!(!has_net_admin(other), "{other}");
        }
        let head = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
        let line = |protocol, groups| format!("{head}0000000000000000 {protocol}  7 {groups} 0 0 0 2 0 41\n");
        assert!(is_nf_tables_followed(&line("12", "00000040")));
        for (protocol, groups) in [("12", "00000000"), ("0 ", "00000440"), ("12", "0000000f")] {
            assert!(!is_nf_tables_followed(&line(protocol, groups)), "{protocol} {groups}");
        }
    }

    #[test]
    fn the_kernel_lists_a_socket_that_follows_nf_tables() {
        let listed = || fs::read_to_string("/proc/thread-self/net/netlink").expect("the kernel lists them");
        let follows = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
            let before = is_nf_tables_followed(&listed());
            let _socket = crate::dataplane::notifications::Notifications::open(crate::dataplane::backend::Backend::Nft)
                .expect("the kernel lets us");
            (before, is_nf_tables_followed(&listed()))
        });
        assert_eq!(follows.join().expect("it does not panic"), (false, true));
    }
}
