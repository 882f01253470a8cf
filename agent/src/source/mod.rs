//! Where objects come from: files, and a followed directory of files.
//!
//! ```text
//!  files, directories, stdin ─▶ manifests ─▶ Loaded: objects, positions, problems
//!                                   ▲                    │
//!  inotify ─▶ directory ────────────┘                    ├─ whatif: overlays and removals
//!             a new Loaded after every change            ▼
//!                                                    compiler
//! ```

pub mod directory;
pub mod manifests;
pub mod whatif;
