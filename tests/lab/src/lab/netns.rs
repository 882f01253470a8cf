//! Network namespaces by name, as `ip netns` has them, so that a person can
//! look into a lab that runs (`ip netns exec npc-lab-4711-0-node-1 …`).

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};

use super::error::{Doing, Error, Result};

/// Where `ip netns` keeps the names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A network namespace with a name. Dropping it does nothing: a lab deletes
/// its namespaces together.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    /// The xtables lock of what runs inside. On one lock of the machine, each lab would wait for
    /// all others.
    lock: PathBuf,
}

impl Netns {
    /// Makes namespaces with these names, in one call of `ip`. Their xtables locks are files of
    /// this folder.
    ///
    /// # Errors
    /// When `ip` cannot make them, for instance without root.
    pub fn create(names: impl IntoIterator<Item = String>, folder: &Path) -> Result<Vec<Self>> {
        let names: Vec<String> = names.into_iter().collect();
        let lines: Vec<String> = names.iter().map(|name| format!("netns add {name}")).collect();
        run("ip", ["-batch", "-"], &lines.join("\n"))?;
        names.into_iter().map(|name| Self::open(name, folder)).collect()
    }

    fn open(name: String, folder: &Path) -> Result<Self> {
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path).doing(|| format!("open {}", path.display()))?;
        let lock = folder.join(format!("{name}.xtables.lock"));
        Ok(Self { name, file, lock })
    }

    /// The same namespace once more, for another thread to hold.
    ///
    /// # Errors
    /// When this process may open no more files.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.file.try_clone().doing(|| format!("hold namespace {}", self.name))?;
        Ok(Self { name: self.name.clone(), file, lock: self.lock.clone() })
    }

    /// Its name below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace, for good. Only for threads
    /// made for the purpose.
    ///
    /// # Errors
    /// Without root, or when the namespace is gone.
    pub fn enter(&self) -> Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).doing(|| format!("enter namespace {}", self.name))
    }

    /// Does something inside the namespace, in a thread of its own.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `inside` does.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let result = std::thread::scope(|scope| scope.spawn(|| self.enter().map(|()| inside())).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets sysctls of the namespace, given by their paths below `/proc/sys`.
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys").join(key);
                std::fs::write(&path, value).doing(|| format!("set {key} to {value} in {}", self.name))?;
            }
            Ok(())
        })?
    }

    /// Feeds lines to one `ip -batch` in the namespace.
    pub(crate) fn ip(&self, lines: &[String]) -> Result<()> {
        run("ip", ["-netns", &self.name, "-batch", "-"], &lines.join("\n")).map(drop)
    }

    /// A command that will run in the namespace, with `/sys` showing its
    /// devices.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program).env("XTABLES_LOCKFILE", &self.lock);
        command
    }

    /// Runs a command in the namespace, with this input, and answers what it
    /// printed.
    ///
    /// # Errors
    /// When it cannot be started or fails.
    pub fn exec<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>, input: &str) -> Result<String> {
        let mut arguments = command.into_iter();
        let program = arguments.next().ok_or_else(|| Error::Unknown("command to run".to_owned()))?;
        let mut command = self.command(program);
        command.args(arguments);
        finish(command, &self.name, input)
    }
}

/// Runs a program outside the namespaces with this input.
pub(crate) fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>, input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, "of the host", input)
}

fn finish(mut command: Command, namespace: &str, input: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let spelled = std::iter::once(command.get_program()).chain(command.get_args());
    let spelled = spelled.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::Missing { what: program, remedy: "install iproute2, iptables and ipset".to_owned() }
        }
        _ => Error::Io { doing: format!("start {spelled}"), source },
    })?;
    let stdin = child.stdin.take();
    // The writer has a thread of its own, so that neither side waits for the
    // other with a full pipe. That the child stops reading early shows in its
    // status.
    let output: Output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        child.wait_with_output()
    })
    .doing(|| format!("wait for {spelled}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Command {
        program: spelled,
        namespace: namespace.to_owned(),
        status: output.status.to_string(),
        output: format!("{}{}", said.trim_end(), quote_line(&said, input)),
    })
}

/// The line of the input that an error message points at (`Command failed -:3`
/// of ip, `line 3` of iptables-restore), because the input is not shown.
fn quote_line(said: &str, input: &str) -> String {
    let number = ["failed -:", "line: ", "line "].iter().find_map(|before| {
        let rest = &said[said.find(before)? + before.len()..];
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().ok()
    });
    match number.and_then(|n| input.lines().nth(n.checked_sub(1)?)) {
        Some(line) => format!("\nits line: {line}"),
        None => String::new(),
    }
}

/// The names below `/run/netns` that start so.
pub(crate) fn names_with(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort_unstable();
    names
}

/// Finds a program on the `PATH`, where root's may lack the sbin folders.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_quotes_the_line_it_points_at() {
        let quoted = quote_line("Command failed -:2", "link add a\nlink add b\n");
        assert_eq!(quoted, "\nits line: link add b");
        assert_eq!(quote_line("no idea", "link add a"), "");
    }
}
