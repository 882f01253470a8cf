//! What the kernel, or the xtables lock, tells of others' writes to the filter
//! table.
//!
//! nf_tables tells every commit to who listens (`NFNLGRP_NFTABLES`): each rule
//! and chain that it changed, then its author. So nothing has to be read as
//! long as nobody touches what is ours. Legacy tables tell nothing; but whoever
//! writes to them closes the lock's file afterwards, and inotify tells of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use npc_compiler::object::Family;
use npc_compiler::ruleset::node::{CHAIN_PREFIX, ChainName};
use rtnetlink::packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::inotify;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::backend::Backend;
use super::iptables;

/// The kernel's number for nf_tables among the parts of netfilter, and for the
/// group that it tells of changes, as a bit (linux/netfilter/nfnetlink.h).
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

/// What waits to be read while a plan is carried out, or while others load many
/// thousand rules. Where it is not enough the kernel says so, and everything is
/// read.
const ROOM: usize = 8 << 20;

/// The kernel puts no more into one message.
const BUFFER: usize = 64 << 10;

/// How long a bell waits before it rings: who flushes a table may go on to fill
/// it.
const MOMENT: Duration = Duration::from_millis(100);

/// What others did to the filter tables since it was asked last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Chains of ours, and FORWARD, whose rules changed.
    pub touched: BTreeMap<Family, Touched>,
    /// Not all of it was heard, or it cannot be told what it touched.
    pub unsure: bool,
    /// Who touched what is ours.
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

/// Who committed a change.
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

/// Ears for one backend in the network namespace in which they were opened.
#[derive(Debug)]
pub struct Notifications {
    backend: Backend,
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// The commit that has not ended yet.
    open: Commit,
    /// What came while a commit of our own was waited for, and which of those came.
    news: News,
    own: BTreeSet<u32>,
}

/// What was heard of a commit.
#[derive(Debug, Default)]
struct Commit {
    touched: BTreeMap<Family, Touched>,
}

impl Notifications {
    /// Listens from now on.
    ///
    /// # Errors
    /// If this kernel does not let us.
    pub fn open(backend: Backend) -> io::Result<Self> {
        let fd = match backend {
            Backend::Nft => nf_tables()?,
            Backend::Legacy => lock_file()?,
        };
        let (open, news, own) = Default::default();
        Ok(Self { backend, fd, buffer: vec![0; BUFFER], open, news, own })
    }

    /// Whether it is told what was changed, and not only that something was.
    pub(super) fn are_detailed(&self) -> bool {
        self.backend == Backend::Nft
    }

    /// Rings when there is something to take.
    ///
    /// # Errors
    /// If there is no other descriptor to be had.
    pub fn bell(&self) -> io::Result<ChangeWaiter> {
        Ok(ChangeWaiter(self.fd.try_clone()?))
    }

    /// What others did since this was asked last. `ours` are the processes that
    /// wrote for us.
    pub fn take(&mut self, ours: &BTreeSet<u32>) -> News {
        match self.backend {
            Backend::Nft => {
                self.receive(ours);
                self.own.clear();
                std::mem::take(&mut self.news)
            }
            Backend::Legacy => News { unsure: self.drain() > 0, ..News::default() },
        }
    }

    /// Whether the kernel has reported a commit by this process of ours that changed
    /// what is ours. It does so before the process ends. It reports no commit that
    /// changes nothing, and one is not known to be ours if another program in this
    /// network namespace had the process's number for its netlink socket.
    pub(super) fn saw_commit_of(&mut self, process: u32, ours: &BTreeSet<u32>) -> bool {
        if self.backend == Backend::Nft {
            self.receive(ours);
        }
        self.own.contains(&process)
    }

    /// With legacy, lets pass what has been heard: our own command closed the
    /// lock's file. Somebody else's that ended at the same moment is found by
    /// the audit that goes round.
    pub fn forget_our_commits(&mut self) {
        if self.backend == Backend::Legacy {
            self.drain();
        }
    }

    fn drain(&mut self) -> usize {
        let mut heard = 0;
        while let Ok(1..) = retry_on_intr(|| rustix::io::read(self.fd.as_fd(), &mut self.buffer[..])) {
            heard += 1;
        }
        heard
    }

    /// Takes in what has come.
    fn receive(&mut self, ours: &BTreeSet<u32>) {
        let mut news = std::mem::take(&mut self.news);
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match retry_on_intr(|| recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)) {
                Ok((_, length)) => self.hear(buffer.get(..length).unwrap_or_default(), ours, &mut news),
                Err(Errno::AGAIN) => break,
                // What did not fit was thrown away.
                Err(Errno::NOBUFS) => news.unsure = true,
                Err(_) => {
                    news.unsure = true;
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.news = news;
    }

    /// Takes in the messages of one datagram.
    fn hear(&mut self, mut rest: &[u8], ours: &BTreeSet<u32>, news: &mut News) {
        while !rest.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else {
                news.unsure = true;
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
                        commit.tell(Author::read(body), news);
                    } else if !commit.touched.is_empty() {
                        self.own.insert(process);
                    }
                } else {
                    self.open.hear(kind, body);
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

impl Commit {
    fn hear(&mut self, kind: u8, body: &[u8]) {
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
            Some(chain) if chain == "FORWARD" => self.touched.entry(family).or_default().forward = true,
            Some(chain) if chain.starts_with(CHAIN_PREFIX) => {
                self.touched.entry(family).or_default().chains.extend(ChainName::ours(&chain));
            }
            _ => {}
        }
    }

    fn tell(self, author: Option<Author>, news: &mut News) {
        if self.touched.is_empty() {
            return;
        }
        for (family, touched) in self.touched {
            let all = news.touched.entry(family).or_default();
            all.forward |= touched.forward;
            all.table |= touched.table;
            all.chains.extend(touched.chains);
        }
        news.authors.extend(author);
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
    let _ = set_socket_recv_buffer_size_force(&socket, ROOM);
    bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
    Ok(socket)
}

fn lock_file() -> io::Result<OwnedFd> {
    let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let closed = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
    inotify::add_watch(&inotify, iptables::lock_path(), closed)?;
    Ok(inotify)
}

/// Rings when a backend was written to, by us or by others.
#[derive(Debug)]
pub struct ChangeWaiter(OwnedFd);

impl ChangeWaiter {
    /// Calls `ring` at news, in a thread of its own, until it answers false.
    /// What comes within a moment is one.
    ///
    /// # Errors
    /// If the descriptor cannot be waited for.
    pub fn ring(self, mut ring: impl FnMut() -> bool + Send + 'static) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Told once for what is new, because somebody else reads it.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &self.0, epoll::EventData::new_u64(0), flags)?;
        let listen = move || {
            let _open = self.0;
            let mut events = Vec::with_capacity(1);
            while retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None)).is_ok() {
                events.clear();
                thread::sleep(MOMENT);
                if !ring() {
                    return;
                }
            }
        };
        thread::Builder::new().name("npc-bell".to_owned()).spawn(listen).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel tells it.
    fn told(kind: u8, port: u32, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
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
        told(message::NEW_RULE, port, 2, &[(attribute::TABLE, table), (attribute::CHAIN_OF_RULE, chain)])
    }

    fn generation(port: u32) -> Vec<u8> {
        told(message::GENERATION, port, 0, &[(attribute::PROCESS, &[0, 0, 0, 9]), (attribute::PROGRAM, b"firewalld\0")])
    }

    fn heard(datagrams: &[Vec<u8>]) -> News {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
        let mut ears = Notifications {
            backend: Backend::Nft,
            fd: fd.expect("a socket"),
            buffer: Vec::new(),
            open: Commit::default(),
            news: News::default(),
            own: BTreeSet::new(),
        };
        let mut news = News::default();
        for datagram in datagrams {
            ears.hear(datagram, &BTreeSet::from([7]), &mut news);
        }
        assert!(ears.own.iter().all(|process| *process == 7), "another's commit is no proof of ours");
        news
    }

    #[test]
    fn a_commit_of_ours_is_proof_once_it_has_ended_and_only_if_it_changed_something() {
        let mut ears = Notifications::open(Backend::Nft).expect("a socket");
        let ours = BTreeSet::from([7, 8]);
        let mut hear = |bytes: &[u8]| {
            ears.hear(bytes, &ours, &mut News::default());
            ears.own.clone()
        };
        assert_eq!(hear(&generation(8)), BTreeSet::new(), "it changed nothing");
        assert_eq!(hear(&rule(b"filter\0", b"NPC-X\0", 7)), BTreeSet::new(), "it has not ended");
        assert_eq!(hear(&generation(7)), BTreeSet::from([7]));
    }

    #[test]
    fn who_touches_our_chains_is_told_and_we_are_not() {
        assert_eq!(heard(&[rule(b"filter\0", b"NPC-X\0", 7), generation(7)]), News::default());
        let news =
            heard(&[[rule(b"filter\0", b"NPC-X\0", 8), rule(b"filter\0", b"FORWARD\0", 8)].concat(), generation(8)]);
        let touched = Touched { forward: true, chains: [ChainName::new("X")].into(), table: false };
        assert_eq!(news.touched, BTreeMap::from([(Family::V4, touched)]));
        let authors: Vec<String> = news.authors.iter().map(ToString::to_string).collect();
        assert_eq!((authors, news.unsure), (vec!["firewalld (process 9)".to_owned()], false));
    }

    #[test]
    fn what_others_do_elsewhere_is_no_news() {
        let elsewhere = [rule(b"filter\0", b"KUBE-X\0", 8), rule(b"nat\0", b"NPC-X\0", 8), generation(8)].concat();
        assert_eq!(heard(&[elsewhere]), News::default());
    }

    #[test]
    fn a_message_that_cannot_be_read_makes_unsure() {
        assert!(heard(&[vec![1, 2, 3]]).unsure);
        let gone = told(message::DELETED_TABLE, 8, 10, &[(attribute::TABLE, b"filter\0")]);
        let news = heard(&[gone, generation(8)]);
        assert!(news.touched[&Family::V6].table);
    }
}
