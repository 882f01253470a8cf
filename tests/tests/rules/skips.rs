//! A test that a machine cannot run says so by [`npc_tests::skip`]: the strict mode of CI knows
//! of no other way, and the test harness hides what a passing test prints.

use std::path::{Path, PathBuf};

/// The Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_one_function_prints_that_a_test_is_skipped() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut found = Vec::new();
    for folder in ["agent", "benches", "cni-plugin", "compiler", "fuzz", "tests"] {
        sources(&root.join(folder), &mut found);
    }
    assert!(found.len() > 500, "only {} files are found", found.len());
    // In two parts, so that this file has it nowhere.
    let word = ["\"SKIP", "PED"].concat();
    let with = found.into_iter().filter(|path| std::fs::read_to_string(path).unwrap().contains(&word));
    let with: Vec<PathBuf> = with.map(|path| path.strip_prefix(root).unwrap().to_owned()).collect();
    assert_eq!(with, [Path::new("tests/skip/src/lib.rs")]);
}
