//! The sets, written and read over netlink (netfilter's, subsystem ipset),
//! without a process.
//!
//! ```text
//! request ─▶ socket ─▶ reply        attribute  numbers, and how they are written
//!    └────────▶ Ipset ◀──┘          error      why not, in words
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use npc_compiler::object::Family;
use npc_compiler::plan::SetWrite;
use npc_compiler::ruleset::node::{Member, SetKind, SetName};

mod attribute;
mod error;
mod reply;
mod request;
mod socket;
#[cfg(test)]
mod tests;

use attribute::{Attributes, SetCommand, message};
pub use error::{Error, Refusal};
use request::Request;
use rtnetlink::packet_core::DecodeError;
use socket::{Outcome, Socket};

/// How long a set may stay in use after the last rule that names it is gone.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The time between two looks whether a set is still in use.
const LOOK: Duration = Duration::from_millis(1);

/// The versions of the protocol that we speak. 7 came with Linux 4.20, and
/// what we use is the same in both.
const VERSIONS: (u8, u8) = (6, 7);

/// The revision of a set type that our sets have, where the kernel has it.
/// Newer ones have options that our sets do not use, and one set of a revision
/// that it does not know makes an older ipset(8), in some other system's
/// container, refuse to list any (calico#10676, kube-ovn#4741). This one all
/// of them know.
const REVISION: u8 = 1;

/// How often an answer that was cut short is asked for again.
const TRIES: u32 = 5;

/// One go at writing to sets, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedWrite {
    /// How long it took.
    pub took: Duration,
    /// Whether all of it is in the kernel.
    pub done: bool,
}

/// The sets of one family that bear our names and are ours.
pub type Sets = BTreeMap<SetName, (SetKind, BTreeSet<Member>)>;

/// A set's kind, `None` if it is not as we make sets, and its members then.
pub type OneSet = (Option<SetKind>, BTreeSet<Member>);

/// What the kernel holds under our names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ActualSets {
    /// The IPv4 sets.
    pub v4: Sets,
    /// The IPv6 sets.
    pub v6: Sets,
    /// Sets that bear our names and are none that we would make.
    pub odd: Vec<OddSet>,
}

/// A set that bears our name and is not as we make sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddSet {
    /// Its name.
    pub name: SetName,
    /// Its type and options, in words.
    pub header: String,
}

/// What the kernel reports of a set without its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSummary {
    /// Its kind, if it is as we make sets.
    pub kind: Option<SetKind>,
    /// How many members it has, where the kernel says so.
    pub members: Option<usize>,
}

/// The sets of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Ipset {
    socket: Socket,
    version: u8,
    /// The revision of each set type, once asked for.
    revisions: BTreeMap<(SetKind, Family), u8>,
}

impl Ipset {
    /// Asks the kernel which version it speaks.
    ///
    /// # Errors
    /// If it has no ipset, or one of another time.
    pub fn open() -> Result<Self, Error> {
        Self::over(Socket::open()?)
    }

    fn over(socket: Socket) -> Result<Self, Error> {
        let mut ipset = Self { socket, version: VERSIONS.1, revisions: BTreeMap::new() };
        ipset.version = ipset.agree()?;
        Ok(ipset)
    }

    /// The newest version that both sides speak.
    fn agree(&mut self) -> Result<u8, Error> {
        let (oldest, newest) = VERSIONS;
        let mut found = None;
        let outcome = self.exchange(&mut Request::protocol(newest), |answer| {
            // Before version 7 there was one only.
            let maximum = answer.u8(message::PROTOCOL)?;
            let minimum = answer.u8(message::MINIMUM)?;
            found = maximum.map(|maximum| (minimum.unwrap_or(maximum), maximum));
            Ok(())
        })?;
        match (outcome, found) {
            (Ok(()), Some((minimum, maximum))) => {
                let version = maximum.min(newest);
                let both = version >= minimum.max(oldest);
                if both { Ok(version) } else { Err(Error::Versions { minimum, maximum }) }
            }
            // What netfilter says to a message for a part that it lacks.
            (Err((refusal @ Refusal::INVALID, _)), _) => Err(Error::Absent(refusal)),
            (Err((refusal, _)), _) => Err(Error::List(refusal)),
            (Ok(()), None) => Err(DecodeError::from("it does not name its version").into()),
        }
    }

    /// Writes to sets, in order. What is there already, or is gone already, is
    /// no failure. A set to destroy that is in use is waited for.
    ///
    /// # Errors
    /// At the first write that is refused; those before it are in the kernel,
    /// none behind it is.
    pub fn write(&mut self, writes: &[&SetWrite]) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut rest = writes;
        while let [first, ..] = rest {
            let done = match first {
                SetWrite::Create(name, family, kind) => {
                    let created = self.create(name, *family, *kind)?;
                    created.map_err(|refusal| refused(first, refusal))?;
                    1
                }
                SetWrite::Add(name, _) => self.members(SetCommand::Add, name, rest)?,
                SetWrite::Delete(name, _) => self.members(SetCommand::Delete, name, rest)?,
                SetWrite::Destroy(name) => {
                    self.destroy_by(name.as_str(), deadline)?.map_err(|refusal| refused(first, refusal))?;
                    1
                }
            };
            rest = &rest[done..];
        }
        Ok(())
    }

    fn create(&mut self, name: &SetName, family: Family, kind: SetKind) -> Result<Result<(), Refusal>, Error> {
        match self.revision(family, kind)? {
            Ok(revision) => self.request(Request::create(self.version, name, family, kind, revision)),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// The revision that sets of a kind are made with.
    fn revision(&mut self, family: Family, kind: SetKind) -> Result<Result<u8, Refusal>, Error> {
        if let Some(known) = self.revisions.get(&(kind, family)) {
            return Ok(Ok(*known));
        }
        let mut revision = REVISION;
        let outcome = self.exchange(&mut Request::revisions(self.version, family, kind), |answer| {
            let newest = answer.u8(message::REVISION)?.unwrap_or(REVISION);
            let oldest = answer.u8(message::MINIMUM)?.unwrap_or(newest);
            revision = REVISION.min(newest).max(oldest);
            Ok(())
        })?;
        Ok(outcome.map_err(|(refusal, _)| refusal).map(|()| {
            self.revisions.insert((kind, family), revision);
            revision
        }))
    }

    /// Carries out, in one message, the writes at the front that are of one
    /// sort and to one set, as many as fit; answers how many.
    fn members(&mut self, command: SetCommand, name: &SetName, writes: &[&SetWrite]) -> Result<usize, Error> {
        let alike = writes.iter().map_while(|write| match write {
            SetWrite::Add(set, member) if command == SetCommand::Add && set == name => Some(member),
            SetWrite::Delete(set, member) if command == SetCommand::Delete && set == name => Some(member),
            _ => None,
        });
        let (mut request, count) = Request::members(self.version, command, name, alike);
        match self.exchange(&mut request, |_| Ok(()))? {
            Ok(()) => Ok(count),
            Err((refusal, line)) => {
                // Without a line it is the set that does not do.
                let first = line.map_or(0, |line| line - 1).min(count - 1);
                Err(refused(writes[first], refusal))
            }
        }
    }

    /// Removes sets, going on past those that cannot go; answers them, and why.
    /// Sets in use are waited for, all together for so long.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn destroy(&mut self, names: &[SetName], patience: Duration) -> Result<Vec<(SetName, Error)>, Error> {
        let deadline = Instant::now() + patience;
        let mut stuck = Vec::new();
        for name in names {
            if let Err(refusal) = self.destroy_by(name.as_str(), deadline)? {
                stuck.push((name.clone(), refused(&SetWrite::Destroy(name.clone()), refusal)));
            }
        }
        Ok(stuck)
    }

    /// Removes a set, and waits where it is still in use: nft lets go of a
    /// deleted rule's sets a little after the commit that deleted it.
    fn destroy_by(&mut self, name: &str, deadline: Instant) -> Result<Result<(), Refusal>, Error> {
        loop {
            match self.request(Request::destroy(self.version, name))? {
                Err(Refusal::BUSY) if Instant::now() < deadline => thread::sleep(LOOK),
                // Older kernels mind that it is gone already.
                Err(Refusal::NO_SUCH_SET) => return Ok(Ok(())),
                answer => return Ok(answer),
            }
        }
    }

    /// The names of all sets, of whomever, that begin so.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn names_with(&mut self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        self.list(Request::names(self.version), |names: &mut BTreeSet<String>, answer| {
            names.extend(answer.text(message::SET)?.filter(|name| name.starts_with(prefix)).map(str::to_owned));
            Ok(())
        })
    }

    /// Removes sets by name, of any program; answers those that cannot go,
    /// and why. A set of sets holds on to them, so what is in use is tried
    /// again after the others, for so long.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn destroy_named(
        &mut self,
        names: &BTreeSet<String>,
        patience: Duration,
    ) -> Result<Vec<(String, Error)>, Error> {
        let deadline = Instant::now() + patience;
        let mut left: Vec<&String> = names.iter().collect();
        loop {
            let mut stuck = Vec::new();
            for name in &left {
                if let Err(refusal) = self.destroy_by(name, Instant::now())? {
                    stuck.push((*name, refusal));
                }
            }
            let progress = stuck.len() < left.len();
            left = stuck.iter().map(|(name, _)| *name).collect();
            if left.is_empty() || !progress && Instant::now() >= deadline {
                let error = |(name, refusal): (&String, Refusal)| {
                    let set = SetName::ours(name);
                    (name.clone(), Error::Refused { write: format!("destroy {name}"), set, refusal })
                };
                return Ok(stuck.into_iter().map(error).collect());
            }
            if !progress {
                thread::sleep(LOOK);
            }
        }
    }

    /// Empties a set.
    ///
    /// # Errors
    /// If there is none, or the kernel does not answer.
    pub fn flush(&mut self, name: &SetName) -> Result<(), Error> {
        let flushed = self.request(Request::flush(self.version, name))?;
        let set = Some(name.clone());
        flushed.map_err(|refusal| Error::Refused { write: format!("flush {name}"), set, refusal })
    }

    /// The names of the sets that bear our names.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn names(&mut self) -> Result<Vec<SetName>, Error> {
        self.list(Request::names(self.version), |names: &mut Vec<SetName>, answer| {
            names.extend(ours(answer)?);
            Ok(())
        })
    }

    /// The sets that bear our names, without their members: as long as there
    /// are sets, and a little for each member.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn heads(&mut self) -> Result<BTreeMap<SetName, SetSummary>, Error> {
        self.list(Request::heads(self.version), |heads: &mut BTreeMap<_, _>, answer| {
            let (Some(name), Some(header)) = (ours(answer)?, answer.header()?) else { return Ok(()) };
            let kind = header.kind(name.family());
            let members = header.elements.and_then(|count| usize::try_from(count).ok());
            heads.insert(name, SetSummary { kind, members });
            Ok(())
        })
    }

    /// One set, if it is there: its kind, if it is as we make sets, and its
    /// members.
    ///
    /// # Errors
    /// If the kernel does not list it.
    pub fn members_of(&mut self, name: &SetName, family: Family) -> Result<Option<OneSet>, Error> {
        let listed = self.list(Request::one(self.version, name), |set: &mut PartialSet, answer| match ours(answer)? {
            Some(_) => set.take(family, answer),
            None => Ok(()),
        });
        match listed {
            Ok(listed) => Ok(Some((listed.kind, listed.members))),
            Err(Error::List(Refusal::NO_SUCH_SET)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the sets that bear our names.
    ///
    /// # Errors
    /// If the kernel does not list them.
    pub fn read(&mut self) -> Result<ActualSets, Error> {
        // All at once: for each set asked for by name, the kernel searches all sets. Sets of other
        // programs are skipped unread, so their types do not matter.
        let listed = self.list(Request::dump(self.version), |sets: &mut BTreeMap<_, PartialSet>, answer| {
            let Some(name) = ours(answer)? else { return Ok(()) };
            let family = name.family();
            sets.entry(name).or_default().take(family, answer)
        })?;
        let mut reading = ActualSets::default();
        for (name, PartialSet { header, kind, members }) in listed {
            match (kind, name.family()) {
                (Some(kind), Family::V4) => reading.v4.extend([(name, (kind, members))]),
                (Some(kind), Family::V6) => reading.v6.extend([(name, (kind, members))]),
                (None, _) => reading.odd.push(OddSet { name, header }),
            }
        }
        Ok(reading)
    }

    /// Gathers a list, from its beginning again where it was cut short.
    fn list<T: Default>(
        &mut self,
        mut request: Request,
        mut each: impl FnMut(&mut T, Attributes<'_>) -> Result<(), Error>,
    ) -> Result<T, Error> {
        for _ in 0..TRIES {
            let mut gathered = T::default();
            match self.socket.exchange(&mut request, |answer| each(&mut gathered, answer))? {
                Outcome::Done => return Ok(gathered),
                Outcome::Refused(refusal, _) => return Err(Error::List(refusal)),
                Outcome::Interrupted => {}
            }
        }
        Err(Error::Interrupted(TRIES))
    }

    /// A request without an answer but whether it was carried out.
    fn request(&mut self, mut request: Request) -> Result<Result<(), Refusal>, Error> {
        Ok(self.exchange(&mut request, |_| Ok(()))?.map_err(|(refusal, _)| refusal))
    }

    /// A request that may be carried out twice with the same result, as all
    /// of ours may: again where its answer was lost.
    fn exchange(
        &mut self,
        request: &mut Request,
        mut each: impl FnMut(Attributes<'_>) -> Result<(), Error>,
    ) -> Result<Result<(), (Refusal, Option<usize>)>, Error> {
        for _ in 0..TRIES {
            match self.socket.exchange(request, &mut each)? {
                Outcome::Done => return Ok(Ok(())),
                Outcome::Refused(refusal, line) => return Ok(Err((refusal, line))),
                Outcome::Interrupted => {}
            }
        }
        Err(Error::Interrupted(TRIES))
    }
}

/// The name of the set that an answer is about, if it bears our name.
fn ours(answer: Attributes<'_>) -> Result<Option<SetName>, Error> {
    Ok(answer.text(message::SET)?.and_then(SetName::ours))
}

fn refused(write: &SetWrite, refusal: Refusal) -> Error {
    Error::Refused { write: write.to_string(), set: Some(write.set().clone()), refusal }
}

/// A set as far as it has been listed.
#[derive(Debug, Default)]
struct PartialSet {
    header: String,
    /// None where it is not as we make sets.
    kind: Option<SetKind>,
    members: BTreeSet<Member>,
}

impl PartialSet {
    fn take(&mut self, family: Family, answer: Attributes<'_>) -> Result<(), Error> {
        if let Some(header) = answer.header()? {
            self.kind = header.kind(family);
            self.header = header.to_string();
        }
        // Members of odd sets say nothing.
        let Some(kind) = self.kind else { return Ok(()) };
        for entry in answer.members()? {
            let entry = entry?;
            match entry.member(kind) {
                Some(member) => {
                    self.members.insert(member);
                }
                // One that we cannot write we cannot take back either.
                None => {
                    self.kind = None;
                    self.header = format!("{} with the member `{entry}`", self.header);
                    self.members.clear();
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Reads what may be answers of the kernel: for fuzzing.
pub(super) fn fuzz(data: &[u8]) {
    for attributes in super::netlink::fuzz_input::attributes(data) {
        socket::fuzz(attributes);
        reply::fuzz(Attributes(attributes));
    }
}
