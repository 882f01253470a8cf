//! What of a folder of manifests was not read.

use serde::{Deserialize, Serialize};

/// Something in a file of manifests that kept an object, or the whole file, from being read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestError {
    /// Where it stands: `FILE`, or `FILE:LINE:COLUMN`.
    pub location: String,
    /// The object (`KIND NS/NAME`) and the field, as far as they are known.
    pub field: Option<String>,
    /// What kind of mistake it is, as `npc reason` knows it.
    pub code: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it, or what happens meanwhile; null if there is nothing to add.
    pub help: Option<String>,
}
