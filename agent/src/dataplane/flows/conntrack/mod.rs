//! The flows that the kernel knows: dumped, judged and deleted over netlink.
//!
//! A dump is flow-controlled: the kernel makes the next part when the last one
//! was read. So a table of any size passes through one buffer, and what is to
//! go is deleted, over a second socket, before the next part is asked for.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::ops::AddAssign;

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Tuple as Part,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};
use npc_compiler::object::Family;
use npc_compiler::plan::conntrack::{FlowKey, FlowScope};
use rtnetlink::packet_core::{DefaultNla, NLM_F_DUMP, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla};
use rustix::io::Errno;

use self::connection::{ConntrackSocket, Deleted, TRIES};
use crate::dataplane::netlink::attribute::{Attributes, ip_address};
use crate::dataplane::netlink::datagram::messages;

pub use self::new_sandbox::cut_all_of;

mod connection;
mod filter;
mod new_sandbox;

/// How many bytes the kernel puts into one part of a dump at most.
const PART: usize = 32 * 1024;

/// The number of connection tracking among the parts of netfilter.
const SUBSYSTEM: u8 = 1;

/// Netfilter's header, before the attributes of a message.
const NETFILTER_HEADER: usize = 4;

/// Attributes of an entry; see linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

/// What the kernel notes of a direction of a connection where it does not look at
/// its window; see linux/netfilter/nf_conntrack_tcp.h.
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 0x08;

/// Why flows could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not let its table be read or changed.
    #[error(
        "this kernel does not list the connections that it knows (load nf_conntrack_netlink), so those that policies \
         deny now go on until they end"
    )]
    Unsupported(#[source] io::Error),
    /// The socket failed.
    #[error("cannot speak to the kernel's connection tracking")]
    Socket(#[source] io::Error),
    /// A request was refused.
    #[error("cannot {doing} the connections that the kernel knows")]
    Refused {
        /// What was asked for.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Requests or answers were lost, again and again.
    #[error(
        "the kernel had no room for a request about the connections that it knows, or its answer, {0} times in a row"
    )]
    Lost(u32),
    /// The agent's loop gave no verdict, so this sweep judged a part only.
    #[error("a part of the connections that the kernel knows was not judged")]
    Unanswered,
    /// What the kernel said makes no sense.
    #[error("cannot read a connection from the kernel: {0}")]
    Malformed(String),
}

impl Error {
    /// Whether the kernel had no room, for a request or an answer, and may have
    /// in a moment.
    fn is_lost(&self) -> bool {
        matches!(self, Self::Socket(error) if Errno::from_io_error(error) == Some(Errno::NOBUFS))
    }
}

/// What became of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many entries were judged.
    pub judged: u64,
    /// How many of them were deleted.
    pub cut: u64,
    /// How many were to go and cannot, because hardware or a flowtable has
    /// taken them over.
    pub stuck: u64,
    /// The kernel listed more than it was asked for, so it does not filter.
    pub unfiltered: bool,
    /// How many entries could not be read.
    pub unread: u64,
}

impl AddAssign for Swept {
    fn add_assign(&mut self, other: Self) {
        self.judged += other.judged;
        self.cut += other.cut;
        self.stuck += other.stuck;
        self.unfiltered |= other.unfiltered;
        self.unread += other.unread;
    }
}

/// The verdicts about some flows, in their order: whether they are forbidden. Nothing once
/// there is no one left to ask, which ends the sweep.
pub type Judge<'a> = dyn FnMut(Vec<FlowKey>) -> Option<Vec<bool>> + 'a;

/// Judges every flow of a family that the kernel knows, in this network namespace, and
/// deletes those that are forbidden. See [`sweep_in`].
///
/// # Errors
/// If the table cannot be read or written.
pub fn sweep(family: Family, forbids: &mut dyn FnMut(&FlowKey) -> bool) -> Result<Swept, Error> {
    sweep_in(family, &FlowScope::All, true, &mut |flows| Some(flows.iter().map(&mut *forbids).collect()))
}

/// Judges the flows of a family in a scope that the kernel knows, in this network namespace,
/// and deletes those that are forbidden.
///
/// Entries of a zone (`CT --zone`) are among them, because FORWARD goes by the state of a
/// packet in the packet's own zone. So are those that a conntrack helper expected (FTP's data
/// connections), which go on when the connection that they belong to is gone.
///
/// The flows of few addresses are listed by the kernel itself, if it filters. Such a list
/// costs the kernel a walk through its whole table, but it copies nothing else of it. Each
/// address takes two walks: as the sender, and as the end that answers. So one whole list is
/// cheaper for many addresses.
///
/// # Errors
/// If the table cannot be read or written.
pub fn sweep_in(family: Family, scope: &FlowScope, filters: bool, judge: &mut Judge<'_>) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let mut sweep = Sweep { family: Some(family), scope, delete: ConntrackSocket::open()?, cut: 0 };
    let lists = match scope {
        FlowScope::Of(addresses) if filters => filter::lists(addresses, family),
        _ => vec![filter::ListRequest::whole()],
    };
    for list in lists {
        let listed = sweep.listed(&list, judge)?;
        swept += listed.swept;
        if listed.is_odd {
            // A kernel that ignores the filter, as those before Linux 5.8 do.
            swept.unfiltered = true;
            swept += sweep.listed(&filter::ListRequest::whole(), judge)?.swept;
        }
        if listed.is_odd {
            break;
        }
    }
    Ok(Swept { cut: sweep.cut, ..swept })
}

/// As [`sweep_in`], in all families, by one list of the whole table. A list of one family costs the
/// kernel a walk through all of the table too, with a lock for each of its places, empty or not.
///
/// # Errors
/// If the table cannot be read or written.
pub fn sweep_whole(scope: &FlowScope, judge: &mut Judge<'_>) -> Result<Swept, Error> {
    let mut sweep = Sweep { family: None, scope, delete: ConntrackSocket::open()?, cut: 0 };
    let listed = sweep.listed(&filter::ListRequest::whole(), judge)?;
    Ok(Swept { cut: sweep.cut, ..listed.swept })
}

/// Whether [`sweep_in`] lists the whole table, though the kernel filters.
#[must_use]
pub(in super::super) fn takes_whole_list(family: Family, scope: &FlowScope) -> bool {
    match scope {
        FlowScope::Of(addresses) => filter::lists(addresses, family).iter().any(filter::ListRequest::is_whole),
        FlowScope::All => true,
    }
}

/// A sweep through the table of a family, or of all.
struct Sweep<'a> {
    family: Option<Family>,
    scope: &'a FlowScope,
    delete: ConntrackSocket,
    /// How many entries were deleted, also where a list breaks off.
    cut: u64,
}

/// What came of a list.
#[derive(Default)]
struct ListResult {
    swept: Swept,
    /// The kernel listed what it was not asked for, or could not be asked.
    is_odd: bool,
}

impl Sweep<'_> {
    /// One list, from its beginning again if parts of it are lost. What is listed twice is
    /// judged twice, and what was deleted is not there any more.
    fn listed(&mut self, list: &filter::ListRequest, judge: &mut Judge<'_>) -> Result<ListResult, Error> {
        match unless_lost(|| self.list(list, judge)) {
            // A kernel that knows the filter, and not this one.
            Err(Error::Unsupported(_) | Error::Refused { doing: "list", .. }) if !list.is_whole() => {
                Ok(ListResult { is_odd: true, ..ListResult::default() })
            }
            listed => listed,
        }
    }

    /// Lists flows once, and deletes those that are forbidden.
    fn list(&mut self, list: &filter::ListRequest, judge: &mut Judge<'_>) -> Result<ListResult, Error> {
        let dump = ConntrackSocket::open()?;
        let (tuple, filter) = list.attributes();
        dump.send(self.family, NLM_F_DUMP, ConntrackMessage::Get(tuple), filter)?;
        let mut buffer = vec![0; PART];
        let mut listed = ListResult::default();
        let mut failed = None;
        loop {
            let (mut flows, mut names) = (Vec::new(), Vec::new());
            // In a list of the kernel's own choice each flow says whether the kernel filters.
            let is_wanted = |message: &[u8]| !list.is_whole() || may_be_in(self.scope, message);
            let done = dump.receive_entries(&mut buffer, is_wanted, |entry| {
                match forwarded(&entry) {
                    None => listed.swept.unread += 1,
                    Some(tuple) if !list.matches(&tuple) => listed.is_odd = true,
                    Some(tuple) if self.scope.covers(tuple.source) || self.scope.covers(tuple.destination) => {
                        names.push((Family::of(&tuple.source), name(entry)));
                        flows.push(tuple);
                    }
                    Some(_) => {}
                }
                Ok(())
            })?;
            listed.swept.judged += flows.len() as u64;
            let verdicts = if flows.is_empty() { Some(Vec::new()) } else { judge(flows) };
            let verdicts = verdicts.ok_or(Error::Unanswered)?;
            for ((family, entry), _) in names.iter().zip(verdicts).filter(|(_, forbidden)| *forbidden) {
                match self.delete.delete(*family, entry) {
                    Ok(Deleted::Gone) => self.cut += 1,
                    Ok(Deleted::Ended) => {}
                    Ok(Deleted::Busy) => listed.swept.stuck += 1,
                    // One that stays is no reason to let the others go on.
                    Err(error @ Error::Refused { .. }) => failed = Some(error),
                    Err(error) => return Err(error),
                }
            }
            if done || listed.is_odd {
                return failed.map_or(Ok(listed), Err);
            }
        }
    }
}

/// Passes on the ends of all flows that the kernel knows, in all families, with the addresses that
/// they had in FORWARD. Nothing else of an entry is read.
///
/// # Errors
/// If the table cannot be read. Some ends may have been passed on then.
pub(in super::super) fn each_end(mut each: impl FnMut(IpAddr)) -> Result<(), Error> {
    unless_lost(|| list_ends(&mut each))
}

/// Makes a list, again from its beginning if parts of it are lost.
fn unless_lost<T>(mut list: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 0..TRIES {
        match list() {
            Err(error) if error.is_lost() => {}
            listed => return listed,
        }
    }
    Err(Error::Lost(TRIES))
}

fn list_ends(each: &mut impl FnMut(IpAddr)) -> Result<(), Error> {
    let dump = ConntrackSocket::open()?;
    dump.send(None, NLM_F_DUMP, ConntrackMessage::Get(Vec::new()), None)?;
    let mut buffer = vec![0; PART];
    let read = RefCell::new(Vec::new());
    loop {
        let is_unread = |message: &[u8]| match ends(message) {
            [Some(source), Some(destination)] => {
                read.borrow_mut().extend([source, destination]);
                false
            }
            // What cannot be read so is read in whole.
            _ => true,
        };
        let done = dump.receive_entries(&mut buffer, is_unread, |entry| {
            let flow = forwarded(&entry).ok_or_else(|| Error::Malformed("it has no ends".to_owned()))?;
            read.borrow_mut().extend([flow.source, flow.destination]);
            Ok(())
        })?;
        read.borrow_mut().drain(..).for_each(&mut *each);
        if done {
            return Ok(());
        }
    }
}

/// Whether an entry may be in a scope: in a long list most are not, and to read all of each takes
/// far longer than to read its addresses.
fn may_be_in(scope: &FlowScope, message: &[u8]) -> bool {
    let FlowScope::Of(addresses) = scope else { return true };
    // What cannot be read so is read in whole, and is an error then.
    ends(message).into_iter().any(|end| end.is_none_or(|end| addresses.contains(&end)))
}

/// The ends of an entry, as they were in FORWARD: the source of either direction.
fn ends(message: &[u8]) -> [Option<IpAddr>; 2] {
    let source = |tuple: u16| -> Option<IpAddr> {
        let entry = Attributes(message.get(NETFILTER_HEADER..)?);
        let ends = entry.nested(tuple).ok()?.nested(CTA_TUPLE_IP).ok()?;
        let octets = match ends.get(CTA_IP_V4_SRC).ok()? {
            Some(v4) => v4,
            None => ends.get(CTA_IP_V6_SRC).ok()??,
        };
        ip_address(octets)
    };
    [CTA_TUPLE_ORIG, CTA_TUPLE_REPLY].map(source)
}

/// The flow as it was in FORWARD: the sender's own address, and the address and port that answers
/// come from, which is where it went after translation.
fn forwarded(entry: &[ConntrackAttribute]) -> Option<FlowKey> {
    let (mut original, mut reply) = (None, None);
    for attribute in entry {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = Some(Half::of(parts)?),
            ConntrackAttribute::CtaTupleReply(parts) => reply = Some(Half::of(parts)?),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    Some(FlowKey {
        source: original.source,
        destination: reply.source,
        protocol: original.protocol,
        port: reply.source_port,
        mid_stream: is_mid_stream(entry),
    })
}

/// Whether the kernel took a connection up in its middle. It had no window scale then, so it checks
/// no window in either direction. For a connection that it had from the beginning, only a flowtable
/// makes it skip that check.
fn is_mid_stream(entry: &[ConntrackAttribute]) -> bool {
    let facts = entry.iter().filter_map(|attribute| match attribute {
        ConntrackAttribute::CtaProtoInfo(infos) => Some(infos.iter()),
        _ => None,
    });
    let of_tcp = facts.flatten().filter_map(|info| match info {
        ProtoInfo::TCP(facts) => Some(facts.iter()),
        _ => None,
    });
    let flags = of_tcp.flatten().filter_map(|fact| match fact {
        ProtoInfoTCP::OriginalFlags(flags) | ProtoInfoTCP::ReplyFlags(flags) => Some(flags.flags),
        _ => None,
    });
    flags.filter(|flags| flags & IP_CT_TCP_FLAG_BE_LIBERAL != 0).count() == 2
}

/// One direction of an entry, as far as it matters.
struct Half {
    source: IpAddr,
    protocol: u8,
    source_port: u16,
}

impl Half {
    fn of(parts: &[Part]) -> Option<Self> {
        let (mut source, mut protocol, mut source_port) = (None, None, 0);
        for part in parts {
            match part {
                Part::Ip(ends) => source = ends.iter().find_map(as_source).or(source),
                Part::Proto(facts) => {
                    for fact in facts {
                        match fact {
                            ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                            ProtoTuple::SourcePort(port) => source_port = *port,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(Self { source: source?, protocol: protocol?, source_port })
    }
}

fn as_source(end: &IPTuple) -> Option<IpAddr> {
    match end {
        IPTuple::SourceAddress(address) => Some(*address),
        _ => None,
    }
}

/// What names this entry and no later one with the same tuple.
///
/// The kernel looks an entry up by the zone of the tuple that it is given. A zone
/// of both directions is an attribute of the entry, one of the original direction
/// is a part of that direction's tuple, and one of the reply's does not count where
/// the original tuple is given. So the zone goes back in the place where the kernel
/// listed it: in another place no entry is found, in both the request is refused.
fn name(entry: Vec<ConntrackAttribute>) -> Vec<ConntrackAttribute> {
    let is_name = |attribute: &ConntrackAttribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => matches!(DefaultNla::kind(other), CTA_ID | CTA_ZONE),
        _ => false,
    };
    entry.into_iter().filter(is_name).collect()
}

/// Reads what may be a part of the table, or the attributes of an entry in it: for fuzzing.
pub(in super::super) fn fuzz(data: &[u8]) {
    /// A new entry of IPv4, as linux/netfilter/nfnetlink_conntrack.h numbers it.
    const NEW: u16 = 1 << 8;
    let take = |message: Result<NetlinkMessage<NetfilterMessage>, _>| {
        if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) = message
            && let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) = message.inner
        {
            let _ = forwarded(&entry);
            // What names the entry is written again, to delete it.
            let message = NetfilterMessage::new(message.header, ConntrackMessage::Delete(name(entry)));
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
            message.finalize();
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
        }
    };
    for part in data.chunks(PART) {
        let _ = may_be_in(&FlowScope::default(), part);
    }
    messages(data, SUBSYSTEM).for_each(take);
    messages(&crate::dataplane::netlink::fuzz_input::message(NEW, &[2, 0, 0, 0], data), SUBSYSTEM).for_each(take);
}
