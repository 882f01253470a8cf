//! The process that decides what becomes of another's calls.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, getsockname, recv, recvmsg, send};

use crate::fault::Fault;
use crate::netlink::{self, Request};
use crate::notify::{self, Answer, Asked, Call};

/// Longer than any message.
const BUFFER: usize = 128 << 10;

/// What is to happen when an answer is asked for.
#[derive(Debug)]
enum Lie {
    Fails(Errno),
    /// What has come is thrown away.
    Lost,
    Says(Vec<u8>),
    Inconsistent,
}

/// Decides until the process has ended whose number is given.
pub(crate) fn run(id: Option<OsString>) -> anyhow::Result<()> {
    let id = id.and_then(|id| id.to_str()?.parse().ok()).context("the number of a process is wanted")?;
    let listener = listener().context("cannot take the filter's notifications")?;
    let told = env::var_os("NPC_NETLINK_FAULTS_LOG")
        .map(|path| File::options().create(true).append(true).open(path))
        .transpose()
        .context("cannot open NPC_NETLINK_FAULTS_LOG")?;
    let seed = env::var("NPC_NETLINK_FAULTS_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()).unwrap_or_default();
    let mut over = Over {
        id,
        process: notify::process(id).context("cannot look at the program")?,
        memory: None,
        percent: env::var_os("NPC_NETLINK_FAULTS_PERCENT").map(PathBuf::from),
        refused: env::var_os("NPC_NETLINK_REFUSED").map(PathBuf::from),
        random: fastrand::Rng::with_seed(seed ^ u64::from(id)),
        lies: BTreeMap::new(),
        told,
    };
    loop {
        let mut files = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events = files[0].revents().unwrap_or(PollFlags::empty());
        if !events.contains(PollFlags::POLLIN) {
            if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(());
            }
            continue;
        }
        let Some(asked) = notify::next(listener.as_fd())? else { continue };
        // Where the process went away meanwhile there is nothing to decide.
        let answer = over.decide(asked).unwrap_or(Answer::Pass);
        notify::answer(listener.as_fd(), asked, answer)?;
    }
}

/// What the process that has become the program sends over standard input.
fn listener() -> io::Result<OwnedFd> {
    let (mut byte, mut space) = ([0; 1], nix::cmsg_space!(i32));
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(io::stdin().as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fd = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fd.ok_or_else(|| io::Error::other("no descriptor came"))?;
    own(fd)
}

#[allow(unsafe_code, reason = "nix hands descriptors that were received out as numbers")]
#[allow(clippy::unnecessary_wraps, reason = "it stands at the end of what may fail")]
fn own(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: it was received just now, and nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Over {
    id: u32,
    process: OwnedFd,
    /// Of the program, once it runs: it is another after the exec.
    memory: Option<File>,
    percent: Option<PathBuf>,
    refused: Option<PathBuf>,
    random: fastrand::Rng,
    /// By the descriptors of the program.
    lies: BTreeMap<i32, Lie>,
    told: Option<File>,
}

impl Over {
    fn decide(&mut self, asked: Asked) -> io::Result<Answer> {
        // What the program starts is not meant.
        if !Path::new(&format!("/proc/{}/task/{}", self.id, asked.thread)).exists() {
            return Ok(Answer::Pass);
        }
        match asked.call {
            Call::Send => self.send(asked),
            Call::Receive => self.receive(asked),
        }
    }

    fn memory(&mut self) -> io::Result<&File> {
        if self.memory.is_none() {
            self.memory = Some(File::options().read(true).write(true).open(format!("/proc/{}/mem", self.id))?);
        }
        self.memory.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn send(&mut self, asked: Asked) -> io::Result<Answer> {
        if asked.length > BUFFER {
            return Ok(Answer::Pass);
        }
        let mut bytes = vec![0; asked.length];
        self.memory()?.read_exact_at(&mut bytes, asked.address)?;
        let Some(request) = Request::read(bytes) else { return Ok(Answer::Pass) };
        let socket = notify::of(self.process.as_fd(), asked.fd)?;
        if !is_netlink(&socket) {
            return Ok(Answer::Pass);
        }
        // The program waits for no answer to the request before.
        self.lies.remove(&asked.fd);
        // Few have several members, and these are what can be done by half.
        let percent = if request.members() > 1 { 2 * self.percent() } else { self.percent() };
        let fault = if self.is_refused(&request) {
            Fault::Refused
        } else if self.random.u32(..100) < percent {
            Fault::of(&request, &mut self.random)
        } else {
            return Ok(Answer::Pass);
        };
        self.tell(&request, fault)?;
        let sent = Answer::Returns(asked.length);
        let (answer, lie) = match fault {
            Fault::NotSent => return Ok(Answer::Fails(Errno::ENOBUFS)),
            Fault::SendInterrupted => return Ok(Answer::Fails(Errno::EINTR)),
            Fault::ReceiveInterrupted => (Answer::Pass, Lie::Fails(Errno::EINTR)),
            Fault::AnswerLate => (Answer::Pass, Lie::Fails(Errno::EAGAIN)),
            Fault::AnswerLost => (Answer::Pass, Lie::Lost),
            Fault::Inconsistent => (Answer::Pass, Lie::Inconsistent),
            Fault::Refused => (sent, Lie::Says(request.refused(libc::ENOMEM, None))),
            Fault::Half => (sent, Lie::Says(self.half(&request, &socket)?)),
        };
        self.lies.insert(asked.fd, lie);
        Ok(answer)
    }

    /// Has the kernel carry out the first members of a request, and answers as
    /// if it had stopped there.
    fn half(&mut self, request: &Request, socket: &OwnedFd) -> io::Result<Vec<u8>> {
        let count = self.random.usize(1..request.members());
        let Some(first) = request.with_first(count) else { return Ok(request.refused(libc::ENOMEM, None)) };
        send(socket.as_raw_fd(), first.bytes(), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            match netlink::is_done(&buffer[..length], request.number()) {
                None => {}
                Some(true) => {
                    let line = u32::try_from(count + 1).unwrap_or(u32::MAX);
                    return Ok(request.refused(libc::ENOMEM, Some(line)));
                }
                // It had a reason of its own.
                Some(false) => return Ok(buffer[..length].to_vec()),
            }
        }
    }

    fn receive(&mut self, asked: Asked) -> io::Result<Answer> {
        let Some(lie) = self.lies.remove(&asked.fd) else { return Ok(Answer::Pass) };
        let socket = notify::of(self.process.as_fd(), asked.fd)?;
        if !is_netlink(&socket) {
            return Ok(Answer::Pass);
        }
        let mut buffer = vec![0; BUFFER];
        let answer = match lie {
            Lie::Fails(error) => return Ok(Answer::Fails(error)),
            Lie::Lost => {
                while recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok_and(|length| length > 0) {}
                return Ok(Answer::Fails(Errno::ENOBUFS));
            }
            Lie::Says(answer) => answer,
            Lie::Inconsistent => {
                let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
                netlink::make_inconsistent(&mut buffer[..length]);
                buffer.truncate(length);
                buffer
            }
        };
        let there = answer.len().min(asked.length);
        self.memory()?.write_all_at(&answer[..there], asked.address)?;
        Ok(Answer::Returns(there))
    }

    fn is_refused(&self, request: &Request) -> bool {
        let text = self.refused.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        text.lines().any(|line| request.writes(line.trim()))
    }

    fn percent(&self) -> u32 {
        let text = self.percent.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    fn tell(&mut self, request: &Request, fault: Fault) -> io::Result<()> {
        let Some(told) = &mut self.told else { return Ok(()) };
        // At once, because several processes write.
        told.write_all(format!("{} {} {}\n", self.id, fault.name(), request.what()).as_bytes())
    }
}

/// Whether it is a netlink socket. That it is netfilter's, the request tells:
/// no other sockets have kinds like these.
fn is_netlink(socket: &OwnedFd) -> bool {
    getsockname::<NetlinkAddr>(socket.as_raw_fd()).is_ok()
}
