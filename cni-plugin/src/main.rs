//! `npc-cni`: a container runtime starts it, with the command in the environment and
//! the network configuration on standard input.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use npc_cni::command;
use npc_cni::configuration::LONGEST;
use npc_cni::environment::Environment;

fn main() -> ExitCode {
    let mut input = Vec::new();
    // One byte more than is accepted, so that a longer input is an error.
    let read = io::stdin().lock().take(LONGEST + 1).read_to_end(&mut input);
    let environment = Environment::read(|name| std::env::var(name).ok());
    let (output, code) = match command::run(&environment, read.map(|_| input)) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(), ExitCode::FAILURE),
    };
    // A runtime that closed the pipe reads no answer.
    let _ = io::stdout().lock().write_all(output.as_bytes());
    code
}
