//! `npc-failing-netlink PROGRAM ARGUMENTS…`: runs a program whose netfilter sockets fail
//! at random, as those of a kernel that is short of memory do.
//!
//! npc speaks to ipset and conntrack by system calls of its own making, which
//! no library can be put in front of (`LD_PRELOAD`). So the kernel asks: this
//! process installs a seccomp filter that has a second process decide what
//! becomes of each `sendto` and `recvfrom`, and then becomes the program, with
//! its number, its output and its parent.
//!
//! ```text
//! npc-failing-netlink ──exec──▶ npc agent ──sendto──▶ kernel: asks what to do
//!     └─spawn─▶ npc-failing-netlink --over PID  ◀────────┘  │
//!                         let it pass · refuse · do half ◀──┘
//! ```
//!
//! It reads four environment variables. `NPC_NETLINK_REFUSED` names a file of addresses and types
//! of sets, one a line; what is to be written to ipset and has one of them is always refused for want of
//! memory. The file may come and change at any time. `NPC_NETLINK_FAULTS_PERCENT` names a file with
//! the share of requests that fail, in percent; requests with several members fail twice
//! as often, and without the file none do. The file may change at any time.
//! `NPC_NETLINK_FAULTS_SEED` and the process number seed the random choice.
//! `NPC_NETLINK_FAULTS_LOG` names the file that gets a line for every fault.

mod fault;
mod netlink;
mod notify;
mod over;

use std::env;
use std::ffi::OsString;
use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// What tells the second process that it is that.
const OVER: &str = "--over";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let done = match arguments.next() {
        Some(first) if first == OVER => over::run(arguments.next()),
        Some(program) => become_program(&program, arguments),
        None => Err(anyhow::anyhow!("usage: npc-failing-netlink PROGRAM ARGUMENTS…")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("npc-failing-netlink: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Puts this process under a second one, and runs the program in its place.
fn become_program(program: &OsString, arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let (ours, its) = UnixDatagram::pair().context("cannot make a pair of sockets")?;
    let own = env::current_exe().context("cannot find this program's own path")?;
    // It ends with the last process that has the filter.
    Command::new(own)
        .arg(OVER)
        .arg(std::process::id().to_string())
        .stdin(OwnedFd::from(its))
        .spawn()
        .context("cannot start what is to decide")?;
    let listener = notify::install().context("cannot install a seccomp filter")?;
    let fds = [listener.as_raw_fd()];
    let hand_over = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(&[0])], &hand_over, MsgFlags::empty(), None)
        .context("cannot hand the filter's notifications over")?;
    drop(listener);
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot run {}", program.display()))
}
