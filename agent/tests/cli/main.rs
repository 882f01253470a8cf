//! The commands on files, by running the real binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot run its program has failed")]

mod agreement;
mod asked;
mod bound;
mod cases;
mod cluster;
mod cluster_reasons;
mod compile;
mod explain;
mod fixes;
mod help;
mod hostile;
mod hostile_dumps;
mod input;
mod kubectl;
mod label_fixes;
mod lint;
mod manifests;
mod marks;
mod matrix;
mod migrate;
mod names;
mod operators;
mod places;
mod proxy;
mod reason;
mod repository;
mod rights;
mod same_input;
mod schema;
mod services;
mod single;
mod why;
mod words;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The shop: four workloads, a service, four policies.
const SHOP: &str = include_str!("shop.yaml");

/// Files in a directory of their own, and `npc` run there.
struct Files(TempDir);

/// What a run of `npc` answered.
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Files {
    /// One file, `in.yaml`.
    fn of(yaml: &str) -> Self {
        let files = Self(TempDir::new().unwrap());
        files.add("in.yaml", yaml);
        files
    }

    fn add(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs `npc COMMAND -f in.yaml ARGUMENTS`.
    fn npc(&self, command: &str, arguments: &[&str]) -> Answer {
        let mut words = vec![command, "-f", "in.yaml"];
        words.extend(arguments);
        self.run(&words)
    }

    /// A run that reads no kubeconfig of the machine.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
        command.args(words).current_dir(self.path()).env("HOME", self.path()).env_remove("KUBECONFIG");
        command
    }

    fn run(&self, words: &[&str]) -> Answer {
        Answer::of(&mut self.command(words))
    }
}

impl Answer {
    /// What a command answers.
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }

    /// Succeeds with this text.
    fn says(&self, expected: &str) {
        assert_eq!(self.out, expected, "{}", self.err);
    }
}
