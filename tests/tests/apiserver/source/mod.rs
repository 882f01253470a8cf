//! The agent's source in front of an API server that misbehaves.
//!
//! The clock of these tests is paused: it runs on to the next timer whenever nothing
//! else is to be done. So minutes pass in milliseconds, and bounds are exact.

mod bounds;
mod held;
mod outages;
mod refusals;
mod storms;
mod unreadable;
mod world;
