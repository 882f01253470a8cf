//! Tests that this machine cannot run, of every crate.
//!
//! Such a test calls [`skipped`] and returns. With `NPC_STRICT=1`, as in CI, it
//! fails instead, unless `NPC_MAY_SKIP` has the name of what is missing. `NPC_SKIPPED`
//! names a file that gets a line for each that is skipped.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;

/// What a test can lack. [`Lack::name`] is what `NPC_MAY_SKIP` calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Lack {
    /// Root, a kernel feature, or a program that the lab needs.
    Lab,
    /// A real kube-apiserver with its etcd.
    ApiServer,
    /// Clusters and captures of others, which are no part of the repository.
    Corpora,
    /// The npc of an earlier commit.
    Previous,
    /// A cgroup that limits the number of processes.
    Pids,
    /// Control groups, without which runc starts no container.
    ControlGroups,
    /// libfaketime.
    FakeTime,
    /// Something that kernels may be built without.
    KernelFeature,
    /// A program that checks what we ship, by its name.
    Program(&'static str),
}

impl Lack {
    /// Its name in `NPC_MAY_SKIP`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lab => "lab",
            Self::ApiServer => "apiserver",
            Self::Corpora => "corpora",
            Self::Previous => "previous",
            Self::Pids => "pids",
            Self::ControlGroups => "control-groups",
            Self::FakeTime => "faketime",
            Self::KernelFeature => "kernel-feature",
            Self::Program(name) => name,
        }
    }
}

/// What becomes of a test that lacks something.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Skip,
    Fail,
}

/// Decides by the values of `NPC_STRICT` and `NPC_MAY_SKIP`.
fn outcome(lack: Lack, strict: Option<&str>, may_skip: Option<&str>) -> Outcome {
    let is_strict = strict.is_some_and(|value| !value.is_empty() && value != "0");
    let names = may_skip.unwrap_or_default().split([',', ' ']);
    if is_strict && !names.into_iter().any(|name| name == lack.name()) { Outcome::Fail } else { Outcome::Skip }
}

/// Says on standard error that the calling test is skipped, what it lacks, and how to
/// get that. The line passes the test harness, which shows only what failing tests
/// print.
///
/// # Panics
/// In strict mode (`NPC_STRICT=1`), unless `NPC_MAY_SKIP` allows it; and if the list cannot be written.
pub fn skipped(lack: Lack, why: &dyn fmt::Display) {
    let variable = |name| std::env::var(name).ok();
    let outcome = outcome(lack, variable("NPC_STRICT").as_deref(), variable("NPC_MAY_SKIP").as_deref());
    assert!(
        outcome == Outcome::Skip,
        "NPC_STRICT is set and this test cannot run: {why}\nIf this machine truly cannot have it, add {} to NPC_MAY_SKIP",
        lack.name()
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED: {test}: {why}\n");
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("NPC_SKIPPED") {
        let list = OpenOptions::new().create(true).append(true).open(list);
        list.and_then(|mut list| list.write_all(line.as_bytes())).expect("the list of skipped tests can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::{Lack, Outcome, outcome};

    #[test]
    fn a_strict_run_skips_only_what_it_allows() {
        for (strict, may_skip, expected) in [
            (None, None, Outcome::Skip),
            (Some(""), None, Outcome::Skip),
            (Some("0"), None, Outcome::Skip),
            (Some("1"), None, Outcome::Fail),
            (Some("1"), Some(""), Outcome::Fail),
            (Some("1"), Some("apiserver corpora"), Outcome::Skip),
            (Some("1"), Some("corpora,helm"), Outcome::Skip),
            (Some("1"), Some("corporation"), Outcome::Fail),
        ] {
            assert_eq!(outcome(Lack::Corpora, strict, may_skip), expected, "{strict:?} {may_skip:?}");
        }
        assert_eq!(outcome(Lack::Program("helm"), Some("1"), Some("corpora")), Outcome::Fail);
    }
}
