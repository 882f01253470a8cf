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
//! with the one file that is ours, and with files that an installer of ours wrote under another
//! name. `run` reads, writes and waits.
//!
//! **Invariants.** The runtime's folder never lacks a valid configuration because of us: our
//! file is whole or absent, and it is removed before the plugin is. We write, rename and
//! remove our own files only. What cannot be read changes nothing.

pub mod conflist;
mod contest;
pub mod decide;
pub mod decision;
mod entries;
pub mod folder;
mod former;
mod judge;
pub mod owner;
pub mod references;
pub mod report;
mod run;

pub use run::{Ask, Error, InstallOptions, RemovedFiles, Run, remove};
