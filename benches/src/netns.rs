//! Network namespaces for benches of the real kernel.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// A network namespace with a name, which goes when this is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes one.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn create(name: &str) -> io::Result<Self> {
        feed(Command::new("ip").args(["netns", "add", name]), "")?;
        let file = File::open(format!("/run/netns/{name}"))?;
        Ok(Self { name: name.to_owned(), file })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does something inside, in a thread of its own.
    ///
    /// # Errors
    /// If it cannot be entered.
    ///
    /// # Panics
    /// If `inside` does.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        let done = thread::scope(|scope| scope.spawn(|| enter().map(|()| inside())).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Listens inside, on a free port of its loopback interface: a server of this process is
    /// reachable from there.
    ///
    /// # Errors
    /// If the interface cannot be set up, or the kernel has no port.
    pub fn listen(&self) -> io::Result<TcpListener> {
        self.exec(&["ip", "link", "set", "lo", "up"], "")?;
        self.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?
    }

    /// Runs a command inside with this input.
    ///
    /// # Errors
    /// If it cannot be started or fails.
    pub fn exec(&self, command: &[&str], input: &str) -> io::Result<()> {
        feed(Command::new("ip").args(["netns", "exec", &self.name]).args(command), input)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // What is left over can be seen by `ip netns` and does no harm.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn feed(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}
