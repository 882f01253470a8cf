//! The chained CNI plugin, which will have a pod's rules in the kernel before
//! its first container starts. Not built yet: it only says so, and fails, so
//! that nobody takes it for the real thing.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("npc-cni: this plugin does nothing yet; remove it from the CNI configuration");
    ExitCode::FAILURE
}
