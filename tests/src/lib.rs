//! What the tests stand on: a deliberately naive evaluator of NetworkPolicy
//! ([`oracle`]), random clusters ([`random`]), an interpreter of our own rules
//! and sets ([`interpreter`]) and one of Azure NPM's ([`azure`]), the comparison
//! of all these with the compiler ([`agreement`]), the lab ([`lab`]): a cluster
//! as network namespaces with real agents and real packets, the same under
//! traffic that never ends ([`live`]), frames of every kind against pods that
//! policies isolate ([`fuzz`]), and an API server with faults on demand
//! ([`apiserver`]).

#![forbid(unsafe_code)]

pub mod agreement;
pub mod apiserver;
pub mod azure;
pub mod fuzz;
pub mod interpreter;
pub mod lab;
pub mod live;
pub mod model;
pub mod oracle;
pub mod random;
