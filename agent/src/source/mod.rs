//! Where objects come from: files, a followed directory of files, and the API
//! server.
//!
//! ```text
//!  API server ─▶ kube ──────────────────────────────────────────▶ Changes ─▶ agent
//!
//!  files, directories, stdin ─▶ manifests ─▶ Loaded: objects, positions, problems
//!                                   ▲                    │
//!  inotify ─▶ directory ────────────┘                    ├─ whatif: overlays and removals ─▶ compiler
//!             a new Loaded after every change            ▼
//!                                                   difference ─▶ Changes ─▶ agent
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use ipnetwork::IpNetwork;
use npc_compiler::engine;
use npc_compiler::object::NetworkPolicy;

pub mod difference;
pub mod directory;
pub mod held;
pub mod kube;
pub mod manifests;
pub mod notice;
pub mod object_kind;
pub mod own_node;
pub mod watch_metrics;
pub mod whatif;

pub use object_kind::ObjectKind;
pub use own_node::{OwnNode, UnnamedNode};

/// What happened to the objects of a cluster since the source's last report; at
/// first, all there is.
#[derive(Debug, Default)]
pub struct Changes {
    /// A part of what there is at first: nothing may come of it before one that
    /// is not.
    pub is_part: bool,
    /// What happened, in order.
    pub changes: Vec<Change>,
    /// Whether the objects name this node. `None` where the source knows of no node, as files without pods
    /// do not, and where there is no news of it.
    pub own_node: Option<OwnNode>,
    /// The networks from which this node's pods get their addresses, as its Node says, if that
    /// Node is no part of the changes. `None` where there is no news of it.
    pub pod_cidrs: Option<Vec<IpNetwork>>,
    /// Where the objects stand, if they are from files.
    pub positions: Option<Box<dyn Locate>>,
}

/// Knows where the fields of objects stand in the files that these are from.
pub trait Locate: fmt::Debug + Send + Sync {
    /// The place of a field as `FILE:LINE:COLUMN`; its path is written as the API
    /// writes it. `None` for an object that was not read from a file.
    fn locate(&self, kind: &str, namespace: &str, name: &str, path: &str) -> Option<String>;
}

impl Locate for manifests::Positions {
    fn locate(&self, kind: &str, namespace: &str, name: &str, path: &str) -> Option<String> {
        self.locate(kind, namespace, name, path).map(|place| place.to_string())
    }
}

/// The policies of a namespace, as a list of it has them.
#[derive(Debug, Default)]
pub struct PolicyList {
    /// The policies that can be read.
    pub policies: Vec<NetworkPolicy>,
    /// The names of the others: they are there, and an earlier version may be in force.
    pub unreadable: BTreeSet<String>,
    /// The policies that cannot be read but for their podSelector. If no earlier version is in
    /// force, they isolate what they select, and allow nothing.
    pub rescued: Vec<NetworkPolicy>,
}

impl From<Vec<NetworkPolicy>> for PolicyList {
    fn from(policies: Vec<NetworkPolicy>) -> Self {
        Self { policies, ..Self::default() }
    }
}

/// Why the policies of a namespace were not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskError {
    /// The API server may answer the next time: it was not reached, has too much to do (429), or
    /// failed (5xx).
    Passing(String),
    /// It refused, and will again.
    Refused(String),
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub event: engine::Event,
    /// When the source received it; `None` if it may have happened long before, as what
    /// a list holds.
    pub received: Option<Instant>,
}

impl Change {
    /// A change that was received now.
    #[must_use]
    pub fn now(event: engine::Event) -> Self {
        Self { event, received: Some(Instant::now()) }
    }
}
