//! Real files in real directories, and the updates that changing them makes.
//! Nothing here sleeps: each step waits for the update that it must cause.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

mod problems;
mod unreadable;

/// Long enough for any machine; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(30);

struct Followed {
    updates: Updates,
    temporary: TempDir,
}

impl Followed {
    /// Follows the directory `d`, which `make` fills first.
    fn new(make: impl FnOnce(&Path)) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        make(&temporary.path().join("d"));
        let updates = follow(temporary.path().join("d"), ReadOptions::default()).unwrap();
        Self { updates, temporary }
    }

    fn root(&self) -> PathBuf {
        self.temporary.path().join("d")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root().join(name), text).unwrap();
    }

    /// The next update: the pods in force with their label `v` (`None` where
    /// the objects are the same), and the problems.
    async fn next(&mut self) -> (Option<String>, Vec<String>) {
        let update = tokio::time::timeout(LONG, self.updates.next()).await.expect("no update came").unwrap();
        let place = format!("{}/", self.root().display());
        let problems = update.problems.iter().map(|p| p.to_string().replace(&place, "")).collect();
        (update.loaded.map(|loaded| pods(&loaded)), problems)
    }

    /// The pods of the next update, which must bring no problem.
    async fn pods(&mut self) -> String {
        let (pods, problems) = self.next().await;
        assert_eq!(problems, [""; 0]);
        pods.expect("the objects to be others")
    }

    /// Waits for an update with these pods. Some before may be of a state in
    /// between, where a change takes several steps.
    async fn until(&mut self, wanted: &str) {
        while self.next().await.0.as_deref() != Some(wanted) {}
    }
}

fn pods(loaded: &Loaded) -> String {
    let shown = |pod: &npc_compiler::object::Pod| format!("{}={}", pod.name, pod.labels["v"]);
    loaded.objects.pods.iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn pod(name: &str, v: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{v: '{v}'}}}}\n")
}

/// A directory with the pods a=1 and b=1, in a file each.
fn two(root: &Path) {
    fs::create_dir(root).unwrap();
    fs::write(root.join("a.yaml"), pod("a", "1")).unwrap();
    fs::write(root.join("b.yaml"), pod("b", "1")).unwrap();
}

#[tokio::test]
async fn files_that_come_change_and_go() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(followed.pods().await, "a=1 b=2");
    followed.write("c.json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c","labels":{"v":"1"}}}"#);
    assert_eq!(followed.pods().await, "a=1 b=2 c=1");
    fs::remove_file(followed.root().join("a.yaml")).unwrap();
    assert_eq!(followed.pods().await, "b=2 c=1");
    fs::remove_file(followed.root().join("b.yaml")).unwrap();
    fs::remove_file(followed.root().join("c.json")).unwrap();
    followed.until("").await;
}

#[tokio::test]
async fn a_burst_of_writes_is_one_update() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    for v in 2..200 {
        followed.write("a.yaml", &pod("a", &v.to_string()));
    }
    assert_eq!(followed.pods().await, "a=199 b=1");
}

#[tokio::test]
async fn what_does_not_change_the_objects_makes_no_update() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    followed.write("a.yaml", &format!("# a comment\n{}", pod("a", "1")));
    followed.write("notes.txt", "not yaml: [");
    followed.write(".a.yaml.swp", "not yaml: [");
    // If any of it had made an update, that would come first.
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(followed.pods().await, "a=1 b=2");
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_objects_while_others_go_on() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    let broken = format!("{}---\na: [\n", pod("a", "2"));
    followed.write("a.yaml", &broken);
    let problem = "a.yaml:5:4: error: unclosed bracket '['; the last good version of this file stays in force";
    assert_eq!(followed.next().await, (None, vec![problem.to_owned()]));
    // The other file goes on, and the problem is not reported again.
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(followed.pods().await, "a=1 b=2");
    // Another problem is reported.
    followed.write("a.yaml", "b: {\n");
    let problem = "a.yaml:1:4: error: unclosed bracket '{'; the last good version of this file stays in force";
    assert_eq!(followed.next().await, (None, vec![problem.to_owned()]));
    followed.write("a.yaml", &pod("a", "3"));
    assert_eq!(followed.pods().await, "a=3 b=2");
    // What was corrected and broke again is reported again.
    followed.write("a.yaml", "b: {\n");
    assert_eq!(followed.next().await, (None, vec![problem.to_owned()]));
    // Removed is removed, broken or not.
    fs::remove_file(followed.root().join("a.yaml")).unwrap();
    assert_eq!(followed.pods().await, "b=2");
}

#[tokio::test]
async fn of_a_file_that_never_was_good_what_can_be_read_counts() {
    let mut followed = Followed::new(|root| {
        two(root);
        fs::write(root.join("c.yaml"), format!("{}---\nc: [\n", pod("c", "1"))).unwrap();
    });
    let update = followed.updates.next().await.unwrap();
    assert_eq!(pods(&update.loaded.unwrap()), "a=1 b=1 c=1");
    assert_eq!(update.problems.len(), 1);
    assert_eq!(update.never_read, [followed.root().join("c.yaml")]);
    followed.write("c.yaml", &pod("c", "2"));
    let update = followed.updates.next().await.unwrap();
    assert_eq!((pods(&update.loaded.unwrap()), update.never_read.len()), ("a=1 b=1 c=2".to_owned(), 0));
}

#[tokio::test]
async fn that_no_file_is_there_is_reported_and_so_is_the_first_one_that_holds_nothing() {
    let mut followed = Followed::new(|d| fs::create_dir(d).unwrap());
    let update = followed.updates.next().await.unwrap();
    assert!(update.is_empty && update.loaded.is_some());
    followed.write("a.yaml", "# Nothing yet.\n");
    let update = followed.updates.next().await.unwrap();
    assert!(!update.is_empty && update.loaded.is_none() && update.problems.is_empty());
    fs::remove_file(followed.root().join("a.yaml")).unwrap();
    assert!(followed.updates.next().await.unwrap().is_empty);
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    let mut file = fs::File::create(followed.root().join("c.yaml")).unwrap();
    file.write_all(b"apiVersion: v1\nkind: Pod\nmetadata: {name: c, labels: {v: '1'").unwrap();
    file.sync_all().unwrap();
    file.write_all(b"}}\n").unwrap();
    drop(file);
    assert_eq!(followed.pods().await, "a=1 b=1 c=1");
    // Even if the halves are read one by one, the end is good.
    followed.write("c.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: c, labels: {v: '2'");
    let (pods, problems) = followed.next().await;
    assert_eq!((pods, problems.len()), (None, 1));
    followed.write("c.yaml", &pod("c", "2"));
    assert_eq!(followed.pods().await, "a=1 b=1 c=2");
}

#[tokio::test]
async fn editors_that_write_beside_and_rename_over() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    for v in ["2", "3"] {
        followed.write(".a.yaml.tmp", &pod("a", v));
        fs::rename(followed.root().join(".a.yaml.tmp"), followed.root().join("a.yaml")).unwrap();
        assert_eq!(followed.pods().await, format!("a={v} b=1"));
    }
    // vim with a backup: the old one moves away first.
    fs::rename(followed.root().join("a.yaml"), followed.root().join("a.yaml~")).unwrap();
    followed.write("a.yaml", &pod("a", "4"));
    followed.until("a=4 b=1").await;
}

#[tokio::test]
async fn a_configmap_is_swapped_by_its_data_link() {
    let version = |root: &Path, name: &str, v: &str| {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("a.yaml"), pod("a", v)).unwrap();
        symlink(name, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    let mut followed = Followed::new(|root| {
        fs::create_dir(root).unwrap();
        version(root, "..v1", "1");
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    });
    assert_eq!(followed.pods().await, "a=1");
    let root = followed.root();
    for v in 2..5 {
        version(&root, &format!("..v{v}"), &v.to_string());
        fs::remove_dir_all(root.join(format!("..v{}", v - 1))).unwrap();
        assert_eq!(followed.pods().await, format!("a={v}"));
    }
}

#[tokio::test]
async fn links_to_files_and_directories_elsewhere_are_followed() {
    let mut followed = Followed::new(|root| {
        let elsewhere = root.with_file_name("elsewhere");
        fs::create_dir_all(elsewhere.join("sub")).unwrap();
        fs::create_dir(root).unwrap();
        fs::write(elsewhere.join("one.yaml"), pod("one", "1")).unwrap();
        fs::write(elsewhere.join("sub/two.yaml"), pod("two", "1")).unwrap();
        symlink("../elsewhere/one.yaml", root.join("one.yaml")).unwrap();
        symlink(elsewhere.join("sub"), root.join("sub")).unwrap();
    });
    let elsewhere = followed.root().with_file_name("elsewhere");
    assert_eq!(followed.pods().await, "one=1 two=1");
    fs::write(elsewhere.join("one.yaml"), pod("one", "2")).unwrap();
    assert_eq!(followed.pods().await, "one=2 two=1");
    fs::write(elsewhere.join("sub/two.yaml"), pod("two", "2")).unwrap();
    assert_eq!(followed.pods().await, "one=2 two=2");
    // A link into nothing is a file that cannot be read: nothing is lost.
    fs::remove_file(elsewhere.join("one.yaml")).unwrap();
    let (pods, problems) = followed.next().await;
    assert_eq!((pods, problems.len()), (None, 1), "{problems:?}");
    fs::write(elsewhere.join("one.yaml"), pod("one", "3")).unwrap();
    assert_eq!(followed.pods().await, "one=3 two=2");
}

#[tokio::test]
async fn directories_below_come_and_go() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    fs::create_dir_all(followed.root().join("x/y")).unwrap();
    followed.write("x/y/c.yaml", &pod("c", "1"));
    assert_eq!(followed.pods().await, "a=1 b=1 c=1");
    followed.write("x/y/c.yaml", &pod("c", "2"));
    assert_eq!(followed.pods().await, "a=1 b=1 c=2");
    fs::rename(followed.root().join("x"), followed.root().join("z")).unwrap();
    followed.write("z/y/c.yaml", &pod("c", "3"));
    followed.until("a=1 b=1 c=3").await;
    fs::remove_dir_all(followed.root().join("z")).unwrap();
    followed.until("a=1 b=1").await;
}

#[tokio::test]
async fn the_directory_itself_may_go_and_come_back() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    for round in 2..4 {
        let (root, away) = (followed.root(), followed.root().with_file_name(format!("away{round}")));
        fs::rename(&root, &away).unwrap();
        let (pods, problems) = followed.next().await;
        assert_eq!((pods, problems.len()), (None, 1), "gone, and all stays in force: {problems:?}");
        fs::create_dir(away.join("new")).unwrap();
        fs::write(away.join("new/a.yaml"), pod("a", &round.to_string())).unwrap();
        fs::rename(away.join("new"), &root).unwrap();
        assert_eq!(followed.pods().await, format!("a={round}"));
        // The new one is followed like the old one.
        followed.write("b.yaml", &pod("b", "5"));
        assert_eq!(followed.pods().await, format!("a={round} b=5"));
    }
}

#[tokio::test]
async fn the_directory_may_be_a_link_that_turns() {
    let mut followed = Followed::new(|root| {
        for v in ["1", "2"] {
            let release = root.with_file_name(format!("release{v}"));
            fs::create_dir(&release).unwrap();
            fs::write(release.join("a.yaml"), pod("a", v)).unwrap();
        }
        symlink("release1", root).unwrap();
    });
    assert_eq!(followed.pods().await, "a=1");
    let next = followed.root().with_file_name("next");
    symlink("release2", &next).unwrap();
    fs::rename(&next, followed.root()).unwrap();
    assert_eq!(followed.pods().await, "a=2");
    followed.write("a.yaml", &pod("a", "3"));
    assert_eq!(followed.pods().await, "a=3");
}

#[tokio::test]
async fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let temporary = tempfile::tempdir().unwrap();
    let mut updates = follow(temporary.path().join("not/yet"), ReadOptions::default()).unwrap();
    let update = updates.next().await.unwrap();
    assert!(update.loaded.is_none(), "no objects, which is not the same as: the objects are none");
    assert!(update.problems[0].to_string().contains("the directory cannot be read"));
    fs::create_dir_all(temporary.path().join("new/yet")).unwrap();
    fs::write(temporary.path().join("new/yet/a.yaml"), pod("a", "1")).unwrap();
    fs::rename(temporary.path().join("new"), temporary.path().join("not")).unwrap();
    let update = tokio::time::timeout(LONG, updates.next()).await.unwrap().unwrap();
    assert_eq!(pods(&update.loaded.unwrap()), "a=1");
}

#[tokio::test]
async fn an_empty_directory_is_an_answer() {
    let mut followed = Followed::new(|root| fs::create_dir(root).unwrap());
    assert_eq!(followed.pods().await, "");
}

#[tokio::test]
async fn one_name_in_two_files_is_reported_once() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    followed.write("c.yaml", &pod("a", "2"));
    let (pods, problems) = followed.next().await;
    assert_eq!((pods.as_deref(), problems.len()), (Some("a=2 b=1"), 1));
    assert!(
        problems[0].starts_with("c.yaml:1:1: warning: pod default/a: counts instead of the one at a.yaml:1:1"),
        "{problems:?}"
    );
    followed.write("b.yaml", &pod("b", "2"));
    assert_eq!(followed.pods().await, "a=2 b=2");
}

#[tokio::test]
async fn a_file_that_is_empty_all_of_a_sudden_keeps_its_objects() {
    let mut followed = Followed::new(two);
    assert_eq!(followed.pods().await, "a=1 b=1");
    followed.write("a.yaml", "");
    let problem = "a.yaml: error: the file is empty; to remove its objects, remove the file; \
                   the last good version of this file stays in force";
    assert_eq!(followed.next().await, (None, vec![problem.to_owned()]));
    // Comments are an answer, nothing is not.
    followed.write("a.yaml", "# nothing any more\n");
    assert_eq!(followed.pods().await, "b=1");
}

#[test]
fn a_file_with_a_writer_is_not_read_until_patience_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().canonicalize().unwrap();
    let (mut follower, updates) = DirectoryFollower::new(root.clone(), ReadOptions::default()).unwrap();
    let file = root.join("a.yaml");
    fs::write(&file, pod("a", "1")).unwrap();
    let look = |follower: &DirectoryFollower| {
        let open = follower.open.keys().map(PathBuf::as_path).collect();
        let reading = DirectoryContents::of(&root, &open, Duration::ZERO);
        (reading.is_changing, matches!(reading.files.unwrap()[&file], read::ReadFile::Busy))
    };
    assert_eq!(look(&follower), (false, false));
    follower.renew_watch().unwrap();
    // As a program that loses the processor after it has written a half.
    let mut writer = fs::File::create(&file).unwrap();
    writer.write_all(b"kind: Pod\n").unwrap();
    assert_eq!(follower.wait(Some(Duration::ZERO)).ok(), Some(true));
    assert_eq!(look(&follower), (true, true));
    writer.write_all(b"metadata: {}\n").unwrap();
    drop(writer);
    assert_eq!(follower.wait(Some(Duration::ZERO)).ok(), Some(true));
    assert_eq!(look(&follower), (false, false));
    let _writer = fs::File::create(&file).unwrap();
    let begun = Instant::now();
    assert!(follower.settle(begun).is_ok());
    assert!(begun.elapsed() >= PATIENCE, "it was given time");
    drop(updates);
    assert!(follower.wait(None).is_err());
}

#[test]
fn a_file_that_changed_just_now_is_not_read() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("a.yaml");
    fs::write(&file, pod("a", "1")).unwrap();
    let look = |quiet| {
        let reading = DirectoryContents::of(temporary.path(), &BTreeSet::new(), quiet);
        (reading.is_changing, matches!(reading.files.unwrap()[&file], read::ReadFile::Busy))
    };
    assert_eq!(look(LONG), (true, true));
    assert_eq!(look(Duration::ZERO), (false, false));
    // What is empty is held back longer. This thread may wait for its processor meanwhile.
    fs::write(&file, "").unwrap();
    let begun = Instant::now();
    assert!(look(Duration::ZERO) == (true, true) || begun.elapsed() >= read::EMPTY);
    // A time in the future says nothing about now.
    for path in [file.as_path(), temporary.path()] {
        fs::File::open(path).unwrap().set_modified(std::time::SystemTime::now() + 9 * LONG).unwrap();
    }
    assert_eq!(look(LONG), (false, false));
}

#[test]
fn dropping_the_updates_ends_the_thread() {
    let temporary = tempfile::tempdir().unwrap();
    two(&temporary.path().join("d"));
    let (follower, updates) = DirectoryFollower::new(temporary.path().join("d"), ReadOptions::default()).unwrap();
    let thread = thread::spawn(move || follower.run());
    drop(updates);
    thread.join().unwrap();
}
