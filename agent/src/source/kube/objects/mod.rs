//! Objects from the bytes of an answer, and no more of them than npc needs.
//!
//! ```text
//! read    the items and lines of an answer, piece by piece
//!   └─▶ decode   one of them, or why it cannot be read
//!          ├─▶ slim ─▶ watched   the fields that npc needs, of each kind
//!          │    named   the labels and ports that policies name; of a large object nothing else is kept
//!          └─▶ unchanged   large policies that a list holds as they were
//! ```

pub(super) mod decode;
pub(super) mod named;
pub(super) mod read;
pub(super) mod slim;
pub(super) mod unchanged;
pub(super) mod watched;
