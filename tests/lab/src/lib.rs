//! The lab ([`lab`]): a cluster as network namespaces with real agents and real
//! packets. It needs a deliberately naive evaluator of NetworkPolicy ([`oracle`]),
//! which says what each packet must meet, and an API server with faults on demand
//! ([`apiserver`]).

#![forbid(unsafe_code)]

pub mod apiserver;
pub mod lab;
pub mod oracle;

pub use npc_skip as skip;
