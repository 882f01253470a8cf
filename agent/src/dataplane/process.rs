//! The only place that starts processes: one child, fed by its standard input,
//! run to its end.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, thread};

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
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: program.to_owned() },
        _ => Error::Run { program: program.to_owned(), source },
    };
    let mut child = Command::new(program)
        .args(args)
        // Messages are parsed for the failing line.
        .env("LC_ALL", "C")
        // A Ctrl-C at the terminal is for the agent, which finishes its step,
        // not for a restore in the middle of its lines.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let process = child.id();
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // Written beside the reading, or both sides could wait on full pipes.
        scope.spawn(move || {
            // A child that stops at a bad line leaves the rest unread; its exit
            // code and words say more than the broken pipe does.
            stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
        });
        child.wait_with_output()
    })
    .map_err(failed)?;
    Ok(Output {
        process,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
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
    fn a_missing_program_is_named_with_its_package() {
        let error = run("iptables-nowhere", &[], "").expect_err("there is none");
        assert_eq!(error.to_string(), "iptables-nowhere is not installed (Debian has it in the package iptables)");
    }
}
