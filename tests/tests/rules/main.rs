//! What the compiler makes of clusters, compared with second opinions: the oracle, the
//! interpreter of rules and sets, and what others found. No kernel, no root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agree;
mod anti_spoof;
mod azure_npm;
mod bound;
mod comments;
mod corpus;
mod dependencies;
mod engine;
mod fixes;
mod hitless;
mod imports;
mod large;
mod mid_stream;
mod skips;
mod takeover;
mod traps;
