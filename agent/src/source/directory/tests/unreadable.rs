//! What cannot be read keeps the rest current.

use super::*;

/// A pipe without a writer, a device without an end, a file of a terabyte.
#[tokio::test]
async fn what_is_no_file_or_too_long_keeps_the_others_current() {
    let mut followed = Followed::new(two);
    followed.pods().await;
    let root = followed.root();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe.yaml"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let (pods, problems) = followed.next().await;
    assert_eq!(pods, None);
    assert!(
        problems.len() == 1 && problems[0].contains("pipe.yaml: error: cannot be read: it is a pipe"),
        "{problems:?}"
    );
    symlink("/dev/zero", root.join("zero.yaml")).unwrap();
    let (_, problems) = followed.next().await;
    assert!(problems.len() == 1 && problems[0].contains("it is a device"), "{problems:?}");
    fs::File::create(root.join("long.yaml")).unwrap().set_len(1 << 40).unwrap();
    let long = |problems: &[String]| problems.iter().any(|problem| problem.contains("longer than 64 MiB"));
    loop {
        let (_, problems) = followed.next().await;
        if long(&problems) {
            break;
        }
    }
    // The others go on.
    followed.write("a.yaml", &pod("a", "7"));
    followed.until(&format!("a=7 {}", "b=1")).await;
}

#[tokio::test]
async fn nothing_waits_for_what_is_no_file() {
    let mut followed = Followed::new(|root| {
        two(root);
        symlink("/dev/zero", root.join("zero.yaml")).unwrap();
    });
    let update = tokio::time::timeout(LONG, followed.updates.next()).await.unwrap().unwrap();
    assert!(update.never_read.is_empty() && update.problems.len() == 1 && update.loaded.is_some());
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Follows a directory as a user without root's way around permissions. Threads inherit
/// the user, and the caller is root again.
fn follow_unprivileged(make: impl FnOnce(&Path)) -> Followed {
    let temporary = tempfile::tempdir().unwrap();
    set_mode(temporary.path(), 0o755);
    make(&temporary.path().join("d"));
    let own = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
    let updates = follow(temporary.path().join("d"), ReadOptions::default());
    nix::unistd::setfsuid(own);
    Followed { updates: updates.unwrap(), temporary }
}

#[tokio::test]
async fn a_directory_below_that_cannot_be_listed_keeps_its_objects_and_holds_up_no_other() {
    let mut followed = follow_unprivileged(|root| {
        two(root);
        fs::create_dir(root.join("team")).unwrap();
        fs::write(root.join("team/c.yaml"), pod("c", "1")).unwrap();
        fs::write(root.join("team/d.yaml"), pod("d", "1")).unwrap();
    });
    let team = followed.root().join("team");
    assert_eq!(followed.pods().await, "a=1 b=1 c=1 d=1");
    set_mode(&team, 0o000);
    let update = tokio::time::timeout(LONG, followed.updates.next()).await.unwrap().unwrap();
    let problems: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("team: error: the directory cannot be listed"), "{problems:?}");
    assert!(problems[0].contains("stay in force"), "{problems:?}");
    assert!(update.loaded.is_none() && update.never_read.is_empty() && !update.is_empty);
    // What changes elsewhere applies, and what is removed elsewhere goes.
    followed.write("a.yaml", &pod("a", "2"));
    followed.until("a=2 b=1 c=1 d=1").await;
    fs::remove_file(followed.root().join("b.yaml")).unwrap();
    followed.until("a=2 c=1 d=1").await;
    fs::remove_file(team.join("d.yaml")).unwrap();
    set_mode(&team, 0o755);
    followed.until("a=2 c=1").await;
}

#[tokio::test]
async fn a_directory_that_was_never_listed_is_said_until_it_is() {
    let mut followed = follow_unprivileged(|root| {
        two(root);
        fs::create_dir(root.join("team")).unwrap();
        set_mode(&root.join("team"), 0o000);
    });
    let team = followed.root().join("team");
    let update = tokio::time::timeout(LONG, followed.updates.next()).await.unwrap().unwrap();
    assert_eq!(update.never_read, std::slice::from_ref(&team));
    assert_eq!(update.loaded.as_ref().map(pods).as_deref(), Some("a=1 b=1"));
    set_mode(&team, 0o755);
    fs::write(team.join("c.yaml"), pod("c", "1")).unwrap();
    loop {
        let update = tokio::time::timeout(LONG, followed.updates.next()).await.unwrap().unwrap();
        if update.never_read.is_empty() && update.loaded.as_ref().map(pods).as_deref() == Some("a=1 b=1 c=1") {
            break;
        }
    }
}
