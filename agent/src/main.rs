//! `npc`: the per-node agent and everything that is asked of policies on a
//! command line.

#![cfg_attr(not(test), deny(clippy::print_stderr))]

use std::process::ExitCode;

mod command;

fn main() -> ExitCode {
    command::Cli::read().run()
}
