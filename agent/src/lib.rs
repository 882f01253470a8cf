//! npc's agent: moves data between the world and the compiler.

#![forbid(unsafe_code)]

pub mod cni;
pub mod dataplane;
pub mod endpoint;
pub mod enforce;
pub mod finding;
#[doc(hidden)]
pub mod fuzz;
pub mod install_cni;
pub mod instance;
pub mod metrics;
pub mod serve;
pub mod service;
pub mod source;
pub mod status;
pub mod tasks;
pub mod words;
