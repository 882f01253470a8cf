//! Whether the agent is ready, why it is not, and the file that shows it to programs of the
//! node.
//!
//! Ready means: what policies need is in the kernel, and the agent read it there or the
//! kernel confirmed it. `docs/operate.md` has a table of what makes an agent unready.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use npc_cni::file;
use tokio::time::Instant;
use tracing::error;

use crate::words::rounded::rounded;

/// How long writes may be refused, hang or be unproven before the agent is unready. The
/// older rules enforce meanwhile, and an unready agent stalls a rollout.
pub(super) const UNPROVEN: Duration = Duration::from_secs(10);

/// The same once an audit found that the kernel lost something, and could not repair it: to
/// find it has taken most of that time.
const LOST: Duration = Duration::from_secs(1);

/// Why an agent is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unready {
    /// Nothing was written yet: it does not know the whole cluster, or could not write.
    FirstView,
    /// What policies need may not be in the kernel.
    Kernel,
    /// The jump to our chains is missing, or not first.
    Hook,
    /// IPVS delivers Services past our rules.
    Ipvs,
    /// Endpoints that are isolated reach each other over a bridge past our rules.
    Bridge,
    /// Established flows that policies deny go on.
    Flows,
}

/// Whether the flows that policies deny are cut.
#[derive(Debug)]
enum CutState {
    /// No flow was judged since the agent started.
    NotYet,
    /// They are, or soon will be.
    Done,
    /// The last try failed, and the agent is unready from a moment on.
    Failing(Doubt),
}

/// Something went wrong. The agent is unready from a moment on, if a pass does not succeed
/// before.
#[derive(Debug)]
struct Doubt {
    cause: Unready,
    words: String,
    from: Instant,
}

/// Whether an agent is ready, as far as the kernel decides that.
#[derive(Debug)]
pub(super) struct Readiness {
    /// Why not, and in words.
    unready: Option<(Unready, String)>,
    doubt: Option<Doubt>,
    flows: CutState,
    /// When the last pass or audit began that proved that the kernel holds everything.
    proved: Instant,
}

impl Readiness {
    /// Of an agent that has just started.
    pub(super) fn new() -> Self {
        let words = "it does not know the whole cluster yet".to_owned();
        Self {
            unready: Some((Unready::FirstView, words)),
            doubt: None,
            flows: CutState::NotYet,
            proved: Instant::now(),
        }
    }

    /// Why the agent is not ready, in words; nothing if it is.
    pub(super) fn reason(&self) -> Option<&str> {
        self.unready.as_ref().map(|(_, words)| words.as_str())
    }

    /// When [`Readiness::expire`] has something to do, if nothing else happens.
    pub(super) fn expires(&self) -> Option<Instant> {
        let failing = match &self.flows {
            CutState::Failing(doubt) => Some(doubt),
            CutState::NotYet | CutState::Done => None,
        };
        let all = self.doubt.iter().chain(failing).map(|doubt| doubt.from);
        all.min().filter(|_| self.unready.is_none())
    }

    /// Becomes unready if what went wrong is still wrong.
    pub(super) fn expire(&mut self) {
        if self.unready.is_none()
            && let Some(Doubt { cause, words, .. }) = self.doubt.take_if(|doubt| doubt.from <= Instant::now())
        {
            self.unready = Some((cause, words));
        }
        if self.unready.is_none() {
            self.unready = self.uncut();
        }
    }

    /// Why established flows make the agent unready, if they do.
    fn uncut(&self) -> Option<(Unready, String)> {
        let words = match &self.flows {
            CutState::NotYet => "it has not judged the established flows yet".to_owned(),
            CutState::Failing(doubt) if doubt.from <= Instant::now() => doubt.words.clone(),
            CutState::Failing(_) | CutState::Done => return None,
        };
        Some((Unready::Flows, words))
    }

    /// A sweep has judged established flows.
    pub(super) fn flows_judged(&mut self) {
        self.flows = CutState::Done;
        if matches!(self.unready, Some((Unready::Flows, _))) {
            self.unready = None;
            self.expire();
        }
    }

    /// A sweep that began then could not judge established flows, or not cut them.
    pub(super) fn cut_failed(&mut self, begun: Instant, words: &str) {
        match &mut self.flows {
            CutState::Failing(doubt) => words.clone_into(&mut doubt.words),
            // It is unready already.
            CutState::NotYet => {}
            CutState::Done => {
                let doubt = Doubt { cause: Unready::Flows, words: words.to_owned(), from: begun + UNPROVEN };
                self.flows = CutState::Failing(doubt);
            }
        }
        self.expire();
    }

    /// A pass or audit that began then proved that the kernel holds everything.
    pub(super) fn proved(&mut self, begun: Instant) {
        self.proved = self.proved.max(begun);
    }

    /// A pass that began then has written everything. If there is an obstacle, the agent is
    /// unready all the same.
    pub(super) fn passed(&mut self, begun: Instant, obstacle: Option<(Unready, String)>) {
        self.proved(begun);
        self.doubt = None;
        self.unready = obstacle.or_else(|| self.uncut());
    }

    /// There is this obstacle now, or none any more.
    pub(super) fn set_obstacle(&mut self, obstacle: Option<(Unready, String)>) {
        if matches!(self.unready, None | Some((Unready::Ipvs | Unready::Bridge | Unready::Flows, _))) {
            self.unready = obstacle;
            self.expire();
        }
    }

    /// A pass that began then has failed.
    pub(super) fn pass_failed(&mut self, begun: Instant, is_unhooked: bool, words: &str) {
        self.doubt(if is_unhooked { Unready::Hook } else { Unready::Kernel }, begun + UNPROVEN, words);
    }

    /// The kernel could not be audited, or has lost something that could not be repaired.
    pub(super) fn audit_failed(&mut self, is_unhooked: bool, words: &str) {
        let from = (self.proved + UNPROVEN).max(Instant::now() + LOST);
        self.doubt(if is_unhooked { Unready::Hook } else { Unready::Kernel }, from, words);
    }

    fn doubt(&mut self, cause: Unready, from: Instant, words: &str) {
        let words = words.to_owned();
        match &mut self.unready {
            // The newest reason is the best one. But an obstacle is no failure of the kernel.
            Some((Unready::Ipvs | Unready::Bridge, _)) => {}
            Some(unready) => *unready = (cause.clone(), words.clone()),
            // Without the jump no packet meets any rule.
            None if cause == Unready::Hook => self.unready = Some((cause.clone(), words.clone())),
            None => {}
        }
        let from = self.doubt.as_ref().map_or(from, |doubt| doubt.from.min(from));
        self.doubt = Some(Doubt { cause, words, from });
        self.expire();
    }

    /// What began then has not ended within [`UNPROVEN`].
    pub(super) fn hangs(&mut self, begun: Instant) {
        self.pass_failed(
            begun,
            false,
            &format!("the kernel was asked something {} ago and has not answered", rounded(UNPROVEN)),
        );
    }
}

/// The time in which a ready file may be there: while the agent that writes it runs. A file
/// that an earlier agent left, which was killed, goes at its begin. However the agent ends,
/// also if it cannot start or panics, the file goes at its end. Only what
/// [`Settings::once`](super::Settings::once) wrote stays.
#[derive(Debug)]
#[must_use = "the file goes when this is dropped"]
pub struct ReadyFileScope {
    file: ReadyFile,
    once: bool,
}

impl ReadyFileScope {
    /// From now on. The agent must be the only one with this file.
    ///
    /// # Errors
    /// If there is a file and it cannot be removed.
    pub fn begin(path: Option<PathBuf>, once: bool) -> io::Result<Self> {
        Ok(Self { file: ReadyFile::new(path)?, once })
    }
}

impl Drop for ReadyFileScope {
    fn drop(&mut self) {
        if self.once {
            return;
        }
        if let Err(error) = self.file.remove() {
            error!(%error, "cannot remove the ready file; it wrongly shows a stopped agent as ready");
        }
    }
}

/// A file that is there while the agent is ready, and holds how many changes of the cluster
/// are in the kernel.
#[derive(Debug)]
pub(super) struct ReadyFile {
    path: Option<PathBuf>,
}

impl ReadyFile {
    /// The file at this path, if there is to be one. The file of an earlier agent says
    /// nothing of this one, and goes.
    pub(super) fn new(path: Option<PathBuf>) -> io::Result<Self> {
        let file = Self { path };
        file.remove()?;
        Ok(file)
    }

    /// Writes the count; a reader gets the old one or the new one.
    pub(super) fn write(&self, generation: u64) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        // For all to read, as far as the umask lets them.
        file::replace(path, &beside(path), 0o666, format!("{generation}\n").as_bytes())
    }

    /// Removes it: the agent is not ready.
    pub(super) fn remove(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_goes_and_each_count_replaces_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ready");
        fs::write(&path, "7\n").expect("a leftover");
        let file = ReadyFile::new(Some(path.clone())).expect("it opens");
        assert!(!path.exists());
        for generation in [1, 2] {
            file.write(generation).expect("it writes");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{generation}\n"));
        }
        file.remove().expect("it goes");
        file.remove().expect("gone is gone");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
