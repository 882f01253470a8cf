//! The lab ([`lab`]): a cluster as network namespaces with real agents and real
//! packets. It needs a deliberately naive evaluator of NetworkPolicy ([`oracle`]),
//! which says what each packet must meet, and an API server with faults on demand
//! ([`apiserver`]). [`skip`] decides what becomes of tests that a machine cannot run.

#![forbid(unsafe_code)]

pub mod apiserver;
pub mod lab;
pub mod oracle;
pub mod skip;
