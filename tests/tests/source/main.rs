//! The agent's source in front of an API server that misbehaves.
//!
//! The clock of these tests is paused: it runs on to the next timer whenever nothing
//! else is to be done. So minutes pass in milliseconds, and bounds are exact.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod held;
mod outages;
mod refusals;
mod storms;
mod world;
