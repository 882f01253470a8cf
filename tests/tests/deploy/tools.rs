//! Programs that a developer may have, and `make test` does not ask for.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program on the PATH; it is said where there is none.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed, so that it agrees is not tested");
    }
    found
}

/// What a program prints; that it fails is the test's failure.
pub(crate) fn run<'a>(program: &Path, paths: impl IntoIterator<Item = &'a Path>, more: &[&str]) -> String {
    let output = Command::new(program).args(paths).args(more).output().unwrap();
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
