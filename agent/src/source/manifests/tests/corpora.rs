//! Real files, on disk.

use std::fs;

use super::*;

fn load_all(paths: &[&Path]) -> Result<Loaded, Errors> {
    load(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), &ReadOptions::default())
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

#[test]
fn directories_are_read_in_order_with_those_below_and_without_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("b/c")).unwrap();
    fs::create_dir_all(root.join(".git")).unwrap();
    fs::write(root.join("z.yaml"), pod("z")).unwrap();
    fs::write(root.join("b/c/y.YML"), pod("y")).unwrap();
    fs::write(root.join("b/x.json"), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}"#).unwrap();
    fs::write(root.join("kustomization.yaml"), "resources: [z.yaml]\n").unwrap();
    for ignored in ["notes.txt", ".hidden.yaml", ".git/w.yaml", "w.yaml~"] {
        fs::write(root.join(ignored), "not: [yaml").unwrap();
    }
    std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
    let loaded = load_all(&[root]).unwrap();
    assert_eq!(names(&loaded), ["ns default", "pod default/y", "pod default/x", "pod default/z"]);
    assert_eq!(loaded.problems, []);
    let place = loaded.positions.locate("Pod", "default", "y", "").unwrap();
    assert_eq!(place.to_string(), format!("{}/b/c/y.YML:1:1", root.display()));
    // A file that is named on the command line is read, with any ending.
    fs::write(root.join("notes.txt"), pod("n")).unwrap();
    assert_eq!(names(&load_all(&[&root.join("notes.txt")]).unwrap()), ["ns default", "pod default/n"]);
}

#[test]
fn what_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let check = |path: &Path, wanted: &str| {
        let errors = load_all(&[path]).unwrap_err();
        assert_eq!(errors.problems[0].to_string(), format!("{}: error: {wanted}", path.display()));
    };
    check(directory.path(), "no *.yaml, *.yml or *.json file is in this directory");
    check(
        &directory.path().join("a.yaml"),
        "cannot be read: No such file or directory (os error 2); name a path that exists",
    );
}

#[test]
fn one_name_in_two_files_is_a_warning_that_names_both() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    fs::write(&a, pod("x")).unwrap();
    fs::write(&b, format!("\n{}", pod("x"))).unwrap();
    let loaded = load_all(&[&b, &a]).unwrap();
    let told = loaded.problems[0].to_string();
    assert!(told.starts_with(&format!("{}:1:1: warning: pod default/x: ", a.display())), "{told}");
    assert!(told.contains(&format!("the one at {}:2:1;", b.display())), "{told}");
}
