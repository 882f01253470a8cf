//! What can go wrong in the lab, for the person who runs it.

use std::io;
use std::path::Path;

/// An error of the lab. Every message says what was being done, and where a
/// remedy is known, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces and firewalls need root.
    #[error("the lab needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN): run it with sudo, or in a privileged container")]
    NotRoot,
    /// A program or a kernel feature is not there.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// The cluster cannot be built as described.
    #[error("cannot build this cluster: {0}")]
    Cluster(String),
    /// A system call or file operation failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that the lab started failed.
    #[error("{program} in namespace {namespace} failed ({status}):\n{output}")]
    Command {
        /// The program and its arguments.
        program: String,
        /// The network namespace.
        namespace: String,
        /// How it ended.
        status: String,
        /// What it said, and what it was given.
        output: String,
    },
    /// An agent did not do what it should.
    #[error("the agent of {node} {what}\nits log ends:\n{log}")]
    Agent {
        /// The agent's node.
        node: String,
        /// What happened.
        what: String,
        /// The last lines of its log.
        log: String,
    },
    /// A name that the lab does not know.
    #[error("the lab has no {0}")]
    Unknown(String),
}

/// The result of the lab's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the error into one that says `doing` first.
    ///
    /// # Errors
    /// The one that there was.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::Io { doing: doing(), source: error.into() })
    }
}

/// Reads a file, naming it where that fails. On a full disk a log can end in the middle
/// of a character, which is replaced.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_log_that_ends_in_the_middle_of_a_character_can_be_read() {
        let file = tempfile::NamedTempFile::new().expect("a file can be made");
        std::fs::write(file.path(), &"a line …".as_bytes()[..8]).expect("it can be written");
        assert!(read(file.path()).expect("it can be read").starts_with("a line "));
    }
}
