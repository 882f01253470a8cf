//! Programs that check what we ship. `make tools` fetches them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use npc_tests::skip::{Lack, skipped};

/// A program on the PATH. Where there is none, the calling test is skipped.
pub(crate) fn find(name: &'static str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skipped(Lack::Program(name), &format!("{name} is not on the PATH"));
    }
    found
}

/// What a program prints; that it fails is the test's failure.
pub(crate) fn run<'a>(program: &Path, paths: impl IntoIterator<Item = &'a Path>, more: &[&str]) -> String {
    let output = Command::new(program).args(paths).args(more).output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
