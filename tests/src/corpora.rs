//! Files of others, which are no part of the repository and lie beside it.

use std::path::{Path, PathBuf};

use npc_skip::{Lack, skipped};

/// A file or folder of theirs. If it is not there, the calling test is skipped.
///
/// # Panics
/// In strict mode: see [`npc_skip`].
#[must_use]
pub fn beside(path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !found.exists() {
        skipped(Lack::Corpora, &format!("there is no {}", found.display()));
        return None;
    }
    Some(found)
}
