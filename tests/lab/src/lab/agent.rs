//! One real agent per node, as a process in the node's namespace.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::{Doing, Error, Result};
use super::services::Backend;
use super::topology::Place;

/// How an agent is started.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// The `npc` binary.
    pub(super) npc: PathBuf,
    /// A program that is given the binary and its arguments, and becomes it.
    pub(super) through: Option<PathBuf>,
    /// Where it has the objects from.
    pub(super) source: Source,
    /// Where logs and ready files go.
    pub(super) folder: PathBuf,
    /// Its `--backend`.
    pub(super) backend: Backend,
    /// More of its arguments.
    pub(super) arguments: Vec<String>,
    /// More of its environment.
    pub(super) environment: Vec<(String, OsString)>,
    /// How long it may take until a change is in the kernel.
    pub(super) patience: Duration,
}

/// Where agents have the objects from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server, by a kubeconfig.
    Kubeconfig(PathBuf),
}

/// An agent that runs. Dropping it kills it; its rules stay.
#[derive(Debug)]
pub struct Agent {
    node: String,
    child: Child,
    ready: PathBuf,
    log: PathBuf,
    patience: Duration,
}

impl Agent {
    /// Starts the agent of a node; does not wait for it.
    pub(super) fn start(recipe: &Recipe, place: &Place) -> Result<Self> {
        let node = place.name.trim_start_matches("node/").to_owned();
        let ready = recipe.folder.join(format!("{node}.ready"));
        let log = recipe.folder.join(format!("{node}.log"));
        // A file of an earlier agent says nothing about this one.
        match std::fs::remove_file(&ready) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove {}", ready.display()));
            }
            _ => {}
        }
        let open = File::options().create(true).append(true).open(&log);
        let output = open.doing(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().doing(|| format!("open {}", log.display()))?;
        let (source, path) = match &recipe.source {
            Source::Manifests(folder) => ("--manifests", folder),
            Source::Kubeconfig(file) => ("--kubeconfig", file),
        };
        let mut command = place.netns.command(recipe.through.as_ref().unwrap_or(&recipe.npc));
        if recipe.through.is_some() {
            command.arg(&recipe.npc);
        }
        let child = command
            .args(["agent", "--node", &node, "--backend", recipe.backend.as_str(), source])
            .arg(path)
            .arg("--ready-file")
            .arg(&ready)
            .args(&recipe.arguments)
            // Also the passes that wrote nothing: these tell how far the agent is.
            .env("NPC_LOG", "info,npc_agent::enforce::report=debug")
            // Labs do not wait for a spread over many nodes, and they replace objects at
            // will. An older agent does not know these.
            .envs([("NPC_RELIST_SPREAD", "0"), ("NPC_HOLD_REMOVALS", "0")])
            .envs(recipe.environment.iter().map(|(name, value)| (name, value)))
            // Nothing writes to it: it closes when the process ends.
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .doing(|| format!("start {}", recipe.npc.display()))?;
        Ok(Self { node, child, ready, log, patience: recipe.patience })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        super::error::read(&self.log)
    }

    /// Waits until its log has this part.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub fn wait_log(&mut self, part: &str) -> Result<()> {
        self.wait_until(|agent| {
            let log = agent.log()?;
            Ok((!log.contains(part)).then(|| format!("its log does not say {part:?}")))
        })
    }

    /// How many changes it has applied; `None` until the first is in the
    /// kernel.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        std::fs::read_to_string(&self.ready).ok()?.trim().parse().ok()
    }

    /// Waits until it has applied this many changes.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub fn wait_generation(&mut self, generation: u64) -> Result<()> {
        self.wait_until(|agent| match agent.generation() {
            Some(now) if now >= generation => Ok(None),
            now => Ok(Some(format!("it has applied {now:?} of {generation} changes"))),
        })
    }

    /// Waits until something is so; `lacks` says what is not, and is asked again
    /// whenever the agent has applied or logged something.
    ///
    /// # Errors
    /// When it ends before, or takes too long; and those of `lacks`.
    pub fn wait_until(&mut self, mut lacks: impl FnMut(&Self) -> Result<Option<String>>) -> Result<()> {
        let watch = FolderWatch::new(self.ready.parent().unwrap_or(Path::new("/")))?;
        let deadline = Instant::now() + self.patience;
        loop {
            let Some(lack) = lacks(self)? else { return Ok(()) };
            let ended = self.child.try_wait().doing(|| format!("look after the agent of {}", self.node))?;
            if let Some(status) = ended {
                return Err(self.failure(format!("has ended ({status})")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = self.patience.as_secs();
                return Err(self.failure(format!("was not up to date within {seconds} s: {lack}")));
            }
            if !watch.wait(left, self.child.stdin.as_ref())? {
                // Its standard input has no reader any more. If it has not
                // ended, it has closed it, and there is nothing to watch.
                let _ = self.child.stdin.take();
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal).doing(|| format!("signal the agent of {}", self.node))
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn stop(mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        self.signal(signal)?;
        self.child.wait().doing(|| format!("wait for the agent of {}", self.node))
    }

    fn failure(&self, what: String) -> Error {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(20)..].join("\n");
        Error::Agent { node: self.node.clone(), what, log: last }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing to report.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Watches a folder for files that are written to or renamed into it.
struct FolderWatch {
    inotify: Inotify,
}

impl FolderWatch {
    fn new(folder: &Path) -> Result<Self> {
        let watching = || format!("watch {}", folder.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).doing(watching)?;
        // The agent's log, too, is in the folder.
        let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(folder, events).doing(watching)?;
        Ok(Self { inotify })
    }

    /// Waits for an event, at most this long; false when the pipe shows that the process
    /// has ended.
    fn wait(&self, wait: Duration, process: Option<&ChildStdin>) -> Result<bool> {
        let mut files = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        files.extend(process.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::empty())));
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).doing(|| "wait for a file".to_owned()),
        }
        // What happened does not matter: the caller checks.
        let _ = self.inotify.read_events();
        Ok(!files.get(1).and_then(PollFd::any).unwrap_or(false))
    }
}
