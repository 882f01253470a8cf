//! What crates do not depend on.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The crates that a crate of this repository is built with, itself among them.
fn dependencies(of: &str) -> BTreeSet<String> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--locked",
            "--package",
            of,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// It starts for each pod, so it has to be small and to start at once.
#[test]
fn the_cni_plugin_is_built_without_a_runtime_and_without_a_client_of_the_api() {
    let heavy = |of: &str| {
        let is_heavy = |name: &&String| {
            ["tokio", "hyper", "rustls", "kube", "k8s-openapi", "clap", "npc-agent", "npc-compiler"]
                .iter()
                .any(|heavy| name.as_str() == *heavy || name.starts_with(&format!("{heavy}-")))
        };
        dependencies(of).iter().filter(is_heavy).cloned().collect::<Vec<_>>()
    };
    assert_eq!(heavy("npc-cni"), [""; 0]);
    // What this would find.
    let of_agent = heavy("npc-agent");
    assert!(["tokio", "kube"].iter().all(|name| of_agent.iter().any(|found| found == name)), "{of_agent:?}");
}
