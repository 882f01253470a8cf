//! What the tests stand on, beside the lab and the oracle of `npc-lab`: random
//! clusters ([`random`]), an interpreter of our own rules and sets
//! ([`interpreter`]) and one of Azure NPM's ([`azure`]), the comparison of all
//! these with the compiler ([`agreement`]), a lab under traffic that never ends
//! ([`soak`]), the files of others that some tests read ([`corpora`]), and frames of every kind against pods that policies isolate
//! ([`fuzz`]).

#![forbid(unsafe_code)]

pub mod agreement;
pub mod azure;
pub mod corpora;
pub mod fuzz;
pub mod interpreter;
pub mod model;
pub mod random;
pub mod soak;

pub use npc_lab::{apiserver, lab, oracle, skip};
