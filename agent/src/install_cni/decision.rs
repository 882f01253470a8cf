//! What a decision about our conflist is made of, and the decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use npc_cni::configuration::FailurePolicy;

use super::report::Alert;

/// A file of the runtime's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// What it holds.
    Bytes(Vec<u8>),
    /// Why it cannot be read.
    Unreadable(String),
    /// It is a link, a folder or a device. Its text says which.
    Special(&'static str),
}

/// The settings of our plugin, as its entry has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginSettings {
    /// The name of our file.
    pub file: String,
    /// Our file's path on the node. The plugin does nothing once it is gone.
    pub path: String,
    /// The agent's socket.
    pub socket: String,
    /// For how many seconds an ADD waits for the agent.
    pub timeout_seconds: u64,
    /// What becomes of a pod if the agent does not answer.
    pub failure_policy: FailurePolicy,
    /// Namespaces whose pods start without the agent.
    pub open_namespaces: Vec<String>,
}

/// What the installer found in the folder, and what else its decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct FolderView<'a> {
    /// The files that a runtime reads, by name.
    pub files: &'a BTreeMap<String, FileContent>,
    /// The file that an operator moved aside: nothing is installed until that one is gone.
    pub off: Option<&'a str>,
    /// The names of the plugins that a runtime finds. `None` if that is not known.
    pub plugins: Option<&'a BTreeSet<String>>,
    /// The plugin is in place and the agent is ready: our file may appear where it is not.
    pub may_appear: bool,
    /// The time since some beginning.
    pub now: Duration,
}

/// What to do with our file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Keep,
    /// Write this text.
    Write {
        /// The text of the whole file.
        text: String,
        /// The file whose mode it gets, if ours is not there.
        like: String,
    },
    /// Remove it.
    Remove,
    /// Remove a file that an installer of ours wrote under another name.
    RemoveFormer {
        /// Its name.
        name: String,
    },
}

/// What to do, and how things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do now.
    pub action: Action,
    /// The runtime's next ADD calls our plugin.
    pub installed: bool,
    /// The file from which ours is derived.
    pub source: Option<String>,
    /// The types of entries that other programs added to ours.
    pub insertions: Vec<String>,
    /// What an operator should know.
    pub alerts: Vec<Alert>,
    /// When to decide again though nothing changes.
    pub again: Option<Duration>,
}
