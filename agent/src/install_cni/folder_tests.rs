#![allow(clippy::unwrap_used, reason = "a test that finds nothing has failed")]

use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

use super::*;

const OWN: &str = "05-npc.conflist";

fn folder() -> (tempfile::TempDir, Folder) {
    let temp = tempfile::tempdir().unwrap();
    let folder = Folder::new(temp.path(), OWN);
    (temp, folder)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_keeps_its_mode_and_a_new_one_has_that_of_its_source() {
    let (temp, folder) = folder();
    let source = temp.path().join("10-a.conflist");
    fs::write(&source, "{}").unwrap();
    fs::set_permissions(&source, Permissions::from_mode(0o640)).unwrap();
    folder.write("one", "10-a.conflist").unwrap();
    let mode = || fs::metadata(temp.path().join(OWN)).unwrap().mode() & 0o7777;
    assert_eq!(mode(), 0o640);
    fs::set_permissions(temp.path().join(OWN), Permissions::from_mode(0o600)).unwrap();
    folder.write("two", "10-a.conflist").unwrap();
    assert_eq!((mode(), fs::read_to_string(temp.path().join(OWN)).unwrap().as_str()), (0o600, "two"));
    assert_eq!(names(temp.path()), [OWN, "10-a.conflist"]);
    assert_eq!((folder.remove().unwrap(), folder.remove().unwrap()), (true, false));
}

#[test]
fn a_link_in_place_of_our_file_is_left_alone_with_what_it_leads_to() {
    let (temp, folder) = folder();
    let other = tempfile::tempdir().unwrap();
    let target = other.path().join("shadow");
    fs::write(&target, "secret").unwrap();
    symlink(&target, temp.path().join(OWN)).unwrap();
    assert_eq!(folder.read().unwrap()[OWN], FileContent::Special("a link"));
    assert!(folder.write("x", "y").unwrap_err().to_string().contains("is a link"));
    assert!(folder.remove().is_err());
    // A link in the name of what is being written is replaced, not followed.
    fs::remove_file(temp.path().join(OWN)).unwrap();
    symlink(&target, temp.path().join(half(OWN))).unwrap();
    folder.write("x", "y").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "secret");
    fs::remove_file(temp.path().join(OWN)).unwrap();
    fs::create_dir(temp.path().join(OWN)).unwrap();
    assert_eq!(folder.read().unwrap()[OWN], FileContent::Special("a folder"));
    assert!(folder.write("x", "y").is_err());
}

#[test]
fn only_what_a_runtime_reads_is_read_and_nothing_holds_the_reader() {
    let (temp, folder) = folder();
    let path = |name: &str| temp.path().join(name);
    for name in ["10-a.conflist", "20-b.conf", "30-c.json", "40-d.conflist.new", "README", ".05-npc.conflist.new"] {
        fs::write(path(name), name).unwrap();
    }
    fs::create_dir(path("50-folder.conf")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("60-pipe.conf"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("10-a.conflist", path("70-link.conflist")).unwrap();
    symlink("/nowhere", path("80-lost.conflist")).unwrap();
    fs::write(path("90-long.conf"), vec![b' '; 3 << 20]).unwrap();
    let files = folder.read().unwrap();
    let bytes = |name: &str| match &files[name] {
        FileContent::Bytes(bytes) => bytes.clone(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(bytes("10-a.conflist"), b"10-a.conflist");
    assert_eq!(bytes("70-link.conflist"), b"10-a.conflist");
    assert_eq!(bytes("90-long.conf").len() as u64, LONGEST_FILE + 1);
    assert_eq!(files["60-pipe.conf"], FileContent::Special("no regular file"));
    assert!(matches!(files["80-lost.conflist"], FileContent::Unreadable(_)));
    assert_eq!(files.len(), 7, "{files:?}");
}

#[test]
fn of_a_folder_with_too_many_files_no_plugin_is_said_to_be_missing() {
    let temp = tempfile::tempdir().unwrap();
    let names: BTreeSet<String> = (0..MOST_FILES).map(|number| format!("plugin-{number}")).collect();
    for name in &names {
        fs::write(temp.path().join(name), "").unwrap();
    }
    assert_eq!(plugins(&[temp.path()]), Some(names));
    fs::write(temp.path().join("one-more"), "").unwrap();
    assert_eq!(plugins(&[temp.path()]), None);
}

#[test]
fn a_second_installer_waits_for_the_first() {
    let (_temp, folder) = folder();
    let first = folder.claim().unwrap();
    assert!(first.is_some());
    assert!(folder.claim().unwrap().is_none());
    drop(first);
    assert!(folder.claim().unwrap().is_some());
}

#[test]
fn the_plugin_is_replaced_whole_and_only_if_it_differs() {
    let (temp, _) = folder();
    let from = temp.path().join("from");
    fs::write(&from, "one").unwrap();
    let bin = temp.path().join("bin");
    fs::create_dir(&bin).unwrap();
    assert!(install_plugin(&from, &bin).unwrap());
    assert!(!install_plugin(&from, &bin).unwrap());
    // A process that runs the old one has its file still.
    let mut old = File::open(bin.join(TYPE)).unwrap();
    fs::write(&from, "two, longer").unwrap();
    assert!(install_plugin(&from, &bin).unwrap());
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::read_to_string(bin.join(TYPE)).unwrap().as_str()), ("one", "two, longer"));
    assert_eq!(fs::metadata(bin.join(TYPE)).unwrap().mode() & 0o777, 0o755);
    // Another program made it unusable.
    fs::set_permissions(bin.join(TYPE), Permissions::from_mode(0o644)).unwrap();
    assert!(install_plugin(&from, &bin).unwrap());
    assert_eq!(names(&bin), [TYPE]);
    assert!(install_plugin(&temp.path().join("missing"), &bin).unwrap_err().to_string().contains("missing"));
    assert_eq!((remove_plugin(&bin).unwrap(), remove_plugin(&bin).unwrap()), (true, false));
}

#[test]
fn a_file_that_was_moved_aside_under_another_name_counts_only_while_ours_is_not_there() {
    let (temp, folder) = folder();
    let former = temp.path().join("04-npc.conflist");
    let entry = serde_json::json!({"type": "npc-cni", "conflist": former});
    let list = serde_json::json!({"cniVersion": "1.0.0", "name": "a", "plugins": [entry]});
    fs::write(temp.path().join("04-npc.conflist.off"), list.to_string()).unwrap();
    assert_eq!(folder.off().as_deref(), Some("04-npc.conflist.off"));
    // It may have been moved aside long ago, before the name changed.
    folder.write("{}", OWN).unwrap();
    assert_eq!(folder.off(), None);
    fs::write(temp.path().join("05-npc.conflist.off"), "").unwrap();
    assert_eq!(folder.off().as_deref(), Some("05-npc.conflist.off"));
}

/// What a process has open for writing, the kernel does not run: a DEL in that moment would fail.
#[test]
fn a_file_is_closed_before_it_has_its_name() {
    let (temp, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plugin = temp.path().join("plugin");
    fs::write(&plugin, "one").unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, bin.path(), WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO).unwrap();
    assert!(install_plugin(&plugin, bin.path()).unwrap());
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut seen = Vec::new();
    while let Ok(event) = reader.next() {
        seen.push(event.events());
    }
    assert_eq!(seen, [ReadFlags::CLOSE_WRITE, ReadFlags::MOVED_TO]);
}
