//! npc's agent: moves data between the world and the compiler.

#![forbid(unsafe_code)]

pub mod causes;
pub mod cni;
pub mod counted;
pub mod dataplane;
pub mod endpoint;
pub mod enforce;
pub mod finding;
pub mod folded;
#[doc(hidden)]
pub mod fuzz;
pub mod install_cni;
pub mod instance;
pub mod metrics;
pub mod near;
pub mod notice;
pub mod rounded;
pub mod serve;
pub mod service;
pub mod source;
pub mod status;
pub mod tasks;
