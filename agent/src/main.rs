//! `npc`: the per-node agent and everything that is asked of policies on a
//! command line.

#![cfg_attr(not(test), deny(clippy::print_stderr))]

use std::process::ExitCode;

mod command;

/// Gives freed memory back to the kernel. The C library's allocator keeps it: after a policy with thousands of rules
/// an agent was twice as large.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What jemalloc reads at its start. Two arenas, because one for each thread and processor would each keep
/// pages; pages go back after half a second, because a portion of a large change takes less.
#[allow(unsafe_code, reason = "no other symbol has this name; jemalloc reads it")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 46] = b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    command::Cli::read().run()
}
