//! The only place that starts processes: one child, fed by its standard input,
//! run to its end or, if that does not come, killed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open, waitid,
};

use crate::words::rounded::rounded;

/// The time between two looks whether a child has ended, where the kernel reports no end.
const RETRY: Duration = Duration::from_millis(2);

/// How long a child may take. Far longer than to load the largest table, and than
/// the longest that it waits for the xtables lock.
///
/// Tests of a child that hangs make it shorter, by whole seconds in
/// `NPC_PROGRAM_LIMIT`.
static LIMIT: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = env::var("NPC_PROGRAM_LIMIT").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.filter(|seconds| *seconds > 0).unwrap_or(60))
});

/// Why a program could not be run at all. That it ran and failed is in
/// [`Output`], for its caller to judge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing of that name lies on the path.
    #[error("{program} is not installed (Debian has it in the package iptables)")]
    Missing {
        /// The program.
        program: String,
    },
    /// It lies there and does not start.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end, and was killed with all that it had started.
    #[error("killed {program} after {}, because it had not ended; its result is unknown", rounded(*limit))]
    Hung {
        /// The program.
        program: String,
        /// For how long it could run.
        limit: Duration,
    },
}

/// How a program ended.
#[derive(Debug)]
pub(in super::super) struct Output {
    /// The number of the process that it was.
    pub process: u32,
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end, with this text as its standard input.
pub(in super::super) fn run(program: &str, args: &[&str], input: &str) -> Result<Output, Error> {
    run_within(*LIMIT, program, args, input)
}

/// Waits for work that runs a program by a library, which knows no limit. If it does not
/// end, the program is killed, as far as the kernel lists a thread's children
/// (`CONFIG_PROC_CHILDREN`); otherwise it is left behind.
pub(in super::super) fn bounded<T: Send + 'static>(
    program: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    bounded_within(*LIMIT, program, work)
}

fn bounded_within<T: Send + 'static>(
    limit: Duration,
    program: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let failed = |source| Error::Run { program: program.to_owned(), source };
    let (begun, begins) = mpsc::channel();
    let (done, ends) = mpsc::channel();
    let body = move || {
        // The caller may have given up.
        let _ = begun.send(rustix::thread::gettid());
        let _ = done.send(work());
    };
    thread::Builder::new().name("npc-program".to_owned()).spawn(body).map_err(failed)?;
    ends.recv_timeout(limit).map_err(|_| {
        if let Ok(thread) = begins.try_recv() {
            let children = format!("/proc/self/task/{}/children", thread.as_raw_nonzero());
            let children = std::fs::read_to_string(children).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
                // It may have ended by itself.
                let _ = kill_process(child, Signal::KILL);
            }
        }
        Error::Hung { program: program.to_owned(), limit }
    })
}

fn run_within(limit: Duration, program: &str, args: &[&str], input: &str) -> Result<Output, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: program.to_owned() },
        _ => Error::Run { program: program.to_owned(), source },
    };
    let mut child = Command::new(program)
        .args(args)
        // Messages are parsed for the failing line.
        .env("LC_ALL", "C")
        // A Ctrl-C at the terminal is for the agent, which finishes its step,
        // not for a restore in the middle of its lines. And what hangs is killed
        // with all that it started.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let process = child.id();
    let output = communicate(&mut child, input, Instant::now() + limit);
    if !matches!(output, Ok(Some(_))) {
        // Before it is reaped: after that its number may be another process's.
        kill_group(process);
    }
    let status = child.wait();
    let Some((stdout, stderr)) = output.map_err(failed)? else {
        return Err(Error::Hung { program: program.to_owned(), limit });
    };
    Ok(Output {
        process,
        code: status.map_err(failed)?.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// Feeds a child and takes what it prints until it, and all that it has started, prints no
/// more and it has ended. It is not reaped. Nothing if that has not come by the deadline.
///
/// This thread does it all, because a node without free process ids has no thread for it.
fn communicate(child: &mut Child, input: &str, deadline: Instant) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut feeding = Feeding::of(child.stdin.take(), input.as_bytes())?;
    let mut reading = [ChildPipe::of(child.stdout.take())?, ChildPipe::of(child.stderr.take())?];
    while reading.iter().any(|one| one.pipe.is_some()) {
        let mut open: Vec<PollFd<'_>> = Vec::with_capacity(3);
        open.extend(feeding.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        open.extend(reading.iter().filter_map(|one| Some(PollFd::new(one.pipe.as_ref()?, PollFlags::IN))));
        if !wait_for(&mut open, deadline)? {
            return Ok(None);
        }
        // Each pipe goes on as far as it can without waiting, also those that poll did not report.
        feeding.go_on();
        for one in &mut reading {
            one.go_on()?;
        }
    }
    drop(feeding);
    let [stdout, stderr] = reading.map(|one| one.bytes);
    Ok(ends(child.id(), deadline)?.then_some((stdout, stderr)))
}

/// Waits until one of these files is ready. Returns whether that was before the deadline.
fn wait_for(files: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(files, Some(&Timespec::try_from(left).unwrap_or_default())) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the end of a child. Returns whether that was before the deadline.
fn ends(process: u32, deadline: Instant) -> io::Result<bool> {
    let Some(pid) = pid_of(process) else { return Ok(true) };
    let handle = pidfd_open(pid, PidfdFlags::empty());
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    while waitid(WaitId::Pid(pid), options)?.is_none() {
        let has_time = match &handle {
            Ok(handle) => wait_for(&mut [PollFd::new(handle, PollFlags::IN)], deadline)?,
            // A kernel before 5.3.
            Err(_) => {
                thread::sleep(RETRY);
                Instant::now() < deadline
            }
        };
        if !has_time {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many bytes are read from a pipe before the next one has its turn.
const PART: u64 = 1 << 20;

/// What a child still has to be given.
struct Feeding<'a> {
    pipe: Option<ChildStdin>,
    left: &'a [u8],
}

impl<'a> Feeding<'a> {
    fn of(pipe: Option<ChildStdin>, left: &'a [u8]) -> io::Result<Self> {
        pipe.as_ref().map_or(Ok(()), never_waits)?;
        let mut feeding = Self { pipe, left };
        feeding.go_on();
        Ok(feeding)
    }

    fn go_on(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            match pipe.write(self.left) {
                Ok(length @ 1..) => self.left = self.left.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It has all. Or it stopped at a bad line and leaves the rest unread: its exit
                // code and words say more than the broken pipe does.
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
    }
}

/// What a child prints to one pipe.
struct ChildPipe {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl ChildPipe {
    fn of(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let pipe = pipe.map(|pipe| File::from(pipe.into()));
        pipe.as_ref().map_or(Ok(()), never_waits)?;
        Ok(Self { pipe, bytes: Vec::new() })
    }

    fn go_on(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        // Not to its end at once: one that prints for ever is killed too.
        match pipe.take(PART).read_to_end(&mut self.bytes) {
            Ok(0) => self.pipe = None,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        Ok(())
    }
}

/// Lets a pipe answer at once that it has nothing, or no room.
fn never_waits(pipe: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(pipe, true)?)
}

fn pid_of(process: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process).ok()?)
}

fn kill_group(process: u32) {
    // Of one that ended a moment ago there is nothing left to kill.
    let _ = pid_of(process).map(|group| kill_process_group(group, Signal::KILL));
}

/// Where a program lies on the path, if it does.
pub(in super::super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_reads_nothing_and_fails_is_no_broken_pipe() {
        let input = "x".repeat(1 << 20);
        let output = run("sh", &["-c", "echo no >&2; exit 3"], &input).expect("sh runs");
        assert_eq!((output.code, output.stderr.as_str()), (Some(3), "no\n"));
    }

    #[test]
    fn a_child_that_answers_while_it_reads_does_not_hang() {
        let input = "line\n".repeat(1 << 18);
        assert_eq!(run("cat", &[], &input).expect("cat runs").stdout, input);
    }

    #[test]
    fn a_child_that_hangs_is_killed_with_its_own_children() {
        // The grandchild holds the pipes open when the child is gone.
        let script = "sleep 1000 & echo $! >&2; wait";
        let limit = Duration::from_millis(200);
        let error = run_within(limit, "sh", &["-c", script], "").expect_err("it hangs");
        assert!(matches!(error, Error::Hung { .. }), "{error}");
        assert!(error.to_string().starts_with("killed sh after 200 ms, "), "{error}");
        let error = run_within(limit, "sh", &["-c", "sleep 1000 & exit 0"], "").expect_err("its child hangs");
        assert!(matches!(error, Error::Hung { .. }), "{error}");
        let output = run_within(Duration::from_secs(1000), "sh", &["-c", "kill -9 $$"], "").expect("it runs");
        assert_eq!(output.code, None, "it was killed by itself");
    }

    #[test]
    fn a_child_that_prints_for_ever_is_killed() {
        let script = "while :; do echo something; done";
        let error = run_within(Duration::from_millis(300), "sh", &["-c", script], "").expect_err("it has no end");
        assert!(matches!(error, Error::Hung { .. }), "{error}");
    }

    #[test]
    fn a_child_that_goes_on_with_its_pipes_closed_is_waited_for() {
        let output = run("sh", &["-c", "exec >&- 2>&-; sleep 0.2; exit 3"], "").expect("sh runs");
        assert_eq!(output.code, Some(3));
        let script = "exec >&- 2>&-; sleep 1000";
        let error = run_within(Duration::from_millis(200), "sh", &["-c", script], "").expect_err("it hangs");
        assert!(matches!(error, Error::Hung { .. }), "{error}");
    }

    #[test]
    fn a_program_that_a_library_runs_is_killed_if_it_does_not_end() {
        let limit = Duration::from_millis(300);
        let (ended_in, ended) = mpsc::channel();
        let work = move || {
            let ended = Command::new("sleep").arg("1000").status();
            ended_in.send(ended.is_ok_and(|status| status.code().is_none())).expect("the test listens");
        };
        assert!(matches!(bounded_within(limit, "sleep", work), Err(Error::Hung { .. })));
        assert!(ended.recv().expect("it ends"), "a signal ended it");
        assert_eq!(bounded("nothing", || 7).expect("it ends"), 7);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = run("iptables-nowhere", &[], "").expect_err("there is none");
        assert_eq!(error.to_string(), "iptables-nowhere is not installed (Debian has it in the package iptables)");
    }
}
