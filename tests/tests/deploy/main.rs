//! What an operator applies: the chart is the one source, the kustomize base is
//! the chart rendered, and all of it fits the schemas of Kubernetes.
//!
//! Helm, kubectl, promtool and containerd must agree, where they are found on the PATH:
//! `deploy/tools.sh` fetches those of today. `NPC_WRITE=1` (`make manifests`) writes what the
//! chart renders to where the first test looks for it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod chart;
mod dist;
mod documents;
mod drift;
mod image;
mod install_cni;
mod kustomize;
mod monitoring;
mod privileges;
mod removal;
mod schemas;
mod template;
mod tools;
mod yaml;

use std::path::{Path, PathBuf};

use npc_tests::skip::{Lack, skipped};

/// A file or folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The binary beside this test's folder, which `make test` builds.
fn npc() -> Option<PathBuf> {
    let npc = std::env::current_exe().unwrap().parent().unwrap().join("../npc");
    if !npc.is_file() {
        skipped(Lack::Lab, &format!("there is no {}: cargo build --workspace --bins", npc.display()));
        return None;
    }
    Some(npc)
}
