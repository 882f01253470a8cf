#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use nix::unistd::{Uid, chown};

use super::*;

const NOW: Duration = Duration::ZERO;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn one_process_has_the_lock_and_it_ends_with_it() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("npc");
    let first = InstanceLock::take_in(&folder, "agent-1.lock", NOW).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
    let second = InstanceLock::take_in(&folder, "agent-1.lock", NOW);
    assert!(matches!(second, Err(Error::Held { process: Some(id) }) if id == std::process::id()), "{second:?}");
    // Another network namespace's, which shares the folder.
    let other = InstanceLock::take_in(&folder, "agent-2.lock", NOW).unwrap();
    drop(first);
    let next = InstanceLock::take_in(&folder, "agent-1.lock", NOW).unwrap();
    drop((next, other));
    assert_eq!(names(&folder), Vec::<String>::new());
}

#[test]
fn a_lock_that_is_released_in_time_is_taken() {
    let run = tempfile::tempdir().unwrap();
    let first = InstanceLock::take_in(run.path(), "agent-1.lock", NOW).unwrap();
    let path = run.path().to_owned();
    let second = thread::spawn(move || InstanceLock::take_in(&path, "agent-1.lock", Duration::from_secs(60)));
    drop(first);
    second.join().unwrap().unwrap();
}

#[test]
fn what_killed_agents_left_goes_and_what_is_held_or_foreign_stays() {
    let run = tempfile::tempdir().unwrap();
    let held = InstanceLock::take_in(run.path(), "agent-1.lock", NOW).unwrap();
    for name in ["agent-2.lock", "agent-3.lock", "agent-2.sock", "agent-1.sock", "notes", "other.lock"] {
        fs::write(run.path().join(name), "").unwrap();
        fs::set_permissions(run.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let own = InstanceLock::take_in(run.path(), "agent-3.lock", NOW).unwrap();
    assert_eq!(names(run.path()), ["agent-1.lock", "agent-1.sock", "agent-3.lock", "notes", "other.lock"]);
    drop((held, own));
}

#[test]
fn a_lock_that_is_removed_while_it_is_waited_for_is_not_mistaken_for_the_one_there_now() {
    let run = tempfile::tempdir().unwrap();
    let folder = open_folder(run.path()).unwrap();
    let (before, found) = open_lock(&folder, "agent-1.lock", true).unwrap();
    fs::remove_file(run.path().join("agent-1.lock")).unwrap();
    let _now = InstanceLock::take_in(run.path(), "agent-1.lock", NOW).unwrap();
    // The kernel gives this lock, which excludes no one.
    before.try_lock().unwrap();
    assert!(!is_at(&folder, "agent-1.lock", &found));
}

#[test]
fn what_another_user_could_have_made_or_opened_is_no_lock() {
    let other_user = Some(Uid::from_raw(65534));
    let refused = |prepare: &dyn Fn(&Path)| {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("npc");
        fs::create_dir(&folder).unwrap();
        prepare(&folder);
        match InstanceLock::take_in(&folder, "agent-1.lock", NOW) {
            Err(Error::Unusable { source, .. }) => source.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let lock = |folder: &Path| folder.join("agent-1.lock");
    assert!(refused(&|folder| chown(folder, other_user, None).unwrap()).contains("user 65534"));
    assert!(refused(&|folder| fs::write(lock(folder), "").unwrap()).contains("its mode is 644"));
    let foreign = refused(&|folder| {
        fs::write(lock(folder), "").unwrap();
        fs::set_permissions(lock(folder), fs::Permissions::from_mode(0o600)).unwrap();
        chown(&lock(folder), other_user, None).unwrap();
    });
    assert!(foreign.contains("user 65534"), "{foreign}");
    let target = tempfile::NamedTempFile::new().unwrap();
    assert!(!refused(&|folder| symlink(target.path(), lock(folder)).unwrap()).is_empty());
    assert!(!refused(&|folder| fs::create_dir(lock(folder)).unwrap()).is_empty());
    assert!(!refused(&|folder| nix::unistd::mkfifo(&lock(folder), nix::sys::stat::Mode::S_IRWXU).unwrap()).is_empty());
    // The folder itself.
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("npc");
    symlink(elsewhere.path(), &link).unwrap();
    assert!(InstanceLock::take_in(&link, "agent-1.lock", NOW).is_err());
    assert!(InstanceLock::take_in(&elsewhere.path().join("no/npc"), "agent-1.lock", NOW).is_err());
}

#[test]
fn the_lock_of_a_thread_is_that_of_its_network_namespace() {
    let here = status_socket().unwrap();
    let there = thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        status_socket().unwrap()
    });
    assert_ne!(here, there.join().unwrap());
    assert!(is_own_file(here.file_name().unwrap()) && !is_own_file(OsStr::new("agent-1.pid")));
}
