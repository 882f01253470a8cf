//! `npc install-cni`: puts the CNI plugin and its conflist on a node, keeps them there, and
//! takes them away.
//!
//! ```text
//! /etc/cni/net.d ─▶ folder ─▶ conflist ─▶ decide ─▶ folder: write or remove our file
//!                                           └─────▶ report ─▶ agent: metrics
//! SIGTERM ─▶ API server: our DaemonSet ─▶ owner ─▶ keep, or remove
//! ```
//!
//! [`decide`] is pure: it gets the files of the folder and the time, and answers what to do
//! with the one file that is ours. `run` reads, writes and waits.
//!
//! **Invariants.** The runtime's folder never lacks a valid configuration because of us: our
//! file is whole or absent, and it is removed before the plugin is. We write, rename and
//! remove our own file only. What cannot be read changes nothing.

pub mod conflist;
pub mod decide;
mod entries;
pub mod folder;
pub mod owner;
pub mod references;
pub mod report;
mod run;

pub use run::{Ask, Error, Options, Removed, Run, remove};
