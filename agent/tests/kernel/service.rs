//! What the real agent reports to systemd.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use npc_agent::dataplane::backend::Backend;

use super::agent::{Agent, Folder};
use super::namespace::Namespace;

#[test]
fn systemd_learns_that_it_starts_is_alive_and_ends() {
    let _namespace = Namespace::enter();
    let folder = Folder::new();
    let path = folder.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = || {
        let mut buffer = [0; 64];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let mut agent = Agent::start_with(&folder, Backend::Nft, &[], &environment);
    assert_eq!(next(), "READY=1");
    for _ in 0..10 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    agent.ignore_log();
    assert_eq!(agent.end(Signal::SIGTERM).code(), Some(0));
    let last = std::iter::repeat_with(next).find(|message| message != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
    // A watchdog that is meant for another process.
    let environment = [environment[0], environment[1], ("WATCHDOG_PID", "1")];
    let mut agent = Agent::start_with(&folder, Backend::Nft, &["--once"], &environment);
    assert_eq!(agent.ended().0, Some(0));
    assert_eq!(next(), "READY=1");
    systemd.set_nonblocking(true).unwrap();
    assert!(systemd.recv(&mut [0; 64]).is_err());
    // One that is not there.
    let nowhere = folder.path("nowhere");
    let mut agent = Agent::start_with(&folder, Backend::Nft, &[], &[("NOTIFY_SOCKET", nowhere.to_str().unwrap())]);
    let (code, said) = agent.ended();
    assert_eq!(code, Some(1));
    assert!(said.contains("NOTIFY_SOCKET"), "{said}");
}
