//! The test API server, and that it behaves as the real one.
//!
//! [`requests`] and [`watches`] are a contract: each of its clauses is run
//! against the test server, and all of them against a real kube-apiserver and
//! etcd where `KUBEBUILDER_ASSETS` names their folder (`make apiserver` makes
//! one). [`agent`] needs such a one, [`faults`] are the test server's alone.
//! [`commands`] and [`notices`] run npc against the test server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agent;
mod commands;
mod endpoint;
mod faults;
mod notices;
mod real;
mod requests;
mod watches;
