//! Real agents and real packets in the lab. They need root, and are skipped where no lab
//! can be built.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agent;
mod api;
mod azure_npm;
mod bridge;
mod broadcast;
mod cni;
mod contested;
mod denied;
mod drift;
mod established;
mod faults;
mod foreign;
mod fuzz;
mod icmp;
mod install_cni;
mod mid_stream;
mod open;
mod pids;
mod random;
mod shop;
mod soak;
mod spoof;
mod tunnels;
mod upgrade;

/// How much of something a test does: a sample in `make test`, all of it in `make test-full`.
fn sampled(sample: usize, all: usize) -> usize {
    if std::env::var_os("NPC_FULL").is_some() { all } else { sample }
}

/// The number in a variable of the environment, or the default if it is not set.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}
