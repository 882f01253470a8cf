//! Credentials that rotate, and clocks that jump.

use std::path::{Path, PathBuf};
use std::time::Duration;

use npc_tests::apiserver::{Disturbance, Resource, Server};
use npc_tests::skip::{Lack, skipped};

use super::small::Small;

#[test]
fn credentials_that_rotate_are_read_again() {
    let server = Server::in_process();
    server.require_token(Some("first"));
    // A token file is read again after fifty seconds.
    let Some(mut small) = Small::with(server, |lab| lab.patience(Duration::from_secs(120))) else { return };
    small.watches();
    std::fs::write(small.lab.folder().join("token"), "second").unwrap();
    small.server().require_token(Some("second"));
    let before = small.kernel();
    small.server().disturb(None, Disturbance::End);
    small.store("other");
    let refused = |server: &Server| server.requests().iter().any(|request| request.code == Some(401));
    small.server().wait("the old token is refused", refused).unwrap();
    small.admits_only("web");
    assert_eq!(small.kernel(), before);
    small.follows("other");
}

/// Where Debian has libfaketime.
fn faketime() -> Option<PathBuf> {
    let found = Path::new("/usr/lib").read_dir().ok()?.filter_map(Result::ok);
    found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file())
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let Some(library) = faketime() else {
        skipped(Lack::FakeTime, &"no clock can jump here: install libfaketime");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let with_clock = |lab: npc_tests::lab::Builder| {
        lab.agent_variable("LD_PRELOAD", library)
            .agent_variable("FAKETIME_TIMESTAMP_FILE", &clock)
            .agent_variable("FAKETIME_NO_CACHE", "1")
            // As when an operator sets the clock: the monotonic clock goes on.
            .agent_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    };
    let Some(mut small) = Small::with(Server::in_process(), with_clock) else { return };
    small.watches();
    let year = |line: &str| line.split_once('-')?.0.parse::<i32>().ok();
    let started = small.agent().log().unwrap().lines().find_map(year).unwrap();
    for (jump, years, admitted) in [("+3650d", 9..=10, "other"), ("-3650d", -10..=-9, "web"), ("+0", 0..=1, "other")] {
        std::fs::write(&clock, jump).unwrap();
        small.admit(admitted);
        // And what begins after the jump.
        small.end_watches();
        let jumped = |log: &str| log.lines().filter_map(year).any(|year| years.contains(&(year - started)));
        let lack = || format!("its clock did not jump by {jump}");
        small.agent().wait_until(|agent| Ok((!jumped(&agent.log()?)).then(lack))).unwrap();
    }
    assert_eq!(small.server().full_reads(Resource::Pods), 1);
}
