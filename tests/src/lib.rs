//! What the tests stand on: a deliberately naive evaluator of NetworkPolicy
//! (`oracle`), random clusters (`random`), an interpreter of our own rules and
//! sets (`interpreter`), and the lab (`lab`): a cluster as network namespaces
//! with real agents and real packets.

#![forbid(unsafe_code)]
