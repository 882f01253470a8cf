//! An endpoint or a policy alone, without a flow: what isolates and what may be exchanged, and what a
//! policy selects and admits.

pub(super) mod endpoint;
mod not_isolating;
pub(super) mod policy;
