//! Where objects come from: files, and a followed directory of files.
//!
//! ```text
//!  files, directories, stdin ─▶ manifests ─▶ Loaded: objects, positions, problems
//!                                   ▲
//!  inotify ─▶ directory ────────────┘        a new Loaded after every change
//! ```

pub mod manifests;
