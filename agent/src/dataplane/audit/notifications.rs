//! How the kernel, or the xtables lock, reports other programs' writes to the
//! filter table.
//!
//! nf_tables sends every commit to its netlink group (`NFNLGRP_NFTABLES`): each
//! rule and chain that changed, then the author. So npc reads nothing again as
//! long as no other program changes npc's chains. Legacy tables send nothing;
//! but a program that writes to them closes the file of the xtables lock
//! afterwards, and inotify reports that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::ChainName;
use npc_compiler::ruleset::text::FORWARD;
use rtnetlink::packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::dataplane::iptables;
use crate::dataplane::programs::backend::Backend;

/// The kernel's number for nf_tables among the parts of netfilter, and for the
/// group to which it sends changes, as a bit (linux/netfilter/nfnetlink.h).
const SUBSYSTEM: u8 = 10;
const GROUP: u32 = 1 << (7 - 1);

/// Messages and attributes; see linux/netfilter/nf_tables.h.
mod message {
    pub(super) const NEW_TABLE: u8 = 0;
    pub(super) const DELETED_TABLE: u8 = 2;
    pub(super) const NEW_CHAIN: u8 = 3;
    pub(super) const DELETED_CHAIN: u8 = 5;
    pub(super) const NEW_RULE: u8 = 6;
    pub(super) const DELETED_RULE: u8 = 8;
    pub(super) const GENERATION: u8 = 15;
}
mod attribute {
    /// Of tables, chains and rules.
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_OF_RULE: u16 = 2;
    pub(super) const NAME_OF_CHAIN: u16 = 3;
    /// Of a generation.
    pub(super) const PROCESS: u16 = 2;
    pub(super) const PROGRAM: u16 = 3;
}

/// Of the netfilter header that follows netlink's.
const NETFILTER_HEADER: usize = 4;

/// Bytes of messages that the socket keeps while a plan is applied, or while
/// other programs load many thousand rules. Where they are not enough the kernel
/// says so, and npc reads everything.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The kernel puts no more into one message.
const BUFFER: usize = 64 << 10;

/// How long a waiter collects changes before it reports them: a program that
/// flushes a table may go on to fill it.
const COLLECT: Duration = Duration::from_millis(100);

/// What other programs changed in the filter tables since the last question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedChanges {
    /// Chains of ours, and FORWARD, whose rules changed.
    pub touched: BTreeMap<Family, Touched>,
    /// Messages were lost or cannot be read, so what changed is not known.
    pub unsure: bool,
    /// The programs that changed npc's chains.
    pub authors: BTreeSet<Author>,
}

/// What was touched in one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// The built-in FORWARD chain.
    pub forward: bool,
    /// Chains that bear our names.
    pub chains: BTreeSet<ChainName>,
    /// The table itself went.
    pub table: bool,
}

/// The program that committed a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Author {
    /// Its program's name, at most 15 bytes of it.
    pub program: String,
    /// Its process, as the kernel's first namespace of processes numbers it.
    pub process: u32,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.program, self.process)
    }
}

/// The source of change reports for one backend, in the network namespace in which
/// it was opened.
#[derive(Debug)]
pub struct Notifications {
    backend: Backend,
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// The commit that has not ended yet.
    open: Commit,
    /// What came while a commit of our own was waited for, and which of those came.
    changes: ReportedChanges,
    own: BTreeSet<u32>,
}

/// What is known of a commit.
#[derive(Debug, Default)]
struct Commit {
    touched: BTreeMap<Family, Touched>,
}

impl Notifications {
    /// Receives reports from now on.
    ///
    /// # Errors
    /// If this kernel does not let us.
    pub fn open(backend: Backend) -> io::Result<Self> {
        let fd = match backend {
            Backend::Nft => nf_tables()?,
            Backend::Legacy => lock_file()?,
        };
        let (open, changes, own) = Default::default();
        Ok(Self { backend, fd, buffer: vec![0; BUFFER], open, changes, own })
    }

    /// Whether reports say what changed, and not only that something did.
    pub(in super::super) fn are_detailed(&self) -> bool {
        self.backend == Backend::Nft
    }

    /// Waits for reports.
    ///
    /// # Errors
    /// If there is no other descriptor to be had.
    pub fn waiter(&self) -> io::Result<ChangeWaiter> {
        Ok(ChangeWaiter(self.fd.try_clone()?))
    }

    /// What other programs changed since the last call. `ours` are the processes
    /// that wrote for npc.
    pub fn take(&mut self, ours: &BTreeSet<u32>) -> ReportedChanges {
        match self.backend {
            Backend::Nft => {
                self.receive(ours);
                self.own.clear();
                std::mem::take(&mut self.changes)
            }
            Backend::Legacy => ReportedChanges { unsure: self.drain() > 0, ..ReportedChanges::default() },
        }
    }

    /// Whether the kernel has reported a commit by this process of ours that changed
    /// what is ours. It does so before the process ends. It reports no commit that
    /// changes nothing, and one is not known to be ours if another program in this
    /// network namespace had the process's number for its netlink socket.
    pub(in super::super) fn saw_commit_of(&mut self, process: u32, ours: &BTreeSet<u32>) -> bool {
        if self.backend == Backend::Nft {
            self.receive(ours);
        }
        self.own.contains(&process)
    }

    /// With legacy, drops the reports until now: npc's own command closed the
    /// lock's file. A change of another program at the same moment is found by
    /// the periodic audit.
    pub fn forget_our_commits(&mut self) {
        if self.backend == Backend::Legacy {
            self.drain();
        }
    }

    fn drain(&mut self) -> usize {
        let mut reports = 0;
        while let Ok(1..) = retry_on_intr(|| rustix::io::read(self.fd.as_fd(), &mut self.buffer[..])) {
            reports += 1;
        }
        reports
    }

    /// Reads the datagrams that wait.
    fn receive(&mut self, ours: &BTreeSet<u32>) {
        let mut changes = std::mem::take(&mut self.changes);
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match retry_on_intr(|| recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((_, length)) => self.read(buffer.get(..length).unwrap_or_default(), ours, &mut changes),
                Err(Errno::AGAIN) => break,
                // What did not fit was thrown away.
                Err(Errno::NOBUFS) => changes.unsure = true,
                Err(_) => {
                    changes.unsure = true;
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.changes = changes;
    }

    /// Reads the messages of one datagram.
    fn read(&mut self, mut rest: &[u8], ours: &BTreeSet<u32>, changes: &mut ReportedChanges) {
        while !rest.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else {
                changes.unsure = true;
                return;
            };
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
            let [subsystem, kind] = message.message_type().to_be_bytes();
            if subsystem == SUBSYSTEM {
                let body = message.payload();
                if kind == message::GENERATION {
                    let commit = std::mem::take(&mut self.open);
                    let process = message.port_number();
                    if !ours.contains(&process) {
                        commit.report(Author::read(body), changes);
                    } else if !commit.touched.is_empty() {
                        self.own.insert(process);
                    }
                } else {
                    self.open.add(kind, body);
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

impl Commit {
    fn add(&mut self, kind: u8, body: &[u8]) {
        let name = match kind {
            message::NEW_CHAIN | message::DELETED_CHAIN => attribute::NAME_OF_CHAIN,
            message::NEW_RULE | message::DELETED_RULE => attribute::CHAIN_OF_RULE,
            message::NEW_TABLE | message::DELETED_TABLE => attribute::TABLE,
            _ => return,
        };
        let family = match body.first() {
            Some(2) => Family::V4,
            Some(10) => Family::V6,
            _ => return,
        };
        if text(body, attribute::TABLE).as_deref() != Some("filter") {
            return;
        }
        match text(body, name) {
            Some(_) if kind == message::DELETED_TABLE => self.touched.entry(family).or_default().table = true,
            // It may be dormant now.
            Some(_) if kind == message::NEW_TABLE => self.touched.entry(family).or_default().forward = true,
            Some(chain) if chain == FORWARD => self.touched.entry(family).or_default().forward = true,
            Some(chain) => {
                if let Some(chain) = ChainName::ours(&chain) {
                    self.touched.entry(family).or_default().chains.insert(chain);
                }
            }
            None => {}
        }
    }

    fn report(self, author: Option<Author>, changes: &mut ReportedChanges) {
        if self.touched.is_empty() {
            return;
        }
        for (family, touched) in self.touched {
            let all = changes.touched.entry(family).or_default();
            all.forward |= touched.forward;
            all.table |= touched.table;
            all.chains.extend(touched.chains);
        }
        changes.authors.extend(author);
    }
}

impl Author {
    fn read(body: &[u8]) -> Option<Self> {
        let process = value(body, attribute::PROCESS)?;
        Some(Self { program: text(body, attribute::PROGRAM)?, process: u32::from_be_bytes(process.try_into().ok()?) })
    }
}

/// The value of an attribute of a message.
fn value(body: &[u8], kind: u16) -> Option<&[u8]> {
    let attributes = NlasIterator::new(body.get(NETFILTER_HEADER..)?);
    attributes.map_while(Result::ok).find(|attribute| attribute.kind() == kind).map(|attribute: NlaBuffer<&[u8]>| {
        // Its length was checked when it was found.
        &attribute.into_inner()[rtnetlink::packet_core::NLA_HEADER_SIZE..usize::from(attribute.length())]
    })
}

fn text(body: &[u8], kind: u16) -> Option<String> {
    let bytes = value(body, kind)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn nf_tables() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    // Without the right to it there is less room, and more is read.
    let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
    bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
    Ok(socket)
}

fn lock_file() -> io::Result<OwnedFd> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let closed = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
    inotify::add_watch(&inotify, iptables::lock_path(), closed)?;
    Ok(inotify)
}

/// Waits until a backend's filter table is written to, by npc or by others.
#[derive(Debug)]
pub struct ChangeWaiter(OwnedFd);

impl ChangeWaiter {
    /// Calls `notify` after changes, in a thread of its own, until it answers false.
    /// Changes that come close together are one call.
    ///
    /// # Errors
    /// If the descriptor cannot be waited for.
    pub fn spawn(self, mut notify: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered, because `Notifications` reads the descriptor.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &self.0, epoll::EventData::new_u64(0), flags)?;
        let wait = move || {
            let _open = self.0;
            let mut events = Vec::with_capacity(1);
            while retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None)).is_ok() {
                events.clear();
                thread::sleep(COLLECT);
                if !notify() {
                    return;
                }
            }
        };
        thread::Builder::new().name("npc-changes".to_owned()).spawn(wait).map(drop)
    }
}

/// Reads what may be a datagram of notifications: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    let Ok(fd) = std::fs::File::open("/dev/null") else { return };
    let (open, own, mut changes) = Default::default();
    let (backend, buffer) = (Backend::Nft, Vec::new());
    let mut reader = Notifications { backend, fd: fd.into(), buffer, open, changes: ReportedChanges::default(), own };
    reader.read(data, &BTreeSet::new(), &mut changes);
    for kind in message::NEW_TABLE..=message::GENERATION {
        reader.open.add(kind, data);
    }
    reader.open.report(Author::read(data), &mut changes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel sends it.
    fn sent(kind: u8, port: u32, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend([family, 0, 0, 0]);
        for (kind, value) in attributes {
            bytes.extend(u16::try_from(value.len() + 4).expect("it is short").to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(bytes.len()).expect("it is short");
        let mut header = NetlinkBuffer::new(&mut bytes);
        header.set_length(length);
        header.set_message_type(u16::from_be_bytes([SUBSYSTEM, kind]));
        header.set_port_number(port);
        bytes
    }

    fn rule(table: &[u8], chain: &[u8], port: u32) -> Vec<u8> {
        sent(message::NEW_RULE, port, 2, &[(attribute::TABLE, table), (attribute::CHAIN_OF_RULE, chain)])
    }

    fn generation(port: u32) -> Vec<u8> {
        sent(message::GENERATION, port, 0, &[(attribute::PROCESS, &[0, 0, 0, 9]), (attribute::PROGRAM, b"firewalld\0")])
    }

    fn changes_in(datagrams: &[Vec<u8>]) -> ReportedChanges {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
        let mut notifications = Notifications {
            backend: Backend::Nft,
            fd: fd.expect("a socket"),
            buffer: Vec::new(),
            open: Commit::default(),
            changes: ReportedChanges::default(),
            own: BTreeSet::new(),
        };
        let mut changes = ReportedChanges::default();
        for datagram in datagrams {
            notifications.read(datagram, &BTreeSet::from([7]), &mut changes);
        }
        assert!(notifications.own.iter().all(|process| *process == 7), "another's commit is no proof of ours");
        changes
    }

    #[test]
    fn a_commit_of_ours_is_proof_once_it_has_ended_and_only_if_it_changed_something() {
        let mut notifications = Notifications::open(Backend::Nft).expect("a socket");
        let ours = BTreeSet::from([7, 8]);
        let mut proven = |bytes: &[u8]| {
            notifications.read(bytes, &ours, &mut ReportedChanges::default());
            notifications.own.clone()
        };
        assert_eq!(proven(&generation(8)), BTreeSet::new(), "it changed nothing");
        assert_eq!(proven(&rule(b"filter\0", b"NPC-X\0", 7)), BTreeSet::new(), "it has not ended");
        assert_eq!(proven(&generation(7)), BTreeSet::from([7]));
    }

    #[test]
    fn a_report_names_another_programs_changes_of_our_chains_and_none_of_ours() {
        assert_eq!(changes_in(&[rule(b"filter\0", b"NPC-X\0", 7), generation(7)]), ReportedChanges::default());
        let changes = changes_in(&[
            [rule(b"filter\0", b"NPC-X\0", 8), rule(b"filter\0", b"FORWARD\0", 8)].concat(),
            generation(8),
        ]);
        let touched =
            Touched { forward: true, chains: [ChainName::ours("NPC-X").expect("a name of ours")].into(), table: false };
        assert_eq!(changes.touched, BTreeMap::from([(Family::V4, touched)]));
        let authors: Vec<String> = changes.authors.iter().map(ToString::to_string).collect();
        assert_eq!((authors, changes.unsure), (vec!["firewalld (process 9)".to_owned()], false));
    }

    #[test]
    fn changes_of_other_chains_and_tables_are_not_reported() {
        let elsewhere = [rule(b"filter\0", b"KUBE-X\0", 8), rule(b"nat\0", b"NPC-X\0", 8), generation(8)].concat();
        assert_eq!(changes_in(&[elsewhere]), ReportedChanges::default());
    }

    #[test]
    fn a_message_that_cannot_be_read_makes_unsure() {
        assert!(changes_in(&[vec![1, 2, 3]]).unsure);
        let gone = sent(message::DELETED_TABLE, 8, 10, &[(attribute::TABLE, b"filter\0")]);
        let changes = changes_in(&[gone, generation(8)]);
        assert!(changes.touched[&Family::V6].table);
    }
}
