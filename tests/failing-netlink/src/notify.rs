//! seccomp's user notifications (seccomp_unotify(2)): the filter, and what the
//! kernel asks and is answered.

#![allow(unsafe_code, reason = "these system calls have no safe wrapper in our dependencies")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, SECCOMP_RET_ALLOW,
    SECCOMP_RET_USER_NOTIF, SECCOMP_SET_MODE_FILTER, SECCOMP_USER_NOTIF_FLAG_CONTINUE, SYS_pidfd_getfd, SYS_pidfd_open,
    SYS_recvfrom, SYS_seccomp, SYS_sendto, ioctl, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog, syscall,
};

/// How this machine's system calls are numbered (linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` has the number of the call, and the architecture.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    id: u64,
    /// The thread that makes it.
    pub(crate) thread: u32,
    pub(crate) call: Call,
    /// The file descriptor, the buffer and its length.
    pub(crate) fd: i32,
    pub(crate) address: u64,
    pub(crate) length: usize,
}

/// Which call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Send,
    Receive,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries it out.
    Pass,
    /// It returns this, and nothing more is done.
    Returns(usize),
    /// It fails so.
    Fails(nix::errno::Errno),
}

/// Has every `sendto` and `recvfrom` of this process, and of those that come of
/// it, wait for the process that holds what is answered.
pub(crate) fn install() -> io::Result<OwnedFd> {
    let statement = |code: u32, k: u32| instruction(code, k, 0, 0);
    let load = |at: u32| statement(BPF_LD | BPF_W | BPF_ABS, at);
    let unless = |k: u32, skip: u8| instruction(BPF_JMP | BPF_JEQ | BPF_K, k, 0, skip);
    let when = |k: u32, skip: u8| instruction(BPF_JMP | BPF_JEQ | BPF_K, k, skip, 0);
    let returns = |what: u32| statement(BPF_RET | BPF_K, what);
    let mut filter = [
        load(ARCHITECTURE_AT),
        unless(ARCHITECTURE, 3),
        load(NUMBER_AT),
        when(number(SYS_sendto), 2),
        when(number(SYS_recvfrom), 1),
        returns(SECCOMP_RET_ALLOW),
        returns(SECCOMP_RET_USER_NOTIF),
    ];
    let length = u16::try_from(filter.len()).unwrap_or_default();
    let program = sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // A signal that came while the decision falls would have the call made again.
    let flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: `program` and the instructions that it points to outlive the call,
    // which copies them.
    descriptor(unsafe { syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

/// Takes the next call that waits, if it still does.
pub(crate) fn next(listener: BorrowedFd<'_>) -> io::Result<Option<Asked>> {
    // SAFETY: all zeros are one, and what the kernel wants to be handed.
    let mut asked: seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, for which there is room.
    let done = unsafe { ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
    if done != 0 {
        let error = io::Error::last_os_error();
        // The caller was killed, or this process was interrupted.
        return if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) { Ok(None) } else { Err(error) };
    }
    let [fd, address, length, ..] = asked.data.args;
    let is_send = libc::c_long::from(asked.data.nr) == SYS_sendto;
    Ok(Some(Asked {
        id: asked.id,
        thread: asked.pid,
        call: if is_send { Call::Send } else { Call::Receive },
        // Descriptors are ints, so the rest of the register does not count.
        fd: i32::from_ne_bytes(fd.to_ne_bytes()[..4].try_into().unwrap_or_default()),
        address,
        length: usize::try_from(length).unwrap_or(usize::MAX),
    }))
}

/// Answers a call. Its caller may have been killed meanwhile.
pub(crate) fn answer(listener: BorrowedFd<'_>, asked: Asked, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Pass => (0, 0, u32::try_from(SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or_default()),
        Answer::Returns(value) => (i64::try_from(value).unwrap_or(i64::MAX), 0, 0),
        Answer::Fails(error) => (0, -(error as i32), 0),
    };
    let answer = seccomp_notif_resp { id: asked.id, val, error, flags };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, which outlives the call.
    match unsafe { ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        },
    }
}

/// A process, to take descriptors from.
pub(crate) fn process(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    descriptor(unsafe { syscall(SYS_pidfd_open, id, 0) })
}

/// What a descriptor of a process is, as one of ours.
pub(crate) fn of(process: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers.
    descriptor(unsafe { syscall(SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

/// The descriptor that a system call has made.
fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(returned) {
        // SAFETY: the kernel has made it just now, for us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
