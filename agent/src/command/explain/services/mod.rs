//! Services: why one leads nowhere, and what it looks like where it is written.

pub(in crate::command) mod no_backend;
pub(super) mod text;
