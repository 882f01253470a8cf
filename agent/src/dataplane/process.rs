//! The only place that starts processes: one child, fed by its standard input,
//! run to its end or, if that does not come, killed.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{env, thread};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

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
    #[error("{program} had not ended after {limit:?} and was killed; whether it did what it was to do is not known")]
    Hung {
        /// The program.
        program: String,
        /// For how long it could run.
        limit: Duration,
    },
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Output {
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
pub(super) fn run(program: &str, args: &[&str], input: &str) -> Result<Output, Error> {
    run_within(*LIMIT, program, args, input)
}

/// Waits for work that runs a program by a library, which knows no limit. If it does not
/// end, the program is killed, as far as the kernel lists a thread's children
/// (`CONFIG_PROC_CHILDREN`); otherwise it is left behind.
pub(super) fn bounded<T: Send + 'static>(program: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
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
    let (ended, end) = mpsc::channel::<()>();
    let (output, was_killed) = thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let hangs = end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if hangs {
                kill_group(process);
            }
            hangs
        });
        let output = communicate(&mut child, input);
        // Before it is reaped: after that its number may be another process's.
        drop(ended);
        let was_killed = watch.join().unwrap_or(true);
        (output.and_then(|output| Ok((child.wait()?, output))), was_killed)
    });
    if was_killed {
        return Err(Error::Hung { program: program.to_owned(), limit });
    }
    let (status, (stdout, stderr)): (ExitStatus, _) = output.map_err(failed)?;
    Ok(Output {
        process,
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// Feeds a child and takes what it prints until it, and all that it has started,
/// prints no more and it has ended. It is not reaped.
fn communicate(child: &mut Child, input: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let output = thread::scope(|scope| {
        // Written beside the reading, or both sides could wait on full pipes.
        scope.spawn(move || {
            // A child that stops at a bad line leaves the rest unread; its exit
            // code and words say more than the broken pipe does.
            stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
        });
        let read = |mut pipe: Option<Box<dyn io::Read + Send>>| {
            let mut bytes = Vec::new();
            pipe.as_mut().map_or(Ok(0), |pipe| pipe.read_to_end(&mut bytes)).map(|_| bytes)
        };
        let words = scope.spawn(move || read(stderr.map(|pipe| Box::new(pipe) as _)));
        let printed = read(stdout.map(|pipe| Box::new(pipe) as _));
        let words = words.join().unwrap_or_else(|_| Err(io::Error::other("the thread that read its errors broke off")));
        Ok::<_, io::Error>((printed?, words?))
    })?;
    if let Some(pid) = pid_of(child.id()) {
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    }
    Ok(output)
}

fn pid_of(process: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process).ok()?)
}

fn kill_group(process: u32) {
    // Of one that ended a moment ago there is nothing left to kill.
    let _ = pid_of(process).map(|group| kill_process_group(group, Signal::KILL));
}

/// Where a program lies on the path, if it does.
pub(super) fn find(program: &str) -> Option<PathBuf> {
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
        assert!(error.to_string().starts_with("sh had not ended after 200ms and was killed"), "{error}");
        let error = run_within(limit, "sh", &["-c", "sleep 1000 & exit 0"], "").expect_err("its child hangs");
        assert!(matches!(error, Error::Hung { .. }), "{error}");
        let output = run_within(Duration::from_secs(1000), "sh", &["-c", "kill -9 $$"], "").expect("it runs");
        assert_eq!(output.code, None, "it was killed by itself");
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
